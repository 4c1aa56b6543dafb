"""`evaluate` end to end in memory: what is broken, what it cost, and that every sum agrees with every other."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from torch import Tensor, nn

from hauberk import data
from hauberk.attacks import BIM, FGSM, PGD, AutoPGD, Noise, Square
from hauberk.data import Chunk
from hauberk.errors import AccessError, DataError, SettingError, ThreatError, UnknownNameError
from hauberk.evaluate import Evaluation, evaluate, suite_for
from hauberk.evaluate.cascade import Known, run_chunk
from hauberk.evaluate.statistics import clopper_pearson
from hauberk.threat import Access, Norm, ThreatModel
from hauberk.victims import wrap

if TYPE_CHECKING:
    from conftest import Digits
else:
    Digits = Any

SCHEMA = json.loads((resources.files("hauberk") / "evaluate" / "evaluation.schema.json").read_text(encoding="utf-8"))
MINE = [FGSM(loss="margin"), PGD(steps=5, loss="margin"), Square(steps=10)]


@pytest.fixture(scope="module")
def curve(digits: Digits) -> Evaluation:
    source = data.Arrays(digits.x[:60], digits.y[:60])
    return evaluate(digits.mlp, source, "linf:0.02,0.05,0.08", suite=MINE, batch_size=25)


def rows_of(found: Evaluation) -> list[dict[str, Any]]:
    return found.run.rows.to_pylist()


def test_the_result_keeps_the_json_contract(curve: Evaluation) -> None:
    Draft202012Validator(SCHEMA).validate(curve.result)
    json.dumps(curve.result, allow_nan=False)


def test_there_is_one_row_for_each_example_and_radius_in_that_order(curve: Evaluation) -> None:
    assert [(row["example"], row["radius"]) for row in rows_of(curve)] == [
        (example, radius) for example in range(60) for radius in (0.02, 0.05, 0.08)
    ]


def test_every_count_of_the_result_is_that_of_the_rows(curve: Evaluation) -> None:
    rows, result = rows_of(curve), curve.result
    for entry in result["radii"]:
        statuses = [row["status"] for row in rows if row["radius"] == entry["radius"]]
        for status in ("misclassified", "broken", "undecided", "proven"):
            assert entry[status] == statuses.count(status)
        assert entry["robust_accuracy"]["upper"] == clopper_pearson(statuses.count("undecided"), 60).to_json()
    assert result["robust_accuracy"] == result["radii"][-1]["robust_accuracy"]
    last = [row for row in rows if row["radius"] == 0.08]
    assert result["clean_accuracy"]["value"] == sum(row["predicted"] == row["label"] for row in last) / 60
    assert sum(attack["broken"] for attack in result["attacks"]) == sum(row["status"] == "broken" for row in last)
    for entry in result["per_class"]:
        own = [row for row in last if row["label"] == entry["class"]]
        assert entry["count"] == len(own)
        right, standing = (
            sum(row["status"] in which for row in own) for which in (("broken", "undecided"), ("undecided",))
        )
        assert entry["clean_accuracy"]["value"] == right / len(own)
        assert entry["robust_accuracy"]["upper"]["value"] == standing / len(own)


def test_the_forwards_of_the_rows_are_those_of_the_ledgers(curve: Evaluation) -> None:
    rows = rows_of(curve)
    for key in ("forwards", "backwards", "queries"):
        spent = sum(row[key] for row in rows)
        assert spent == sum(ledger["charged"][key] for ledger in curve.run.ledgers)
        clean = 60 if key != "backwards" else 0
        *attacks, probes = curve.result["attacks"]
        assert spent == clean + sum(attack[key] for attack in attacks)
        audit = sum((ledger["audit"] or {}).get(key, 0) for ledger in curve.run.ledgers)
        assert (probes["name"], probes[key]) == ("audit", audit)
        assert curve.result["cost"][f"{key}_per_example"] == pytest.approx((spent + audit) / 60)


def test_the_curve_never_rises_and_a_broken_example_stays_broken_with_its_point(curve: Evaluation) -> None:
    rows = rows_of(curve)
    values = [entry["robust_accuracy"]["upper"]["value"] for entry in curve.result["radii"]]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    by_example = [rows[i : i + 3] for i in range(0, len(rows), 3)]
    for first, second, third in by_example:
        for smaller, larger in ((first, second), (second, third)):
            if smaller["status"] == "broken":
                kept = ("status", "method", "linf", "l2", "l1", "l0", "adversarial_label", "confidence")
                assert {key: larger[key] for key in kept} == {key: smaller[key] for key in kept}
                assert larger["queries"] == 0


def test_later_attacks_see_only_what_is_left(curve: Evaluation) -> None:
    # over a curve an attack has attempted what it saw at the first radius: the larger ones see fewer, and no others
    first = [row for row in rows_of(curve) if row["radius"] == 0.02]
    left = sum(row["status"] != "misclassified" for row in first)
    for attack in curve.result["attacks"][:-1]:
        assert attack["attempted"] == left
        left -= sum(row["method"] == attack["name"] for row in first)
    assert left == sum(row["status"] == "undecided" for row in first)


def test_the_saved_points_are_adversarial_and_as_large_as_the_rows_say(curve: Evaluation, digits: Digits) -> None:
    largest = {row["example"]: row for row in rows_of(curve) if row["radius"] == 0.08}
    seen = 0
    for part in curve.run.adversarials():
        x, z = part["originals"], part["adversarials"]
        assert torch.equal(x, digits.x[part["example"]])
        labels = digits.mlp.labels(z, torch.arange(len(z)))
        for place, (example, radius) in enumerate(zip(part["example"].tolist(), part["radius"].tolist(), strict=True)):
            row, delta = largest[example], (z[place] - x[place]).double()
            assert row["status"] == "broken"
            assert int(labels[place]) == row["adversarial_label"] != row["label"]
            assert float(delta.abs().max()) == pytest.approx(row["linf"])
            assert row["linf"] <= radius + 1e-6
            assert float(delta.norm()) == pytest.approx(row["l2"])
            assert float(delta.abs().sum()) == pytest.approx(row["l1"])
            assert int((delta != 0).sum()) == row["l0"]
            seen += 1
    assert seen == curve.result["radii"][-1]["broken"] > 0


COUNTED = {"forwards": 0, "backwards": 0}


class Counting(nn.Module):
    """Counts the rows that pass forward, and those whose gradient comes back; copies of it count on the same slate."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        COUNTED["forwards"] += len(x)
        out = self.net(x)
        if out.requires_grad:
            out.register_hook(lambda gradient: COUNTED.update(backwards=COUNTED["backwards"] + len(gradient)))
        return out


@pytest.mark.parametrize("audit", [False, True])
def test_what_is_charged_is_what_ran(digits: Digits, audit: bool) -> None:
    victim = wrap(Counting(digits.conv), output="logits")
    victim.probe(digits.x[:8])
    COUNTED.update(forwards=0, backwards=0)
    victim.probe(digits.x[:8])
    probe = COUNTED["forwards"]
    COUNTED.update(forwards=0, backwards=0)
    found = evaluate(
        victim, (digits.x[:40], digits.y[:40]), "l2:0.5", suite=[*MINE, AutoPGD(steps=4)], batch_size=16, audit=audit
    )
    cost = found.result["cost"]
    assert round(cost["forwards_per_example"] * 40) == COUNTED["forwards"] - probe
    assert round(cost["backwards_per_example"] * 40) == COUNTED["backwards"]
    assert round(cost["queries_per_example"] * 40) == COUNTED["forwards"] - probe


@dataclass(frozen=True)
class Liar:
    """Returns points that it has no right to, or none at all."""

    lie: str

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)

    def __call__(self, victim: Any, x: Tensor, goal: Any, region: Any, *, streams: Any) -> Tensor:
        match self.lie:
            case "too far":
                return 1 - x
            case "outside the box":
                return x + 0.1 * (x > 0.5) - 0.1 * (x <= 0.5)
            case "nan":
                return torch.full_like(x, torch.nan)
            case "nan in one place":
                z = x.clone()
                z[:, 0, 0, 0] = torch.nan
                return z
            case "infinite":
                return torch.full_like(x, torch.inf)
            case "clean":
                return x
            case "altered in place":
                return x.copy_(1 - x)
            case "another example":
                return x.roll(1, dims=0)
        raise AssertionError(self.lie)


@pytest.mark.parametrize(
    "lie",
    [
        "too far",
        "outside the box",
        "nan",
        "nan in one place",
        "infinite",
        "clean",
        "altered in place",
        "another example",
    ],
)
def test_a_dishonest_attack_breaks_nothing_and_is_told_of(digits: Digits, lie: str) -> None:
    found = evaluate(digits.mlp, (digits.x[:30], digits.y[:30]), "linf:0.1", suite=Liar(lie), audit=False)
    expected = [] if lie == "clean" else ["points-outside-the-region"]
    assert [finding["id"] for finding in found.result["audit"]] == expected
    assert found.result["radii"][0]["broken"] == 0
    assert found.result["attacks"][0]["broken"] == 0
    assert found.result["attacks"][0]["forwards"] == round(found.clean_accuracy * 30)  # the judge's
    assert all(row["linf"] is None for row in rows_of(found))


def test_an_attack_that_returns_another_shape_is_named(digits: Digits) -> None:
    class Short(Liar):
        def __call__(self, victim: Any, x: Tensor, goal: Any, region: Any, *, streams: Any) -> Tensor:
            return x[:1]

    with pytest.raises(SettingError, match="one point per example"):
        evaluate(digits.mlp, (digits.x[:9], digits.y[:9]), "linf:0.1", suite=Short("clean"), audit=False)


def labels_only(net: Any) -> Any:
    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(x)).argmax(dim=1).numpy()

    return predict


def scores_only(net: Any) -> Any:
    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(x)).numpy()

    return predict


@pytest.mark.parametrize("norm", ["linf:0.25", "l2:2", "l1:12", "l0:12"])
@pytest.mark.parametrize("access", ["gradients", "scores", "labels"])
def test_every_suite_runs_for_every_norm_and_access(digits: Digits, access: str, norm: str) -> None:
    net = digits.conv
    model = {"gradients": net, "scores": scores_only(net), "labels": labels_only(net)}[access]
    found = evaluate(model, (digits.x[:16], digits.y[:16]), norm, suite="quick", audit=False)
    Draft202012Validator(SCHEMA).validate(found.result)
    assert found.robust_accuracy < found.clean_accuracy
    assert all(row["status"] in ("misclassified", "broken", "undecided") for row in rows_of(found))
    if access != "gradients":
        assert all(attack["backwards"] == 0 for attack in found.result["attacks"])
    if access == "labels":
        assert all(row["confidence"] is None or np.isnan(row["confidence"]) for row in rows_of(found))
    standard = suite_for("standard", ThreatModel.parse(norm), Access[access.upper()])
    assert len(standard.attacks) >= 1
    assert all(attack.access <= Access[access.upper()] for attack in standard.attacks)


def test_a_threat_can_withhold_what_the_model_would_give(digits: Digits) -> None:
    for access, names in (("scores", {"square", "sign_hunter"}), ("labels", {"ray_s", "geo_da", "hop_skip_jump"})):
        found = evaluate(digits.mlp, (digits.x[:12], digits.y[:12]), f"linf:0.2@{access}", suite="quick")
        assert {attack["name"] for attack in found.result["attacks"]} == names | {"audit"}
        assert found.result["cost"]["backwards_per_example"] == 0
        assert access[:-1] in found.result["threat_statement"]


def test_only_the_target_counts_as_broken(digits: Digits) -> None:
    x, y = digits.x[:40], digits.y[:40]
    found = evaluate(digits.mlp, (x, y), "linf:0.4@target=3", suite=[PGD(steps=10, loss="margin"), BIM()], audit=False)
    broken = [row for row in rows_of(found) if row["status"] == "broken"]
    assert broken
    assert {row["adversarial_label"] for row in broken} == {3}
    assert all(row["status"] != "broken" and row["queries"] == 1 for row in rows_of(found) if row["label"] == 3)
    Draft202012Validator(SCHEMA).validate(found.result)
    untargeted = evaluate(digits.mlp, (x, y), "linf:0.4", suite=[PGD(steps=10, loss="margin"), BIM()], audit=False)
    assert untargeted.robust_accuracy <= found.robust_accuracy


@pytest.mark.parametrize("goal", ["least-likely", "top3", "target=0"])
def test_every_goal_runs_through_the_score_and_gradient_attacks(digits: Digits, goal: str) -> None:
    suite = [
        FGSM(loss="margin"),
        PGD(steps=8, loss="margin"),
        AutoPGD(steps=8, loss="dlr"),
        Square(steps=20),
        Noise(tries=4),
    ]
    found = evaluate(
        digits.mlp, (digits.x[:20], digits.y[:20]), f"linf:0.4@{goal}@scores", suite=suite[3:4], audit=False
    )
    strong = evaluate(digits.mlp, (digits.x[:20], digits.y[:20]), f"linf:0.4@{goal}", suite=suite[:4], audit=False)
    assert strong.robust_accuracy <= found.robust_accuracy
    assert any(row["status"] == "broken" for row in rows_of(strong))


@pytest.mark.parametrize("suite", ["quick", "standard"])
def test_a_named_suite_serves_every_goal(digits: Digits, suite: str) -> None:
    for goal in ("target=3", "least-likely", "top2"):
        found = evaluate(digits.mlp, (digits.x[:6], digits.y[:6]), f"linf:0.1@{goal}", suite=suite, audit=False)
        assert found.result["n"] == 6


def test_points_on_the_grid_survive_saving_as_bytes(digits: Digits) -> None:
    x = (digits.x[:30] * 255).round() / 255
    found = evaluate(digits.mlp, (x, digits.y[:30]), "linf:0.2@grid255", suite="quick", audit=False)
    for part in found.run.adversarials():
        loaded = (part["adversarials"] * 255).round().to(torch.uint8).float() / 255
        rows = {row["example"]: row for row in rows_of(found)}
        labels = digits.mlp.labels(loaded, torch.arange(len(loaded))).tolist()
        assert labels == [rows[example]["adversarial_label"] for example in part["example"].tolist()]


def test_a_model_that_answers_nan_near_its_examples_is_not_broken_there() -> None:
    class Hole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = x.flatten(1).sum(dim=1, keepdim=True)
            return torch.where(
                (score - 2).abs() > 0.2, torch.full_like(score, torch.nan), torch.cat((score, -score), dim=1)
            )

    x = torch.full((12, 4), 0.5)
    victim = wrap(Hole(), output="logits", classes=2)
    found = evaluate(victim, (x, torch.zeros(12, dtype=torch.int64)), "linf:0.5", suite="quick", audit=False)
    assert found.result["radii"][0]["broken"] == 0
    blind = evaluate(victim, (x, torch.zeros(12, dtype=torch.int64)), "linf:0.5@labels", suite="quick", audit=False)
    assert blind.result["radii"][0]["broken"] == 0


def test_a_seed_repeats_everything_and_another_one_does_not(digits: Digits) -> None:
    def table(seed: int) -> list[dict[str, Any]]:
        return rows_of(
            evaluate(
                digits.mlp, (digits.x[:20], digits.y[:20]), "linf:0.12", suite=Noise(tries=30), seed=seed, audit=False
            )
        )

    assert table(1) == table(1)
    assert table(1) != table(2)


def test_a_run_in_a_folder_is_that_in_memory(digits: Digits, tmp_path: Path) -> None:
    spoken = {"suite": MINE, "n": 20, "batch_size": 8}
    source = (digits.x[:30], digits.y[:30])
    inside, outside = (
        evaluate(digits.mlp, source, "linf:0.1", **spoken),
        evaluate(digits.mlp, source, "linf:0.1", out=tmp_path, **spoken),
    )
    assert inside.run.rows.equals(outside.run.rows)
    assert outside.result["n"] == 20
    kept = {key for key in inside.result if key not in ("attacks", "cost", "environment", "rows")}
    assert {key: inside.result[key] for key in kept} == {key: outside.result[key] for key in kept}
    again = evaluate(digits.mlp, source, "linf:0.1", out=tmp_path, **spoken)
    assert again.run.rows.equals(outside.run.rows)
    thin = evaluate(digits.mlp, source, "linf:0.1", keep_adversarials=False, **spoken)
    assert list(thin.run.adversarials()) == []
    assert thin.run.rows.equals(inside.run.rows)


def test_stages_limit_a_suite(digits: Digits) -> None:
    found = evaluate(digits.mlp, (digits.x[:8], digits.y[:8]), "linf:0.1", suite="quick", stages=1, audit=False)
    assert [attack["name"] for attack in found.result["attacks"]] == ["fgsm"]
    assert found.result["suite"] == "quick[:1]"


def test_requests_that_mean_nothing_are_refused_before_anything_is_spent(digits: Digits, tmp_path: Path) -> None:
    good = (digits.x[:8], digits.y[:8])
    table: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"threat": "linf"}, ThreatError, "needs a radius"),
        ({"suite": "quik"}, UnknownNameError, "quick"),
        ({"suite": []}, SettingError, "at least one attack"),
        ({"suite": [3]}, SettingError, "a suite holds attacks"),
        ({"suite": Square(), "threat": "l1:2"}, ThreatError, "square works in"),
        ({"suite": PGD(), "threat": "linf:0.1@labels"}, AccessError, "pgd needs gradients"),
        ({"stages": 0}, SettingError, "stages=0"),
        ({"stages": 99}, SettingError, "stages=99"),
        ({"batch_size": 0}, SettingError, "at least one example"),
        ({"data": (digits.x[:8] * 255, digits.y[:8])}, DataError, "expected values in"),
        ({"data": (digits.x[:8], digits.y[:8] + 90)}, DataError, "label"),
        ({"threat": "linf:0.1@grid255"}, DataError, "grid"),
        ({"threat": "linf:0.1@target=12"}, ThreatError, "class 12"),
        ({"threat": "linf:0.1@top10"}, SettingError, "top-k needs"),
        ({"threat": "linf:0.1@top2@labels"}, SettingError, "one label"),
        ({"threat": "linf:0.1@least-likely@labels"}, SettingError, "least-likely"),
        ({"threat": "linf:0.1@target=1", "suite": AutoPGD(targets=2)}, SettingError, "use targets=0"),
    ]
    for options, kind, needle in table:
        spoken = {"data": good, "threat": "linf:0.1", "suite": "quick", "out": tmp_path / "run"} | options
        with pytest.raises(kind, match=needle) as caught:
            evaluate(digits.mlp, spoken.pop("data"), spoken.pop("threat"), **spoken)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists(), f"{options} left a run folder behind"


def test_bad_examples_far_into_the_data_are_named_by_their_number(digits: Digits) -> None:
    x = digits.x[:40].clone()
    x[37, 0, 3, 3] = torch.nan
    with pytest.raises(DataError, match="37"):
        evaluate(digits.mlp, (x, digits.y[:40]), "linf:0.1", suite="quick", stages=1, batch_size=16, audit=False)


def test_progress_is_told_and_the_environment_is_written_down(
    digits: Digits, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(
        digits.mlp, (digits.x[:8], digits.y[:8]), "linf:0.1", suite=FGSM(), progress=True, command="hauberk evaluate x"
    )
    assert capsys.readouterr().out == ""
    environment = found.result["environment"]
    assert environment["command"] == "hauberk evaluate x"
    assert environment["dtype"] == "float32"
    assert environment["threads"] == torch.get_num_threads()
    assert "robust <=" in repr(found)


def test_data_are_read_once_and_forward(digits: Digits) -> None:
    class Stream(data.Arrays):
        reads: ClassVar[list[tuple[int, int | None]]] = []

        def chunks(self, size: int, *, start: int = 0, stop: int | None = None) -> Iterator[data.Chunk]:
            self.reads.append((start, stop))
            return super().chunks(size, start=start, stop=stop)

    evaluate(digits.mlp, Stream(digits.x[:30], digits.y[:30]), "linf:0.1", suite=FGSM(), batch_size=7, audit=False)
    assert Stream.reads == [(0, None), (0, 30)]  # the first look, and the run


def test_what_the_audit_breaks_is_broken(digits: Digits) -> None:
    class Rounded(torch.nn.Module):
        """Gradients see a flat model; noise and square do not."""

        def forward(self, x: Tensor) -> Tensor:
            return digits.conv((x * 4).round() / 4)

    found = evaluate(Rounded(), (digits.x[:40], digits.y[:40]), "linf:0.2,0.3", suite=PGD(steps=2), batch_size=16)
    *_, probes = found.result["attacks"]
    assert probes["name"] == "audit"
    by_audit = [row for row in rows_of(found) if (row["method"] or "").endswith("(audit)")]
    assert len(by_audit) == probes["broken"] > 0
    assert {row["radius"] for row in by_audit} == {0.3}
    assert {row["example"] // 16 for row in by_audit} > {0}  # beyond the chunk whose ledger holds the audit
    levels = found.result["radii"]
    assert levels[-1]["broken"] == sum(row["status"] == "broken" for row in rows_of(found) if row["radius"] == 0.3)
    saved = {int(i) for part in found.run.adversarials() for i in part["example"]}
    assert {row["example"] for row in by_audit} <= saved


def test_the_setting_itself_is_audited(digits: Digits) -> None:
    def ids(**changes: Any) -> set[str]:
        given = {"threat": "linf:0.1", "suite": FGSM(), "audit": False} | changes
        model, data = given.pop("model", digits.mlp), given.pop("data", (digits.x[:60], digits.y[:60]))
        return {finding["id"] for finding in evaluate(model, data, given.pop("threat"), **given).result["audit"]}

    assert ids() == set()
    assert ids(threat="linf:0.0001") == ids(threat="linf:1") == {"odd-radius"}
    assert ids(data=(digits.x[:60], (digits.y[:60] + 1) % 10)) == {"clean-accuracy-near-chance"}
    order = digits.y.argsort()[:200]
    assert ids(data=(digits.x[order], digits.y[order])) == {"classes-missing"}
    scored = lambda x: digits.mlp.logits(torch.as_tensor(x), torch.arange(len(x))).numpy()  # noqa: E731
    assert "black-box-only" in ids(model=scored, suite=Noise(tries=2))


def test_a_point_of_the_audit_counts_only_where_the_judge_accepts_it_for_the_example_at_hand(digits: Digits) -> None:
    x, y = digits.x[:8], digits.y[:8]
    chunk = Chunk(torch.arange(8), x, y)
    threat = ThreatModel.parse("linf:0.1")
    suite = suite_for(Noise(tries=1), ThreatModel.parse("linf:0.1"), Access.GRADIENTS)
    lies = {k: Known(x[k] + 0.5, "liar (audit)") for k in range(4)} | {
        k: Known(x[k], "idler (audit)") for k in range(4, 8)
    }
    made = run_chunk(digits.mlp, chunk, threat, suite, seed=0, access=Access.GRADIENTS, known=lies)
    assert made.broken_before == 0
    assert not any((method or "").endswith("(audit)") for method in made.columns["method"])
