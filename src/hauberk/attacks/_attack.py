"""What an attack is, and the checks of settings that every attack file shares."""

import math
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, PerExample
from hauberk.errors import SettingError, ThreatError
from hauberk.threat import Access, Ball, Goal, Norm, Region

__all__ = [
    "Attack",
    "ball_of",
    "can_continue",
    "finite",
    "name_of",
    "not_negative",
    "plain_scalar",
    "positive",
    "seeks_smallest",
    "settings_of",
    "step_of",
    "whole_number",
]


class Attack(Protocol):
    """A frozen dataclass of settings that proposes one point per example; the judge decides what the points are worth.

    `access` is the least it needs of a victim, `norms` what it can measure changes in. One that seeks the smallest change, and so
    takes a threat without radius, also says `smallest = True`; one that can go on from a point besides the example says
    `continues = True` and takes these points as `starts`.
    """

    access: ClassVar[Access]
    norms: ClassVar[frozenset[Norm]]

    def __call__(self, victim: Any, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch: ...


def name_of(attack: object) -> str:
    """The name an attack has in ledgers: that of its file."""
    return type(attack).__module__.rsplit(".", 1)[-1]


def settings_of(attack: object) -> dict[str, Any]:
    """The settings of an attack, by name; models and tensors among them by what they are."""
    if is_dataclass(attack) and not isinstance(attack, type):
        return {field.name: _told(getattr(attack, field.name)) for field in fields(attack) if field.init}
    return {"repr": repr(attack)}


def _told(value: Any) -> Any:
    """A setting as words and numbers."""
    if hasattr(value, "access") and hasattr(value, "norms"):  # an attack inside an attack
        return {"name": name_of(value)} | settings_of(value)
    if hasattr(value, "fingerprint"):
        return f"{value.name} {value.fingerprint()[:12]}"
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, nn.Module):
        return type(value).__name__
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__} | {
            field.name: _told(getattr(value, field.name)) for field in fields(value)
        }
    return value


def finite(attack: object, region: Region) -> None:
    """Refuse a region without a radius."""
    if not region.finite:
        raise ThreatError(
            f"{name_of(attack)} needs a finite radius, got radius=inf; write one into the threat, for example linf:8/255"
        )


def seeks_smallest(attack: object) -> bool:
    """The attack looks for the smallest change, so that it needs no radius."""
    return bool(getattr(attack, "smallest", False))


def can_continue(attack: object) -> bool:
    """The attack can go on from points that are known besides the examples."""
    return bool(getattr(attack, "continues", False))


def ball_of(attack: Attack, region: Region) -> Ball:
    """The region as the ball that an attack made for balls of certain norms needs, finite unless it seeks the smallest change;
    refuse any other."""
    if not seeks_smallest(attack):
        finite(attack, region)
    if not isinstance(region, Ball) or region.norm not in attack.norms:
        known = ", ".join(sorted(map(str, attack.norms)))
        got = str(region.norm) if isinstance(region, Ball) else type(region).__name__
        raise ThreatError(f"{name_of(attack)} works in balls of {known}, got {got}; see: hauberk list attacks")
    return region


def plain_scalar(value: Any) -> Any:
    """Numbers, truth values and words as Python's own, so that the same settings have one repr and one text in manifests.

    Anything else, an array or a tensor among them, is given back as it is.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return value.item() if isinstance(value, np.generic) else value


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """The value as an int; refuse what is no whole number (2.0 and True among them) or smaller than `least`."""
    given = plain_scalar(value)
    if isinstance(given, bool) or not isinstance(given, int) or (least is not None and given < least):
        wanted = "a whole number" if least is None else f"a whole number >= {least}"
        raise SettingError(f"expected {name} to be {wanted}, got {name}={value!r}")
    return given


def positive(attack: Any, *names: str) -> None:
    """Refuse settings that are not finite numbers > 0, or not whole where the field is; None passes as unset.

    Like `not_negative`, it first makes every setting of the attack plain.
    """
    _make_plain(attack)
    for name in names:
        value = getattr(attack, name)
        if value is not None and not (_is_number(value) and value > 0):
            raise SettingError(f"{name_of(attack)} needs {name} > 0, got {name}={value!r}")
        _whole(attack, name, value)


def not_negative(attack: Any, *names: str) -> None:
    """Refuse settings that are not finite numbers >= 0, or not whole where the field is."""
    _make_plain(attack)
    for name in names:
        value = getattr(attack, name)
        if not (_is_number(value) and value >= 0):
            raise SettingError(f"{name_of(attack)} needs {name} >= 0, got {name}={value!r}")
        _whole(attack, name, value)


def step_of(region: Region, step_size: float | None, share: float) -> float | PerExample:
    """The given step, or this share of the region's reach.

    In L0 the whole reach: `project` keeps the coordinates that moved most, so that after small steps those chosen first stay.
    """
    if step_size is not None:
        return float(step_size)
    counted = isinstance(region, Ball) and region.norm is Norm.L0
    return region.reach if counted else region.reach * share


def _make_plain(attack: Any) -> None:
    for field in fields(attack):
        object.__setattr__(attack, field.name, plain_scalar(getattr(attack, field.name)))


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)  # isfinite itself fails on an int beyond all floats


def _whole(attack: Any, name: str, value: object) -> None:
    counts = {field.name for field in fields(attack) if field.type is int}
    if name in counts and not isinstance(value, int):
        raise SettingError(f"{name_of(attack)} needs a whole number of {name}, got {name}={value!r}")
