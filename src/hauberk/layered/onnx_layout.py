"""ONNX operators that move values or give constants, on constants and live values alike."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from hauberk.errors import ModelError
from hauberk.layered.onnx_call import Call
from hauberk.layered.onnx_file import LARGEST, Array
from hauberk.layered.onnx_live import ErfValue, Live, Value, mixes
from hauberk.layered.onnx_moves import cast, depth_to_space, nearest, padded, sliced, space_to_depth, target_shape
from hauberk.layered.onnx_operators import Operator, Result
from hauberk.layered.ops import Concat, Pad

__all__ = ["LAYOUT"]

Move: TypeAlias = Callable[[Array], Array]


def _moved(call: Call, move: Move, batch: int | None) -> Value:
    x = call.arg(0)
    return call.values.moved(x, move, batch) if isinstance(x, Live) else move(x)


def _identity(call: Call) -> Value:
    return call.args[0] if isinstance(call.args[0], ErfValue) else call.arg(0)


def _cast(call: Call) -> Value:
    x, kind = call.arg(0), call.whole("to", 1)
    if isinstance(x, Live):
        if kind not in (1, 10, 11, 16):
            raise ModelError("it rounds what depends on the input, which has no slope; leave the cast out")
        return x
    return cast(x, kind)


def _reshape(call: Call) -> Value:
    x = call.arg(0)
    wanted = call.numbers("shape", 1)
    if wanted is None:
        raise ModelError("it does not say its shape; the file is damaged")
    fixed = bool(call.whole("allowzero", 0))
    if not isinstance(x, Live):
        return x.reshape(target_shape(x.shape, wanted, fixed))
    if call.values.fixed > 1 and x.batch == 0 and wanted[:1] == [call.values.fixed]:
        wanted = [1, *wanted[1:]]
    return call.values.reshape(x, target_shape(x.shape, wanted, fixed))


def _flatten(call: Call) -> Value:
    x, axis = call.arg(0), call.whole("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    shape = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    if not isinstance(x, Live):
        return x.reshape(shape)
    if axis == 0 and x.batch == 0 and not call.values.single:
        raise mixes("flattens")
    return call.values.reshape(x, shape)


def _squeeze(call: Call) -> Value:
    x, axes = call.arg(0), call.numbers("axes", 1)
    values, batch = call.values, x.batch if isinstance(x, Live) else None
    if axes is None:
        keep = -1 if values.single else batch
        gone = {axis for axis, size in enumerate(x.shape) if size == 1 and axis != keep}
    else:
        gone = {axis % x.ndim for axis in axes}
    if any(x.shape[axis] != 1 for axis in gone):
        raise ModelError(f"it squeezes the axes {sorted(gone)} of the shape {x.shape}, which are not all 1")
    shape = tuple(size for axis, size in enumerate(x.shape) if axis not in gone)
    if not isinstance(x, Live):
        return x.reshape(shape)
    if batch in gone:
        x, batch = values.whole(x, "squeezes"), None
    return values.moved(x, lambda at: at.reshape(shape), batch and batch - sum(axis < batch for axis in gone))


def _unsqueeze(call: Call) -> Value:
    x, axes = call.arg(0), call.numbers("axes", 1) or []
    rank = x.ndim + len(axes)
    new = {axis % rank for axis in axes}
    old = [axis for axis in range(rank) if axis not in new]
    sizes = dict(zip(old, x.shape, strict=True))
    batch = old[x.batch] if isinstance(x, Live) and x.batch is not None else None
    return _moved(call, lambda at: at.reshape([sizes.get(axis, 1) for axis in range(rank)]), batch)


def _transpose(call: Call) -> Value:
    x = call.arg(0)
    order = call.wholes("perm") or list(range(x.ndim))[::-1]
    return call.values.transpose(x, order) if isinstance(x, Live) else x.transpose(order)


def _slice(call: Call) -> Value:
    x = call.arg(0)
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes = call.numbers("axes", 3) or list(range(len(starts)))
    steps = call.numbers("steps", 4) or [1] * len(starts)
    cut = [np.asarray(part, dtype=object) for part in (starts, ends, [axis % x.ndim for axis in axes], steps)]
    return _moved(call, lambda at: sliced(at, *cut), x.batch if isinstance(x, Live) else None)


def _gather(call: Call) -> Value:
    x, index, axis = call.arg(0), call.const(1), call.whole("axis", 0)
    if index is None:
        raise ModelError("it has no indices; the file is damaged")
    batch = None
    if isinstance(x, Live):
        x, _ = call.values.axis(x, axis, "gathers along")
        batch = x.batch
        if batch is not None and axis % x.ndim < batch:
            batch += index.ndim - 1
        return call.values.moved(x, lambda at: np.take(at, index.astype(np.int64), axis=axis), batch)
    return np.take(x, index.astype(np.int64), axis=axis)


def _split(call: Call) -> Result:
    x, axis, sizes = call.arg(0), call.whole("axis", 0), call.numbers("split", 1)
    if sizes is None:
        count = call.whole("num_outputs", len(call.node.outputs))
        each = math.ceil(x.shape[axis] / count)
        sizes = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    if isinstance(x, Live):
        x, _ = call.values.axis(x, axis, "splits")
    found: list[Value] = []
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        part = np.arange(end - size, end)
        found.append(
            call.values.moved(x, lambda at, part=part: np.take(at, part, axis=axis), x.batch)
            if isinstance(x, Live)
            else np.take(x, part, axis=axis)
        )
    return found


def _pad(call: Call) -> Value:
    x, values = call.arg(0), call.values
    amounts = call.numbers("pads", 1) or []
    fill = call.const(2)
    value = call.number("value", 0.0) if fill is None or not fill.size else fill.item()
    axes = call.numbers("axes", 3)
    if axes is not None:
        whole = [0] * (2 * x.ndim)
        for position, axis in enumerate(axes):
            whole[axis % x.ndim], whole[axis % x.ndim + x.ndim] = amounts[position], amounts[position + len(axes)]
        amounts = whole
    mode, around = call.text("mode", "constant"), np.asarray(amounts)
    if not isinstance(x, Live):
        return padded(x, around, mode, value)
    if mode == "constant" and min(amounts) >= 0 and (x.batch is None or not any(amounts[x.batch :: x.ndim])):
        shape = tuple(size + a + b for size, a, b in zip(x.shape, amounts[: x.ndim], amounts[x.ndim :], strict=True))
        sides = [(a, b) for axis, (a, b) in enumerate(zip(amounts, amounts[x.ndim :])) if axis != x.batch]
        found = values.put(Pad(tuple(amount for pair in reversed(sides) for amount in pair)), shape, x.batch, x)
    else:
        found = values.moved(x, lambda at: padded(at, around, mode, -1), x.batch)
    if mode == "constant" and value != 0:
        outside = padded(np.zeros(x.shape), around, mode, value)
        found = values.scale(found, 1.0, outside)
    return found


def _expand(call: Call) -> Value:
    x, wanted = call.arg(0), call.numbers("shape", 1) or []
    if math.prod(max(size, 1) for size in wanted) > LARGEST:
        raise ModelError(f"it makes a value of more than {LARGEST} numbers")
    if not isinstance(x, Live):
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(wanted)))
    shape = np.broadcast_shapes(x.shape, tuple(wanted))
    batch = None if x.batch is None else x.batch + len(shape) - x.ndim
    if batch is not None and shape[batch] != 1:
        x, batch = call.values.whole(x, "repeats"), None
    return call.values.spread(x, shape, batch)


def _concat(call: Call) -> Value:
    parts, values = call.all(), call.values
    axis = call.whole("axis", 1)
    lives = [part for part in parts if isinstance(part, Live)]
    if not lives:
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)], axis=axis)
    axis %= lives[0].ndim
    if any(part.batch != lives[0].batch or part.batch == axis for part in lives):
        lives = [values.whole(part, "joins along") for part in lives]
    batch = lives[0].batch
    own: list[Live] = []
    waiting = iter(lives)
    for part in parts:
        if isinstance(part, Live):
            own.append(next(waiting))
        else:
            if batch is not None and part.shape[batch] != 1:
                raise mixes("joins along")
            held = values.constant(lives[0], part if batch is None else part.squeeze(batch))
            own.append(Live(held.place, part.shape, batch))
    shape = list(own[0].shape)
    shape[axis] = sum(part.shape[axis] for part in own)
    return values.put(Concat(axis - (batch is not None and axis > batch)), shape, batch, *own)


def _resize(call: Call) -> Value:
    x = call.arg(0)
    if call.text("mode", "nearest") != "nearest":
        raise ModelError("it interpolates, expected mode 'nearest'; export the net with nearest upsampling")
    if call.node.kind == "Upsample" or call.opset < 11:
        scales, sizes, where, rounding = call.const(1), None, "asymmetric", "floor"
        scales = np.asarray(call.attribute("scales", [], list)) if scales is None else scales
    else:
        scales, sizes = call.const(2), call.const(3)
        where = call.text("coordinate_transformation_mode", "half_pixel")
        rounding = call.text("nearest_mode", "round_prefer_floor")
    if call.wholes("axes") is not None:
        raise ModelError("it resizes some axes only by name; export it with opset 17 or less")
    if sizes is not None and sizes.size:
        target = [int(size) for size in sizes]
        ratio = [size / old for size, old in zip(target, x.shape, strict=True)]
    else:
        ratio = [float(scale) for scale in (np.ones(x.ndim) if scales is None else scales)]
        target = [math.floor(old * scale) for old, scale in zip(x.shape, ratio, strict=True)]
    if isinstance(x, Live) and x.batch is not None and call.values.fixed > 1 and target[0] == call.values.fixed:
        target[0], ratio[0] = 1, 1.0
    if min(target) < 1 or math.prod(target) > LARGEST:
        raise ModelError(f"it resizes to {target}, which has no values or more than {LARGEST}")
    return _moved(
        call, lambda at: nearest(at, target, ratio, where, rounding), x.batch if isinstance(x, Live) else None
    )


def _blocks(call: Call) -> Value:
    x, block = call.arg(0), call.whole("blocksize", 1)
    batch = x.batch if isinstance(x, Live) else None
    if call.node.kind == "SpaceToDepth":
        return _moved(call, lambda at: space_to_depth(at, block), batch)
    crd = call.text("mode", "DCR") == "CRD"
    return _moved(call, lambda at: depth_to_space(at, block, crd), batch)


def _shape(call: Call) -> Value:
    shape = call.arg(0).shape
    start, end = call.whole("start", 0), call.whole("end", len(shape))
    return np.asarray(shape[start:end], dtype=np.int64)


def _constant(call: Call) -> Value:
    held = call.node.attributes
    for name, dtype in (("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8"), ("value_ints", "i8")):
        if name in held:
            return np.asarray(held[name], dtype=dtype)
    return call.attribute("value", None, np.ndarray)


def _filled(call: Call) -> Value:
    shape = call.numbers("shape", 0) or []
    if any(size < 0 for size in shape) or math.prod(shape) > LARGEST:
        raise ModelError(f"it makes a constant of shape {shape}, which is negative or too large")
    value = call.attribute("value", np.zeros(1, np.float32), np.ndarray)
    return np.full(shape, value.reshape(-1)[0], dtype=value.dtype)


LAYOUT: Mapping[str, Operator] = MappingProxyType(
    {
        "Cast": _cast,
        "CastLike": lambda call: call.arg(0),
        "Concat": _concat,
        "Constant": _constant,
        "ConstantOfShape": _filled,
        "DepthToSpace": _blocks,
        "Dropout": _identity,
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "Identity": _identity,
        "Pad": _pad,
        "Reshape": _reshape,
        "Resize": _resize,
        "Shape": _shape,
        "Size": lambda call: np.asarray(math.prod(call.arg(0).shape), dtype=np.int64),
        "Slice": _slice,
        "SpaceToDepth": _blocks,
        "Split": _split,
        "Squeeze": _squeeze,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
        "Upsample": _resize,
    }
)
"""By the name of the operator."""
