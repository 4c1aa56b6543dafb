"""The contract catches attacks that break it: each law is shown a culprit."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from hauberk.attacks import FGSM
from hauberk.errors import SettingError
from hauberk.testing import check, laws
from hauberk.testing.laws import Law
from hauberk.threat import Access, Ball, Norm, Targeted

Move = Callable[..., torch.Tensor]


def project(region: Any, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return region.snap(region.project(z, x), x)


@dataclass(frozen=True)
class Culprit:
    """An attack whose move is a function of (victim, x, goal, region, streams)."""

    move: str = "nothing"

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)

    def __call__(self, victim: Any, x: torch.Tensor, goal: Any, region: Any, *, streams: Any) -> torch.Tensor:
        return MOVES[self.move](victim, x, goal, region, streams)


def one_step(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    return FGSM()(victim, x, goal, region, streams=streams)


def past_the_radius(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    return (x + 0.5).clamp(0, 1)


def ignoring_the_mask(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    bare = Ball(region.norm, region.radius, region.box)
    return bare.project(x + torch.linspace(-0.3, 0.3, x[0].numel(), dtype=x.dtype).reshape(x.shape[1:]), x)


def by_global_chance(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    return project(region, x, x + torch.randn_like(x))


def by_numpys_chance(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    np.random.random()  # noqa: NPY002  # the offence
    return x.clone()


def by_pythons_chance(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    random.random()
    return x.clone()


def looking_at_the_batch(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    return project(region, x, x - x.mean(dim=0, keepdim=True))


def by_position(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    return project(region, x, x + torch.arange(len(x), dtype=x.dtype).reshape(-1, *(1,) * (x.ndim - 1)))


def without_end(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    for _ in range(30):
        victim.logits(x, torch.arange(len(x)))
    return x.clone()


def giving_up_when_rich(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    if int(victim.left(torch.arange(len(x))).max()) > 10:
        return x.clone()
    return one_step(victim, x, goal, region, streams)


def in_place(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    return x.copy_(project(region, x, x + 1.0))


def the_same_memory(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    return x


def with_a_graph(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    return x.clone().requires_grad_()


def fewer(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    return x[:1].clone()


def not_numbers(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    return torch.full_like(x, torch.nan)


def dividing_by_the_gradient(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    rows = torch.arange(len(x))
    logits, vjp = victim.pullback(x, rows)
    gradient = vjp(torch.ones_like(logits))
    return project(region, x, x + gradient / gradient.abs().amax())


def ignoring_the_grid(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    return region.project(x + 0.3 * (region.radius if region.norm is not Norm.L0 else 1) / x[0].numel(), x)


def only_untargeted(victim: Any, x: torch.Tensor, goal: Any, region: Any, streams: Any) -> torch.Tensor:
    if isinstance(goal, Targeted):
        raise ValueError("no targets")
    return x.clone()


MOVES: dict[str, Move] = {
    move.__name__: move
    for move in (
        one_step,
        past_the_radius,
        ignoring_the_mask,
        by_global_chance,
        by_numpys_chance,
        by_pythons_chance,
        looking_at_the_batch,
        by_position,
        without_end,
        giving_up_when_rich,
        in_place,
        the_same_memory,
        with_a_graph,
        fewer,
        not_numbers,
        dividing_by_the_gradient,
        ignoring_the_grid,
        only_untargeted,
    )
}
LAWS: dict[str, Law] = {law.__name__: law for law in laws()}


@pytest.mark.parametrize(
    ("move", "law", "needle"),
    [
        ("past_the_radius", "stays_in_the_region", "left the l0 region"),
        ("ignoring_the_mask", "stays_in_the_region", "a mask"),
        ("ignoring_the_grid", "stays_in_the_region", "a grid"),
        ("ignoring_the_grid", "survives_saving", "beside the grid"),
        ("past_the_radius", "stays_in_a_ball_that_is_a_point", "radius 0"),
        ("by_global_chance", "repeats_itself", "different points"),
        ("by_global_chance", "touches_nothing", "torch's global"),
        ("by_numpys_chance", "touches_nothing", "numpy's global"),
        ("by_pythons_chance", "touches_nothing", "Python's global"),
        ("looking_at_the_batch", "does_not_depend_on_the_batch", "batches of 1"),
        ("by_position", "does_not_depend_on_the_order", "permuted"),
        ("looking_at_the_batch", "takes_a_radius_for_each_example", "a radius for each example"),
        ("without_end", "keeps_its_budget", "asked past a budget of 1"),
        ("giving_up_when_rich", "is_not_worse_with_more_budget", "with a budget of"),
        ("in_place", "touches_nothing", "altered the examples"),
        ("the_same_memory", "touches_nothing", "share the examples' memory"),
        ("with_a_graph", "touches_nothing", "carry a gradient"),
        ("fewer", "stays_in_the_region", "expected one point per example"),
        ("not_numbers", "stays_in_the_region", "left the l0 region"),
        ("not_numbers", "takes_what_is_misclassified", "gave back correct points"),
        ("dividing_by_the_gradient", "survives_zero_gradients", "left the region"),
    ],
)
def test_a_culprit_is_caught(move: str, law: str, needle: str) -> None:
    with pytest.raises(AssertionError, match=needle):
        LAWS[law](Culprit(move))


def test_an_honest_attack_passes_the_whole_contract() -> None:
    check(Culprit("one_step"), bars={Norm.LINF: (1 + 1e-6, 1.4)})


def test_the_contract_names_every_broken_law_and_an_exception_counts_as_one() -> None:
    with pytest.raises(AssertionError) as caught:
        check(Culprit("only_untargeted"), bars={Norm.L2: (1.1, 1.1)})
    text = str(caught.value)
    assert "reaches_targets_that_count: raised ValueError: no targets" in text
    assert "check_optimum: left" in text
    assert "takes_what_is_misclassified" not in text


class Narrow(Culprit):
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})


@dataclass
class Loose:
    """Its settings can be changed while it runs."""

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)

    def __call__(self, victim: Any, x: torch.Tensor, goal: Any, region: Any, *, streams: Any) -> torch.Tensor:
        return x.clone()


def test_an_attack_that_hides_what_it_is_is_caught() -> None:
    with pytest.raises(AssertionError, match="frozen dataclass"):
        LAWS["says_what_it_is"](Loose())
    with pytest.raises(AssertionError, match="does not declare"):
        LAWS["refuses_what_it_cannot_do"](Narrow("one_step"))


def test_a_goal_refused_with_a_setting_error_is_within_the_law() -> None:
    class Refuses(Culprit):
        def __call__(self, victim: Any, x: torch.Tensor, goal: Any, region: Any, *, streams: Any) -> torch.Tensor:
            if isinstance(goal, Targeted):
                raise SettingError("this attack takes untargeted goals only; use another")
            return x.clone()

    LAWS["reaches_targets_that_count"](Refuses())
