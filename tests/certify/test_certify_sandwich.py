"""Proof and attack on the same examples."""

import math

import pytest
import torch
from torch import nn

import hauberk as hb
from hauberk.certify.sandwich import METHODS
from hauberk.errors import AccessError, HauberkError, ModelError, SettingError, ThreatError
from hauberk.threat import Norm


def _linear(seed: int = 0) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    last = nn.Linear(12, 4)
    net = nn.Sequential(nn.Flatten(), last).double()
    with torch.no_grad():
        last.bias.copy_(-0.5 * last.weight.sum(dim=1))  # the boundaries meet amid the examples
    x = 0.4 + 0.2 * torch.rand(40, 3, 2, 2, dtype=torch.float64)
    return net, x, net(x).argmax(dim=1)


def _distance(net: nn.Module, x: torch.Tensor, y: torch.Tensor, norm: Norm) -> torch.Tensor:
    """To the nearest boundary of a linear classifier, range of the input left aside."""
    weight, logits = net[1].weight.detach(), net(x).detach()  # type: ignore[index]
    found = []
    for row, own in enumerate(y.tolist()):
        others = [c for c in range(len(weight)) if c != own]
        gaps = torch.stack([logits[row, own] - logits[row, c] for c in others])
        slopes = torch.stack([norm.dual.size((weight[own] - weight[c])[None])[0] for c in others])
        found.append((gaps / slopes).min())
    return torch.stack(found)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_both_ends_meet_at_the_distance_to_the_boundary_of_a_linear_classifier(norm: str) -> None:
    net, x, y = _linear()
    true = _distance(net, x, y, Norm(norm))
    near = (true > 1e-3) & (true < 0.3)  # elsewhere the range of the input matters, or the last of the bisections
    found = hb.certify(net, x, y, norm)
    assert bool((found.lower <= true * (1 + 1e-5))[near].all())
    assert bool((found.lower >= true * 0.99)[near].all())
    assert bool((found.upper >= true * (1 - 1e-5))[near].all())
    assert bool((found.upper <= true * 1.1)[near].all())
    assert bool(near.any())


def test_at_a_radius_every_example_of_a_linear_classifier_is_decided() -> None:
    net, x, y = _linear()
    true = _distance(net, x, y, Norm.LINF)
    radius = float(true.median()) * 1.0001
    found = hb.certify(net, x, y, f"linf:{radius}")
    assert [state == "proven" for state in found.status] == (true > radius).tolist()
    assert bool(found.exact.all())
    broken = torch.tensor([state == "broken" for state in found.status])
    assert bool((net(found.witness).argmax(dim=1) != y)[broken].all())
    assert bool((found.witness[~broken] == x[~broken]).all())
    assert found.certified_accuracy(radius) == float((true > radius).double().mean())


def _deep(seed: int = 0) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 10), nn.ReLU(), nn.Linear(10, 3)
    )
    x = torch.rand(12, 1, 6, 6)
    return net, x, net(x).argmax(dim=1)


@pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.2", "l1:0.8"])
def test_methods_that_go_further_prove_no_less_and_never_what_is_broken(threat: str) -> None:
    net, x, y = _deep()
    proven: set[int] = set()
    for method in METHODS[1:]:
        found = hb.certify(net, x, y, threat, method=method, budget_seconds=30)
        now = {row for row, state in enumerate(found.status) if state == "proven"}
        assert proven <= now
        proven = now
        for row, state in enumerate(found.status):
            if state == "broken":
                assert net(found.witness[row : row + 1]).argmax(dim=1) != y[row]
                assert float(found.upper[row]) <= float(threat.split(":")[1]) * (1 + 1e-4)
    assert bool(hb.certify(net, x, y, threat).exact.all())
    assert proven


def test_no_sampled_point_contradicts_a_proof() -> None:
    net, x, y = _deep(1)
    found = hb.certify(net, x, y, "linf:0.05")
    proven = torch.tensor([state == "proven" for state in found.status])
    assert bool(proven.any())
    draws = torch.rand(2000, 1, *x.shape[1:]) * 2 - 1
    points = (x[proven][None] + 0.05 * draws.sign()).clamp(0, 1)
    with torch.no_grad():
        labels = torch.stack([net(part).argmax(dim=1) for part in points])
    assert bool((labels == y[proven]).all())


def test_the_result_does_not_depend_on_the_batches() -> None:
    net, x, y = _deep(2)
    whole, parts = (hb.certify(net, x, y, "linf:0.04", batch_size=size) for size in (100, 5))
    assert whole.status == parts.status
    assert torch.equal(whole.lower, parts.lower)


def test_a_wrongly_classified_example_has_no_radius() -> None:
    net, x, y = _deep()
    y = y.clone()
    y[0] = (y[0] + 1) % 3
    for threat in ("linf:0.01", "linf"):
        found = hb.certify(net, x[:2], y[:2], threat)
        assert (found.status[0], float(found.lower[0]), float(found.upper[0])) == ("misclassified", 0.0, 0.0)


def test_the_victims_own_preprocessing_and_softmax_are_part_of_what_is_proven() -> None:
    net, x, y = _linear()
    shifted = nn.Sequential(nn.Flatten(), nn.Linear(12, 4).double(), nn.Softmax(dim=1))
    with torch.no_grad():
        shifted[1].weight.copy_(net[1].weight * 0.25)  # type: ignore[index]
        shifted[1].bias.copy_(net[1].bias + 0.5 * net[1].weight.sum(dim=1))  # type: ignore[index]
    victim = hb.wrap(shifted, bounds=(0, 1), mean=0.5, std=0.25, dtype="float64")
    one, other = hb.certify(net, x, y, "linf"), hb.certify(victim, x, y, "linf")
    torch.testing.assert_close(one.lower, other.lower, rtol=1e-3, atol=1e-6)


def test_an_example_that_no_change_within_the_range_breaks_has_no_upper_end() -> None:
    last = nn.Linear(4, 2)
    net = nn.Sequential(nn.Flatten(), last).double()
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, 0.0]))
    found = hb.certify(net, torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64), torch.tensor([0]), "linf")
    assert math.isinf(float(found.upper[0]))
    assert float(found.lower[0]) > 0.9
    assert found.status == ["undecided"]


def test_a_proof_past_what_is_broken_is_an_alarm() -> None:
    x, one = torch.zeros(2, 1), torch.ones(2, dtype=torch.float64)
    with pytest.raises(AssertionError, match=r"example 1 is proven within 1 and broken by a change of 0\.5"):
        hb.Certificates(one, torch.tensor([2.0, 0.5]).double(), x, ["broken"] * 2, ["crown"] * 2, one > 1, one)


class _Loud(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x.flatten(1))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"threat": "l0:3"}, ThreatError),
        ({"threat": "linf:0.1,0.2"}, ThreatError),
        ({"threat": "linf:8/255@grid255"}, ThreatError),  # what a search in the ball finds may lie between the steps
        ({"threat": "linf:0.1", "method": "magic"}, SettingError),
        ({"threat": "linf:0.1", "budget_seconds": 0}, SettingError),
    ],
)
def test_what_cannot_be_certified_is_refused(options: dict[str, object], kind: type[HauberkError]) -> None:
    net, x, y = _linear()
    with pytest.raises(kind, match="got"):
        hb.certify(net, x, y, **options)  # type: ignore[arg-type]


def test_an_unknown_node_and_a_model_without_a_network_are_refused() -> None:
    x, y = torch.rand(2, 3), torch.tensor([0, 1])
    with pytest.raises(ModelError, match="bessel"):
        hb.certify(_Loud(), x, y, "linf:0.1")
    with pytest.raises(AccessError, match="network itself"):
        hb.certify(hb.wrap(lambda points: points, bounds=(0, 1)), x, y, "linf:0.1")
