"""The contract of an attack: `check(MyAttack(...))` runs every law, and on victims with a known optimum found / optimal.

The laws are those of the design: stays in the region; same seed, same result; batch split or permuted, same result; never
over budget; more budget, not worse; targeted success implies untargeted; nothing touched; degenerate batches; 8-bit saving.
"""

import math
from collections.abc import Mapping

import torch

from hauberk._rng import Streams
from hauberk.attacks import Attack, name_of
from hauberk.attacks._attack import seeks_smallest
from hauberk.testing.closed_form import LinearVictim, ThresholdVictim
from hauberk.testing.laws import LAWS, Law
from hauberk.testing.setting import Setting, run
from hauberk.threat import Ball, Norm

__all__ = ["breaks_at", "check", "check_optimum", "laws", "linear_settings"]

_BELOW = 1 - 1e-4
"""Of the optimal distance, where nothing can be broken: below what `Ball.contains` forgives, 1e-5 of the radius and 2**-22."""


def laws() -> tuple[Law, ...]:
    """Every law, as a function of an attack that raises AssertionError where the attack breaks it."""
    return LAWS


def check(attack: Attack, *, bars: Mapping[Norm, tuple[float, float]] | None = None) -> None:
    """Hold an attack to the whole contract.

    Give it cheap settings: the contract runs it a few hundred times, on nets of a few dozen inputs.

    Args:
        attack: with its settings.
        bars: for each norm, the largest found / optimal that passes on linear victims of two classes, and of five, where a
            climb may follow the wrong rival; a norm without them is only held to breaking nothing below the optimum.

    Raises:
        AssertionError: names every law that is broken, and how.
    """
    broken: list[str] = []
    for law in LAWS:
        try:
            law(attack)
        except AssertionError as error:
            broken.append(f"{law.__name__}: {error}")
        except Exception as error:  # an attack may fail in any way, and the other laws still want to be heard
            broken.append(f"{law.__name__}: raised {type(error).__name__}: {error}")
    for norm in sorted(attack.norms, key=str):
        try:
            check_optimum(attack, norm, None if bars is None else bars.get(norm))
        except AssertionError as error:
            broken.append(f"check_optimum: {error}")
    if broken:
        raise AssertionError(f"{name_of(attack)} breaks its contract\n" + "\n".join(f"  {line}" for line in broken))


def linear_settings() -> dict[str, tuple[LinearVictim, Setting]]:
    """Linear victims in float64 with examples: vectors, pictures, values at the walls of the box, and five classes."""
    found: dict[str, tuple[LinearVictim, Setting]] = {}
    for seed, (what, shape, classes, spread) in enumerate(
        (
            ("vectors", (12,), 2, 0.5),
            ("pictures", (3, 6, 5), 2, 0.4),
            ("walls", (1, 5, 5), 2, 1.0),
            ("classes", (1, 4, 6), 5, 0.6),
        )
    ):
        features = math.prod(shape)
        victim = LinearVictim.random(seed, features, classes)
        ids = torch.arange(24)
        noise = Streams(seed, ids, "contract linear").uniform(ids, (features,), dtype=torch.float64) - 0.5
        towards = (victim.weights - victim.weights.mean(dim=0))[ids % classes].sign()  # away from the boundaries
        x = (0.5 + spread * noise + 0.4 * (ids / 24)[:, None] * towards).clamp(0, 1).reshape(-1, *shape)
        if what == "walls":
            x = torch.where(x < 1 / 3, 0.0, torch.where(x > 2 / 3, 1.0, x))
        found[what] = victim, Setting(victim, x, victim.labels(x, ids), ids)
    return found


def breaks_at(
    attack: Attack, victim: LinearVictim | ThresholdVictim, setting: Setting, norm: Norm, ratio: float
) -> list[int]:
    """The examples that the attack breaks when each has `ratio` times its optimal distance as its radius.

    In L0, which counts, the radius is rounded up above the optimum and is one less below it. Examples that nothing in the box
    can break keep the box as their radius.
    """
    optimal = victim.optimal_distance(setting.x, setting.y, norm)
    if norm is Norm.L0:
        radius = torch.ceil(optimal * ratio - 1e-9) if ratio >= 1 else optimal - 1
    else:
        radius = optimal * ratio
    far = {Norm.LINF: 1.0, Norm.L2: 100.0, Norm.L1: 1000.0, Norm.L0: 1000.0}[norm]
    radius = torch.where(optimal.isfinite(), radius, torch.full_like(radius, far))
    return run(attack, setting, Ball(norm, radius, victim.bounds)).broken.nonzero().flatten().tolist()


def check_optimum(attack: Attack, norm: Norm, bars: tuple[float, float] | None) -> None:
    """Hold 1 <= found / optimal <= bar on victims whose optimum is known; `bars` as in `check`.

    Raises:
        AssertionError: an example fell below its optimal distance, or stood at `bar` times that; without a radius, an attack that
            seeks the smallest change found a larger one than `bar` times the optimum.
    """
    for what, (victim, setting) in linear_settings().items():
        below = breaks_at(attack, victim, setting, norm, _BELOW)
        if below:
            raise AssertionError(f"broke the examples {below} of {what} in {norm} below their optimal distance")
        if bars is not None:
            bar = bars[0] if victim.classes == 2 else bars[1]
            possible = victim.optimal_distance(setting.x, setting.y, norm).isfinite().nonzero().flatten().tolist()
            above = set(breaks_at(attack, victim, setting, norm, bar))
            standing = [row for row in possible if row not in above]
            if standing:
                raise AssertionError(
                    f"left {len(standing)} of {len(possible)} examples of {what} standing in {norm} at {bar:g} times the optimum"
                )
            if seeks_smallest(attack):
                _check_smallest(attack, what, victim, setting, norm, bar)
    victim = ThresholdVictim((0.2, 0.35, 0.8))
    x = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)[:, None]
    setting = Setting(victim, x, victim.labels(x, torch.arange(21)), torch.arange(21))
    below = breaks_at(attack, victim, setting, norm, _BELOW)
    if below:
        raise AssertionError(f"broke the examples {below} of the one-dimensional victim in {norm} below their distance")


def _check_smallest(attack: Attack, what: str, victim: LinearVictim, setting: Setting, norm: Norm, bar: float) -> None:
    """Without a radius every example that can be broken is, by a change of optimal to `bar` times the optimal size."""
    optimal = victim.optimal_distance(setting.x, setting.y, norm)
    region = Ball(norm, box=victim.bounds)
    outcome = run(attack, setting, region)
    size = torch.where(outcome.broken, region.size(outcome.points, setting.x), torch.inf)
    possible = optimal.isfinite()
    most = torch.ceil(optimal * bar - 1e-9) if norm is Norm.L0 else optimal * bar
    above = (possible & (size > most)).nonzero().flatten().tolist()
    if above:
        worst = float((size / optimal)[possible].max())
        raise AssertionError(
            f"without a radius, its changes of {len(above)} of {int(possible.sum())} examples of {what} in {norm} are larger than "
            f"{bar:g} times the optimum, the largest {worst:.4g} times"
        )
    if bool((size[possible] < optimal[possible] * _BELOW).any()):
        raise AssertionError(f"without a radius, it broke an example of {what} in {norm} below its optimal distance")
