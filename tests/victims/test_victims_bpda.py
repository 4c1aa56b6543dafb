"""Substitutes in the backward pass: the answers stay the model's own, and the gradients are those of what stands in."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hauberk as hb
from hauberk.errors import AccessError, ModelError, SettingError, UnknownNameError
from hauberk.threat import Access
from hauberk.victims import Meter, TorchVictim, bpda, dead_modules, eot, wrap

ROWS = torch.arange(4)
_APPLY = torch.autograd.Function.apply.__func__  # type: ignore[attr-defined]
SHAPE = (1, 3, 2)


def linear(features: int = 6) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(features, 3)).eval()


def inputs() -> Tensor:
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))


class Through(nn.Module):
    """A function, and then a net."""

    def __init__(self, function: Callable[[Tensor], Tensor], net: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.net = function, linear() if net is None else net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.function(x))


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class _Zero(torch.autograd.Function):
    """Rounds, and has a derivative of zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.zeros_like(grads[0])


class _Own(torch.autograd.Function):
    """Rounds, and has a straight-through derivative of its own, doubled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * grads[0]


def hidden(x: Tensor) -> Tensor:
    """Rounds on a way that is not watched."""
    return torch.tensor(x.round().tolist(), dtype=x.dtype)


def gradient(victim: Any, x: Tensor) -> Tensor:
    """Of the first score."""
    scores, vjp = victim.pullback(x, ROWS)
    return vjp(torch.eye(scores.shape[1])[0].expand_as(scores).contiguous())


def straight(x: Tensor, net: nn.Module | None = None) -> Tensor:
    """The gradient of the linear net alone."""
    return gradient(wrap(linear() if net is None else net), x)


@torch.no_grad()
def without_gradients(x: Tensor) -> Tensor:
    return (x * 8).round() / 8


def one_by_one(x: Tensor) -> Tensor:
    pictures = [torch.from_numpy((picture.detach().numpy() * 8).round() / 8) for picture in x]
    return torch.stack(pictures)


def channels_last(x: Tensor) -> Tensor:
    values = (x.permute(0, 2, 3, 1).detach().cpu().numpy() * 255).astype(np.uint8)
    return torch.as_tensor(values.transpose(0, 3, 1, 2).copy()).to(x) / 255


# what a forward may do, and by what the straight-through gradient differs from that of the net alone
STEPS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "round": (lambda x: torch.round(x * 4) / 4, 1.0),
    "floor": (lambda x: (x * 4).floor() / 4, 1.0),
    "ceil of a function": (lambda x: torch.ceil(x), 1.0),
    "trunc": (lambda x: x.trunc(), 1.0),
    "sign": (lambda x: torch.sign(x - 0.5), 1.0),
    "above": (lambda x: (x > 0.5).float(), 1.0),
    "at least, as numbers": (lambda x: x.ge(0.5).to(x.dtype), 1.0),
    "below": (lambda x: (x < 0.5).float(), -1.0),
    "not below": (lambda x: (~(x < 0.5)).float(), 1.0),
    "where": (lambda x: torch.where(x > 0.5, 3.0, 1.0), 2.0),
    "bytes": (lambda x: (x * 255).byte().float() / 255, 1.0),
    "shifted bytes": (lambda x: ((x * 255).to(torch.uint8) >> 4).to(x) / 16, 255 / 256),
    "masked bytes": (lambda x: ((x * 255).to(torch.uint8) & 0xF0) / 255, 1.0),
    "whole division": (lambda x: (x * 255).int() // 16 * 16 / 255, 1.0),
    "floor division": (lambda x: (x * 255) // 16 * 16 / 255, 1.0),
    "rounding division": (lambda x: torch.div(x * 255, 16, rounding_mode="floor") * 16 / 255, 1.0),
    "detach": (lambda x: x.detach() * 2, 2.0),
    "data": (lambda x: x.data * 2, 2.0),
    "no_grad": (without_gradients, 1.0),
    "numpy and back": (lambda x: torch.from_numpy(x.detach().numpy().round()), 1.0),
    "numpy, one by one": (one_by_one, 1.0),
    "numpy bytes, channels last": (channels_last, 1 / 255),
    "bytes, one by one": (lambda x: torch.stack([p.float() / 255 for p in (x * 255).byte()]), 1.0),
    "a sigmoid as a step": (lambda x: torch.sigmoid(1e5 * (x - 0.5)) / 1e5, 1.0),
    "a backward of zeros": (lambda x: _Zero.apply(x), 1.0),  # type: ignore[dict-item]
    "a straight-through backward": (lambda x: _Own.apply(x), 2.0),  # type: ignore[dict-item]
    "bernoulli": (lambda x: torch.bernoulli(x), 1.0),
    "nothing": (lambda x: x * 1.5, 1.5),
}


@pytest.mark.parametrize(("function", "factor"), STEPS.values(), ids=STEPS)
def test_a_step_without_derivative_passes_it_straight_through(function: Any, factor: float) -> None:
    x, net = inputs(), Through(function).eval()
    victim = bpda(net)
    victim.probe(x)
    assert victim.access is Access.GRADIENTS
    assert torch.allclose(gradient(victim, x), factor * straight(x), atol=1e-6)
    assert not victim.pullback(x, ROWS)[0].requires_grad
    if "bernoulli" not in function.__code__.co_names:
        assert torch.equal(victim.pullback(x, ROWS)[0], wrap(net).logits(x, ROWS))
        assert torch.equal(victim.logits(x, ROWS), wrap(net).logits(x, ROWS))
        assert torch.equal(victim.labels(x, ROWS), wrap(net).labels(x, ROWS))


def test_most_of_these_steps_have_no_gradient_of_their_own() -> None:
    x = inputs()
    for name, (function, _) in STEPS.items():
        if name not in ("nothing", "a straight-through backward"):
            assert dead_modules(wrap(Through(function).eval()), x) == ("",), name


@pytest.mark.parametrize(
    "function",
    [F.relu, torch.tanh, lambda x: x * (x > 0.5), lambda x: torch.where(x > 0.5, x, -x), lambda x: x.clamp(0.2, 0.8)],
)
def test_a_gradient_that_is_there_stays_as_it_is(function: Any) -> None:
    x, net = inputs(), Through(lambda x: function(x - 0.1)).eval()
    assert torch.equal(gradient(bpda(net), x), gradient(wrap(net), x))
    assert dead_modules(wrap(net), x) == ()


def test_a_comparison_that_only_chooses_keeps_out_of_the_gradient() -> None:
    x, net = inputs(), Through(lambda x: x * (x > 0.5).float() + x.round()).eval()
    assert torch.allclose(gradient(bpda(net), x), straight(x) * ((x > 0.5) + 1), atol=1e-6)


def test_a_rounded_branch_beside_a_live_one_gets_its_gradient() -> None:
    x, net = inputs(), Through(lambda x: 0.1 * x + x.round()).eval()
    assert dead_modules(wrap(net), x) == ()
    assert torch.allclose(gradient(bpda(net), x), 1.1 * straight(x), atol=1e-6)


def test_a_saturated_softmax_has_the_gradient_of_its_logarithm() -> None:
    x, net = inputs(), linear()
    sure = Through(lambda x: x, nn.Sequential(net, Function(lambda z: F.softmax(1e6 * z, dim=1)))).eval()
    assert not bool(gradient(wrap(sure), x).any())
    scores, vjp = bpda(sure).pullback(x, ROWS)
    assert torch.equal(scores, wrap(sure).logits(x, ROWS))
    pair = torch.zeros_like(scores)
    pair[:, 0], pair[:, 1] = 1.0, -1.0
    weight = net[1].weight
    assert isinstance(weight, Tensor)
    expected = 1e6 * (weight[0] - weight[1]).detach()
    assert torch.allclose(vjp(pair).flatten(1), expected.expand(4, -1), rtol=1e-4)


def test_one_hot_of_an_argmax_has_the_gradient_of_a_softmax() -> None:
    x, net = inputs(), linear()
    hard = Through(lambda x: x, nn.Sequential(net, Function(lambda z: F.one_hot(z.argmax(dim=1), 3).float()))).eval()
    soft = Through(lambda x: x, nn.Sequential(net, Function(lambda z: z.softmax(dim=1)))).eval()
    with_output = [wrap(each, output="logits") for each in (hard, soft)]
    assert torch.allclose(gradient(bpda(with_output[0]), x), gradient(with_output[1], x), atol=1e-6)


def test_a_named_module_gets_the_backward_of_its_substitute() -> None:
    x, net = inputs(), nn.Sequential(Function(hidden), linear()).eval()
    doubled, cubed = nn.Sequential(nn.Identity(), Function(lambda z: 2 * z)), (lambda z: z**3)
    for substitute, expected in (
        ("identity", straight(x)),
        (doubled, 2 * straight(x)),
        (cubed, 3 * x**2 * straight(x)),
    ):
        victim = bpda(net, {"0": substitute})  # type: ignore[dict-item]
        assert torch.allclose(gradient(victim, x), expected, atol=1e-6)
        assert torch.equal(victim.pullback(x, ROWS)[0], wrap(net).logits(x, ROWS))
    assert bpda(net, {"0": "identity"}).substitutes == {"0": "identity"}


def test_the_whole_model_can_have_a_substitute() -> None:
    x, surrogate = inputs(), linear()
    victim = bpda(Through(hidden).eval(), {"": surrogate})
    assert torch.allclose(gradient(victim, x), straight(x, surrogate), atol=1e-6)


def test_hidden_zeros_are_found_and_replaced_by_the_identity() -> None:
    x = inputs()
    net = nn.Sequential(nn.Sequential(nn.Identity(), Function(hidden)), linear()).eval()
    assert dead_modules(wrap(net), x) == ("0.1",)
    victim = bpda(net)
    assert torch.allclose(gradient(victim, x), straight(x), atol=1e-6)
    assert victim.substitutes == {"0.1": "identity"}
    assert any("identity for 0.1" in note for note in victim.notes)
    assert victim.description["bpda"] == {
        "substitutes": {"0.1": "identity"},
        "straight_through": False,
        "comparisons": False,
    }


def hidden_thermometer(x: Tensor) -> Tensor:
    steps = np.arange(4) / 4
    return torch.from_numpy((x.detach().numpy()[:, :, None] > steps[:, None, None]).astype(np.float32)).flatten(1, 2)


def test_an_encoding_in_levels_is_replaced_by_straight_lines() -> None:
    x, net = inputs(), nn.Sequential(Function(hidden_thermometer), linear(24)).eval()
    assert dead_modules(wrap(net), x) == ("0",)
    victim = bpda(net)
    found = gradient(victim, x)
    assert victim.substitutes == {"0": "a straight line for each level"}
    slopes: list[Tensor] = []
    encoded, values = hidden_thermometer(x[:8]).reshape(4, 4, -1), x.reshape(4, -1)
    for level in range(4):
        stacked = torch.stack((values.reshape(-1), torch.ones(24)), dim=1)
        slopes.append(torch.linalg.lstsq(stacked, encoded[:, level].reshape(-1, 1)).solution[0, 0])
    weight = net[1][1].weight[0].reshape(4, 6)  # type: ignore[index]
    expected = sum(slope * row for slope, row in zip(slopes, weight, strict=True))
    assert isinstance(expected, Tensor)
    assert torch.allclose(found.flatten(1), expected.detach().expand(4, -1), atol=1e-4)


def test_the_same_thermometer_in_torch_needs_no_substitute() -> None:
    x = inputs()
    net = nn.Sequential(Function(lambda x: (x[:, :, None] > torch.arange(4)[:, None, None] / 4).float()), linear(24))
    victim = bpda(net.eval())
    found = gradient(victim, x)
    weight = net[1][1].weight[0].reshape(4, 6)  # type: ignore[index]
    assert torch.allclose(found.flatten(1), weight.sum(dim=0).detach().expand(4, -1), atol=1e-6)
    assert victim.substitutes == {}


def test_gradients_that_are_not_numbers_are_found() -> None:
    def rooted(x: Tensor) -> Tensor:
        return x + 0 * (x - x).sqrt()

    x, net = inputs(), nn.Sequential(Function(rooted), linear()).eval()
    assert dead_modules(wrap(net), x) == ("0",)
    assert torch.allclose(gradient(bpda(net), x), straight(x), atol=1e-6)


def test_names_are_those_of_the_users_module_although_batch_norms_are_folded() -> None:
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
    net.add_module("quantise", Function(hidden))
    net.add_module("head", linear(12))
    victim = wrap(net.eval())
    victim.probe(inputs())
    assert victim.description["folded"] == ["stem.1"]
    assert dead_modules(victim, inputs()) == ("quantise",)
    assert bool(gradient(bpda(victim, {"quantise": "identity"}), inputs()).any())


def test_nothing_is_left_behind_in_the_victim() -> None:
    x, net = inputs(), nn.Sequential(Function(lambda x: _Zero.apply(x)), linear()).eval()
    victim = wrap(net)
    before, weights = victim.fingerprint(), copy.deepcopy(net.state_dict())
    plain = gradient(victim, x)
    substituted = bpda(victim)
    gradient(substituted, x)
    dead_modules(victim, x)
    assert torch.equal(gradient(victim, x), plain)
    assert torch.autograd.Function.apply.__func__ is _APPLY  # type: ignore[attr-defined]
    assert not any("forward" in vars(part) for part in victim._net.modules())
    assert victim.fingerprint() == before != substituted.fingerprint()
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in weights.items())


def test_a_compiled_victim_is_substituted_in_its_uncompiled_copy() -> None:
    x, net = inputs(), nn.Sequential(Function(hidden), linear()).eval()
    victim = wrap(net, compile="eager")
    assert torch.allclose(gradient(bpda(victim, {"0": "identity"}), x), straight(x), atol=1e-6)
    assert victim._compiled is not None


def test_draws_are_the_same_under_substitutes() -> None:
    x, net = inputs(), nn.Sequential(Function(lambda x: (x + torch.rand_like(x)).round()), linear()).eval()
    victim = eot(bpda(net), 5)
    assert torch.equal(victim.pullback(x, ROWS)[0], eot(net, 5).logits(x, ROWS))
    assert torch.allclose(gradient(victim, x), straight(x), atol=1e-6)
    assert dead_modules(victim, x) == ("",) or dead_modules(victim, x) == ("0",)


def test_dead_modules_looks_through_wrappers_and_passes_over_what_it_cannot_see() -> None:
    x, net = inputs(), nn.Sequential(Function(hidden), linear()).eval()
    assert dead_modules(Meter(eot(bpda(net), 2), 4), x) == ("0",)
    assert dead_modules(wrap(lambda array: array.reshape(len(array), -1)[:, :3]), x) == ()
    assert dead_modules(wrap(linear()), x) == ()


@pytest.mark.parametrize("name", ["mnist-natural", "mnist-fgsm-rs", "digits-mlp"])
def test_honest_nets_have_no_dead_modules(name: str) -> None:
    data = hb.data.load("digits" if name.startswith("digits") else "mnist5k", n=16)
    x = next(iter(data.chunks(16))).x
    victim = hb.zoo.load(name)
    assert dead_modules(victim, x) == ()
    rows = torch.arange(16)
    ones = torch.ones(16, 10)
    assert isinstance(victim, TorchVictim)
    substituted = bpda(victim)
    scores, vjp = substituted.pullback(x, rows)
    assert not scores.requires_grad
    assert torch.equal(vjp(ones), victim.pullback(x, rows)[1](ones))
    assert substituted.description["bpda"] == {"substitutes": {}, "straight_through": False, "comparisons": False}


def test_what_no_substitute_can_mend_gives_scores_only() -> None:
    def counted(x: Tensor) -> Tensor:
        return torch.tensor([[float(len(np.unique(p))), 0.0, 1.0] for p in x.detach().numpy()])

    victim = bpda(Function(counted).eval())
    victim.probe(inputs())
    assert victim.access is Access.SCORES
    assert any("No gradient flows" in note for note in victim.notes)
    with pytest.raises(AccessError):
        victim.pullback(inputs(), ROWS)


def test_mistakes_are_one_sentence() -> None:
    net = nn.Sequential(Function(hidden), linear()).eval()
    with pytest.raises(UnknownNameError, match="submodule"):
        bpda(net, {"2": "identity"})
    with pytest.raises(SettingError, match="identity"):
        bpda(net, {"0": "straight"})  # type: ignore[dict-item]
    with pytest.raises(SettingError, match="substitutes"):
        bpda(net, {})
    with pytest.raises(AccessError, match="PyTorch"):
        bpda(lambda array: array)
    with pytest.raises(ModelError, match="substitute for '1'"):
        gradient(bpda(nn.Sequential(nn.Identity(), linear()), {"1": "identity"}), inputs())
    with pytest.raises(AccessError, match="PyTorch"):
        bpda(eot(net))


def test_an_attack_through_substitutes_breaks_what_rounding_hid() -> None:
    data = next(iter(hb.data.load("digits", n=60).chunks(60)))
    net = nn.Sequential(Function(lambda x: torch.round(x * 15) / 15), hb.zoo.net("digits-mlp")).eval()
    plain = hb.attacks.pgd(net, data.x, data.y, "linf:0.2", steps=20)
    assert (
        plain.success_rate < 0.5 < 0.95 < hb.attacks.pgd(bpda(net), data.x, data.y, "linf:0.2", steps=20).success_rate
    )
