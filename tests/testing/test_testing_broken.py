"""The broken defenses: each fools a textbook attack, each falls to the step that its docstring names, none leaves a trace."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import hauberk as hb
from hauberk.errors import UnknownNameError
from hauberk.testing import broken
from hauberk.testing.broken.layers import Jpeg, KWinners, NoiseLayer, Prune, ResizeAndPad, Thermometer

N = 40
QUICK = ["thermometer", "squeeze", "jpeg", "softmax", "rounded"]
MENDED: dict[str, Callable[[nn.Module], Any]] = {
    "distillation": hb.wrap,
    "thermometer": hb.bpda,
    "squeeze": hb.bpda,
    "jpeg": hb.bpda,
    "pruning": lambda net: hb.eot(net, 10),
    "resize": lambda net: hb.eot(hb.bpda(net), 10),
    "noise": lambda net: hb.eot(net, 20),
    "softmax": hb.bpda,
    "rounded": hb.bpda,
}


def falls(name: str) -> None:
    before = torch.get_rng_state()
    defense = broken.build(name, n=N)
    assert torch.equal(before, torch.get_rng_state())
    assert not defense.model.training
    x, y = defense.data
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        looks = 10 if name in ("pruning", "resize", "noise") else 1  # one draw of a whole batch may be an unlucky one
        clean = sum(float((defense.model(x).argmax(dim=1) == y).double().mean()) for _ in range(looks)) / looks
        naive = float(broken.naive_pgd(defense.model, x, y, defense.radius).double().mean())
    assert clean >= 0.8
    assert naive >= 0.6
    if name == "k-winners":
        found = hb.attacks.square(defense.victim, x, y, defense.threat, steps=1000, seed=0)
    else:
        found = hb.attacks.pgd(MENDED[name](defense.model), x, y, defense.threat, steps=40, loss="margin", seed=0)
    assert found.success_rate >= 0.9


@pytest.mark.parametrize("name", QUICK)
def test_a_defense_fools_the_textbook_and_falls_to_what_breaks_it(name: str) -> None:
    falls(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in broken.BROKEN if name not in QUICK])
def test_a_defense_that_draws_or_is_trained_fools_the_textbook_and_falls(name: str) -> None:
    falls(name)


def test_there_are_ten_and_each_names_its_paper_and_what_breaks_it() -> None:
    assert len(broken.BROKEN) == 10
    with pytest.raises(UnknownNameError, match="jpeg"):
        broken.build("jpg")
    defense = broken.build("jpeg", n=3)
    assert len(defense.data[0]) == len(defense.data[1]) == 3
    assert "arXiv" in defense.paper
    assert "arXiv" in defense.broken_by
    assert defense.victim.name == "jpeg"
    assert defense.radius == 0.2


def test_building_twice_gives_the_same_weights_and_another_seed_others() -> None:
    first, second, other = (broken.build("thermometer", n=1, seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["2.weight"], other["2.weight"])


def test_honest_nets_are_not_fooled_by_the_textbook_and_do_not_fool_it() -> None:
    data = next(iter(hb.data.load("mnist5k", n=N).chunks(N)))
    net = broken.honest()["mnist-natural"]
    assert float(broken.naive_pgd(net, data.x, data.y, 0.2).double().mean()) <= 0.05


def test_the_textbook_attack_is_steepest_ascent_in_the_ball() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.0], [-1.0, 1.0, 0.0]])
    net = nn.Linear(3, 2, bias=False)
    net.weight.data.copy_(weight)
    seen: list[Tensor] = []
    net.register_forward_hook(lambda module, args, output: seen.append(args[0].detach()))
    x, y = torch.tensor([[0.5, 0.5, 0.95]]), torch.tensor([0])
    broken.naive_pgd(net, x, y, 0.1, steps=40)
    assert torch.allclose(seen[-1][0, :2], torch.tensor([0.4, 0.6]))  # where the first class loses most
    assert float(seen[0].max()) <= 1.0
    assert all(float((z - x).abs().max()) <= 0.1 + 1e-6 for z in seen)
    assert len(seen) == 41


def test_the_noise_is_the_same_whatever_it_is_added_to_and_its_mean_gradient_is_one() -> None:
    layer = NoiseLayer(0.1, 100.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        low, high = (layer(torch.full((5000,), value)) - value for value in (0.1, 0.7321))
        leaf = torch.rand(20_000).requires_grad_()
        (gradient,) = torch.autograd.grad(layer(leaf).sum(), leaf)
    test: Any = stats.ks_2samp(low.numpy(), high.numpy())
    assert test.pvalue > 1e-3
    assert float(low.abs().max()) <= 0.1 + 1e-6
    assert abs(float(gradient.mean()) - 1) < 5 * 7.1 / 20_000**0.5
    assert float(gradient.std()) > 5


def test_pruning_keeps_the_mean_and_drops_much() -> None:
    values = torch.rand(1, 50, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = torch.cat([Prune(0.5)(values) for _ in range(4000)])
    assert torch.allclose(drawn.mean(dim=0), values[0], atol=0.12)
    assert 0.2 < float((drawn == 0).double().mean()) < 0.8


def test_the_layers_do_what_they_say() -> None:
    x = torch.tensor([[[[0.0, 0.3], [0.5, 1.0]]]])
    assert Thermometer(4)(x)[0, :, 0, 1].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert KWinners(0.5)(x).flatten().tolist() == [0.0, 0.0, 0.5, 1.0]
    pictures = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    again = Jpeg(95)(pictures)
    assert again.shape == pictures.shape
    assert 0 < float((again - pictures).abs().mean()) < 0.1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        moved = [ResizeAndPad(14, 18, 16)(pictures) for _ in range(4)]
    assert all(each.shape == pictures.shape for each in moved)
    assert not torch.equal(moved[0], moved[1])
