"""Victims that stand in for others: their answers or decisions are the other's own, their gradients say more."""

import pytest
import torch
from torch import Tensor, nn

from hauberk.errors import SettingError
from hauberk.victims import Meter, eot, wrap
from hauberk.victims.before_softmax import BeforeSoftmax
from hauberk.victims.smooth import SmoothVictim

ROWS = torch.arange(6)


def net() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    linear = nn.Linear(5, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(4, 5, generator=generator))
        linear.bias.zero_()
    return linear.double()


def points() -> Tensor:
    return torch.rand(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Sure(nn.Module):
    """Attends to its input by one softmax, and answers by another, saturated one."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.net, self.named = net(), named

    def forward(self, x: Tensor) -> Tensor:
        attended = x * (1 + 0 * x.softmax(dim=1))
        scores = self.net(attended) * 500
        return torch.softmax(scores, 1) if self.named else nn.functional.softmax(scores, dim=-1)


@pytest.mark.parametrize("output", [None, "logits", "probabilities"])
@pytest.mark.parametrize("named", [True, False], ids=["torch", "functional"])
def test_the_scores_before_a_softmax_are_found_with_their_gradient(output: str | None, named: bool) -> None:
    victim = wrap(Sure(named), output=output)
    before = BeforeSoftmax(victim)
    x = points()
    assert before.found(x)
    bare = wrap(net())
    assert torch.allclose(before.logits(x, ROWS), bare.logits(x, ROWS) * 500)
    assert torch.equal(before.logits(x, ROWS).argmax(dim=1), victim.labels(x, ROWS))
    cotangent = torch.eye(4, dtype=x.dtype)[ROWS % 4]
    scores, vjp = before.pullback(x, ROWS)
    _, own = bare.pullback(x, ROWS)
    assert torch.allclose(scores, bare.logits(x, ROWS) * 500)
    assert torch.allclose(vjp(cotangent), own(cotangent) * 500)


def test_without_a_softmax_at_the_end_the_answers_are_the_victims_own() -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.softmax(dim=1))

    victim = wrap(Inside())
    before = BeforeSoftmax(victim)
    assert not before.found(points())
    assert torch.equal(before.logits(points(), ROWS), victim.logits(points(), ROWS))
    cotangent = torch.ones(6, 4, dtype=torch.float64)
    assert torch.equal(before.pullback(points(), ROWS)[1](cotangent), victim.pullback(points(), ROWS)[1](cotangent))


def test_a_smoothed_gradient_of_a_linear_model_is_its_gradient_and_the_answers_stay() -> None:
    victim = wrap(net())
    smooth = SmoothVictim(victim, 0.1, samples=5)
    cotangent = torch.ones(6, 4, dtype=torch.float64)
    logits, vjp = smooth.pullback(points(), ROWS)
    assert torch.equal(logits, victim.logits(points(), ROWS))
    assert torch.allclose(vjp(cotangent), victim.pullback(points(), ROWS)[1](cotangent))


def test_a_smoothed_gradient_sees_across_a_flat_spot_and_repeats_itself() -> None:
    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bent = (x - 0.5).clamp_min(0)  # flat at and below 1/2
            return torch.cat((-bent, bent), dim=1)

    victim = wrap(Step(), output="logits")
    x = torch.full((3, 1), 0.49)
    up = torch.tensor([[-1.0, 1.0]]).expand(3, 2)
    rows = torch.arange(3)
    assert (victim.pullback(x, rows)[1](up) == 0).all()
    smooth = SmoothVictim(victim, 0.1, samples=40)
    gradient = smooth.pullback(x, rows)[1](up)
    assert (gradient > 0.3).all()
    assert torch.equal(gradient, SmoothVictim(victim, 0.1, samples=40).pullback(x, rows)[1](up))


@pytest.mark.parametrize(("radius", "samples"), [(0.0, 5), (0.1, 0)])
def test_a_neighbourhood_of_nothing_is_refused(radius: float, samples: int) -> None:
    with pytest.raises(SettingError, match="neighbourhood"):
        SmoothVictim(wrap(net()), radius, samples)


def test_an_answer_of_a_smoothed_victim_is_charged_as_one_and_a_gradient_as_all_it_asks() -> None:
    asked: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            return self.net(x)

    victim = SmoothVictim(wrap(Counting()), 0.1, samples=4)
    victim.probe(points())
    for outer, draws in ((victim, 1), (BeforeSoftmax(victim), 1), (eot(victim, 3), 3)):
        outer.logits(points(), ROWS)
        meter = Meter(outer, 6)
        asked.clear()
        meter.logits(points(), ROWS)
        assert meter.forwards.tolist() == [draws] * 6
        _, vjp = meter.pullback(points(), ROWS)
        assert int(meter.forwards.sum()) == sum(asked) == 6 * draws * (1 + 5)
        vjp(torch.ones(6, 4, dtype=torch.float64))
        assert meter.backwards.tolist() == [4 * draws] * 6
