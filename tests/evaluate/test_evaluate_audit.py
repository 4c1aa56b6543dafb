"""The audit finds what is broken in models made to deceive it, and is silent on honest ones."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk import zoo
from hauberk.attacks import FGSM, PGD, Noise, Square
from hauberk.evaluate import evaluate
from hauberk.evaluate.audit import audit_cascade, audit_victim
from hauberk.evaluate.audit.part import Part
from hauberk.evaluate.cascade import Tally
from hauberk.threat import Access, Norm, ThreatModel
from hauberk.victims import Meter, ModelServer, eot, wrap

if TYPE_CHECKING:
    from conftest import Digits
else:
    Digits = Any


def found_by_audit(digits: Digits, model: Any, threat: str = "linf:0.1", n: int = 48) -> dict[str, Any]:
    victim = wrap(model)
    x, y = digits.x[:n].to(victim.dtype), digits.y[:n]
    victim.probe(x)
    parsed = ThreatModel.parse(threat)
    evidence = audit_victim(victim, x, y, torch.arange(n), parsed, seed=0, access=min(parsed.access, victim.access))
    assert {finding.id for finding in evidence.findings} <= set(evidence.checks)
    for finding in evidence.findings:
        assert finding.severity in {"error", "warning", "info"}
        assert any(character.isdigit() for character in finding.evidence), "evidence speaks in figures"
        assert finding.next
    return {finding.id: finding for finding in evidence.findings}


class Around(nn.Module):
    """A net with something done to its input or its answer."""

    def __init__(self, net: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Random(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.scale * torch.randn_like(x))


class Deaf(Around):
    """Answers the same to everything, with a gradient that means nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) - self.net(x).detach()) + torch.arange(10.0)


class Lying(Around):
    """Answers honestly and hands out the gradient of another input."""

    def forward(self, x: Tensor) -> Tensor:
        fake = self.net(x.flip(2, 3))
        return self.net(x).detach() + fake - fake.detach()


class Winners(nn.Module):
    """Keeps the largest share of its inputs, as k-winners-take-all does."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return (flat * (flat >= least)).reshape(x.shape)


class OfTheBatch(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - 0.5 * (x.mean(dim=0, keepdim=True) - 0.3))


class Softmax(Around):
    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) * self.scale).softmax(dim=1)


class Rounded(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 8).round() / 8)


class NotANumberBackwards(Around):
    def forward(self, x: Tensor) -> Tensor:
        # the root of a square has no derivative at 0, and its NaN spreads to every input of the example
        return self.net(x) + 0 * (x - x.detach()).square().sum(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0].sqrt()


class Kinked(Around):
    """Adds to the input a saw-tooth of large slope and tiny height: gradients point anywhere, decisions stay."""

    def forward(self, x: Tensor) -> Tensor:
        saw = torch.sin(x * 4000.0 + torch.arange(64.0).reshape(8, 8) * 2.3)
        return self.net(x + 0.01 * saw)


@pytest.mark.parametrize("threat", ["linf:0.05", "l2:0.5", "l1:3", "l0:4"])
def test_honest_nets_give_no_finding(digits: Digits, threat: str) -> None:
    for net in (digits.conv, zoo.net("digits-mlp")):
        assert found_by_audit(digits, net, threat) == {}


def test_random_output_is_an_error(digits: Digits) -> None:
    found = found_by_audit(digits, Random(digits.conv, 0.05))
    assert found["random-output"].severity == "error"
    assert "batch-dependent-output" not in found  # no more different than it is from itself


def test_output_that_depends_on_the_batch_is_an_error(digits: Digits) -> None:
    found = found_by_audit(digits, OfTheBatch(digits.conv))
    assert found["batch-dependent-output"].severity == "error"
    assert "random-output" not in found


def test_a_softmax_in_forward_is_seen_saturated_or_not(digits: Digits) -> None:
    assert found_by_audit(digits, Softmax(digits.conv, 0.1))["softmax-output"].severity == "warning"
    assert found_by_audit(digits, Softmax(digits.conv, 50.0))["softmax-output"].severity == "error"
    as_they_are = wrap(Softmax(digits.conv), output="logits")
    assert found_by_audit(digits, as_they_are)["softmax-output"].severity == "error"


def test_rounding_kills_gradients_and_score_attacks_show_it(digits: Digits) -> None:
    found = found_by_audit(digits, Rounded(digits.conv), "linf:0.15")
    assert found["dead-gradients"].severity == "error"
    assert "exactly zero at 32" in found["dead-gradients"].evidence
    assert found["black-box-beats-gradients"].severity == "error"
    assert found["unbounded-attack-fails"].severity == "error"


def test_gradients_that_are_not_numbers_are_an_error(digits: Digits) -> None:
    found = found_by_audit(digits, NotANumberBackwards(digits.conv))
    assert found["dead-gradients"].severity == "error"
    assert "not finite at 32" in found["dead-gradients"].evidence


def test_a_rough_loss_is_seen_by_what_beats_pgd(digits: Digits) -> None:
    found = found_by_audit(digits, Kinked(digits.conv), "linf:0.12")
    assert {"black-box-beats-gradients", "unbounded-attack-fails", "one-step-beats-iterated"} & set(found)


def test_a_gradient_that_lies_disagrees_with_finite_differences(digits: Digits) -> None:
    found = found_by_audit(digits, Lying(digits.conv))
    assert found["finite-differences-disagree"].severity == "error"
    assert found["finite-differences-disagree"].adapt == ("smooth", "score-attacks")


def test_finite_differences_agree_in_float64_and_float32_at_every_size_of_the_threat(digits: Digits) -> None:
    for dtype in ("float32", "float64"):
        for radius in (1e-4, 0.03, 0.5):
            victim = wrap(digits.conv, dtype=dtype)
            assert "finite-differences-disagree" not in found_by_audit(digits, victim, f"linf:{radius}", n=40)


def test_a_loss_that_is_rounded_away_is_told_of_though_margins_are_climbed(digits: Digits) -> None:
    class Sure(Around):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * 100

    found = found_by_audit(digits, Sure(digits.conv))
    assert set(found) == {"saturated-loss"}
    assert (found["saturated-loss"].severity, found["saturated-loss"].adapt) == ("warning", ("margin",))


def test_a_softmax_that_was_taken_off_is_told_of_where_it_saturates(digits: Digits) -> None:
    class Times(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    sure = nn.Sequential(digits.conv, Times(20.0), nn.Softmax(dim=1))
    assert found_by_audit(digits, sure)["softmax-output"].severity == "warning"
    soft = nn.Sequential(digits.conv, Times(0.1), nn.Softmax(dim=1))
    assert found_by_audit(digits, soft)["softmax-output"].severity == "info"


def test_a_graph_that_is_cut_is_an_error_where_the_threat_allows_gradients(digits: Digits) -> None:
    class Thresholds(Around):
        def forward(self, x: Tensor) -> Tensor:
            return self.net((x > 0.5).to(x.dtype))

    found = found_by_audit(digits, Thresholds(digits.conv))
    assert set(found) == {"dead-gradients"}
    assert found["dead-gradients"].adapt == ("bpda", "score-attacks")
    assert found_by_audit(digits, Thresholds(digits.conv), "linf:0.1@scores") == {}


def test_dead_gradients_name_the_module_that_loses_them(digits: Digits) -> None:
    class Round(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.round()

    parts = list(digits.conv.children())
    found = found_by_audit(digits, nn.Sequential(*parts[:3], Round(), *parts[3:]))
    assert "module '3'" in found["dead-gradients"].evidence


def indicators_of(digits: Digits, model: Any, threat: str = "linf:0.1") -> dict[str, float]:
    victim = wrap(model)
    x, y = digits.x[:32], digits.y[:32]
    victim.probe(x[:8])
    parsed = ThreatModel.parse(threat)
    evidence = audit_victim(victim, x, y, torch.arange(32), parsed, seed=0, access=victim.access)
    assert [indicator.id for indicator in evidence.indicators] == ["I1", "I2", "I3", "I4", "I5", "I6"]
    return {indicator.id: indicator.value for indicator in evidence.indicators}


def test_the_six_indicators_tell_a_dead_a_random_and_an_honest_net_apart(digits: Digits) -> None:
    honest = indicators_of(digits, digits.conv)
    assert (honest["I1"], honest["I3"], honest["I5"], honest["I6"]) == (0, 0, 0, 0)
    assert honest["I2"] < 0.2
    rounded = indicators_of(digits, Rounded(digits.conv))
    assert rounded["I1"] == 1
    assert rounded["I6"] > 0
    chance = indicators_of(digits, Random(digits.conv, 0.3), "linf:0.05")
    assert chance["I5"] > 0  # what one draw called a success, the next does not
    assert chance["I2"] > honest["I2"]


def test_a_climb_that_oscillates_has_silent_success(digits: Digits) -> None:
    class Ridge(nn.Module):
        """The boundary is crossed in a thin band only, which steps of fixed length enter and leave."""

        def forward(self, x: Tensor) -> Tensor:
            sum_ = x.flatten(1)[:, :1] * 100
            height = torch.sin(sum_) - 0.9
            return torch.cat((-height, height), dim=1)

    x = torch.full((16, 1, 4, 4), 0.5) + torch.arange(16).reshape(-1, 1, 1, 1) / 400
    victim = wrap(Ridge(), output="logits")
    y = victim.labels(x, torch.arange(16))
    evidence = audit_victim(victim, x, y, torch.arange(16), ThreatModel.parse("linf:0.1"), seed=0, access=victim.access)
    values = {indicator.id: indicator.value for indicator in evidence.indicators}
    assert values["I3"] > 0


def test_a_climb_that_has_not_ended_is_seen() -> None:
    class Valley(nn.Module):
        """A gentle slope along a steep valley: normalised steps cross it from wall to wall and gain little each time."""

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            margin = flat[:, 1:].sum(dim=1, keepdim=True) - 300 * (flat[:, :1] - 0.5) ** 2 - 30
            return torch.cat((-margin, torch.zeros_like(margin)), dim=1)

    victim = wrap(Valley(), output="logits")
    x = torch.full((20, 1, 8, 8), 0.2)
    x[:, 0, 0, 0] = 0.5
    y = torch.zeros(20, dtype=torch.int64)
    threat = ThreatModel.parse("l2:1")
    evidence = audit_victim(victim, x, y, torch.arange(20), threat, seed=0, access=victim.access)
    assert [finding.id for finding in evidence.findings] == ["loss-still-rising"]


def test_what_a_victim_does_not_give_is_not_asked(digits: Digits) -> None:
    def labels(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return digits.conv(torch.from_numpy(x)).argmax(dim=1).numpy()

    def scores(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return digits.conv(torch.from_numpy(x)).numpy()

    for model, checks in (
        (labels, {"constant-output", "random-output", "batch-dependent-output"}),
        (scores, {"constant-output", "random-output", "batch-dependent-output", "softmax-output"}),
    ):
        victim = wrap(model)
        victim.probe(digits.x[:8])
        evidence = audit_victim(
            victim,
            digits.x[:20],
            digits.y[:20],
            torch.arange(20),
            ThreatModel.parse("linf:0.1"),
            seed=0,
            access=victim.access,
        )
        assert set(evidence.checks) == checks
        assert evidence.findings == ()
        assert evidence.backwards == 0


def test_a_label_only_model_that_answers_at_random_is_found(digits: Digits) -> None:
    chance = np.random.default_rng(0)

    def labels(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            sure = digits.conv(torch.from_numpy(x)).argmax(dim=1).numpy()
        return np.where(chance.random(len(x)) < 0.2, (sure + 1) % 10, sure)

    assert set(found_by_audit(digits, labels)) == {"random-output"}


def test_where_nothing_is_correct_the_audit_says_that_it_could_not_run(digits: Digits) -> None:
    victim = wrap(digits.conv)
    wrong = (victim.labels(digits.x[:20], torch.arange(20)) + 1) % 10
    evidence = audit_victim(
        victim, digits.x[:20], wrong, torch.arange(20), ThreatModel.parse("linf:0.1"), seed=0, access=victim.access
    )
    assert [finding.id for finding in evidence.findings] == ["audit-could-not-run"]
    assert (evidence.checks, evidence.forwards) == (("constant-output", "random-output"), 20 + 2 * 20)


@pytest.mark.parametrize("answer", ["labels", "scores"])
def test_a_fake_oracle_is_no_robust_model(digits: Digits, answer: str) -> None:
    generator = np.random.default_rng(0)

    def at_random(x: np.ndarray) -> np.ndarray:
        return generator.integers(0, 10, len(x)) if answer == "labels" else generator.normal(size=(len(x), 10))

    def always(x: np.ndarray) -> np.ndarray:
        return np.full(len(x), 3) if answer == "labels" else np.tile(3.0 * np.eye(10)[3], (len(x), 1))

    def errors(model: Any, y: Any) -> set[str]:
        found = evaluate(wrap(model, classes=10), (digits.x[:40], y), "linf:0.1", suite="quick", max_queries=60)
        return {entry["id"] for entry in found.result["audit"] if entry["severity"] == "error"}

    assert errors(at_random, digits.y[:40]) == {"random-output"}
    with ModelServer(wrap(at_random, classes=10), labels_only=answer == "labels") as server:  # whose answers are kept
        served = evaluate(
            wrap(server.url, classes=10), (digits.x[:40], digits.y[:40]), "linf:0.1", suite=Noise(tries=2)
        )
        assert "random-output" in {entry["id"] for entry in served.result["audit"]}
    assert errors(at_random, digits.y[:40] * 0) == {"random-output"}  # right about one or two by chance, or about none
    assert errors(always, digits.y[:40]) == {"constant-output"}
    assert errors(always, digits.y[:40] * 0) == set()  # there was one class to be right about: nothing can be told


def test_the_audit_costs_no_more_than_it_says(digits: Digits) -> None:
    victim = wrap(digits.conv)
    victim.probe(digits.x[:8])
    evidence = audit_victim(
        victim,
        digits.x[:40],
        digits.y[:40],
        torch.arange(40),
        ThreatModel.parse("linf:0.001"),
        seed=0,
        access=victim.access,
    )
    assert evidence.forwards <= 32 * 135 + 40
    assert evidence.backwards <= 32 * 30  # an honest net is broken at once where nothing limits PGD


def test_the_audit_of_a_model_that_nothing_breaks_costs_at_most_250_propagations(digits: Digits) -> None:
    victim = wrap(Deaf(digits.conv), output="logits")
    x = digits.x[:32]
    victim.probe(x[:8])
    y = victim.labels(x, torch.arange(32))
    evidence = audit_victim(victim, x, y, torch.arange(32), ThreatModel.parse("linf:0.1"), seed=0, access=victim.access)
    assert evidence.examples == 32
    assert (evidence.forwards - 32 + evidence.backwards) / 32 <= 250


def test_a_score_attack_that_breaks_what_gradients_left_is_a_finding_of_the_suite() -> None:
    def ids(*stages: Tally) -> list[str]:
        return [finding.id for finding in audit_cascade([list(stages)], 100)]

    climbed = Tally("pgd", 0.1, attempted=100, broken=20, backwards=500)
    assert ids(climbed, Tally("square", 0.1, attempted=80, broken=10)) == ["black-box-beats-gradients-in-suite"]
    assert ids(climbed, Tally("square", 0.1, attempted=80, broken=1)) == []
    assert ids(Tally("noise", 0.1, attempted=100, broken=50), climbed) == []  # before the gradients: no surprise
    # at each radius by itself: what a larger radius breaks first is no surprise either
    second = [Tally("square", 0.2, attempted=80, broken=40), Tally("pgd", 0.2, attempted=40, broken=9, backwards=90)]
    assert audit_cascade([[climbed], second], 100) == []


def test_points_that_the_judge_refused_are_a_finding_of_the_suite() -> None:
    findings = audit_cascade([[Tally("mine", 0.1, attempted=9, refused=3)]], 9)
    assert [finding.id for finding in findings] == ["points-outside-the-region"]
    assert "mine proposed 3 points" in findings[0].evidence


def test_findings_reach_the_result_errors_first(digits: Digits) -> None:
    found = evaluate(
        Rounded(digits.conv),
        (digits.x[:40], digits.y[:40]),
        "linf:0.15",
        suite=[FGSM(), PGD(steps=5), Square(steps=60), Noise(tries=5)],
    )
    ids = [entry["id"] for entry in found.result["audit"]]
    assert {"dead-gradients", "black-box-beats-gradients-in-suite"} <= set(ids)
    severities = [entry["severity"] for entry in found.result["audit"]]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert found.result["audit_checks"]
    quiet = evaluate(Rounded(digits.conv), (digits.x[:40], digits.y[:40]), "linf:0.15", suite=FGSM(), audit=False)
    assert quiet.result["audit"] == []
    assert quiet.result["audit_checks"] == []


class Wanderer:
    """Passes through what FGSM finds, and proposes the clean example."""

    access: ClassVar[Access] = FGSM.access
    norms: ClassVar[frozenset[Norm]] = FGSM.norms

    def __call__(self, victim: Any, x: Tensor, goal: Any, region: Any, *, streams: Any) -> Tensor:
        points = FGSM(loss="margin")(victim, x, goal, region, streams=streams)
        victim.logits(points, torch.arange(len(x)))
        return x


def test_an_attack_of_the_users_that_succeeds_in_silence_is_told_of_and_counts(digits: Digits) -> None:
    wandering = evaluate(digits.mlp, (digits.x[:40], digits.y[:40]), "linf:0.1", suite=[Wanderer()], audit=False)
    honest = evaluate(digits.mlp, (digits.x[:40], digits.y[:40]), "linf:0.1", suite=FGSM(loss="margin"), audit=False)
    assert wandering.robust_accuracy == honest.robust_accuracy < wandering.clean_accuracy
    assert [entry["id"] for entry in wandering.result["audit"]] == ["silent-success"]
    assert honest.result["audit"] == []


def test_no_point_outside_the_region_counts_for_having_been_passed(digits: Digits) -> None:
    class Far(Wanderer):
        def __call__(self, victim: Any, x: Tensor, goal: Any, region: Any, *, streams: Any) -> Tensor:
            victim.logits(1 - x, torch.arange(len(x)))
            return x

    found = evaluate(digits.mlp, (digits.x[:40], digits.y[:40]), "linf:0.1", suite=[Far()], audit=False)
    assert found.robust_accuracy == found.clean_accuracy
    assert found.result["audit"] == []


@pytest.mark.parametrize("kind", ["noise", "transform"])
def test_a_victim_that_averages_is_not_blamed_for_its_draws(digits: Digits, kind: str) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = digits.conv

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + 0.05 * torch.randn_like(x))

    def moved(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + 0.05 * torch.randn(x.shape, generator=generator)

    victim = eot(Noisy().eval(), 8) if kind == "noise" else eot(digits.conv, 8, transform=moved)
    victim.probe(digits.x[:8])
    threat = ThreatModel.parse("linf:0.1")
    evidence = audit_victim(
        victim, digits.x[:24], digits.y[:24], torch.arange(24), threat, seed=0, access=victim.access, examples=8
    )
    assert [finding.id for finding in evidence.findings if finding.severity == "error"] == []
    assert not {"batch-dependent-output", "finite-differences-disagree", "unstable-predictions"} & set(evidence.checks)


def test_a_model_without_any_gradient_has_the_first_indicator_alone(digits: Digits) -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return digits.conv(x).detach()

    victim = wrap(Cut().eval())
    victim.probe(digits.x[:8])
    threat = ThreatModel.parse("linf:0.1")
    evidence = audit_victim(
        victim, digits.x[:16], digits.y[:16], torch.arange(16), threat, seed=0, access=victim.access
    )
    assert [(found.id, found.value) for found in evidence.indicators] == [("I1", 1.0)]


@pytest.mark.parametrize("threat", ["linf:1/16@grid16", "l2:2/16@grid16"])
def test_a_thorough_audit_keeps_smaller_radii_on_the_grid(digits: Digits, threat: str) -> None:
    victim = wrap(digits.conv)
    victim.probe(digits.x[:8])
    rows = torch.arange(8)
    x, y = (digits.x[:8] * 16).round() / 16, digits.y[:8]
    options: dict[str, Any] = {"seed": 0, "access": Access.GRADIENTS, "thorough": True, "binarisation": True}
    evidence = audit_victim(victim, x, y, rows, ThreatModel.parse(threat), **options)
    assert "smaller-radius-breaks-more" in evidence.checks
    assert "binarisation-test-fails" in evidence.checks


def test_an_attack_of_the_audit_on_some_rows_knows_that_the_victim_draws(digits: Digits) -> None:
    seen: list[int] = []

    class Asking(PGD):
        def __call__(self, victim: Any, x: Tensor, *rest: Any, **named: Any) -> Tensor:
            seen.append(victim.judge_samples)
            assert len(victim.votes(x, torch.arange(len(x)))) == 9
            return x

    victim = eot(Random(digits.conv, 0.1), 2, judge_samples=9)
    rows = torch.arange(6)
    meter = Meter(victim, 6)
    part = Part(meter, digits.x[:6], digits.y[:6], rows, rows, ThreatModel.parse("linf:0.1"), 0)
    part.broken_by(Asking(), rows=torch.tensor([1, 4]))
    assert seen == [9]
    assert (meter.queries > 0).tolist() == [False, True, False, False, True, False]
