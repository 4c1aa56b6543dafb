"""What every victim has beside the access protocols: a name, a fingerprint, and the guesses made about it."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hauberk._shapes import Batch, Labels, Logits, PerExample, Rows
from hauberk.errors import ModelError, SettingError
from hauberk.threat import Access

__all__ = [
    "UNLIMITED",
    "Victim",
    "check_bounds",
    "cost_of_pullback",
    "first_line",
    "resolve_device",
    "resolve_dtype",
    "trouble",
    "unlimited",
]


UNLIMITED = 2**62
"""What `left` answers where nothing limits the queries."""


@runtime_checkable
class Victim(Protocol):
    """A classifier that can be attacked. `TorchVictim` adds `pullback`; the others give scores or labels only."""

    @property
    def name(self) -> str: ...
    @property
    def bounds(self) -> tuple[float, float]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def access(self) -> Access:
        """The most that may be asked; final once the victim has answered or was probed."""
        ...

    @property
    def classes(self) -> int | None:
        """How many classes there are; None before the first answer, and for victims that give labels only."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Every guess made about the model, each a sentence; grows with the first answer."""
        ...

    @property
    def forwards_per_query(self) -> int: ...
    @property
    def description(self) -> dict[str, Any]:
        """What is attacked, as JSON can hold it."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 in hex over weights, structure and preprocessing; the same in every process and on every device."""
        ...

    def labels(self, x: Batch, rows: Rows) -> Labels: ...
    def logits(self, x: Batch, rows: Rows) -> Logits: ...
    def left(self, rows: Rows) -> PerExample: ...
    def probe(self, x: Batch) -> None:
        """Ask for the answers to a few examples and refuse a model that is no classifier; see `check.probe`."""
        ...


def unlimited(rows: Rows) -> Tensor:
    """(B,) int64 of `UNLIMITED`: what a plain victim has left."""
    return torch.full_like(rows, UNLIMITED, dtype=torch.int64)


def cost_of_pullback(victim: Any) -> tuple[int, int]:
    """The forwards of a row of `pullback`, and the backwards of each call of its function: those of a query, or what the victim
    says where a gradient costs more than an answer."""
    each: int = victim.forwards_per_query
    return getattr(victim, "cost_of_pullback", (each, each))


def check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """Two finite floats, the first smaller.

    Raises:
        SettingError: they are not.
    """
    try:
        low, high = (float(value) for value in bounds)
    except (TypeError, ValueError) as error:
        raise SettingError(f"bounds are two numbers (low, high), got {bounds!r}") from error
    if not (-float("inf") < low < high < float("inf")):
        raise SettingError(f"bounds are two finite numbers, the lower first, got ({low:g}, {high:g})")
    return low, high


def resolve_device(device: str | torch.device | None, default: torch.device) -> torch.device:
    """The device meant, or `default` where None.

    Raises:
        SettingError: there is no such device.
    """
    if device is None:
        return default
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingError(f"device {str(device)!r} cannot be used here: {first_line(error)}; use 'cpu'") from error


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """float32 or float64, or None as given.

    Raises:
        SettingError: another dtype.
    """
    known = {"float32": torch.float32, "float64": torch.float64}
    if isinstance(dtype, str):
        dtype = known.get(dtype.removeprefix("torch."), torch.int8)
    if dtype is not None and dtype not in known.values():
        raise SettingError("dtype is float32 or float64: an attack's verdict is given in full precision")
    return dtype


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return (text if len(text) <= 300 else text[:297] + "...").rstrip(".:;") or type(error).__name__


def trouble(name: str, x: Tensor, error: BaseException, hint: str = "") -> ModelError:
    """The error for a model that failed on the batch x: the first line of the cause, and what is usually wrong."""
    return ModelError(
        f"{name!r} failed on a batch of shape {tuple(x.shape)}: {type(error).__name__}: {first_line(error)}"
        f"{'; ' + hint if hint else ''}"
    )
