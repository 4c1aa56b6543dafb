"""The laws that every attack keeps, each a function that takes an attack and raises AssertionError where it is broken."""

import contextlib
import json
import math
import random
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import flat
from hauberk.attacks import Attack, name_of, settings_of
from hauberk.attacks._attack import seeks_smallest
from hauberk.blocks.judge import judge
from hauberk.errors import AccessError, BudgetError, SettingError, ThreatError
from hauberk.testing.setting import RADII, Outcome, Setting, constant, pictures, run, vectors, with_holes
from hauberk.threat import Access, Ball, Norm, Targeted, Untargeted
from hauberk.victims import Meter, wrap

__all__ = ["LAWS", "Law"]

Law: TypeAlias = Callable[[Attack], None]

POINTS_SLACK = 1e-6
"""float64: at a flat optimum a margin equal to 1e-12 is reached by points that differ by its root."""
MARGIN_SLACK = 1e-9


def says_what_it_is(attack: Attack) -> None:
    """A frozen dataclass whose access, norms and settings can be read and written down."""
    _demand(is_dataclass(attack) and getattr(attack, "__dataclass_params__").frozen, "an attack is a frozen dataclass")  # noqa: B009
    _demand(isinstance(attack.access, Access), f"access must be an Access, got {attack.access!r}")
    fine = bool(attack.norms) and all(isinstance(norm, Norm) for norm in attack.norms)
    _demand(fine, f"norms must be a set of Norm with at least one, got {attack.norms!r}")
    json.dumps(settings_of(attack))
    _demand(attack == type(attack)(**settings_of(attack)), "its settings must make the same attack again")


def stays_in_the_region(attack: Attack) -> None:
    """Every point, of broken examples and others, is allowed: with a mask, a grid, a radius for each example, at the walls."""
    for norm in _norms(attack):
        for setting in (pictures(), vectors()):
            regions = _regions(norm, setting) | (_endless(norm, setting) if seeks_smallest(attack) else {})
            for what, region in regions.items():
                outcome = run(attack, setting, region)
                bad = (~outcome.allowed).nonzero().flatten().tolist()
                _demand(not bad, f"left the {norm} region ({what}) on examples {bad}")


def stays_in_a_ball_that_is_a_point(attack: Attack) -> None:
    """With radius 0 it gives back the example."""
    for norm in _norms(attack):
        outcome = run(attack, pictures(), Ball(norm, 0.0))
        _demand(bool((outcome.points == pictures().x).all()), f"moved in the {norm} ball of radius 0")


def repeats_itself(attack: Attack) -> None:
    """The same seed gives the same points, bit for bit, at the same cost."""
    for where, ball in _balls(attack):
        one, two = (run(attack, pictures(), ball, seed=7) for _ in range(2))
        _demand(torch.equal(one.points, two.points), f"two runs in {where} with one seed gave different points")
        _demand(_costs(one) == _costs(two), f"two runs in {where} with one seed cost different numbers of queries")


def does_not_depend_on_the_batch(attack: Attack) -> None:
    """Cut into batches of 1 or 4, each example gets the same point at the same cost (float64)."""
    for where, ball in _balls(attack):
        for setting in (pictures().row_by_row(), vectors().row_by_row()):
            whole = run(attack, setting, ball)
            for size in (1, 4):
                parts = [run(attack, setting.take(rows), ball) for rows in torch.arange(len(setting)).split(size)]
                _same(whole, _joined(parts), f"in {where}, cut into batches of {size}")


def does_not_depend_on_the_order(attack: Attack) -> None:
    """Permuting the examples permutes the result (float64)."""
    setting = pictures().row_by_row()
    order = torch.tensor([3, 8, 0, 5, 1, 7, 2, 6, 4])
    for where, ball in _balls(attack):
        whole, mixed = run(attack, setting, ball), run(attack, setting.take(order), ball)
        back = order.argsort()
        _same(
            whole,
            Outcome(*(getattr(mixed, name)[back] for name in Outcome.__dataclass_fields__)),
            f"in {where}, permuted",
        )


def takes_a_radius_for_each_example(attack: Attack) -> None:
    """Radii of its own give each example what it gets alone at that radius (float64)."""
    setting = pictures().row_by_row()
    for norm in _norms(attack):
        radii = _each(norm, len(setting))
        whole = run(attack, setting, Ball(norm, radii))
        parts = [
            run(attack, setting.take(torch.tensor([row])), Ball(norm, float(radii[row]))) for row in range(len(setting))
        ]
        _same(whole, _joined(parts), f"in {norm}, with a radius for each example")


def keeps_its_budget(attack: Attack) -> None:
    """It never asks past a budget, also where some examples have less left than others, and then still gives allowed points."""
    setting = pictures()
    n = len(setting)
    for where, ball in _balls(attack):
        for budget in (1, 2, 3, 7, 20):
            for spent in (False, True):
                meter = Meter(setting.victim, n, budget=budget, access=attack.access)
                if spent:  # the examples come with 0, 1, ... queries left
                    meter.queries[:] = (budget - torch.arange(n)).clamp_min(0)
                try:
                    outcome = run(attack, setting, ball, meter=meter)
                except BudgetError as error:
                    raise AssertionError(f"asked past a budget of {budget} in {where}: {error}") from error
                most = int(outcome.queries.max())
                _demand(most <= budget, f"spent {most} queries of {budget} in {where}")
                _demand(bool(outcome.allowed.all()), f"left the {where} region when its budget of {budget} ended")


def is_not_worse_with_more_budget(attack: Attack) -> None:
    """What a budget breaks, a larger one breaks too; with scores, the margin does not fall either. Without a radius, the change
    does not grow."""
    setting = pictures()
    for where, ball in _balls(attack):
        before: Outcome | None = None
        for budget in (1, 2, 5, 12, 30, None):
            now = run(attack, setting, ball, budget=budget)
            if before is not None:
                lost = (before.broken & ~now.broken).nonzero().flatten().tolist()
                _demand(
                    not lost, f"with a budget of {budget} in {where} it lost the examples {lost} that it had broken"
                )
                sizes = ball.size(before.points, setting.x), ball.size(now.points, setting.x)
                larger = before.broken & (sizes[1] > sizes[0] * (1 + 1e-9)) & (not ball.finite)
                grew = larger.nonzero().flatten().tolist()
                _demand(not grew, f"with a budget of {budget} in {where} it found a larger change for {grew}")
                proposed = flat(before.points != setting.x).any(dim=1)  # the example itself may never have been asked
                still = ~before.broken & ~now.broken & proposed
                fell = still & (now.margin < before.margin - MARGIN_SLACK)
                worse = attack.access >= Access.SCORES and bool(fell.any())
                _demand(
                    not worse, f"with a budget of {budget} in {where} its points have a smaller margin than with less"
                )
            before = now


def reaches_targets_that_count(attack: Attack) -> None:
    """What it breaks towards a target is misclassified; a goal that it cannot take it refuses with SettingError."""
    setting = pictures()
    targets = (setting.y + 1) % 4
    for norm in _norms(attack):
        region = _ball(norm, 3)
        try:
            outcome = run(attack, setting, region, goal=Targeted(targets))
        except SettingError:
            continue
        rows = torch.arange(len(setting))
        plain = judge(setting.victim, outcome.points, setting.x, Untargeted(setting.y), region, rows)
        _demand(bool(plain.broken[outcome.broken].all()), f"in {norm} a targeted success is no untargeted one")
        labels = setting.victim.labels(outcome.points, rows)
        _demand(bool((labels == targets)[outcome.broken].all()), f"in {norm} a targeted success misses its target")


def touches_nothing(attack: Attack) -> None:
    """Inputs, goal, mask, model, its mode and gradients, and the random states of torch, numpy and Python stay as they were."""
    setting = pictures()
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 4), nn.Dropout(0.5)).double().train()
    victim = wrap(net, name="in training mode")
    victim.probe(setting.x)
    x, y = setting.x.clone(), victim.labels(setting.x, torch.arange(len(setting)))
    weights = [parameter.detach().clone() for parameter in net.parameters()]
    for norm in _norms(attack):
        mask = _mask(setting)
        given, labels, known_mask = x.clone(), y.clone(), mask.clone()
        before = (torch.random.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002  # watched, not used
        meter = Meter(victim, len(x), access=attack.access)
        region = Ball(norm, _each(norm, len(x)), mask=mask)
        radii = region.radius.clone() if isinstance(region.radius, Tensor) else None
        with torch.enable_grad():
            points = attack(meter, given, Untargeted(labels), region, streams=Streams(0, setting.ids, name_of(attack)))
            _demand(torch.is_grad_enabled(), "switched gradients off")
        after = (torch.random.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002  # watched, not used
        _demand(torch.equal(before[0], after[0]), f"in {norm} it drew from torch's global random numbers")
        drew = not all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))  # type: ignore[arg-type]
        _demand(not drew, f"in {norm} it drew from numpy's global random numbers")
        _demand(before[2] == after[2], f"in {norm} it drew from Python's global random numbers")
        _demand(
            torch.equal(given, x) and given.grad is None and not given.requires_grad,
            f"in {norm} it altered the examples",
        )
        _demand(torch.equal(labels, y) and torch.equal(mask, known_mask), f"in {norm} it altered the goal or the mask")
        _demand(
            isinstance(region.radius, Tensor) and radii is not None and torch.equal(region.radius, radii),
            f"in {norm} it altered the radii",
        )
        _demand(not points.requires_grad, f"in {norm} its points carry a gradient")
        _demand(
            points.untyped_storage().data_ptr() != given.untyped_storage().data_ptr(),
            f"in {norm} its points share the examples' memory",
        )
        same = all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
        _demand(same and net.training, f"in {norm} it altered the user's model")
        _demand(
            all(parameter.grad is None for parameter in net.parameters()), f"in {norm} it left gradients in the model"
        )


def takes_one_example_or_none(attack: Attack) -> None:
    """Batches of one example, and of none, are batches."""
    for norm in _norms(attack):
        for count in (0, 1):
            outcome = run(attack, pictures().take(torch.arange(count)), _ball(norm))
            _demand(len(outcome.points) == count, f"gave {len(outcome.points)} points for {count} examples in {norm}")


def takes_what_is_misclassified(attack: Attack) -> None:
    """Where every allowed point reaches the goal, the example comes back broken."""
    setting = pictures()
    logits = setting.victim.logits(setting.x, torch.arange(len(setting)))
    wrong = logits.argmin(dim=1)
    for norm in _norms(attack):
        small = Ball(norm, {Norm.LINF: 1e-4, Norm.L2: 1e-3, Norm.L1: 1e-3, Norm.L0: 0.0}[norm])
        outcome = run(attack, setting, small, goal=Untargeted(wrong))
        _demand(
            bool(outcome.broken.all()), f"in {norm} it gave back correct points for examples that are misclassified"
        )


def survives_zero_gradients(attack: Attack) -> None:
    """On a model that answers the same everywhere it breaks nothing and gives allowed points."""
    for where, ball in _balls(attack):
        outcome = run(attack, constant(), ball)
        _demand(bool(outcome.allowed.all()), f"in {where} it left the region of a constant model")
        _demand(not bool(outcome.broken.any()), f"in {where} it broke a constant model")


def survives_answers_that_are_not_numbers(attack: Attack) -> None:
    """Near points whose scores are NaN it gives allowed points, and none of them counts as broken."""
    setting = with_holes()
    for where, ball in _balls(attack):
        outcome = run(attack, setting, ball)
        _demand(bool(outcome.allowed.all()), f"in {where} it left the region near NaN scores")
        logits = setting.victim.logits(outcome.points, torch.arange(len(setting)))
        sane = logits.isfinite().all(dim=1)
        _demand(bool(sane[outcome.broken].all()), f"in {where} a point with NaN scores was judged broken")
        _demand(bool(sane.all()), f"in {where} it prefers a point with NaN scores to the example itself")


def survives_saving(attack: Attack) -> None:
    """On the grid of 255 steps its points are the same after they were saved as bytes."""
    setting = pictures()
    wide = {norm: RADII[norm] + 2 if norm is Norm.L0 else 2 * RADII[norm] for norm in Norm}
    for where, ball in _balls(attack):
        region = Ball(ball.norm, wide[ball.norm] if ball.finite else math.inf, grid=255)
        outcome = run(attack, setting, region)
        loaded = (outcome.points * 255).round().to(torch.uint8).to(torch.float64) / 255
        saved = judge(setting.victim, loaded, setting.x, Untargeted(setting.y), region, torch.arange(len(setting)))
        on_grid = torch.allclose(loaded, outcome.points, rtol=0, atol=1e-12)
        _demand(on_grid, f"in {where} its points lie beside the grid")
        _demand(torch.equal(saved.broken, outcome.broken), f"in {where} saving as bytes undid a success")


def refuses_what_it_cannot_do(attack: Attack) -> None:
    """Other norms, and radii without an end where it cannot use them, are refused with ThreatError, less access with AccessError.

    An attack may also do with less access than it declares: the meter sees to it that it asks for no more than it may.
    """
    setting = pictures()
    for norm in sorted(set(Norm) - attack.norms, key=str):
        try:
            run(attack, setting, _ball(norm))
        except ThreatError:
            continue
        raise AssertionError(f"expected ThreatError from a {norm} ball, which it does not declare, got a result")
    for norm in _norms(attack):
        try:
            outcome = run(attack, setting, Ball(norm, math.inf))
        except ThreatError:
            _demand(
                not seeks_smallest(attack),
                f"says that it seeks the smallest change, but refuses {norm} without a radius",
            )
            continue
        _demand(bool(outcome.allowed.all()), f"in {norm} with an infinite radius its points leave the box")
    if attack.access > Access.LABELS:
        meter = Meter(setting.victim, len(setting), access=Access(attack.access - 1))
        with contextlib.suppress(AccessError):
            run(attack, setting, _ball(min(attack.norms, key=str)), meter=meter)


LAWS: tuple[Law, ...] = (
    says_what_it_is,
    stays_in_the_region,
    stays_in_a_ball_that_is_a_point,
    repeats_itself,
    does_not_depend_on_the_batch,
    does_not_depend_on_the_order,
    takes_a_radius_for_each_example,
    keeps_its_budget,
    is_not_worse_with_more_budget,
    reaches_targets_that_count,
    touches_nothing,
    takes_one_example_or_none,
    takes_what_is_misclassified,
    survives_zero_gradients,
    survives_answers_that_are_not_numbers,
    survives_saving,
    refuses_what_it_cannot_do,
)


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _norms(attack: Attack) -> list[Norm]:
    return sorted(attack.norms, key=str)


def _ball(norm: Norm, factor: float = 1) -> Ball:
    return Ball(norm, RADII[norm] * factor)


def _balls(attack: Attack) -> list[tuple[str, Ball]]:
    """The usual ball of each norm and, for attacks that seek the smallest change, the one without radius."""
    radii = {"": RADII} | ({" without a radius": dict.fromkeys(Norm, math.inf)} if seeks_smallest(attack) else {})
    return [(f"{norm}{how}", Ball(norm, radius[norm])) for norm in _norms(attack) for how, radius in radii.items()]


def _each(norm: Norm, count: int) -> Tensor:
    """Radii from 0 to twice the usual one; whole for L0."""
    radii = RADII[norm] * torch.linspace(0, 2, count, dtype=torch.float64)
    return radii.round() if norm is Norm.L0 else radii


def _mask(setting: Setting) -> Tensor:
    keep = torch.arange(flat(setting.x).shape[1]) % 3 != 0
    return keep.reshape(1, *setting.x.shape[1:])


def _regions(norm: Norm, setting: Setting) -> dict[str, Ball]:
    n = len(setting)
    masks = torch.stack([_mask(setting)[0].roll(row, dims=-1) for row in range(n)])
    return {
        "plain": _ball(norm),
        "a wide one": Ball(norm, 10 * RADII[norm]),
        "a mask": Ball(norm, RADII[norm], mask=_mask(setting)),
        "a grid": Ball(norm, RADII[norm], grid=255),
        "a radius for each example": Ball(norm, _each(norm, n)),
        "masks, a grid and radii": Ball(norm, _each(norm, n), mask=masks, grid=255),
    }


def _endless(norm: Norm, setting: Setting) -> dict[str, Ball]:
    return {
        "no radius": Ball(norm),
        "no radius, a mask": Ball(norm, mask=_mask(setting)),
        "no radius, a mask and a grid": Ball(norm, mask=_mask(setting), grid=255),
    }


def _costs(outcome: Outcome) -> list[list[int]]:
    return [outcome.queries.tolist(), outcome.forwards.tolist(), outcome.backwards.tolist()]


def _joined(parts: list[Outcome]) -> Outcome:
    return Outcome(*(torch.cat([getattr(part, name) for part in parts]) for name in Outcome.__dataclass_fields__))


def _same(whole: Outcome, other: Outcome, how: str) -> None:
    _demand(torch.equal(whole.broken, other.broken), f"{how}, other examples are broken")
    _demand(_costs(whole) == _costs(other), f"{how}, the cost of an example changes")
    _demand(torch.allclose(whole.margin, other.margin, rtol=0, atol=MARGIN_SLACK), f"{how}, margins change")
    _demand(torch.allclose(whole.points, other.points, rtol=0, atol=POINTS_SLACK), f"{how}, points change")
