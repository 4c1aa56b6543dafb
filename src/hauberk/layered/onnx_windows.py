"""ONNX operators with windows, and those that average: convolutions, pooling, reductions, normalisation."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from hauberk.errors import ModelError
from hauberk.layered.onnx_call import Call
from hauberk.layered.onnx_file import Array
from hauberk.layered.onnx_live import Live, Value, Values
from hauberk.layered.onnx_moves import padded
from hauberk.layered.onnx_operators import Operator, add, multiply
from hauberk.layered.ops import AvgPool, Conv, MaxPool, Pad, Shape

__all__ = ["WINDOWS"]

Pads = tuple[list[int], list[int]]


def _settings(call: Call, kernel: Sequence[int], sizes: Sequence[int]) -> tuple[list[int], list[int], Pads]:
    """Strides, dilations, and what is around on the lower and the upper side."""
    rank = len(kernel)
    strides, dilations = call.wholes("strides") or [1] * rank, call.wholes("dilations") or [1] * rank
    around, auto = call.wholes("pads") or [0] * (2 * rank), call.text("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        needed = [
            max((math.ceil(size / stride) - 1) * stride + dilation * (width - 1) + 1 - size, 0)
            for size, stride, dilation, width in zip(sizes, strides, dilations, kernel, strict=True)
        ]
        less, more = [total // 2 for total in needed], [total - total // 2 for total in needed]
        return strides, dilations, (less, more) if auto == "SAME_UPPER" else (more, less)
    if auto == "VALID":
        around = [0] * (2 * rank)
    lists = (strides, dilations, around[:rank], around[rank:])
    if any(len(part) != rank for part in lists) or min(*strides, *dilations) < 1 or min(around) < 0:
        raise ModelError(
            f"its strides {strides}, dilations {dilations} and pads {around} do not fit a window of {rank} axes"
        )
    return strides, dilations, (around[:rank], around[rank:])


def _pad(values: Values, x: Live, pads: Pads) -> Live:
    """Zeros around the last axes."""
    if not any(map(any, pads)):
        return x
    rank = len(pads[0])
    sizes = tuple(size + a + b for size, a, b in zip(x.shape[-rank:], *pads, strict=True))
    amounts = tuple(amount for a, b in reversed(list(zip(*pads, strict=True))) for amount in (a, b))
    return values.put(Pad(amounts), (*x.shape[:-rank], *sizes), x.batch, x)


def _windows(call: Call, rank: int) -> Live:
    x = call.live()
    if x.ndim != rank + 2 or rank not in (1, 2):
        raise ModelError(
            f"it has a window of {rank} axes on the shape {x.shape}, expected 1 or 2 axes and (1, channels, ...)"
        )
    return call.values.front(x)


def _put(values: Values, op: Conv | MaxPool | AvgPool, x: Live) -> Live:
    """As `Values.put`, where the shape is what the node gives."""
    place = values.node(op, x.place)
    return Live(place, (1, *values.builder.shape(place)), 0)


def _conv(call: Call) -> Value:
    weight = call.weight(1)
    x, values = _windows(call, weight.ndim - 2), call.values
    strides, dilations, pads = _settings(call, weight.shape[2:], x.shape[2:])
    if pads[0] != pads[1]:
        x, pads = _pad(values, x, pads), ([0] * len(strides),) * 2
    bias = None if call.const(2) is None else values.tensor(call.weight(2))
    op = Conv(values.tensor(weight), bias, tuple(strides), tuple(pads[0]), tuple(dilations), call.whole("group", 1))
    return _put(values, op, x)


def _conv_transpose(call: Call) -> Value:
    """A convolution of the flipped kernel, over the values with zeros between them."""
    weight, groups = call.weight(1), call.whole("group", 1)
    rank = weight.ndim - 2
    x, values = _windows(call, rank), call.values
    if call.text("auto_pad", "NOTSET") != "NOTSET" or call.wholes("output_shape") is not None:
        raise ModelError("it takes its padding from the shape of its output; export it with explicit pads")
    strides, dilations, (less, more) = _settings(call, weight.shape[2:], x.shape[2:])
    extra = call.wholes("output_padding") or [0] * rank

    def between(at: Array) -> Array:
        for axis, stride in enumerate(strides, start=2):
            size = at.shape[axis]
            grown = np.full((*at.shape[:axis], (size - 1) * stride + 1, *at.shape[axis + 1 :]), -1)
            grown[(slice(None),) * axis + (slice(None, None, stride),)] = at
            at = grown
        reach = [dilation * (width - 1) for dilation, width in zip(dilations, weight.shape[2:], strict=True)]
        amounts = [0, 0, *(r - a for r, a in zip(reach, less)), 0, 0]
        amounts += [r - b + e for r, b, e in zip(reach, more, extra, strict=True)]
        return padded(at, np.asarray(amounts), "constant", -1)

    x = values.moved(x, between, 0)
    own = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).swapaxes(1, 2)
    own = own.reshape(weight.shape[1] * groups, -1, *weight.shape[2:])
    own = np.flip(own, axis=tuple(range(2, 2 + rank)))
    bias = None if call.const(2) is None else values.tensor(call.weight(2))
    return _put(values, Conv(values.tensor(own), bias, (1,) * rank, (0,) * rank, tuple(dilations), groups), x)


def _two(values: Values, x: Live, *sizes: tuple[list[int], int]) -> tuple[Live, bool, list[tuple[int, int]]]:
    """The value with two axes for windows, and settings for both."""
    if x.ndim == 4:
        return x, False, [(part[0], part[1]) for part, _ in sizes]
    return values.reshape(x, (*x.shape[:2], 1, x.shape[2])), True, [(default, part[0]) for part, default in sizes]


def _back(values: Values, x: Live, single: bool) -> Live:
    return values.reshape(x, (*x.shape[:2], x.shape[3])) if single else x


def _max_pool(call: Call) -> Value:
    kernel = call.wholes("kernel_shape") or []
    x, values = _windows(call, len(kernel)), call.values
    strides, dilations, (less, more) = _settings(call, kernel, x.shape[2:])
    ceil = bool(call.whole("ceil_mode", 0))
    if less != more or any(2 * around > width for around, width in zip(less, kernel, strict=True)):
        if max(dilations) > 1 or ceil:
            raise ModelError(
                "it pools with dilation or ceil_mode and more values around on one side; export it with a Pad before"
            )
        # repeating the border changes no maximum: every window that reaches outside holds the border too
        amounts = np.asarray([0, 0, *less, 0, 0, *more])
        x = values.moved(x, lambda at: padded(at, amounts, "edge", 0), 0)
        less = [0] * len(kernel)
    x, single, (window, stride, around, spread) = _two(values, x, (kernel, 1), (strides, 1), (less, 0), (dilations, 1))
    return _back(values, _put(values, MaxPool(window, stride, around, spread, ceil), x), single)


def _average_pool(call: Call) -> Value:
    kernel = call.wholes("kernel_shape") or []
    x, values = _windows(call, len(kernel)), call.values
    strides, dilations, (less, more) = _settings(call, kernel, x.shape[2:])
    counted, ceil = bool(call.whole("count_include_pad", 0)), bool(call.whole("ceil_mode", 0))
    if max(dilations) > 1:
        raise ModelError("it averages with dilation, which is not covered; write it as a convolution")
    shares = None
    if less != more or any(2 * around > width for around, width in zip(less, kernel, strict=True)):
        if ceil:
            raise ModelError(
                "it averages with ceil_mode and more values around on one side; export it with a Pad before"
            )
        around = torch.zeros(1, 1, *(size + a + b for size, a, b in zip(x.shape[2:], less, more, strict=True)))
        around[(..., *(slice(a, a + size) for size, a in zip(x.shape[2:], less, strict=True)))] = 1
        x, less = _pad(values, x, (less, more)), [0] * len(kernel)
        shares = around.double()
    x, single, (window, stride, padding) = _two(values, x, (kernel, 1), (strides, 1), (less, 0))
    op = AvgPool(window, stride, padding, counted, ceil)
    found = _put(values, op, x)
    if shares is not None and not counted:
        inside = op(shares.unsqueeze(2) if single else shares).numpy()
        found = values.scale(found, 1 / inside)
    return _back(values, found, single)


def _global_max(call: Call) -> Value:
    return _reduce_max(call, list(range(2, call.live().ndim)), keep=True)


def _global_average(call: Call) -> Value:
    x = call.live()
    return call.values.reduce(x, range(2, x.ndim), keep=True)


def _axes(call: Call) -> list[int]:
    axes = call.numbers("axes", 1)
    if not axes:
        return [] if call.whole("noop_with_empty_axes", 0) else list(range(call.arg(0).ndim))
    return [axis % call.arg(0).ndim for axis in axes]


def _reduce(call: Call) -> Value:
    """ReduceMean, ReduceSum and what is made of them; on constants also ReduceProd, ReduceMax and ReduceMin."""
    kind, values, keep = call.node.kind, call.values, bool(call.whole("keepdims", 1))
    axes, x = _axes(call), call.arg(0)
    if not isinstance(x, Live):
        functions = {"ReduceProd": np.prod, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceSum": np.sum}
        functions |= {"ReduceMean": np.mean}
        if kind not in functions:
            raise ModelError("it is not covered on constants; fold the constants of the file")
        return np.asarray(functions[kind](x, axis=tuple(axes), keepdims=keep)).astype(x.dtype)
    if kind in ("ReduceMax", "ReduceMin"):
        return _reduce_max(call, axes, keep, -1.0 if kind == "ReduceMin" else 1.0)
    if kind == "ReduceProd":
        raise ModelError("a product over axes is not covered; write it as Mul")
    if kind == "ReduceL1":
        x = values.elementwise(x, "abs")
    if kind in ("ReduceSumSquare", "ReduceL2"):
        x = values.elementwise(x, "power", 2.0)
    found = values.reduce(x, axes, keep, total=kind != "ReduceMean")
    return values.elementwise(found, "sqrt") if kind == "ReduceL2" else found


def _reduce_max(call: Call, axes: list[int], keep: bool, sign: float = 1.0) -> Value:
    """The largest over some axes, by pooling over their values side by side."""
    x, values = call.live(), call.values
    if not axes:
        return x
    if x.batch in axes:
        x = values.whole(x, "takes the largest over")
    if x.batch is None:
        x, axes = values.reshape(x, (1, *x.shape)), [axis + 1 for axis in axes]
        x = Live(x.place, x.shape, None)
        lead = True
    else:
        lead = False
    left = [axis for axis in range(x.ndim) if axis not in axes]
    shape = (
        tuple(x.shape[axis] for axis in left)
        if not keep
        else tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    )
    x = values.transpose(values.scale(x, sign) if sign < 0 else x, (*left, *axes))
    rows, width = math.prod(x.shape[: len(left)]), math.prod(x.shape[len(left) :])
    x = values.front(values.reshape(x, (1, 1, rows, width)))
    found = values.reshape(_put(values, MaxPool((1, width), (1, width)), x), shape)
    if lead:
        found = values.reshape(found, shape[1:])
    return values.scale(found, sign) if sign < 0 else found


def _batch_norm(call: Call) -> Value:
    if call.whole("training_mode", 0):
        raise ModelError("it is in training mode, where examples mix; export the net in evaluation mode")
    gain, shift, mean, var = (call.weight(position) for position in range(1, 5))
    factor = gain / np.sqrt(var + call.number("epsilon", 1e-5))
    x = call.live()
    spread: Shape = (1, -1) + (1,) * (x.ndim - 2)
    return call.values.scale(x, factor.reshape(spread), (shift - mean * factor).reshape(spread))


def _normalised(values: Values, x: Live, axes: Sequence[int], epsilon: float) -> Live:
    """(x - mean) / sqrt(var + epsilon) over these axes."""
    mean = values.reduce(x, axes, keep=True)
    centred = values.add(x, values.scale(mean, -1.0))
    var = values.reduce(values.elementwise(centred, "power", 2.0), axes, keep=True)
    return values.quotient(centred, values.elementwise(values.scale(var, 1.0, epsilon), "sqrt"))


def _layer_norm(call: Call) -> Value:
    x, values = call.live(), call.values
    axis = call.whole("axis", -1) % x.ndim
    found = _normalised(values, x, range(axis, x.ndim), call.number("epsilon", 1e-5))
    shift = call.const(2)
    scaled = multiply(values, found, call.weight(1))
    return scaled if shift is None else add(values, scaled, shift)


def _instance_norm(call: Call) -> Value:
    x, values = call.live(), call.values
    spread = (1, -1) + (1,) * (x.ndim - 2)
    found = _normalised(values, x, range(2, x.ndim), call.number("epsilon", 1e-5))
    return values.scale(found, call.weight(1).reshape(spread), call.weight(2).reshape(spread))


WINDOWS: Mapping[str, Operator] = MappingProxyType(
    {
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_norm,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "GlobalAveragePool": _global_average,
        "GlobalMaxPool": _global_max,
        "InstanceNormalization": _instance_norm,
        "LayerNormalization": _layer_norm,
        "MaxPool": _max_pool,
        "ReduceL1": _reduce,
        "ReduceL2": _reduce,
        "ReduceMax": _reduce,
        "ReduceMean": _reduce,
        "ReduceMin": _reduce,
        "ReduceProd": _reduce,
        "ReduceSum": _reduce,
        "ReduceSumSquare": _reduce,
    }
)
"""By the name of the operator."""
