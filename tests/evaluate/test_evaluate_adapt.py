"""Adapting sees through what deceives the suite, leaves honest nets as they are, and keeps both verdicts."""

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from jsonschema import Draft202012Validator
from torch import Tensor, nn

import hauberk as hb
from hauberk.attacks import PGD, Noise
from hauberk.data import Chunk
from hauberk.errors import SettingError, UnknownNameError
from hauberk.evaluate import evaluate
from hauberk.evaluate.adapt import NEIGHBOURS, SAMPLES, adapted_suite, steps_for, wanted_steps
from hauberk.evaluate.audit import STEPS, Finding
from hauberk.evaluate.cascade import run_chunk
from hauberk.evaluate.suites import Suite
from hauberk.evaluate.through import Through, label_of
from hauberk.evidence import RunFolder
from hauberk.threat import Access, ThreatModel
from hauberk.victims import eot, wrap
from hauberk.victims.before_softmax import BeforeSoftmax

if TYPE_CHECKING:
    from conftest import Digits
else:
    Digits = Any

SCHEMA = json.loads((resources.files("hauberk") / "evaluate" / "evaluation.schema.json").read_text(encoding="utf-8"))
WEAK = [PGD(steps=10, loss="ce"), Noise(tries=2)]


class Around(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Rounded(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 8).round() / 8)


class Quarter(Around):
    """Rounds the smallest quarter of the picture only, so that some gradients are left."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.cat(((x[:, :, :2] * 8).round() / 8, x[:, :, 2:]), dim=2))


class Thresholds(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.net((x > 0.5).to(x.dtype))


class Saturated(Around):
    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) * 30).softmax(dim=1)


class Noisy(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.2 * torch.randn_like(x))


def adapted(digits: Digits, model: nn.Module, threat: str, n: int = 40, **options: Any) -> dict[str, Any]:
    found = evaluate(model, (digits.x[:n], digits.y[:n]), threat, **{"suite": WEAK, "adapt": True} | options)
    Draft202012Validator(SCHEMA).validate(found.result)
    return found.result


def value(result: dict[str, Any]) -> float:
    return result["robust_accuracy"]["upper"]["value"]


@pytest.mark.parametrize(
    ("kind", "threat", "suite", "steps", "least"),
    [
        (Rounded, "linf:0.2", WEAK[:1], {"bpda", "score-attacks"}, 0.5),
        (Thresholds, "linf:0.55", [Noise(tries=1)], {"bpda", "score-attacks"}, 0.5),
        (Saturated, "linf:0.3", WEAK[:1], {"logits", "margin"}, 0.2),
        (Noisy, "linf:0.2", [PGD(steps=2, step_size=0.01)], {"eot"}, 0.15),
    ],
    ids=["rounded", "thresholds", "saturated", "noisy"],
)
def test_the_adapted_verdict_sees_through_what_the_first_did_not(
    digits: Digits, kind: type[Around], threat: str, suite: list[Any], steps: set[str], least: float
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # what draws does so from the global generator
        result = adapted(digits, kind(digits.conv), threat, suite=suite)
    first = result["adapted"]["first"]["robust_accuracy"]["upper"]["value"]
    assert steps <= {entry["step"] for entry in result["adapted"]["steps"]}
    assert value(result) <= 0.1 < least <= first
    assert [entry["id"] for entry in result["audit"] if entry["severity"] != "info"]


def test_honest_nets_are_left_as_they_are(digits: Digits) -> None:
    plain = adapted(digits, digits.conv, "linf:0.05", adapt=False)
    result = adapted(digits, digits.conv, "linf:0.05")
    assert plain["adapted"] is None
    assert result["adapted"]["steps"] == []
    assert value(result) == value(plain) == value(result["adapted"]["first"])
    assert result["cost"]["queries_per_example"] == plain["cost"]["queries_per_example"]


def test_both_verdicts_add_up_over_a_curve_and_over_chunks(digits: Digits, tmp_path: Path) -> None:
    x, y = digits.x[:40], digits.y[:40]
    options: dict[str, Any] = {
        "suite": [PGD(steps=5, loss="margin"), Noise(tries=10)],
        "adapt": ("bpda",),
        "audit": False,
    }
    options |= {"batch_size": 16, "out": tmp_path / "run"}
    run = evaluate(Quarter(digits.conv), (x, y), "linf:0.1,0.3", **options)
    result = run.result
    Draft202012Validator(SCHEMA).validate(result)
    for before, after in zip(result["adapted"]["first"]["radii"], result["radii"], strict=True):
        assert after["broken"] >= before["broken"]
        assert sum(after[key] for key in ("misclassified", "broken", "undecided", "proven")) == 40
        assert before["misclassified"] == after["misclassified"]
    assert result["radii"][1]["broken"] >= result["radii"][0]["broken"]
    rows = run.run.rows.to_pydict()
    assert rows["status"].count("broken") == sum(level["broken"] for level in result["radii"])
    names = [entry["name"] for entry in result["attacks"]]
    assert names[:2] == ["pgd", "noise"]
    assert all("bpda" in name for name in names[2:])
    by_attack = sum(entry["forwards"] for entry in result["attacks"])
    assert (
        by_attack <= result["cost"]["forwards_per_example"] * 40 <= by_attack + 40 * 3
    )  # clean pass and carried points
    again = evaluate(Quarter(digits.conv), (x, y), "linf:0.1,0.3", **options)
    assert again.result["radii"] == result["radii"]


def test_what_a_suite_broke_by_luck_of_a_random_model_is_put_to_the_vote(digits: Digits) -> None:
    class Coin(Around):
        """Class 0 two times of three, whatever is done."""

        def forward(self, x: Tensor) -> Tensor:
            scores = torch.zeros(len(x), 10)
            scores[:, 0] = 5.0
            wrong = torch.rand(len(x), 1) < 1 / 3
            return torch.where(wrong, scores.roll(1, dims=1), scores)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = evaluate(
            Coin(digits.conv),
            (digits.x[:32], torch.zeros(32, dtype=torch.int64)),
            "linf:0.05",
            suite=[Noise(tries=5)],
            adapt=("eot",),
            audit=False,
        )
    first, last = found.result["adapted"]["first"]["radii"][0], found.result["radii"][0]
    assert first["misclassified"] > 0
    assert first["broken"] > 0
    assert (last["misclassified"], last["broken"], last["undecided"]) == (0, 0, 32)


def test_adaptations_are_for_what_the_threat_allows() -> None:
    findings = [
        Finding("random-output", "error", "1", "x", ("eot",)),
        Finding("dead-gradients", "error", "1", "x", ("bpda", "score-attacks")),
        Finding("softmax-output", "info", "1", "x", ("logits",)),
    ]
    assert list(steps_for(findings, Access.GRADIENTS)) == ["eot", "bpda", "score-attacks"]
    assert list(steps_for(findings, Access.SCORES)) == ["eot", "score-attacks"]
    assert list(steps_for(findings, Access.LABELS)) == ["eot"]
    assert steps_for(findings, Access.GRADIENTS, ("smooth",))["smooth"] == []
    assert "logits" not in steps_for(findings, Access.GRADIENTS)


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:1", "l1:5", "l0:3", "linf:0.1@scores", "linf:0.1@labels"])
def test_every_step_has_attacks_under_every_threat(digits: Digits, threat: str) -> None:
    victim = wrap(Saturated(Rounded(digits.conv)))  # something to do for every step
    victim.probe(digits.x[:8])
    parsed = ThreatModel.parse(threat)
    for step in STEPS:
        if step not in steps_for([Finding("a", "error", "1", "x", (step,))], parsed.access):
            continue
        suite = adapted_suite(victim, parsed, parsed.access, [step], 0, digits.x[:8])
        assert suite.attacks, step
        assert all(step in label_of(attack) for attack in suite.attacks)
        assert all(parsed.norm in attack.norms for attack in suite.attacks)


def test_steps_can_be_asked_for_without_a_finding(digits: Digits) -> None:
    result = adapted(digits, digits.conv, "linf:0.05", n=16, suite=[Noise(tries=1)], adapt=("more-steps",))
    assert result["adapted"]["steps"] == [{"step": "more-steps", "findings": [], "what": STEPS["more-steps"]}]
    assert value(result) <= value(result["adapted"]["first"])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"adapt": None}, SettingError, "sequence of steps"),
        ({"adapt": 0}, SettingError, "sequence of steps"),
        ({"adapt": 3.5}, SettingError, "sequence of steps"),
        ({"adapt": "bpda"}, SettingError, "sequence of steps"),
        ({"adapt": ("bdpa",)}, UnknownNameError, "bpda"),
        ({"adapt": True, "audit": False}, SettingError, "audit"),
    ],
    ids=["nothing", "zero", "a number", "a string", "unknown", "no audit"],
)
def test_an_adaptation_that_means_nothing_is_refused(
    digits: Digits, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        evaluate(digits.conv, (digits.x[:4], digits.y[:4]), "linf:0.1", **options)


@pytest.mark.parametrize("adapt", ["eot", None, ("e",)], ids=["a string", "nothing", "unknown"])
def test_an_audit_refuses_such_an_adaptation_before_it_asks_the_model(digits: Digits, adapt: Any) -> None:
    class Unasked(Around):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    with pytest.raises((SettingError, UnknownNameError), match="adapt"):
        hb.audit(Unasked(digits.conv), (digits.x[:4], digits.y[:4]), "linf:0.1", adapt=adapt)


def test_an_adapted_run_that_goes_on_after_a_kill_is_the_run_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Thermometer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            levels = [(level + 0.5) / 8 for level in range(8)]
            rows = x.flatten(1).tolist()
            return torch.tensor([[[float(v > level) for v in row] for level in levels] for row in rows])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(Thermometer(), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    x = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    x[8:] = x[8:] * 0.4 + 0.3  # of another kind than the first chunk, on which the substitute is fitted
    y = net(x).argmax(dim=1)

    def run(out: Path) -> dict[str, Any]:
        options: dict[str, Any] = {"suite": Noise(tries=1), "batch_size": 8, "adapt": ("bpda",), "audit": False}
        return evaluate(net, (x, y), "linf:0.1", out=out, **options).result

    whole = run(tmp_path / "whole")
    write, written = RunFolder.write_chunk, []

    def killed(self: RunFolder, index: int, *rest: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(index)
        write(self, index, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_chunk", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    resumed = run(tmp_path / "cut")
    timeless = [
        [{key: count for key, count in entry.items() if key != "seconds"} for entry in result["attacks"]]
        for result in (whole, resumed)
    ]
    assert len(timeless[0]) > 1
    assert timeless[0] == timeless[1]
    assert resumed["radii"] == whole["radii"]


def test_no_substitute_averages_twice(digits: Digits) -> None:
    victim = wrap(Noisy(digits.conv))
    victim.probe(digits.x[:8])
    threat = ThreatModel.parse("linf:0.1")
    suite = adapted_suite(victim, threat, threat.access, ["eot", "smooth"], 0, digits.x[:8])
    (smooth,) = [each for each in suite.attacks if isinstance(each, Through) and "smooth" in each.steps]
    assert smooth.substitute.forwards_per_query == SAMPLES
    assert smooth.substitute.cost_of_pullback == (SAMPLES * (NEIGHBOURS + 1), SAMPLES * NEIGHBOURS)
    mine = eot(victim, 3)
    suite = adapted_suite(mine, threat, threat.access, ["eot", "score-attacks"], 0, digits.x[:8])
    costs = {each.substitute.forwards_per_query for each in suite.attacks if isinstance(each, Through)}
    assert costs == {3}


def test_a_verdict_by_vote_is_not_voted_on_again(digits: Digits) -> None:
    victim = eot(Noisy(digits.conv), 2, judge_samples=5)
    chunk = Chunk(torch.arange(100), digits.x[:100], digits.y[:100])
    threat = ThreatModel.parse("linf:0.1")
    options: dict[str, Any] = {"seed": 0, "access": Access.GRADIENTS}
    first = run_chunk(victim, chunk, threat, Suite("one", (PGD(steps=2),), ""), **options)
    again = run_chunk(victim, chunk, threat, Suite("none", (), ""), earlier=first, **options)
    assert first.statuses[0]["broken"] > 0
    assert again.statuses == first.statuses
    assert again.charged["queries"] == 0


def test_steps_that_found_nothing_to_change_are_not_called_applied(digits: Digits) -> None:
    result = adapted(
        digits, digits.conv, "linf:0.05", n=8, suite=Noise(tries=1), adapt=("bpda", "logits", "margin"), audit=False
    )
    assert [entry["step"] for entry in result["adapted"]["steps"]] == ["margin"]
    assert [entry["step"] for entry in result["adapted"]["not_applied"]] == ["bpda", "logits"]


def test_the_substitute_before_the_softmax_costs_what_the_victim_does(digits: Digits) -> None:
    assert BeforeSoftmax(eot(digits.conv, 7)).forwards_per_query == 7


def test_the_order_and_number_of_steps_asked_for_do_not_matter() -> None:
    assert wanted_steps(["score-attacks", "bpda", "bpda"], audit=False) == ("bpda", "score-attacks")


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:1", "l1:5", "l0:3"])
def test_more_steps_are_two_different_climbs(digits: Digits, threat: str) -> None:
    parsed = ThreatModel.parse(threat)
    victim = wrap(digits.conv)
    victim.probe(digits.x[:8])
    suite = adapted_suite(victim, parsed, parsed.access, ["more-steps"], 0, digits.x[:8])
    assert len({repr(each) for each in suite.attacks}) == len(suite.attacks) == 2


def test_an_audit_names_its_own_findings_beside_the_steps_they_ask_for(digits: Digits) -> None:
    found = hb.audit(
        Rounded(digits.conv), (digits.x[:128], digits.y[:128]), "linf:0.15", adapt=True, suite=Noise(tries=1)
    )
    assert "transfer-beats-gradients" in found.errors  # of the thorough checks, which no evaluation runs
    asked = {step for finding in found.findings for step in finding["adapt"]}
    for entry in found.result["adapted"]["steps"]:
        assert entry["step"] in asked
        assert set(entry["findings"]) == {each["id"] for each in found.findings if entry["step"] in each["adapt"]}


def test_a_thorough_audit_leaves_the_global_generator_where_it_was(digits: Digits) -> None:
    before = torch.random.get_rng_state()
    hb.audit(digits.conv, (digits.x[:16], digits.y[:16]), "linf:0.05")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_clean_examples_of_an_audit_are_asked_in_slices(digits: Digits) -> None:
    sizes: list[int] = []

    class Sized(Around):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return self.net(x)

    hb.audit(Sized(digits.conv), (digits.x[:40], digits.y[:40]), "linf:0.05", batch_size=10, examples=5, thorough=False)
    assert 10 in sizes
    assert 40 not in sizes


def test_the_public_audit_says_all_that_its_schema_asks_for(digits: Digits) -> None:
    schema = json.loads((resources.files("hauberk") / "evaluate" / "audit.schema.json").read_text(encoding="utf-8"))
    found = hb.audit(Rounded(digits.conv), (digits.x[:40], digits.y[:40]), "linf:0.25", adapt=True, suite=WEAK, n=30)
    Draft202012Validator(schema).validate(found.result)
    assert "dead-gradients" in found.errors
    assert {"smaller-radius-breaks-more", "fewer-steps-break-more", "transfer-beats-gradients"} <= set(
        found.result["checks"]
    )
    assert found.evaluation is not None
    assert found.result["adapted"]["robust_accuracy"] == found.evaluation.result["robust_accuracy"]
    assert "error dead-gradients" in repr(found)


def test_the_thorough_audit_is_silent_on_an_honest_net_and_the_binarisation_test_passes(digits: Digits) -> None:
    found = hb.audit(digits.conv, (digits.x[:40], digits.y[:40]), "linf:0.05", binarisation=True)
    assert found.findings == []
    assert "binarisation-test-fails" in found.result["checks"]
    quick = hb.audit(digits.conv, (digits.x[:40], digits.y[:40]), "linf:0.05", thorough=False)
    assert set(quick.result["checks"]) < set(found.result["checks"])


def test_the_binarisation_test_fails_where_gradients_are_dead(digits: Digits) -> None:
    found = hb.audit(
        Rounded(digits.conv), (digits.x[:40], digits.y[:40]), "linf:0.06", thorough=False, binarisation=True
    )
    assert "binarisation-test-fails" in found.errors


def test_a_copy_shows_what_dead_gradients_hide(digits: Digits) -> None:
    found = hb.audit(Rounded(digits.conv), (digits.x[:128], digits.y[:128]), "linf:0.15")
    assert "transfer-beats-gradients" in found.errors


@pytest.mark.parametrize(
    "options", [{"n": 0}, {"examples": 0}, {"n": True}], ids=["no example", "none attacked", "a truth value"]
)
def test_an_audit_of_nothing_is_refused(digits: Digits, options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="whole number"):
        hb.audit(digits.conv, (digits.x[:4], digits.y[:4]), "linf:0.1", **options)


def test_a_backward_pass_is_replaced_inside_averages_of_the_users_own(digits: Digits) -> None:
    victim = eot(Rounded(Noisy(digits.conv)), 3, judge_samples=9)
    threat = ThreatModel.parse("linf:0.1")
    suite = adapted_suite(victim, threat, threat.access, ["bpda"], 0, digits.x[:8])
    climbs = [each for each in suite.attacks if isinstance(each, Through)]
    assert climbs
    for each in climbs:
        assert each.steps == ("bpda",)
        assert (each.substitute.samples, each.substitute.judge_samples) == (3, 9)
        _, vjp = each.substitute.pullback(digits.x[:2], torch.arange(2))
        assert bool((vjp(torch.eye(10)[:2]) != 0).any())
    options: dict[str, Any] = {"adapt": ("bpda",), "audit": False, "suite": Noise(tries=1)}
    result = evaluate(victim, (digits.x[:8], digits.y[:8]), "linf:0.3", **options).result
    assert [entry["step"] for entry in result["adapted"]["steps"]] == ["bpda"]
    upper = result["robust_accuracy"]["upper"]["value"]
    assert upper < result["adapted"]["first"]["robust_accuracy"]["upper"]["value"]


def test_the_vote_on_a_broken_point_is_in_its_row(digits: Digits) -> None:
    victim = eot(Noisy(digits.conv), 2, judge_samples=20)
    x, y = digits.x[:16], digits.y[:16]
    rows = evaluate(victim, (x, y), "linf:0.3", suite=PGD(steps=5, loss="margin"), audit=False).run.rows.to_pydict()
    assert "broken" in rows["status"]
    for status, share, low, high in zip(
        *(rows[key] for key in ("status", "vote", "vote_low", "vote_high")), strict=True
    ):
        if status == "broken":
            assert 0.5 < share <= 1
            assert low <= share <= high
            assert share * 20 == pytest.approx(round(share * 20), abs=1e-4)
        else:
            assert (share, low, high) == (None, None, None)
    plain = evaluate(digits.conv, (x, y), "linf:0.3", suite=PGD(steps=5), audit=False).run.rows.to_pydict()
    assert set(plain["vote"]) == {None}


def test_the_vote_that_a_verdict_was_confirmed_by_is_kept(digits: Digits) -> None:
    chunk = Chunk(torch.arange(20), digits.x[:20], digits.y[:20])
    threat = ThreatModel.parse("linf:0.3")
    options: dict[str, Any] = {"seed": 0, "access": Access.GRADIENTS}
    suite = Suite("one", (PGD(steps=5, loss="margin"),), "")
    plain = run_chunk(wrap(digits.conv), chunk, threat, suite, **options)
    victim = eot(Noisy(digits.conv), 2, judge_samples=20)
    voted = run_chunk(victim, chunk, threat, Suite("none", (), ""), earlier=plain, **options)
    again = run_chunk(victim, chunk, threat, Suite("none", (), ""), earlier=voted, **options)
    assert set(plain.columns["vote"]) == {None} or all(
        value is None or value != value for value in plain.columns["vote"]
    )
    shares = [share for share in voted.columns["vote"] if share is not None]
    assert shares
    assert min(shares) > 0.5
    assert again.columns["vote"] == voted.columns["vote"]
