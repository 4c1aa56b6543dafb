"""An equal network without max pooling and without functions that ReLU can write: what linear bounding has rules for.

leaky_relu(x) = s x + (1 - s) relu(x); |x| = relu(x) + relu(-x); clamp(x) = low + relu(x - low) - relu(x - high); and the largest value
of a window by a tournament of max(a, b) = b + relu(a - b), in about log2 of its size rounds.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hauberk.errors import ModelError
from hauberk.layered.compose import Compose, dtype_of
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.ops import Conv, Elementwise, MaxPool, Pick, Scale, Shape

__all__ = ["lowered"]


def lowered(graph: Graph) -> Graph:
    """The network with ReLU and smooth functions of one number as its only functions, and no max pooling.

    It computes the same up to rounding, with the weights of `graph` themselves.

    Raises:
        ModelError: a max pooling has an input that is no picture.
    """
    builder = Builder(graph.input_shape, graph.nodes[0].name, dtype_of(graph))
    places = [0]
    for _, node in graph:
        if not node.inputs:
            continue
        inputs = [places[place] for place in node.inputs]
        compose = Compose(builder, node.name)
        rule = _RULES.get(node.op.function) if isinstance(node.op, Elementwise) else None
        if rule is not None and isinstance(node.op, Elementwise):
            places.append(rule(compose, inputs[0], *node.op.settings))
        elif isinstance(node.op, MaxPool):
            places.append(_max_pool(compose, inputs[0], node.op, node.shape))
        else:
            places.append(builder.add(node.op, *inputs, name=node.name))
    return builder.finish(places[-1])


def _leaky_relu(c: Compose, x: int, slope: float = 0.01) -> int:
    if slope == 0:
        return c.relu(x)
    return c.add(c.scale(x, slope), c.scale(c.relu(x), 1.0 - slope))


def _abs(c: Compose, x: int) -> int:
    return c.add(c.relu(x), c.relu(c.scale(x, -1.0)))


def _clamp(c: Compose, x: int, low: float = -math.inf, high: float = math.inf) -> int:
    if low >= high:
        return c.scale(x, 0.0, high)  # torch has it so
    above = c.relu(_shifted(c, x, -low)) if low > -math.inf else x
    found = above
    if high < math.inf:
        found = c.add(above, c.scale(c.relu(_shifted(c, x, -high)), -1.0))
    return _shifted(c, found, low) if low > -math.inf else found if found != x else c.scale(x)


def _shifted(c: Compose, x: int, shift: float) -> int:
    return x if shift == 0 else c.scale(x, 1.0, shift)


_RULES: dict[str, Callable[..., int]] = {"leaky_relu": _leaky_relu, "abs": _abs, "clamp": _clamp}


def _max_pool(c: Compose, x: int, op: MaxPool, shape: Shape) -> int:
    given = c.shape(x)
    if len(given) != 3:
        raise ModelError(f"node {c.name!r} pools examples of shape {given}, expected (channels, height, width)")
    inside = all(
        pad == 0 and (out - 1) * stride + dilation * (kernel - 1) < size
        for size, out, kernel, stride, pad, dilation in zip(
            given[1:], shape[1:], op.kernel, op.stride, op.padding, op.dilation
        )
    )
    return _by_kernels(c, x, op) if inside else _by_places(c, x, op, shape)


def _by_kernels(c: Compose, x: int, op: MaxPool) -> int:
    """The tournament where no window is cut: a kernel for each channel gives a - b, another one b, of all pairs of a round."""
    channels, dtype = c.shape(x)[0], c.builder.dtype

    def take(place: int, kernels: Tensor) -> int:
        weight = kernels.repeat(channels, 1, 1, 1)
        first = place == x
        stride, dilation = (op.stride, op.dilation) if first else ((1, 1), (1, 1))
        conv = Conv(weight, None, tuple(stride), (0, 0), tuple(dilation), channels)
        return c.builder.add(conv, place, name=c.name)

    count = op.kernel[0] * op.kernel[1]
    units = torch.eye(count, dtype=dtype).reshape(count, 1, *op.kernel)
    state, waiting = (take(x, units) if count == 1 else x), []
    while count > 1:
        pairs = count // 2
        if count % 2:
            waiting.append((state, units[-1:]))  # it has no partner until all others have met
        first, second = units[0 : 2 * pairs : 2], units[1 : 2 * pairs : 2]
        state = c.add(take(state, second), c.relu(take(state, first - second)))
        count, units = pairs, torch.eye(pairs, dtype=dtype).reshape(pairs, pairs, 1, 1)
    for source, unit in reversed(waiting):
        state = c.add(take(source, unit), c.relu(c.add(state, take(source, -unit))))
    return state


def _by_places(c: Compose, x: int, op: MaxPool, shape: Shape) -> int:
    """The tournament by gathering; what a window has outside the picture is replaced by the nearest value that it has inside."""
    numbers = c.numbers(x)
    rows, columns = (
        _inside(*settings)
        for settings in zip(shape[1:], numbers.shape[1:], op.kernel, op.stride, op.padding, op.dilation, strict=True)
    )
    window = numbers[:, rows[:, None, :, None], columns[None, :, None, :]]  # channels, kernel, kernel, height, width
    values = window.flatten(1, 2).transpose(0, 1).contiguous()
    state, waiting = x, []
    while len(values) > 1:
        pairs = len(values) // 2
        if len(values) % 2:
            waiting.append((state, values[-1]))
        first, second = (values[start : 2 * pairs : 2].contiguous() for start in (0, 1))
        state = _larger(c, _pick(c, state, first), _pick(c, state, second))
        values = torch.arange(first.numel()).reshape(first.shape)
    state = c.reshape(state, shape) if state != x else _pick(c, x, values[0])
    for source, places in reversed(waiting):
        state = _larger(c, state, _pick(c, source, places))
    return state


def _pick(c: Compose, x: int, places: Tensor) -> int:
    return c.builder.add(Pick(places.contiguous()), x, name=c.name)


def _larger(c: Compose, a: int, b: int) -> int:
    negative = c.builder.add(Scale(-1.0), b, name=c.name)
    return c.add(b, c.relu(c.add(a, negative)))


def _inside(out: int, size: int, kernel: int, stride: int, pad: int, dilation: int) -> Tensor:
    """(kernel, out) places along one axis."""
    start = torch.arange(out) * stride - pad
    places = start + (torch.arange(kernel) * dilation)[:, None]
    first = start + dilation * ((-start).clamp(min=0) + dilation - 1).div(dilation, rounding_mode="floor")
    last = start + dilation * (size - 1 - start).div(dilation, rounding_mode="floor").clamp(max=kernel - 1)
    return torch.minimum(torch.maximum(places, first), last)
