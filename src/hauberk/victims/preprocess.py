"""Normalisation inside the victim, so that x always lives in `bounds`: the model is given (x - mean) / std."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hauberk.errors import ModelError, SettingError

__all__ = ["Normalisation", "Statistic"]

Statistic: TypeAlias = float | Sequence[float] | Tensor | Any
"""One number, one per channel, or an array of the input's shape; in the units of the bounds."""


@dataclass(frozen=True, eq=False)
class Normalisation:
    """(x - mean) / std, or nothing.

    Args:
        mean, std: float64 on the CPU, 0-d, (C,), or of the input's shape; both None for no normalisation.
        notes: what looks odd about them.
    """

    mean: Tensor | None = None
    std: Tensor | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, mean: Statistic | None, std: Statistic | None, bounds: tuple[float, float]) -> "Normalisation":
        """Read the `mean=` and `std=` of `wrap`; one alone means 0 or 1 for the other.

        Raises:
            SettingError: not numbers, std not positive, different lengths, or values that are in other units than bounds.
        """
        if mean is None and std is None:
            return cls()
        m = _numbers("mean", 0.0 if mean is None else mean)
        s = _numbers("std", 1.0 if std is None else std)
        if bool((s <= 0).any()):
            raise SettingError(f"std must be above 0, got {_list(s)}")
        if m.ndim and s.ndim and m.shape != s.shape:
            raise SettingError(f"mean and std must have the same shape, got {tuple(m.shape)} and {tuple(s.shape)}")
        low, high = bounds
        if bool(((m < low) | (m > high)).any()):
            raise SettingError(
                f"mean {_list(m)} lies outside the bounds [{low:g}, {high:g}]; mean and std are in the units of the bounds"
                + (", so divide them by 255" if float(m.max()) > 2 and high <= 1 else "")
            )
        notes: tuple[str, ...] = ()
        if high - low > 100 and float(torch.maximum(m.abs(), s).max()) <= 1:
            odd = (
                f"mean {_list(m)} and std {_list(s)} are small for bounds [{low:g}, {high:g}]; they are taken in the units of "
                f"the bounds: multiply them by {high - low:g} if they were measured on values in [0, 1]."
            )
            notes = (odd,)
        return cls(m, s, notes)

    @property
    def absent(self) -> bool:
        """True where x goes to the model as it is."""
        return self.mean is None

    def fit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mean and std shaped to broadcast over x, in its dtype, on its device.

        Raises:
            ModelError: their length is not that of x's channels.
        """
        assert self.mean is not None
        assert self.std is not None
        return _shaped("mean", self.mean, x), _shaped("std", self.std, x)

    def __call__(self, x: Tensor) -> Tensor:
        if self.mean is None:
            return x
        mean, std = self.fit(x)
        return (x - mean) / std

    @property
    def description(self) -> dict[str, Any]:
        """mean and std as JSON can hold them."""
        return {
            "mean": None if self.mean is None else self.mean.tolist(),
            "std": None if self.std is None else self.std.tolist(),
        }


def _numbers(name: str, value: Statistic) -> Tensor:
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingError(f"{name} is a number or one number per channel, got {value!r}") from error
    if numbers.numel() == 0 or not bool(torch.isfinite(numbers).all()):
        raise SettingError(f"{name} must hold finite numbers, got {_list(numbers)}")
    return numbers.reshape(()) if numbers.shape == (1,) else numbers


def _list(values: Tensor) -> str:
    numbers = [f"{value:g}" for value in values.flatten()[:4].tolist()]
    return ", ".join(numbers) + (", ..." if values.numel() > 4 else "")


def _shaped(name: str, value: Tensor, x: Tensor) -> Tensor:
    value = value.to(x)
    if value.ndim == 0:
        return value
    if value.ndim == 1:
        if x.ndim < 2 or x.shape[1] != len(value):
            raise ModelError(
                f"{name} has {len(value)} values, but a batch of shape {tuple(x.shape)} has "
                f"{x.shape[1] if x.ndim > 1 else 0} channels; give one value per channel, or one for all"
            )
        return value.reshape(-1, *(1,) * (x.ndim - 2))
    try:
        torch.broadcast_shapes(value.shape, x.shape[1:])
    except RuntimeError as error:
        raise ModelError(
            f"{name} of shape {tuple(value.shape)} does not fit inputs of shape {tuple(x.shape[1:])}"
        ) from error
    return value
