"""The one-pixel attack: what a pixel is, how children are made, and what an example costs."""

import pytest
import torch
from torch import Tensor, nn

import hauberk as hb
from hauberk._rng import Streams
from hauberk.attacks import OnePixel, run_attack
from hauberk.attacks.one_pixel import _mixed
from hauberk.errors import SettingError, ThreatError


class Switch(nn.Module):
    """Class 1 where the channels of the pixel in row 2, column 3 sum to more than `level`; its score rises everywhere with them."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        score = x[:, :, 2, 3].sum(dim=1) - self.level
        return torch.stack((-score, score), dim=1)


def grey(channels: int, level: float) -> tuple[hb.Victim, Tensor, Tensor]:
    x = torch.full((5, channels, 6, 7), 0.5)
    return hb.wrap(Switch(level), bounds=(0, 1)), x, torch.zeros(5, dtype=torch.int64)


def test_it_finds_the_one_pixel_that_counts() -> None:
    victim, x, y = grey(1, 0.9)
    found = run_attack(OnePixel(generations=20, population=80), victim, x, y, "l0:1")
    assert bool(found.broken.all())
    assert (found.adversarials != x).nonzero()[:, 1:].tolist() == [[0, 2, 3]] * 5


def test_a_pixel_of_a_colour_picture_is_three_numbers_of_the_radius() -> None:
    victim, x, y = grey(3, 2.4)  # two channels give at most 1 + 1 + .5
    attack = OnePixel(generations=20, population=120)
    assert bool(run_attack(attack, victim, x, y, "l0:3").broken.all())
    victim, x, y = grey(3, 2.6)
    two = run_attack(attack, victim, x, y, "l0:2")
    assert not bool(two.broken.any())
    assert int(two.sizes.max()) <= 2
    assert bool(run_attack(attack, victim, x, y, "l0:3").broken.all())


@pytest.mark.parametrize(("radius", "places"), [(3, 1), (6, 2), (15, 5)])
def test_it_changes_at_most_as_many_places_as_there_are_pixels(radius: int, places: int) -> None:
    victim, x, y = grey(3, 99.0)
    found = run_attack(OnePixel(generations=3, population=20), victim, x, y, f"l0:{radius}")
    changed = (found.adversarials != x).any(dim=1).flatten(1).sum(dim=1)
    assert changed.max() == places
    assert int(found.sizes.max()) <= radius


def test_children_mix_three_different_parents() -> None:
    population, rows = 7, torch.arange(50)
    parents = torch.eye(population, dtype=torch.float64)[None, :, None, :].expand(50, -1, -1, -1)
    children = _mixed(parents, rows, 0.5, Streams(0, rows))[:, :, 0]
    ordered = children.sort(dim=2).values
    assert torch.equal(ordered[0, 0], torch.tensor([-0.5, 0, 0, 0, 0, 0.5, 1.0], dtype=torch.float64))
    assert bool((ordered == ordered[0, 0]).all())
    for part in (1.0, 0.5, -0.5):  # each parent comes first, second and third about as often
        share = (children == part).double().mean(dim=(0, 1))
        assert float((share - 1 / population).abs().max()) < 0.07


def test_an_example_that_holds_costs_every_generation_and_one_that_falls_its_group() -> None:
    victim, x, y = grey(1, 99.0)
    held = run_attack(OnePixel(generations=4, population=90), victim, x, y, "l0:1")
    assert held.queries.tolist() == [90 * 5] * 5
    victim, x, y = grey(1, -1.0)
    fell = run_attack(OnePixel(generations=4, population=90), victim, x, y, "l0:1")
    assert fell.queries.tolist() == [40] * 5


def test_less_than_three_parents_and_radii_without_end_are_refused() -> None:
    with pytest.raises(SettingError, match="three parents"):
        OnePixel(population=2)
    victim, x, y = grey(1, 0.9)
    with pytest.raises(ThreatError, match="finite radius"):
        run_attack(OnePixel(), victim, x, y, "l0")
