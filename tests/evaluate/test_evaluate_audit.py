"""The audit finds what is broken in models made to deceive it, and is silent on honest ones."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk import zoo
from hauberk.attacks import FGSM, PGD, Noise, Square
from hauberk.evaluate import evaluate
from hauberk.evaluate.audit import audit_cascade, audit_victim
from hauberk.evaluate.cascade import Tally
from hauberk.threat import ThreatModel
from hauberk.victims import wrap

if TYPE_CHECKING:
    from conftest import Digits
else:
    Digits = Any


def found_by_audit(digits: Digits, model: Any, threat: str = "linf:0.1", n: int = 48) -> dict[str, Any]:
    victim = wrap(model)
    x, y = digits.x[:n], digits.y[:n]
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
        (labels, {"random-output", "batch-dependent-output"}),
        (scores, {"random-output", "batch-dependent-output", "softmax-output"}),
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
    assert (evidence.checks, evidence.forwards) == ((), 20)


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
    assert evidence.forwards <= 32 * 260 + 40
    assert evidence.backwards <= 32 * 130


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
