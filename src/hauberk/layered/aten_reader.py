"""Exported PyTorch programs, operator by operator, into layered networks: aliases, constants, and what belongs to the batch."""

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from hauberk.errors import HauberkError, ModelError
from hauberk.layered.aten_call import Call, Wire
from hauberk.layered.aten_layers import LAYERS
from hauberk.layered.aten_values import VALUES
from hauberk.layered.compose import Compose
from hauberk.layered.graph import Builder, Graph

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Reader"]

_RULES: Mapping[str, Any] = MappingProxyType({**VALUES, **LAYERS})


class Reader:
    """Walks the exported graph once; what does not depend on the input is computed on the way.

    A value that has an axis of the batch and does not depend on the input is held for one example, (1, *shape).

    Args:
        program: of a module that was given a batch of `batch` examples, (batch, *shape).
        state: the parameters and buffers of the module by name, each perhaps with "net." before it in the program.
        dtype: of the module.
        drop: leave out a last softmax; `dropped` is then its name.
    """

    def __init__(
        self,
        program: "ExportedProgram",
        state: Mapping[str, Tensor],
        batch: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        drop: bool,
    ) -> None:
        self.program, self.drop, self.dropped = program, drop, ""
        self.state = state
        self.builder = Builder(shape, dtype=dtype)
        self.values: dict[Node, Any] = {}
        self.roots: dict[Any, Any] = {}  # the node whose memory a node is, in whole
        self.families: dict[Any, Any] = {}  # the node whose memory it shares, in part
        self.batch, self.symbol = (
            batch,
            None,
        )  # what the forward asks for by len() is a number, elsewhere it is a symbol
        self.skipped: Node | None = None

    def read(self) -> Graph:
        """The graph.

        Raises:
            ModelError: an operator that cannot be read, or one that mixes the examples of a batch.
        """
        nodes = list(self.program.graph.nodes)
        output = self._output(nodes[-1])
        order = {node: position for position, node in enumerate(nodes)}
        for node in nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function" and node is not self.skipped:
                self._call(node, order)
        value = self._value(output)
        if not isinstance(value, Wire):
            raise ModelError("the answer of the module does not depend on its input; there is nothing to bound")
        return self.builder.finish(value.place)

    def _output(self, node: Node) -> Node:
        """What gives the answer, or would give it without its softmax."""
        kinds = [spec.kind.name for spec in self.program.graph_signature.output_specs]
        answers = [value for value, kind in zip(_flat(node.args[0]), kinds, strict=True) if kind == "USER_OUTPUT"]
        if len(answers) != 1:
            raise ModelError(
                f"expected a module that answers with one tensor, got {len(answers)}; wrap it in one that does"
            )
        last: Any = answers[0]
        name = _operator(last).lstrip("_") if isinstance(last, Node) else ""
        if not self.drop or name not in ("softmax", "log_softmax"):
            return last
        dim, ndim = last.args[1], last.meta["val"].ndim
        if dim % ndim != ndim - 1:
            raise ModelError(f"{_where(last)} is along axis {dim}, expected the last one; it cannot be dropped")
        self.dropped, self.skipped = name, last
        answer: Any = last.args[0]
        return answer

    def _placeholder(self, node: Node) -> None:
        signature = self.program.graph_signature
        places = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        if node.name in places:
            self.values[node] = self.state[places[node.name].removeprefix("net.")]
        elif node.name in signature.inputs_to_lifted_tensor_constants:
            self.values[node] = self.program.constants[signature.inputs_to_lifted_tensor_constants[node.name]]
        else:
            self.values[node] = Wire(0)
            size = node.meta["val"].shape[0]
            self.symbol = size.node.expr if isinstance(size, torch.SymInt) else None

    def _value(self, node: Node) -> Any:
        return self.values[self.roots.get(node, node)]

    def _is_batch(self, size: Any) -> bool:
        if isinstance(size, torch.SymInt):
            return bool(size.node.expr == self.symbol)
        return isinstance(size, int) and size == self.batch

    def _arguments(self, node: Node, batch: int) -> tuple[list[Any], dict[str, Any]]:
        """What the operator is given; the size of the batch replaced by `batch`."""

        def found(value: Any) -> Any:
            value = self._value(value) if isinstance(value, Node) else value
            if isinstance(value, tuple | list):
                return [found(each) for each in value]
            if self._is_batch(value):
                return batch
            if isinstance(value, torch.SymInt):
                raise ModelError(f"{_where(node)} mixes the examples of a batch; leave it out of what is bounded")
            return value

        return [found(value) for value in node.args], {name: found(value) for name, value in node.kwargs.items()}

    def _call(self, node: Node, order: Mapping[Node, int]) -> None:
        target: Any = node.target
        meta = node.meta.get("val")
        if target is operator.getitem and not node.users:
            self.values[node] = None  # one of several results, and nobody reads it
        elif target is operator.getitem:
            source: Any = node.args[0]
            place: Any = node.args[1]
            value = self._value(source)
            self.values[node] = value[place]
            self.families[node] = self.families.get(source, source)
        elif isinstance(meta, int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool):
            self.values[node] = meta
        elif not node.users and not _schema(target).is_mutable:
            self.values[node] = None  # an assertion, or dead
        else:
            self._aliases(node, order)
            self.values[self.roots.get(node, node)] = self._result(node)

    def _aliases(self, node: Node, order: Mapping[Node, int]) -> None:
        """Notes which memory the operator writes to or gives a view of.

        Raises:
            ModelError: it writes into memory that another node, read later, shares in part.
        """
        schema = _schema(node.target)
        passes = "dropout" in str(schema.name)  # it gives what it is given, and does not say so
        for argument, value in zip(schema.arguments, node.args):
            if (argument.alias_info is None and not passes) or not isinstance(value, Node):
                continue
            source: Any = self.roots.get(value, value)
            family = self.families.get(source, source)
            if argument.alias_info is None or not argument.alias_info.is_write:
                self.families[node] = family
                continue
            self.roots[node] = source
            shared = [each for each in (*self.families, family) if self.families.get(each, each) == family]
            for each in shared:
                later = any(order[user] > order[node] for user in each.users)
                if each is not node and self.roots.get(each, each) is not source and later:
                    raise ModelError(
                        f"{_where(node)} writes in place into values that {each.name} reads too; make it write elsewhere "
                        "(inplace=False)"
                    )

    def _result(self, node: Node) -> Any:
        target: Any = node.target
        if not any(isinstance(value, Wire) for value in _flat(self._arguments(node, 1))):
            return self._constant(node)
        schema, name = _schema(target), _operator(node)
        if name not in _RULES:
            raise ModelError(f"{_where(node)} is an operator that cannot be read; {_cure(name)}")
        given, named = self._arguments(node, 2)
        arguments = {part.name: part.default_value for part in schema.arguments}
        arguments |= {part.name: value for part, value in zip(schema.arguments, given)} | named
        arguments = {key: value for key, value in arguments.items() if key not in _IGNORED}
        shape = self._shape(node)
        functional = _functional(target)
        try:
            compose = Compose(self.builder, _name(node))
            result = _RULES[name](Call(compose, functional, arguments, shape, _where(node)))
        except HauberkError:
            raise
        except RuntimeError as error:
            raise ModelError(f"{_where(node)} cannot be read: {error}") from error
        return [Wire(place) for place in result] if isinstance(result, list) and _many(node) else Wire(_single(result))

    def _shape(self, node: Node) -> tuple[int, ...]:
        """Of the first result for one example; all of them are checked."""
        shapes: list[tuple[int, ...]] = []
        for value in _flat(node.meta["val"]):
            if not isinstance(value, Tensor):
                continue
            batch, *rest = value.shape or (None,)
            if not self._is_batch(batch) or any(isinstance(size, torch.SymInt) for size in rest):
                raise ModelError(
                    f"{_where(node)} mixes the examples of a batch: it gives shape {tuple(value.shape)}, expected the batch first; "
                    "let it work on each example by itself"
                )
            shapes.append(tuple(rest))
        return shapes[0]

    def _constant(self, node: Node) -> Any:
        target: Any = node.target
        given, named = self._arguments(node, 1)
        if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
            raise ModelError(f"{_where(node)} draws random numbers; a random network cannot be bounded")
        if _schema(target).is_mutable:
            own = {value.untyped_storage().data_ptr() for value in self.state.values()}
            if isinstance(given[0], Tensor) and given[0].untyped_storage().data_ptr() in own:
                raise ModelError(
                    f"{_where(node)} changes a parameter or buffer of the module; expected a forward that does not"
                )
        return target(*given, **named)


_IGNORED = ("cudnn_enabled", "non_blocking", "memory_format", "copy", "pin_memory", "generator")


_INSIDE = ("/torch/", "hauberk/layered/from_torch.py")


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    return [each for item in value for each in _flat(item)] if isinstance(value, tuple | list) else [value]


def _many(node: Node) -> bool:
    return isinstance(node.meta["val"], tuple | list)


def _single(result: int | list[int]) -> int:
    return result[0] if isinstance(result, list) else result


def _schema(target: Any) -> Any:
    schema = getattr(target, "_schema", None)
    if schema is None:
        raise ModelError(
            f"the operator {getattr(target, '__name__', target)!s} cannot be read (is there a torch.no_grad or autocast inside the "
            "forward?); leave it out of what is bounded"
        )
    return schema


def _operator(node: Node) -> str:
    """The name of the operator, without the underscore of those that work in place."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return ""
    name = str(schema.name).rpartition("::")[2]
    return name.rstrip("_") if schema.is_mutable else name


def _functional(target: Any) -> Any:
    if not target._schema.is_mutable:
        return target
    packet = getattr(torch.ops.aten, str(target._schema.name).rpartition("::")[2].rstrip("_"), None)
    return getattr(packet, target._overloadname, target)


def _module(node: Node) -> tuple[str, str]:
    """The innermost module around a node: its path and type."""
    stack = [*(node.meta.get("nn_module_stack") or {}).values()]
    path, kind = stack[-1] if stack else ("", "")
    return str(path).removeprefix("net").removeprefix("."), str(getattr(kind, "__name__", kind)).rpartition(".")[2]


def _name(node: Node) -> str:
    path, _ = _module(node)
    return f"{path}.{node.name}" if path else node.name


def _where(node: Node) -> str:
    """The node, its operator, and the line of the module where it stands."""
    path, kind = _module(node)
    inside = f" of {path or 'the module'} ({kind})" if kind and kind != "_One" else ""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if line.strip()]
    frames = [
        i for i, line in enumerate(lines) if line.startswith('File "') and not any(part in line for part in _INSIDE)
    ]
    line = ""
    if frames:
        file, _, rest = lines[frames[-1]].removeprefix('File "').partition('", line ')
        line = f", line {rest.partition(',')[0]} of {file.rpartition('/')[2]}"
    return f"{node.name} (aten.{_operator(node)}){inside}{line}"


def _cure(name: str) -> str:
    if name.lstrip("_") == "log_softmax":
        return "take it off, or give drop_final_softmax=True: the classes keep their order"
    return "write it with operators that can, or leave it out of what is bounded"
