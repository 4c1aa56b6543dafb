"""From stored numbers to inputs: 8-bit values are mapped to the bounds, floats are taken as they are, the rest refused."""

import math

import numpy as np

from hauberk.errors import DataError, SettingError

__all__ = ["Layout", "check_bounds", "check_finite", "in_bounds", "recognise_layout", "value_notes"]

_EXACT = 2**24  # every whole number up to here is a float32
_CHANNELS = (1, 3, 4)


def check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """The bounds as two floats, or a SettingError."""
    try:
        low, high = (float(value) for value in bounds)
    except (TypeError, ValueError):
        raise SettingError(f"bounds are two numbers (low, high), got {bounds!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SettingError(f"bounds need finite low < high, got ({low:g}, {high:g})")
    return low, high


def value_notes(dtype: np.dtype, bounds: tuple[float, float], what: str) -> tuple[str, ...]:
    """What is done with values of this dtype, where that is a guess.

    Raises:
        DataError: values of this dtype cannot be inputs.
    """
    if dtype.hasobject:
        raise DataError(
            f"{what} hold Python objects, which would need unpickling, and unpickling can run any code; "
            "save them as one uint8 or float array"
        )
    if dtype == np.uint8:
        if bounds == (0.0, 1.0):
            return ()
        return (f"{what} are 8-bit, so 0 to 255 were mapped to {bounds[0]:g} to {bounds[1]:g}",)
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return ()
    if dtype.kind in "iub":
        return (
            f"{what} are {dtype.name}, taken as numbers as they are; only uint8 is mapped from 0..255 to the bounds",
        )
    raise DataError(f"{what} must be uint8 or float numbers, got {dtype}")


def in_bounds(raw: np.ndarray, bounds: tuple[float, float], name: str) -> np.ndarray:
    """A new C-ordered float32 array (float64 where `raw` is), 8-bit values mapped so that 0 is low and 255 is high."""
    if raw.dtype == np.uint8:
        low, high = bounds
        table = (np.arange(256) * (high - low) / 255 + low).astype(np.float32)
        table[0], table[255] = low, high
        return np.take(table, raw)
    if raw.dtype.kind == "f" and raw.dtype.itemsize == 8:
        return np.array(raw, dtype=np.float64, order="C")
    wide = raw.dtype.kind in "iu" and raw.dtype.itemsize > 2 and raw.size > 0
    if wide and max(int(raw.max()), -int(raw.min())) > _EXACT:
        raise DataError(
            f"{name} holds whole numbers above {_EXACT}, which lose digits as float32; store them as float64"
        )
    return np.array(raw, dtype=np.float32, order="C")


def check_finite(values: np.ndarray, ids: np.ndarray, name: str, noun: str = "example") -> None:
    """Refuse NaN and infinities, naming the first example that holds one."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        first = int(bad.argmax())
        kind = "NaN" if np.isnan(values[first]).any() else "an infinite value"
        raise DataError(f"expected finite values, got {kind} in {noun} {int(ids[first])} of {name}; repair or drop it")


class Layout:
    """How stored examples become (channels, height, width)."""

    def __init__(self, shape: tuple[int, ...], kind: str) -> None:
        self.shape, self._kind = shape, kind

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        if self._kind == "nhwc":
            return raw.transpose(0, 3, 1, 2)
        return raw[:, None] if self._kind == "nhw" else raw


def recognise_layout(shape: tuple[int, ...], what: str) -> tuple[Layout, tuple[str, ...]]:
    """The layout of stored examples of this shape (without the first axis), and a note where it is a guess.

    Two axes are one channel of a picture. Of three, the last holds the channels if it has length 1, 3 or 4 and the first
    has not; otherwise the first does.
    """
    spelled = "x".join(map(str, shape))
    if len(shape) == 2:
        layout = Layout((1, *shape), "nhw")
        return layout, (
            f"{what} are {spelled}, taken as pictures of one channel, so an example has shape {layout.shape}",
        )
    if len(shape) == 3:
        first, last = shape[0] in _CHANNELS, shape[-1] in _CHANNELS
        if last and not first:
            layout = Layout((shape[2], shape[0], shape[1]), "nhwc")
            return layout, (
                f"{what} are {spelled}, taken as height x width x channels, so an example has shape {layout.shape}",
            )
        if last and first:
            return Layout(shape, "nchw"), (
                f"{what} are {spelled}, which fits two layouts; taken as channels x height x width",
            )
    return Layout(shape, "as is"), ()
