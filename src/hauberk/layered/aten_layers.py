"""What the operators of PyTorch that mix or move values become: one row of `LAYERS` each, by the name after "aten::"."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from hauberk.layered.aten_call import Call, Wire, moved
from hauberk.layered.ops import AvgPool, Concat, Linear, MaxPool, Mean, Pick, Softmax

__all__ = ["LAYERS"]


def _linear(call: Call) -> int:
    weight, bias = call.fixed("weight"), call.fixed("bias")
    return call.compose.builder.add(Linear(weight, bias), call.x, name=call.compose.name)


def _matmul(call: Call) -> int:
    a, b = call.arguments.values() if len(call.arguments) == 2 else (call["self"], call["mat2"])
    return _times(call, a, b)


def _times(call: Call, a: Any, b: Any) -> int:
    c = call.compose
    if isinstance(a, Wire) and isinstance(b, Tensor) and b.ndim <= 2:
        if b.ndim == 2:
            return c.builder.add(Linear(b.t()), a.place, name=c.name)
        return c.reshape(c.builder.add(Linear(b[None]), a.place, name=c.name), call.shape)
    if isinstance(b, Wire) and isinstance(a, Tensor) and a.ndim == 2 and len(c.shape(b.place)) > 1:
        return c.along(b.place, len(c.shape(b.place)) - 2, a)
    wires = [value.place if isinstance(value, Wire) else c.constant(call.example(value)) for value in (a, b)]
    if any(len(c.shape(wire)) < 2 for wire in wires):
        raise call.fail("multiplies by a vector that depends on the input; write it as a product and a sum")
    return c.matmul(*wires)


def _addmm(call: Call) -> int:
    if not float(call["beta"]) == float(call["alpha"]) == 1:
        raise call.fail("has alpha or beta other than 1; write it as a product and a sum")
    product = _times(call, call["mat1"], call["mat2"])
    bias = call["self"]
    c = call.compose
    return c.add(product, bias.place) if isinstance(bias, Wire) else c.scale(product, 1.0, call.example(bias))


def _attention(call: Call) -> int:
    c, mask = call.compose, call.arguments.get("attn_mask")
    q, k, v = (call.wire(name) for name in ("query", "key", "value"))
    if call["is_causal"] or isinstance(mask, Wire) or call["dropout_p"] or call.arguments.get("enable_gqa"):
        raise call.fail(
            "is causal, grouped, drops at random or has a mask that depends on the input; it cannot be read"
        )
    size = c.shape(q)[-1]
    scale = call["scale"] if call.arguments.get("scale") is not None else size**-0.5
    found = c.matmul(c.scale(q, float(scale)), c.swap(k))
    if isinstance(mask, Tensor):
        if mask.dtype == torch.bool:
            raise call.fail("has a mask of booleans; add a large negative number instead")
        found = c.scale(found, 1.0, call.example(mask))
    return c.matmul(c.builder.add(Softmax(len(c.shape(found)) - 1), found, name=c.name), v)


def _conv(call: Call) -> int:
    stride, dilation, padding = list(call["stride"]), list(call["dilation"]), call["padding"]
    padding = padding if isinstance(padding, str) else list(padding)
    x, weight, bias = call.wire("input"), call.fixed("weight"), call.fixed("bias")
    return call.compose.convolution(x, weight, bias, stride, padding, dilation, call["groups"])


def _conv_transpose(call: Call) -> int:
    x, weight, bias = call.wire("input"), call.fixed("weight"), call.fixed("bias")
    stride, padding, more = list(call["stride"]), list(call["padding"]), list(call["output_padding"])
    dilation = list(call["dilation"])
    return call.compose.transposed_convolution(x, weight, bias, stride, padding, more, call["groups"], dilation)


def _per_channel(call: Call, value: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (len(call.shape) - 1))


def _batch_norm(call: Call) -> int:
    mean, var = call.fixed("running_mean"), call.fixed("running_var")
    if call.arguments.get("training") or mean is None or var is None:
        raise call.fail("normalises by the statistics of the batch; track running statistics, and use evaluation mode")
    factor = (var + call["eps"]).rsqrt()
    if call["weight"] is not None:
        factor = factor * call.fixed("weight")
    shift = -mean * factor if call["bias"] is None else call.fixed("bias") - mean * factor
    return call.compose.scale(call.x, _per_channel(call, factor), _per_channel(call, shift))


def _layer_norm(call: Call) -> int:
    c, count = call.compose, len(call["normalized_shape"])
    axes = range(len(call.shape) - count, len(call.shape))
    return c.affine(c.standardised(call.x, axes, call["eps"]), call.fixed("weight"), call.fixed("bias"))


def _group_norm(call: Call) -> int:
    return call.compose.group_norm(
        call.x, call["num_groups"], call.fixed("weight"), call.fixed("bias"), float(call["eps"])
    )


def _instance_norm(call: Call) -> int:
    if not call["use_input_stats"]:
        return _batch_norm(call)
    return call.compose.group_norm(call.x, call.shape[0], call.fixed("weight"), call.fixed("bias"), float(call["eps"]))


def _pair(value: Sequence[int]) -> tuple[int, int]:
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _pool(call: Call, axes: int, build: Callable[..., MaxPool | AvgPool]) -> int:
    """Pooling in one dimension is pooling in two of a picture one pixel high."""
    c, x = call.compose, call.x
    shape = c.shape(x)
    if len(shape) != axes + 1:
        raise call.fail(
            f"pools examples of shape {shape}, expected (channels, {'length' if axes == 1 else 'height, width'})"
        )

    def read(name: str, one: int) -> tuple[int, int]:
        value = list(call[name])
        return (one, value[0]) if axes == 1 else _pair(value)

    kernel = read("kernel_size", 1)
    stride = read("stride", 1) if call["stride"] else kernel
    op = build(kernel, stride, read("padding", 0), read)
    wide = c.reshape(x, (shape[0], 1, shape[1])) if axes == 1 else x
    return c.reshape(c.builder.add(op, wide, name=c.name), call.shape)


def _max_pool(axes: int) -> Callable[[Call], int]:
    return lambda call: _pool(
        call,
        axes,
        lambda kernel, stride, padding, read: MaxPool(kernel, stride, padding, read("dilation", 1), call["ceil_mode"]),
    )


def _avg_pool(axes: int) -> Callable[[Call], int]:
    def rule(call: Call) -> int:
        divisor, whole = (
            call.arguments.get("divisor_override"),
            True if call.arguments.get("divisor_override") else None,
        )

        def build(kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], read: Any) -> AvgPool:
            if whole and call["ceil_mode"]:
                raise call.fail("has a divisor of its own and ceil_mode; one of them can be read")
            return AvgPool(kernel, stride, padding, whole or call["count_include_pad"], call["ceil_mode"])

        x = _pool(call, axes, build)
        return call.compose.scale(x, math.prod(_pair(call["kernel_size"])) / divisor) if divisor else x

    return rule


def _adaptive_average(axes: int) -> Callable[[Call], int]:
    return lambda call: call.compose.average(call.x, call.shape[-axes:])


def _adaptive_max(call: Call) -> list[int]:
    c, given, sizes = call.compose, call.compose.shape(call.x), call["output_size"]
    if all(size == 1 for size in sizes):
        return [c.largest(call.x, range(len(given) - len(sizes), len(given)), keep=True)]
    if len(sizes) == 2 and len(given) == 3 and all(g % s == 0 for g, s in zip(given[1:], sizes)):
        kernel = (given[1] // sizes[0], given[2] // sizes[1])
        return [c.builder.add(MaxPool(kernel, kernel), call.x, name=c.name)]
    raise call.fail(f"pools {given} to {tuple(sizes)}, expected sizes that divide; use max_pool2d")


def _mean(call: Call, total: bool = False) -> int:
    c, axes = call.compose, call.axes(call.arguments.get("dim"))
    return c.builder.add(Mean(axes, keep=bool(call["keepdim"]), total=total), call.x, name=c.name)


def _sum(call: Call) -> int:
    return _mean(call, total=True)


def _amax(call: Call) -> int:
    return call.compose.largest(call.x, call.axes(call["dim"]), bool(call["keepdim"]))


def _amin(call: Call) -> int:
    c = call.compose
    negative = c.largest(c.scale(call.x, -1.0), call.axes(call["dim"]), bool(call["keepdim"]))
    return c.scale(negative, -1.0)


def _max(call: Call) -> int | list[int]:
    if "other" in call.arguments:
        return call.compose.maximum(call.x, call.wire("other"))
    return [call.compose.largest(call.x, call.axes(call.arguments.get("dim")), bool(call.arguments.get("keepdim")))]


def _between(call: Call) -> int:
    """Linear interpolation: along one axis after the other, by what the operator makes of the units."""
    c, x, axes = call.compose, call.x, len(call.shape) - 1
    scales = call.arguments.get("scale_factors")
    for axis in range(axes):
        how: Any = {"size": call.shape[axis + 1]} if scales is None else {"scale_factor": float(scales[axis])}
        units = torch.eye(c.shape(x)[axis + 1], dtype=c.builder.dtype)[None]
        found = torch.nn.functional.interpolate(units, **how, mode="linear", align_corners=call["align_corners"])
        x = c.along(x, axis + 1, found[0].T.contiguous())
    return x


def _softmax(call: Call) -> int:
    return call.compose.builder.add(Softmax(call.axis(call["dim"])), call.x, name=call.compose.name)


def _reshape(call: Call) -> int:
    return call.compose.reshape(call.x, call.shape)


def _permute(call: Call) -> int:
    dims = [axis % (len(call.shape) + 1) for axis in call["dims"]]
    if dims[0] != 0:
        return moved(call)[0]
    return call.compose.permute(call.x, [axis - 1 for axis in dims[1:]])


def _pad(call: Call) -> int:
    if call.arguments.get("mode", "constant") != "constant":
        return moved(call)[0]
    if len(call["pad"]) // 2 > len(call.shape):
        raise call.fail("pads the batch; leave it out of what is bounded")
    return call.compose.pad(call.x, list(call["pad"]), float(call["value"] or 0.0))


def _join(call: Call, stack: bool) -> int:
    c, parts = call.compose, call["tensors"]
    axis = call.axis(call["dim"], of=len(call.shape) + 1)
    places = [part.place if isinstance(part, Wire) else c.constant(call.example(part)) for part in parts]
    if stack:
        places = [c.reshape(x, (*c.shape(x)[:axis], 1, *c.shape(x)[axis:])) for x in places]
    return c.builder.add(Concat(axis), *places, name=c.name)


def _filled(call: Call) -> int:
    name = str(call.operator._schema.name)
    value = 0.0 if "zeros" in name else 1.0 if "ones" in name else float(call["fill_value"])
    return call.compose.constant(torch.full(call.shape, value, dtype=call.compose.builder.dtype))


def _glu(call: Call) -> int:
    c, axis = call.compose, call.axis(call["dim"])
    halves = c.numbers(call.x).chunk(2, dim=axis)
    value, gate = (c.builder.add(Pick(half.contiguous()), call.x, name=c.name) for half in halves)
    return c.multiply(value, c.apply("sigmoid", gate))


_RESHAPES = ("_unsafe_view", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view")

_MOVES = (
    *(
        "chunk",
        "diagonal",
        "expand",
        "flip",
        "gather",
        "im2col",
        "index",
        "index_select",
        "movedim",
        "narrow",
        "numpy_T",
    ),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "reflection_pad1d", "reflection_pad2d", "repeat", "roll"),
    *(
        "repeat_interleave",
        "replication_pad1d",
        "replication_pad2d",
        "rot90",
        "select",
        "slice",
        "split",
        "tile",
        "unfold",
    ),
    *("split_with_sizes", "swapaxes", "swapdims", "t", "tensor_split", "transpose", "unbind", "upsample_nearest1d"),
    *("upsample_nearest2d", "expand_as", "broadcast_to", "hsplit", "vsplit", "dsplit", "view_as", "reshape_as"),
)

LAYERS: Mapping[str, Callable[[Call], int | list[int]]] = MappingProxyType(
    {
        **dict.fromkeys(_RESHAPES, _reshape),
        **dict.fromkeys(_MOVES, moved),
        **dict.fromkeys(("full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like"), _filled),
        **dict.fromkeys(("_softmax", "softmax"), _softmax),
        **dict.fromkeys(("bmm", "matmul", "mm", "mv"), _matmul),
        **dict.fromkeys(("conv1d", "conv2d"), _conv),
        **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), _conv_transpose),
        **dict.fromkeys(("_native_batch_norm_legit_no_training", "batch_norm"), _batch_norm),
        **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive_max),
        **dict.fromkeys(("constant_pad_nd", "pad"), _pad),
        "adaptive_avg_pool1d": _adaptive_average(1),
        "adaptive_avg_pool2d": _adaptive_average(2),
        "addmm": _addmm,
        "amax": _amax,
        "amin": _amin,
        "avg_pool1d": _avg_pool(1),
        "avg_pool2d": _avg_pool(2),
        "cat": lambda call: _join(call, stack=False),
        "concat": lambda call: _join(call, stack=False),
        "glu": _glu,
        "group_norm": _group_norm,
        "instance_norm": _instance_norm,
        "layer_norm": _layer_norm,
        "linear": _linear,
        "max": _max,
        "max_pool1d": _max_pool(1),
        "max_pool2d": _max_pool(2),
        "mean": _mean,
        "permute": _permute,
        "scaled_dot_product_attention": _attention,
        "stack": lambda call: _join(call, stack=True),
        "sum": _sum,
        "upsample_bilinear2d": _between,
        "upsample_linear1d": _between,
    }
)
"""Each gives the position of the result, or of several results."""
