"""Proofs in an evaluation: both ends of each example, no query for what is proven, and an alarm where they cross."""

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from jsonschema import Draft202012Validator
from torch import nn

from hauberk import data, zoo
from hauberk.attacks import FGSM, PGD
from hauberk.certify.prover import Prover
from hauberk.errors import AccessError, HauberkError, ModelError, SettingError, ThreatError
from hauberk.evaluate import Evaluation, Verdict, evaluate
from hauberk.evaluate.cascade import Tally
from hauberk.evaluate.certification import certification
from hauberk.evaluate.found import Found
from hauberk.evaluate.proving import Proofs
from hauberk.evaluate.statistics import clopper_pearson
from hauberk.threat import Norm
from hauberk.victims import wrap

if TYPE_CHECKING:
    from conftest import Digits
else:
    Digits = Any

SCHEMA = json.loads((resources.files("hauberk") / "evaluate" / "evaluation.schema.json").read_text(encoding="utf-8"))
MINE = [FGSM(loss="margin"), PGD(steps=8, loss="margin")]
THREAT = "linf:0.02,0.05,0.1"
ORDER = ("crown_ibp", "crown", "alpha_crown", "branch_and_bound")


@pytest.fixture(scope="module")
def source(digits: Digits) -> data.Source:
    return data.Arrays(digits.x[:50], digits.y[:50])


@pytest.fixture(scope="module")
def both(source: data.Source) -> Evaluation:
    return evaluate(
        zoo.load("digits-trades"),
        source,
        THREAT,
        suite=MINE,
        batch_size=20,
        certify="auto",
        certify_seconds=1,
        sandwich=15,
    )


def rows_of(found: Evaluation) -> list[dict[str, Any]]:
    return found.run.rows.to_pylist()


def test_the_result_keeps_the_contract_and_counts_what_the_rows_hold(both: Evaluation) -> None:
    Draft202012Validator(SCHEMA).validate(both.result)
    json.dumps(both.result, allow_nan=False)
    for entry, by in zip(both.result["radii"], both.result["certified"]["by"], strict=True):
        at = [row for row in rows_of(both) if row["radius"] == entry["radius"]]
        tally = {status: sum(row["status"] == status for row in at) for status in ("proven", "undecided", "broken")}
        assert {status: entry[status] for status in tally} == tally
        assert entry["robust_accuracy"]["lower"] == clopper_pearson(tally["proven"], 50).to_json()
        assert entry["robust_accuracy"]["upper"] == clopper_pearson(tally["proven"] + tally["undecided"], 50).to_json()
        assert sum(by["proven"].values()) == tally["proven"]
        methods = [row["method"] for row in at if row["status"] == "proven"]
        assert {name: methods.count(name) for name in set(methods)} == by["proven"]
    assert both.result["robust_accuracy"] == both.result["radii"][-1]["robust_accuracy"]
    assert both.certified_accuracy == both.result["robust_accuracy"]["lower"]["value"]
    last = [row for row in rows_of(both) if row["radius"] == 0.1]
    for entry in both.result["per_class"]:
        own = [row["status"] for row in last if row["label"] == entry["class"]]
        assert entry["robust_accuracy"]["lower"]["value"] == own.count("proven") / len(own)
    assert sum(attack["broken"] for attack in both.result["attacks"]) == sum(row["status"] == "broken" for row in last)
    assert sum(both.result["radii"][-1][status] for status in ("proven", "broken")) >= 45


def test_both_ends_are_in_the_rows_and_never_cross(both: Evaluation) -> None:
    for row in rows_of(both):
        upper = float("inf") if row["upper"] is None else row["upper"]
        assert row["lower"] <= upper
        if row["status"] == "proven":
            assert row["lower"] >= row["radius"]
        if row["status"] == "broken":
            assert upper <= row["radius"] * (1 + 1e-4)
        if row["status"] == "misclassified":
            assert (row["lower"], upper) == (0, 0)
        assert (row["estimate"] is not None) == (row["example"] < 15)
    looked = [row for row in rows_of(both) if row["example"] < 15 and row["status"] != "misclassified"]
    assert all(row["upper"] is not None and row["estimate"] > 0 for row in looked)
    assert any(row["lower"] not in (0.02, 0.05, 0.1) for row in looked)  # bisected, not one of the threat's


def test_what_is_proven_costs_the_attacks_nothing_and_the_others_what_they_did_before(source: data.Source) -> None:
    victim = zoo.load("digits-trades")
    settings: dict[str, Any] = {"suite": MINE, "batch_size": 20, "audit": False}
    plain = rows_of(evaluate(victim, source, THREAT, **settings))
    found = evaluate(victim, source, THREAT, certify="alpha_crown", sandwich=0, **settings)
    proven = 0
    for row, old in zip(rows_of(found), plain, strict=True):
        if row["status"] == "proven":
            proven += 1
            assert old["status"] == "undecided"
            assert (row["queries"], row["backwards"]) == (
                int(row["radius"] == 0.02),
                0,
            )  # the look at the clean example
        else:
            assert {key: row[key] for key in ("status", "method", "linf", "queries", "backwards")} == {
                key: old[key] for key in ("status", "method", "linf", "queries", "backwards")
            }
    assert proven > 60
    saved = sum(old["queries"] for old in plain) - sum(row["queries"] for row in rows_of(found))
    told = found.result["certified"]["spared"]
    assert told["examples"] == sum(row["status"] == "proven" for row in rows_of(found) if row["radius"] == 0.02)
    assert 0.5 * saved <= told["queries"] <= 1.5 * saved


def test_attempted_counts_each_example_that_a_stage_met_once(source: data.Source) -> None:
    found = evaluate(zoo.load("digits-trades"), source, THREAT, suite=MINE, audit=False, certify="crown", sandwich=0)
    right = {row["example"] for row in rows_of(found) if row["status"] != "misclassified"}
    spared = {row["example"] for row in rows_of(found) if row["radius"] == 0.1 and row["status"] == "proven"}
    assert found.result["attacks"][0]["attempted"] == len(right - spared)


def test_a_linear_classifier_is_decided_everywhere_and_rightly() -> None:
    torch.manual_seed(0)
    last = nn.Linear(12, 4)
    net = nn.Sequential(nn.Flatten(), last).double()
    x = 0.4 + 0.2 * torch.rand(40, 3, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        last.bias.copy_(-0.5 * last.weight.sum(dim=1))
    y = net(x).argmax(dim=1)
    scores, weight = net(x).detach(), last.weight.detach()
    true = torch.stack(
        [
            torch.stack([(s[own] - s[c]) / (weight[own] - weight[c]).abs().sum() for c in range(4) if c != own]).min()
            for s, own in zip(scores, y.tolist(), strict=True)
        ]
    )
    radius = float(true.median()) * 1.001
    found = evaluate(net, (x, y), f"linf:{radius}", suite=MINE, certify="crown", sandwich=40)
    status = [row["status"] for row in rows_of(found)]
    assert status == ["proven" if end > radius else "broken" for end in true.tolist()]
    for row, end in zip(rows_of(found), true.tolist(), strict=True):
        if 1e-3 < end < 0.3:
            assert row["lower"] <= end * (1 + 1e-5)
            assert row["upper"] >= end * (1 - 1e-5)
            assert row["lower"] >= 0.98 * end
            assert row["upper"] <= 1.5 * end  # another class than the nearest may be found
            assert row["estimate"] == pytest.approx(end, rel=1e-4)  # its gradient is everywhere the same


@pytest.mark.parametrize("threat", ["l2:0.2", "l1:0.5", "linf:0.05@target=3", "linf:0.07@grid16", "linf:0.05@top2"])
def test_other_threats_are_proven_too_and_no_attack_contradicts(source: data.Source, threat: str) -> None:
    victim = zoo.load("digits-trades")
    strong = [PGD(steps=40, loss="margin", restarts=2)]
    found = rows_of(
        evaluate(victim, source, threat, suite=MINE, audit=False, certify="auto", certify_seconds=0.2, sandwich=3)
    )
    plain = rows_of(evaluate(victim, source, threat, suite=strong, audit=False))
    assert any(row["status"] == "proven" for row in found)
    assert not any(
        row["status"] == "proven" and old["status"] == "broken" for row, old in zip(found, plain, strict=True)
    )


def test_a_targeted_threat_leaves_more_to_prove(source: data.Source) -> None:
    def proven(threat: str) -> set[int]:
        run = evaluate(zoo.load("digits-trades"), source, threat, suite=MINE, audit=False, certify="crown", sandwich=0)
        return {row["example"] for row in rows_of(run) if row["status"] == "proven"}

    of_others = {row for row in range(50) if int(next(source.chunks(50)).y[row]) != 3}
    assert proven("linf:0.1") & of_others < proven("linf:0.1@target=3")


def test_a_proof_that_an_attack_contradicts_is_withdrawn_and_told(
    source: data.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Prover, "least", lambda self, x, *rest: torch.ones(len(x)))
    found = evaluate(zoo.load("digits-mlp"), source, "linf:0.2", suite=MINE, certify="crown", sandwich=10)
    finding = next(finding for finding in found.result["audit"] if finding["id"] == "proof-contradicted")
    assert finding["severity"] == "error"
    assert "is proven within" in finding["evidence"]
    rows = rows_of(found)
    assert sum(row["status"] == "broken" for row in rows[:10]) >= 8
    for row in rows:
        assert row["upper"] is None or row["lower"] <= row["upper"]


def test_what_is_broken_a_hair_beyond_the_radius_contradicts_a_proof_at_it() -> None:
    x = torch.zeros(2, 3)
    proofs, found = Proofs.none(2, (0.1,)), Found(x)
    proofs.prove([0, 1], 0.1, "crown")
    here, one = torch.tensor([1]), torch.tensor([True])
    point = x[:1] + 0.1 * (1 + 5e-6)
    found.keep(here, point, Verdict(one, one, torch.tensor([2]), torch.tensor([0.9])), 0.1, "pgd")
    proofs.join(found, Norm.LINF, torch.tensor([7, 8]))
    assert proofs.hold(0.1).tolist() == [True, False]
    assert [words.partition(" is")[0] for words in proofs.contradicted] == ["example 8"]


def test_the_outcome_depends_neither_on_the_batches_nor_on_a_kill(digits: Digits, tmp_path: Path) -> None:
    source = data.Arrays(digits.x[:24].double(), digits.y[:24])
    victim = wrap(zoo.net("digits-trades"), bounds=(0, 1), output="logits", dtype="float64")
    settings: dict[str, Any] = {"suite": MINE, "certify": "alpha_crown", "sandwich": 9}
    whole = evaluate(victim, source, "linf:0.05,0.1", batch_size=24, **settings)
    parts = evaluate(victim, source, "linf:0.05,0.1", batch_size=5, out=tmp_path / "run", **settings)
    for one, other in zip(rows_of(whole), rows_of(parts), strict=True):
        assert one["status"] == other["status"]
        assert one["lower"] == pytest.approx(other["lower"], rel=1e-9)
        assert (one["upper"] or 0) == pytest.approx(other["upper"] or 0, rel=1e-9)
        assert (one["estimate"] or 0) == pytest.approx(other["estimate"] or 0, rel=1e-6)
    before = (tmp_path / "run" / "rows.parquet").read_bytes()
    for name in ("rows.parquet", "result.json"):
        (tmp_path / "run" / name).unlink()
    for chunk in ("00001", "00003"):
        for file in (tmp_path / "run" / "chunks" / chunk).iterdir():
            file.unlink()
        (tmp_path / "run" / "chunks" / chunk).rmdir()
    evaluate(victim, source, "linf:0.05,0.1", batch_size=5, out=tmp_path / "run", **settings)
    assert (tmp_path / "run" / "rows.parquet").read_bytes() == before


def test_an_adapted_run_keeps_its_proofs(source: data.Source) -> None:
    found = evaluate(
        zoo.load("digits-trades"), source, "linf:0.05", suite=MINE, certify="crown", sandwich=5, adapt=("more-steps",)
    )
    first = found.result["adapted"]["first"]["robust_accuracy"]
    assert found.result["robust_accuracy"]["lower"] == first["lower"]
    assert found.certified_accuracy is not None
    assert found.certified_accuracy > 0.5
    Draft202012Validator(SCHEMA).validate(found.result)


def test_without_proofs_nothing_is_said_of_them(source: data.Source) -> None:
    found = evaluate(zoo.load("digits-mlp"), source, "linf:0.05", suite=MINE)
    assert found.result["certified"] is None
    assert found.certified_accuracy is None
    assert {row[name] for row in rows_of(found) for name in ("lower", "estimate", "upper")} == {None}
    assert "certify" not in found.run.manifest.options


class _Loud(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x.flatten(1))[:, :10]


def test_what_cannot_be_proven_is_refused_before_any_attack(source: data.Source) -> None:
    def with_(model: Any, threat: str = "linf:0.1", **settings: Any) -> Evaluation:
        asked: dict[str, Any] = {"suite": "quick", "certify": "auto"} | settings
        return evaluate(model, source, threat, **asked)

    with pytest.raises(ModelError, match="bessel_j0"):
        with_(_Loud())
    with pytest.raises(AccessError, match="network itself"):
        with_(lambda x: torch.as_tensor(x).flatten(1)[:, :10])
    for threat in ("l0:3", "rotation:20"):
        with pytest.raises(ThreatError, match="balls of linf, l2 and l1"):
            with_(zoo.load("digits-mlp"), threat)
    wrongs: list[dict[str, Any]] = [
        {"certify": "crwn"},
        {"certify_seconds": -1},
        {"certify_seconds": float("nan")},
        {"sandwich": -1},
    ]
    for wrong in wrongs:
        with pytest.raises((SettingError, HauberkError)):
            with_(zoo.load("digits-mlp"), **wrong)


def test_what_proofs_spared_is_reckoned_at_what_withstanding_cost() -> None:
    tallies = [
        [
            Tally("a", 0.1, attempted=4, broken=2, spared=3, withstood=20),
            Tally("b", 0.1, attempted=2, spared=3, withstood=8),
        ],
        [Tally("a", 0.2, attempted=0, spared=1), Tally("b", 0.2, attempted=1, broken=1, spared=1)],
    ]
    part = {"by": [{"crown": 3}, {"crown": 1}], "looked": 0, "seconds": 1.5}
    told = certification([{"proofs": part}, {"proofs": None}], tallies, (0.1, 0.2), {"certify": "crown"})
    assert told is not None
    assert told["spared"] == {"examples": 3, "queries": 4 * 20 / 2 + 4 * 8 / 2}
    assert told["by"] == [{"radius": 0.1, "proven": {"crown": 3}}, {"radius": 0.2, "proven": {"crown": 1}}]
    assert certification([{"examples": 1}], tallies, (0.1, 0.2), {}) is None


def test_methods_that_go_further_prove_no_less(source: data.Source) -> None:
    found: list[set[int]] = []
    for method in ORDER:
        run = evaluate(
            zoo.load("digits-trades"),
            source,
            "linf:0.1",
            suite=MINE,
            audit=False,
            certify=method,
            certify_seconds=1,
            sandwich=0,
        )
        found.append({row["example"] for row in rows_of(run) if row["status"] == "proven"})
    assert found[0] <= found[1] <= found[2] <= found[3]
    assert len(found[3]) > len(found[0]) > 0
