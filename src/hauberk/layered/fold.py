"""An equal network of fewer nodes: scales are merged into the layers beside them and into each other, reshapes into one.

With w the weights of a layer and y = f x + s a scale, per channel or per feature: after it, w becomes f w and the bias f b + s;
before it, w becomes w f and the bias b + w s, the latter only where no zeros are put around, which s would not reach. Zeros
around that are nodes of their own go into the convolution after them.
"""

import torch
from torch import Tensor

from hauberk.layered.compose import dtype_of
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.ops import Conv, Linear, Op, Pad, Reshape, Scale, Shape

__all__ = ["folded"]


def folded(graph: Graph) -> Graph:
    """The network that computes the same up to rounding, with scales and reshapes merged where nothing else reads between.

    Merged weights are computed here from those of `graph`, with their gradients; what is not merged keeps its tensors.
    """
    folding = _Folding(graph)
    places = [0]
    for position, node in graph:
        if node.inputs:
            inputs = tuple(places[place] for place in node.inputs)
            places.append(folding.add(node.op, inputs, node.name, node.shape, len(folding.readers_of[position])))
    return graph if places[-1] == 0 else folding.builder.finish(places[-1])


class _Folding:
    """Adds nodes, each merged with those that it alone reads."""

    def __init__(self, graph: Graph) -> None:
        self.builder = Builder(graph.input_shape, graph.nodes[0].name, dtype_of(graph))
        self.readers_of = graph.consumers()
        self.readers = [len(self.readers_of[0])]

    def add(self, op: Op, inputs: tuple[int, ...], name: str, shape: Shape, readers: int) -> int:
        """The position of what computes `op` of these inputs."""
        nodes = self.builder.nodes
        while len(inputs) == 1 and self.readers[inputs[0]] == 1:
            before = nodes[inputs[0]]
            given = nodes[before.inputs[0]] if before.inputs else before
            if isinstance(op, Linear) and isinstance(before.op, Reshape) and isinstance(given.op, Scale):
                around = self._past_reshape(op, before.op, before.inputs[0])
                if around is None:
                    break
                op, inputs = around
                continue
            merged = _merged(before.op, op, before.shape)
            if merged is None:
                break
            op, inputs = merged, before.inputs
        if len(inputs) == 1 and _is_nothing(op, nodes[inputs[0]].shape):
            self.readers[inputs[0]] += readers - 1
            return inputs[0]
        place = self.builder.add(op, *inputs, name=name)
        self.readers.append(readers)
        return place

    def _past_reshape(self, op: Linear, reshape: Reshape, place: int) -> tuple[Linear, tuple[int, ...]] | None:
        """The scale at `place`, then the reshape, then the layer, as a reshape and a layer."""
        scale = self.builder.nodes[place]
        if self.readers[place] != 1 or not isinstance(scale.op, Scale):
            return None
        spread = Scale(*(_spread(value, scale.shape, reshape.shape) for value in (scale.op.factor, scale.op.shift)))
        merged = _before_linear(spread, op, reshape.shape)
        if merged is None:
            return None
        after = self.builder.add(reshape, *scale.inputs, name=scale.name)
        self.readers.append(1)
        return merged, (after,)


def _merged(before: Op, op: Op, between: Shape) -> Op | None:
    """One operator for two; `between` is the shape of what the first gives."""
    if isinstance(op, Reshape):
        return op if isinstance(before, Reshape) else None
    if isinstance(op, Scale):
        if isinstance(before, Scale):
            return Scale(before.factor * op.factor, before.shift * op.factor + op.shift)
        if isinstance(before, Conv | Linear):
            return _after(before, op, between)
    if isinstance(before, Scale):
        if isinstance(op, Linear):
            return _before_linear(before, op, between)
        if isinstance(op, Conv):
            return _before_conv(before, op, between)
    if isinstance(before, Pad) and isinstance(op, Conv):
        return _around_conv(before, op)
    return None


def _is_nothing(op: Op, shape: Shape) -> bool:
    if isinstance(op, Reshape):
        return op.shape == shape
    return isinstance(op, Scale) and _is_number(op.factor, 1.0) and _is_number(op.shift, 0.0)


def _is_number(value: Tensor | float, number: float) -> bool:
    """It is this number, and not a weight that may become another one."""
    return not isinstance(value, Tensor) and value == number


def _spread(value: Tensor | float, shape: Shape, other: Shape) -> Tensor | float:
    if not isinstance(value, Tensor) or value.numel() == 1:
        return value.reshape(()) if isinstance(value, Tensor) else value
    return value.broadcast_to(shape).reshape(other)


def _vector(value: Tensor | float, shape: Shape, axis: int, like: Tensor) -> Tensor | None:
    """What a scale has for each place along one axis, (size,); None if it differs along others."""
    if not isinstance(value, Tensor):
        return like.new_full((shape[axis],), value)
    if value.numel() == 1:
        return value.reshape(1).expand(shape[axis])
    sizes = [1] * (len(shape) - value.ndim) + list(value.shape)
    if value.numel() != sizes[axis]:
        return None
    return value.reshape(-1)


def _after(layer: Conv | Linear, scale: Scale, shape: Shape) -> Conv | Linear | None:
    axis = 0 if isinstance(layer, Conv) else len(shape) - 1
    factor, shift = (_vector(value, shape, axis, layer.weight) for value in (scale.factor, scale.shift))
    if factor is None or shift is None:
        return None
    weight = layer.weight * factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
    bias = shift if layer.bias is None else layer.bias * factor + shift
    if layer.bias is None and _is_number(scale.shift, 0.0):
        bias = None
    if isinstance(layer, Linear):
        return Linear(weight, bias)
    return Conv(weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _before_linear(scale: Scale, layer: Linear, shape: Shape) -> Linear | None:
    factor, shift = (_vector(value, shape, len(shape) - 1, layer.weight) for value in (scale.factor, scale.shift))
    if factor is None or shift is None:
        return None
    bias = layer.bias
    if not _is_number(scale.shift, 0.0):
        bias = layer.weight @ shift if bias is None else bias + layer.weight @ shift
    return Linear(layer.weight * factor, bias)


def _around_conv(pad: Pad, layer: Conv) -> Conv | None:
    """Zeros around, as many at both ends of each axis, are zeros that the convolution can put there."""
    before, after, axes = pad.amounts[0::2], pad.amounts[1::2], layer.weight.ndim - 2
    if before != after or any(before[axes:]) or min(before) < 0:
        return None
    more = tuple(reversed((*before, *[0] * axes)[:axes]))
    padding = tuple(own + each for own, each in zip(layer.padding, more, strict=True))
    return Conv(layer.weight, layer.bias, layer.stride, padding, layer.dilation, layer.groups)


def _before_conv(scale: Scale, layer: Conv, shape: Shape) -> Conv | None:
    if any(layer.padding) and not _is_zero(scale.shift):
        return None
    factor, shift = (_vector(value, shape, 0, layer.weight) for value in (scale.factor, scale.shift))
    if factor is None or shift is None:
        return None

    def each(value: Tensor) -> Tensor:
        """For each output the values of the channels that it reads, in the shape of the weight."""
        rows = value.reshape(layer.groups, -1).repeat_interleave(layer.weight.shape[0] // layer.groups, dim=0)
        return rows.reshape(*rows.shape, *[1] * (layer.weight.ndim - 2))

    bias = layer.bias
    if not _is_zero(scale.shift):
        more = (layer.weight * each(shift)).flatten(1).sum(dim=1)
        bias = more if bias is None else bias + more
    weight = layer.weight * each(factor)
    return Conv(weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _is_zero(value: Tensor | float) -> bool:
    """It is 0 and stays so: no weight that may become something else."""
    if isinstance(value, Tensor):
        return not value.requires_grad and not bool(torch.any(value != 0))
    return value == 0
