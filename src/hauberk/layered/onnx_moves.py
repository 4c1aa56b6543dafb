"""What ONNX operators that only move values do, on arrays: shapes, slices, gathers, padding, upsampling; and arithmetic of constants.

Each mover takes an array and gives an array. Applied to positions, it says where each value of the result comes from.
Source: the ONNX operator specification, opsets 7 to 21.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from hauberk.errors import ModelError
from hauberk.layered.onnx_file import LARGEST, Array

__all__ = ["ARITHMETIC", "cast", "depth_to_space", "nearest", "padded", "sliced", "space_to_depth", "target_shape"]


def target_shape(shape: Sequence[int], wanted: Sequence[int], zero_is_zero: bool = False) -> tuple[int, ...]:
    """What Reshape means by `wanted`: 0 copies an axis, -1 is what is left."""
    if not zero_is_zero:
        wanted = [shape[axis] if size == 0 and axis < len(shape) else size for axis, size in enumerate(wanted)]
    known = math.prod(size for size in wanted if size != -1)
    found = tuple(math.prod(shape) // known if size == -1 and known else size for size in wanted)
    if any(size < 0 for size in found) or math.prod(found) != math.prod(shape):
        raise ModelError(f"it reshapes {tuple(shape)} to {tuple(wanted)}, which do not have the same number of values")
    return found


def sliced(values: Array, starts: Array, ends: Array, axes: Array, steps: Array) -> Array:
    """Slices along several axes."""
    cuts: list[slice] = [slice(None)] * values.ndim
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        size = values.shape[axis]
        first = start + size if start < 0 else start
        last = end + size if end < 0 else end
        if step > 0:
            cuts[axis] = slice(max(first, 0), max(last, 0), step)
        else:
            cuts[axis] = slice(min(max(first, 0), size - 1), None if last < 0 else last, step)
    return values[tuple(cuts)]


def padded(values: Array, amounts: Array, mode: str, fill: Any) -> Array:
    """With `amounts` of (first axes..., last axes...) added; negative ones cut."""
    half = len(amounts) // 2
    pairs = [(int(a), int(b)) for a, b in zip(amounts[:half], amounts[half:], strict=True)]
    cuts = tuple(slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in zip(pairs, values.shape, strict=True))
    grown = [(max(a, 0), max(b, 0)) for a, b in pairs]
    if math.prod(size + a + b for size, (a, b) in zip(values.shape, grown)) > LARGEST:
        raise ModelError(f"it pads {values.shape} to more than {LARGEST} values")
    if mode == "constant":
        return np.pad(values[cuts], grown, constant_values=fill)
    if mode not in ("edge", "reflect", "wrap"):
        raise ModelError(f"it pads by {mode!r}, expected constant, edge, reflect or wrap")
    kind: Any = mode
    return np.pad(values[cuts], grown, mode=kind)


def depth_to_space(values: Array, block: int, crd: bool) -> Array:
    """(N, C * b * b, H, W) to (N, C, H * b, W * b)."""
    n, c, h, w = values.shape
    inner = c // (block * block)
    if crd:
        cut = values.reshape(n, inner, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    else:
        cut = values.reshape(n, block, block, inner, h, w).transpose(0, 3, 4, 1, 5, 2)
    return cut.reshape(n, inner, h * block, w * block)


def space_to_depth(values: Array, block: int) -> Array:
    """(N, C, H, W) to (N, C * b * b, H / b, W / b)."""
    n, c, h, w = values.shape
    cut = values.reshape(n, c, h // block, block, w // block, block).transpose(0, 3, 5, 1, 2, 4)
    return cut.reshape(n, c * block * block, h // block, w // block)


def nearest(values: Array, sizes: Sequence[int], scales: Sequence[float], coordinates: str, rounding: str) -> Array:
    """Resize to `sizes` by the nearest value."""
    for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
        old = values.shape[axis]
        if size == old and scale == 1:
            continue
        at = np.arange(size, dtype=np.float64)
        if coordinates == "asymmetric":
            at = at / scale
        elif coordinates == "align_corners":
            at = at * (old - 1) / (size - 1) if size > 1 else at * 0
        elif coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and size > 1):
            at = (at + 0.5) / scale - 0.5
        elif coordinates == "pytorch_half_pixel":
            at = at * 0
        else:
            raise ModelError(f"it resizes with coordinates {coordinates!r}; export it with asymmetric or half_pixel")
        if rounding == "round_prefer_floor":
            at = np.ceil(at - 0.5)
        elif rounding == "round_prefer_ceil":
            at = np.floor(at + 0.5)
        else:
            at = np.floor(at) if rounding == "floor" else np.ceil(at)
        values = np.take(values, np.clip(at, 0, old - 1).astype(np.int64), axis=axis)
    return values


def cast(values: Array, kind: int) -> Array:
    """To an ONNX element type."""
    names = {1: "f4", 2: "u1", 3: "i1", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8", 12: "u4", 13: "u8"}
    if kind not in names:
        raise ModelError(f"it casts to the ONNX type {kind}, expected floats or integers")
    return values.astype(names[kind])


def _divide(a: Array, b: Array) -> Array:
    if np.issubdtype(a.dtype, np.floating):
        return a / b
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)


def _span(start: Array, limit: Array, step: Array) -> Array:
    first, last, by = (side.reshape(()).item() for side in (start, limit, step))
    if (last - first) / by > LARGEST:
        raise ModelError(f"it counts from {first} to {last}, which is more than {LARGEST} values")
    return np.arange(first, last, by, dtype=start.dtype)


def _relu(x: Array) -> Array:
    return np.maximum(x, np.zeros((), x.dtype))


ARITHMETIC: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "Abs": np.abs,
        "Add": np.add,
        "And": np.logical_and,
        "Ceil": np.ceil,
        "Cos": np.cos,
        "Div": _divide,
        "Equal": np.equal,
        "Exp": np.exp,
        "Floor": np.floor,
        "Greater": np.greater,
        "GreaterOrEqual": np.greater_equal,
        "Less": np.less,
        "LessOrEqual": np.less_equal,
        "Log": np.log,
        "MatMul": np.matmul,
        "Mod": np.mod,
        "Mul": np.multiply,
        "Neg": np.negative,
        "Not": np.logical_not,
        "Or": np.logical_or,
        "Pow": lambda a, b: np.power(a, b.astype(a.dtype)),
        "Range": _span,
        "Reciprocal": lambda a: 1 / a,
        "Relu": _relu,
        "Round": np.round,
        "Sigmoid": lambda a: 1 / (1 + np.exp(-a)),
        "Sign": np.sign,
        "Sin": np.sin,
        "Sqrt": np.sqrt,
        "Sub": np.subtract,
        "Tanh": np.tanh,
        "Where": np.where,
    }
)
"""Operators that are computed only on constants, value by value."""
