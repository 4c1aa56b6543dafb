"""Strided convolutions computed in phases: the same function and gradients, the same scores, and a victim left as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.certify.clever import Clever
from hauberk.errors import ModelError
from hauberk.victims import Meter, wrap
from hauberk.victims.phased import phased


def _frozen(*parts: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    net = nn.Sequential(*parts).to(dtype).eval().requires_grad_(False)
    for place, parameter in enumerate(net.parameters()):
        streams = Streams(place, torch.arange(1))
        value = streams.normal(torch.arange(1), tuple(parameter.shape), dtype=torch.float64)[0]
        parameter.copy_(value / max(1, parameter[0].numel()) ** 0.5)
    return net


def _points(count: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return Streams(7, torch.arange(count), "x").uniform(torch.arange(count), shape, dtype=dtype)


def _small() -> nn.Sequential:
    """Two strided convolutions of pictures of one channel, 12 by 12."""
    return _frozen(
        nn.Conv2d(1, 4, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 5),
        dtype=torch.float32,
    )


NETS = {
    "kernel 4": ((1, 12, 12), (nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 4, 2, 1), nn.ReLU(), nn.Flatten())),
    "one layer, nothing behind": ((3, 8, 8), (nn.Conv2d(3, 5, 4, 4),)),
    "not square": ((2, 12, 8), (nn.Conv2d(2, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 2, 2), nn.ReLU(), nn.Flatten())),
    "sizes that strides do not divide": (
        (1, 29, 27),
        (nn.Conv2d(1, 8, 5, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten()),
    ),
    "gaps between taps": ((1, 11, 11), (nn.Conv2d(1, 4, 2, 3, 1), nn.ReLU(), nn.Flatten())),
    "a layer without stride between": (
        (1, 16, 16),
        (
            nn.Conv2d(1, 4, 4, 4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 2, 2, bias=False),
            nn.ReLU(),
        ),
    ),
    "sequences in a sequence, other layers behind": (
        (3, 12, 12),
        (
            nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.Identity(), nn.ReLU()),
            nn.Sequential(nn.Conv2d(4, 6, 4, 2, 1), nn.Tanh(), nn.MaxPool2d(2, 1)),
            nn.Conv2d(6, 3, 2),
        ),
    ),
}


@pytest.mark.parametrize("name", list(NETS))
def test_phases_compute_the_same_scores_and_gradients(name: str) -> None:
    shape, parts = NETS[name]
    net = _frozen(*parts)
    x = (_points(5, shape) - 0.5).requires_grad_()
    forward = phased(net, shape)
    assert forward is not None
    wanted, found = net(x), forward(x)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    weights = _points(5, tuple(wanted.shape[1:])) - 0.3
    slopes = [torch.autograd.grad(answer, x, weights, retain_graph=True)[0] for answer in (wanted, found, found)]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-11, atol=1e-12)
    assert torch.equal(slopes[1], slopes[2])


def _hooked(part: nn.Module) -> nn.Module:
    part.register_forward_hook(lambda module, given, made: made + made)  # pyright: ignore[reportOperatorIssue]
    return part


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        ((1, 12, 12), nn.Conv2d(1, 4, 3, 1, 1)),
        ((2, 12, 12), nn.Conv2d(2, 4, 4, 2, 1, groups=2)),
        ((1, 12, 12), nn.Conv2d(1, 4, 3, 2, 1, dilation=2)),
        ((1, 12, 12), nn.Conv2d(1, 4, 4, 2, 1, padding_mode="reflect")),
        ((1, 12, 12), nn.Conv2d(1, 4, (4, 2), 2)),
        ((1, 12, 12), nn.Conv2d(1, 4, 3, padding="same")),
        ((1, 2, 2), nn.Conv2d(1, 4, 4, 2)),
        ((12, 12), nn.Conv2d(1, 4, 4, 2)),
        ((1, 12, 12), nn.Sequential(nn.Flatten(), nn.Linear(144, 3))),
        ((1, 12, 12), nn.ReLU()),
        ((1, 12, 12), _hooked(nn.Conv2d(1, 4, 4, 2, 1))),
    ],
)
def test_nets_that_do_not_begin_with_plain_strided_convolutions_are_left_alone(
    shape: tuple[int, ...], first: nn.Module
) -> None:
    assert phased(_frozen(first, nn.ReLU(), nn.Flatten()), shape) is None
    assert phased(first, shape) is None


def test_phases_are_not_used_where_they_multiply_more() -> None:
    net = _frozen(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten())
    assert phased(net, (16, 16, 16)) is None


@pytest.mark.parametrize("between", [nn.Tanh(), _hooked(nn.ReLU())])
def test_only_layers_before_another_activation_are_taken(between: nn.Module) -> None:
    net = _frozen(nn.Conv2d(1, 4, 4, 2, 1), between, nn.Conv2d(4, 6, 4, 2, 1), nn.ReLU(), nn.Flatten())
    forward = phased(net, (1, 12, 12))
    assert forward is not None
    x = _points(3, (1, 12, 12))
    torch.testing.assert_close(forward(x), net(x), rtol=1e-11, atol=1e-12)


class _Other:
    """The same victim, of a type that nothing is known of."""

    def __init__(self, victim: Any) -> None:
        self.victim = victim

    def __getattr__(self, name: str) -> Any:
        return getattr(self.victim, name)


class _Watched(Meter):
    """Sees whether the net's own forward is in place when it is asked for gradients."""

    def pullback(self, x: Tensor, rows: Tensor) -> Any:
        self.seen = "forward" in vars(self.victim.net)
        return super().pullback(x, rows)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_scores_and_counts_are_those_of_the_plain_victim(norm: str) -> None:
    net, x = _small(), _points(4, (1, 12, 12), torch.float32)
    y, streams = net(x).argmax(1), Streams(0, torch.arange(4))
    victim, estimate = wrap(net), Clever(12, 10, 0.3, chunk=50)
    meter, plain = _Watched(victim, 4), Meter(_Other(victim), 4)
    found, wanted = (estimate(asked, x, y, norm, streams=streams) for asked in (meter, plain))
    assert meter.seen == torch.backends.mkldnn.is_available()
    assert "forward" not in vars(victim.net)
    for name in ("score", "gap", "largest"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-4, atol=1e-6)
    assert meter.queries.tolist() == plain.queries.tolist() == [121] * 4
    assert meter.forwards.tolist() == plain.forwards.tolist() == [121] * 4
    assert meter.backwards.tolist() == plain.backwards.tolist() == [480] * 4


def test_a_victim_that_fails_on_the_way_has_its_own_forward_again() -> None:
    class Failing(Meter):
        def pullback(self, x: Tensor, rows: Tensor) -> Any:
            super().pullback(x, rows)
            raise ModelError("it fails")

    net, x = _small(), _points(2, (1, 12, 12), torch.float32)
    victim = wrap(net)
    with pytest.raises(ModelError, match="it fails"):
        Clever(12, 10, 0.3)(Failing(victim, 2), x, net(x).argmax(1), "l2", streams=Streams(0, torch.arange(2)))
    assert "forward" not in vars(victim.net)


def test_normalisation_stays_in_front_and_double_precision_is_left_alone() -> None:
    net, x = _small(), _points(3, (1, 12, 12), torch.float32)
    streams, estimate = Streams(0, torch.arange(3)), Clever(12, 10, 0.3)
    single = wrap(net, mean=[0.4], std=[0.2])
    double = wrap(net, mean=[0.4], std=[0.2], dtype="float64")
    y = single.labels(x, torch.arange(3))
    meter = _Watched(double, 3)
    found = estimate(single, x, y, "l2", streams=streams)
    exact = estimate(meter, x.double(), y, "l2", streams=streams)
    assert not meter.seen
    torch.testing.assert_close(found.largest, exact.largest, rtol=1e-3, atol=0)
