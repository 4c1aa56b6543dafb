"""A network as an ordered graph of operators: what verifiers read, whatever file or framework it came from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from hauberk.errors import ModelError
from hauberk.layered.ops import Input, Op, Shape

__all__ = ["Builder", "Graph", "Node"]


@dataclass(frozen=True, eq=False)
class Node:
    """One operator.

    Attributes:
        name: what the file or module calls it, for errors.
        op: the operator.
        inputs: positions of the nodes that it reads, all smaller than its own.
        shape: of what it gives for one example.
    """

    name: str
    op: Op
    inputs: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which they can be computed. Node 0 is the input; the last one is the output.

    Calling it computes the network, differentiably, for (B, *input shape).
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes or not isinstance(self.nodes[0].op, Input):
            raise ModelError("a layered network begins with its input, got none")
        for position, node in enumerate(self.nodes):
            if any(not 0 <= place < position for place in node.inputs):
                raise ModelError(f"node {node.name!r} reads a node that does not come before it")

    @property
    def input_shape(self) -> Shape:
        return self.nodes[0].shape

    @property
    def output_shape(self) -> Shape:
        return self.nodes[-1].shape

    def __iter__(self) -> Iterator[tuple[int, Node]]:
        return enumerate(self.nodes)

    def __call__(self, x: Tensor) -> Tensor:
        return self.values(x)[-1]

    def values(self, x: Tensor) -> list[Tensor]:
        """What every node gives."""
        found: list[Tensor] = []
        for node in self.nodes:
            found.append(x if isinstance(node.op, Input) else node.op(*(found[place] for place in node.inputs)))
        return found

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same network with its weights elsewhere or of another dtype."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return self.map_weights(moved)

    def detach(self) -> Self:
        """The same network, with weights that no gradient reaches."""
        return self.map_weights(lambda tensor: tensor.detach())

    def map_weights(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same network with each of its tensors changed."""
        return replace(self, nodes=tuple(replace(node, op=_mapped(node.op, change)) for node in self.nodes))

    def consumers(self) -> list[list[int]]:
        """For each node, the positions of those that read it."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for position, node in self:
            for place in node.inputs:
                found[place].append(position)
        return found


def _mapped(op: Any, change: Callable[[Tensor], Tensor]) -> Any:
    held = {field.name: getattr(op, field.name) for field in fields(op)}
    changed = {name: change(value) for name, value in held.items() if isinstance(value, Tensor)}
    return replace(op, **changed) if changed else op


class Builder:
    """Builds a graph node by node; shapes are found by computing one example of zeros."""

    def __init__(self, shape: Sequence[int], name: str = "input", dtype: torch.dtype = torch.float32) -> None:
        self.nodes = [Node(name, Input(), (), tuple(shape))]
        self.dtype = dtype

    def add(self, op: Op, *inputs: int, name: str = "") -> int:
        """The position of the new node.

        Raises:
            ModelError: the operator cannot take what its inputs give.
        """
        name = name or f"{type(op).__name__.lower()}_{len(self.nodes)}"
        given = [torch.zeros(1, *self.nodes[place].shape, dtype=self.dtype) for place in inputs]
        try:
            with torch.no_grad():
                shape = tuple(op(*given).shape[1:])
        except RuntimeError as error:
            shapes = ", ".join(str(self.nodes[place].shape) for place in inputs)
            raise ModelError(
                f"node {name!r} ({type(op).__name__}) cannot take inputs of shape {shapes}: {error}"
            ) from error
        self.nodes.append(Node(name, op, inputs, shape))
        return len(self.nodes) - 1

    def shape(self, place: int) -> Shape:
        """Of what the node at this position gives."""
        return self.nodes[place].shape

    def finish(self, output: int | None = None) -> Graph:
        """The graph up to the node `output` (the last one if not given); what it does not need is dropped."""
        last = len(self.nodes) - 1 if output is None else output
        needed = {0, last}
        for position in range(last, 0, -1):
            if position in needed:
                needed.update(self.nodes[position].inputs)
        places = {old: new for new, old in enumerate(sorted(needed))}
        if last == 0:
            raise ModelError("the output of the network is its input; there is nothing to bound")
        return Graph(
            tuple(
                replace(self.nodes[old], inputs=tuple(places[place] for place in self.nodes[old].inputs))
                for old in sorted(needed)
            )
        )
