"""Evaluations under threats of rotations and colours: attacked in parameters, kept and told in pictures."""

import itertools
import json
from importlib import resources
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

import hauberk as hb
from hauberk.attacks import PGD, Grid, name_of
from hauberk.errors import ThreatError
from hauberk.evaluate import Evaluation, evaluate, suite_for
from hauberk.report.words import headline
from hauberk.threat import Access, Norm, ThreatModel
from hauberk.victims import shown

SPATIAL = "spatial:rotation=15,translation=0.05@curve=0.4,1"
SCHEMA = json.loads((resources.files("hauberk") / "evaluate" / "evaluation.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def spatial(digits: Any) -> Evaluation:
    return evaluate(digits.mlp, (digits.x[:60], digits.y[:60]), SPATIAL, suite="quick", batch_size=25)


def test_rows_and_saved_adversarials_speak_of_pictures(spatial: Evaluation, digits: Any) -> None:
    threat = ThreatModel.parse(SPATIAL)
    rows = {(row["example"], row["radius"]): row for row in spatial.run.rows.to_pylist()}
    seen = 0
    for chunk in spatial.run.adversarials():
        delta = chunk["adversarials"] - chunk["originals"]
        assert torch.equal(chunk["originals"], digits.x[chunk["example"]])
        assert chunk["parameters"].shape == (len(delta), 3)
        for k, example in enumerate(chunk["example"].tolist()):
            row = rows[example, chunk["radius"][k].item()]
            assert row["status"] == "broken"
            for norm in Norm:
                assert row[norm.value] == pytest.approx(float(norm.size(delta[k : k + 1])), rel=1e-4)
            assert row["adversarial_label"] == int(digits.mlp.labels(chunk["adversarials"][k : k + 1], torch.zeros(1)))
            seen += 1
        assert threat.chart is not None
        limits = torch.tensor([15.0, 0.05, 0.05])
        z = chunk["parameters"] / limits
        assert bool((z.abs().amax(dim=1) <= chunk["radius"] * 1.001).all())
        drawn = shown(threat.chart, z, chunk["originals"], (0.0, 1.0))
        torch.testing.assert_close(drawn, chunk["adversarials"], rtol=0, atol=1e-5)
    assert 0 < seen < 60


def test_a_curve_of_shares_falls_and_is_told_in_words(spatial: Evaluation) -> None:
    result = spatial.result
    Draft202012Validator(SCHEMA).validate(result)
    first, last = (entry["robust_accuracy"]["upper"]["value"] for entry in result["radii"])
    assert spatial.clean_accuracy > first > last
    assert result["threat"] == SPATIAL
    assert (
        "turn the picture by at most 6 degrees and move it by at most 0.02 of its sides, or turn"
        in (result["threat_statement"])
    )
    assert "right under any way to turn the picture by at most 15 degrees and move" in str(headline(result))


def test_the_audit_says_of_the_model_only_what_needs_no_ball_around_the_input(spatial: Evaluation) -> None:
    assert {"random-output", "batch-dependent-output", "dead-gradients"} <= set(spatial.result["audit_checks"])
    assert not {"unbounded-attack-fails", "black-box-beats-gradients", "one-step-beats-iterated"} & set(
        spatial.result["audit_checks"]
    )
    assert spatial.result["audit"] == []


def test_results_do_not_depend_on_the_batch(spatial: Evaluation, digits: Any) -> None:
    again = evaluate(digits.mlp, (digits.x[:60], digits.y[:60]), SPATIAL, suite="quick", batch_size=60)
    assert spatial.run.rows["status"].to_pylist() == again.run.rows["status"].to_pylist()
    assert spatial.run.rows["method"].to_pylist() == again.run.rows["method"].to_pylist()


def test_a_report_is_written(spatial: Evaluation, tmp_path: Any) -> None:
    from hauberk.report import write_html

    write_html(spatial.run, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "turn the picture by at most 15 degrees" in text
    assert "0.4 of the limits" in text


def test_a_blind_spot_is_evaluated_around_the_shifted_example(digits: Any) -> None:
    data = (digits.x[:50], digits.y[:50])
    threat = "linf:0.03@scale=0.8@shift=0.1"
    found = evaluate(digits.mlp, data, threat, suite="quick")
    plain = evaluate(digits.mlp, (0.8 * data[0] + 0.1, data[1]), "linf:0.03", suite="quick", audit=False)
    # the same points are allowed; only who counts as misclassified differs
    both = [
        (row["status"] == "undecided", other["status"] == "undecided")
        for row, other in zip(found.run.rows.to_pylist(), plain.run.rows.to_pylist(), strict=True)
        if row["status"] != "misclassified"
    ]
    assert sum(a == b for a, b in both) >= len(both) - 1
    for chunk in found.run.adversarials():
        change = (chunk["adversarials"] - (0.8 * chunk["originals"] + 0.1)).flatten(1).abs().amax(dim=1)
        assert float(change.max()) <= 0.03 + 1e-6
        assert "parameters" not in chunk
    assert "multiply every input value by 0.8, add 0.1, and then change every" in found.result["threat_statement"]
    assert "after all were multiplied by 0.8 and moved by 0.1" in str(headline(found.result))


def test_one_limit_alone_is_told_in_its_unit(digits: Any) -> None:
    found = evaluate(digits.conv, (digits.x[:40], digits.y[:40]), "rotation:10,25", suite="quick")
    assert [entry["radius"] for entry in found.result["radii"]] == [10, 25]
    assert "at most 25 degrees" in str(headline(found.result))
    for chunk in found.run.adversarials():
        assert bool((chunk["parameters"].abs().squeeze(1) <= chunk["radius"] + 1e-3).all())


def test_attacks_of_ones_own_run_on_charts(digits: Any) -> None:
    data = (digits.x[:20], digits.y[:20])
    found = evaluate(digits.mlp, data, "rotation:20", suite=[PGD(steps=3), Grid(points=9)], audit=False)
    assert [entry["name"] for entry in found.result["attacks"]] == ["pgd", "grid"]


@pytest.mark.parametrize(
    ("name", "threat", "access"),
    list(
        itertools.product(
            ["quick", "standard"],
            ["rotation:5", "spatial:rotation=5,translation=0.1,scale=0.1,shear=5", "colour:hue=0.1,contrast=0.2"],
            Access,
        )
    ),
    ids=str,
)
def test_a_named_suite_holds_only_attacks_that_can_run(name: str, threat: str, access: Access) -> None:
    for goal in ("untargeted", "target=3", "least-likely"):
        model = ThreatModel.parse(f"{threat}@{goal}")
        suite = suite_for(name, model, access)
        assert suite_for(suite, model, access) is suite
        assert all(attack.access <= access for attack in suite.attacks)
        assert "grid" in [name_of(attack) for attack in suite.attacks]
        assert model.chart is not None
        assert all(3 ** len(model.chart.names) <= attack.points for attack in suite.attacks if isinstance(attack, Grid))


@pytest.mark.parametrize(
    ("threat", "says"),
    [
        ("rotation", "write for example rotation:180"),
        ("spatial:rotation=5@smallest", "write for example spatial:rotation=5"),
        ("hue:0.1", "hue and saturation need pictures"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(digits: Any, threat: str, says: str) -> None:
    with pytest.raises(ThreatError, match=says):
        hb.evaluate(digits.mlp, (digits.x[:4], digits.y[:4]), threat)
