"""Batch norm folded into the convolution or linear layer before it: exact, and a third less work.

In eval mode a batch norm is y -> s (y - m) + b with s = weight / sqrt(var + eps) per channel; after a layer W x + c it is the
layer (s W) x + s (c - m) + b. The net is traced (torch.fx) only to *find* such pairs; its own `forward` goes on running, with
the layer's weights replaced and an identity in place of the batch norm, so whatever else it does stays as it was. A pair is
folded only where the layer is called once, its output goes into the batch norm alone, and neither is read elsewhere.
`TorchVictim` checks the result on the first examples and undoes it where the answers differ.
"""

import inspect
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from hauberk.victims.chance import private_chance

__all__ = ["Folding", "Swap", "final_squash", "fold_batch_norms", "hooked"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class Swap:
    """`new` in the place of `old` in the table `places` of every module that holds it."""

    old: nn.Module
    new: nn.Module
    places: tuple[tuple[nn.Module, str], ...]

    @classmethod
    def of(cls, root: nn.Module, old: nn.Module, new: nn.Module) -> "Swap":
        """Every place of `old` below `root`."""
        places = [
            (parent, name) for parent in root.modules() for name, child in parent._modules.items() if child is old
        ]
        return cls(old, new, tuple(places))

    def do(self) -> None:
        """Put `new` in place."""
        for parent, name in self.places:
            parent._modules[name] = self.new

    def undo(self) -> None:
        """Put `old` back."""
        for parent, name in self.places:
            parent._modules[name] = self.old


@dataclass(eq=False)
class Folding:
    """What was folded in a net, and how to take it back.

    Attributes:
        names: of the batch norms that are folded.
        notes: why some are not.
    """

    swaps: list[Swap] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def do(self) -> None:
        for swap in self.swaps:
            swap.do()

    def undo(self) -> None:
        for swap in self.swaps:
            swap.undo()


def hooked(net: nn.Module) -> bool:
    """Some module has a hook, which tracing would call with things that are no tensors."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, table, None) for part in net.modules() for table in tables)


def fold_batch_norms(net: nn.Module) -> Folding:
    """Fold, in place, what can be folded in a private copy of a net in eval mode.

    Returns:
        What was done. Batch norms that cannot be folded stay as they are, with a note.
    """
    folding = Folding()
    norms = {name: part for name, part in net.named_modules() if type(part) in _NORMS}
    if not norms:
        return folding
    unfit = sum(part._buffers["running_mean"] is None for part in norms.values())
    if unfit:
        folding.notes.append(
            f"{unfit} of {len(norms)} batch norms keep no running statistics: what the model answers to one example "
            "depends on the others in its batch."
        )
    if hooked(net):
        folding.notes.append("Batch norms are not folded: the model has hooks.")
        return folding
    reason = None
    for root, graph in _graphs(net):
        if isinstance(graph, str):
            reason = reason or graph
            continue
        for layer, norm in _pairs(root, graph):
            folding.swaps += [Swap.of(net, layer, folded(layer, norm)), Swap.of(net, norm, nn.Identity())]
            folding.names += [name for name, part in norms.items() if part is norm]
    left = len(norms) - len(folding.names)
    if reason is not None and left:
        folding.notes.append(
            f"{left} of {len(norms)} batch norms are not folded: the model cannot be traced ({reason})."
        )
    folding.do()
    return folding


def folded(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """A new layer that does what `layer` and then the batch norm `norm` do; computed in float64."""
    assert isinstance(layer, _LAYERS)
    assert isinstance(norm, _NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    device, dtype = layer.weight.device, layer.weight.dtype
    wide = torch.float64 if device.type != "mps" else torch.float32
    mean, var = norm.running_mean.to(wide), norm.running_var.to(wide)
    scale = (var + norm.eps).rsqrt()
    gain, offset, bias = (
        _optional(part, name, wide) for part, name in ((norm, "weight"), (norm, "bias"), (layer, "bias"))
    )
    scale = scale if gain is None else scale * gain
    shift = (-mean if bias is None else bias - mean) * scale
    shift = shift if offset is None else shift + offset
    weight = layer.weight.detach().to(wide) * scale.reshape(-1, *(1,) * (layer.weight.ndim - 1))
    new = type(layer).__new__(type(layer))  # the settings of the layer without the cost of a second initialisation
    new.__dict__.update(layer.__dict__)
    new._parameters = {
        "weight": nn.Parameter(weight.to(dtype), requires_grad=False),
        "bias": nn.Parameter(shift.to(dtype), requires_grad=False),
    }
    new._buffers, new._modules = {}, {}
    return new


def _optional(part: nn.Module, name: str, dtype: torch.dtype) -> Tensor | None:
    tensor = part._parameters[name]
    return None if tensor is None else tensor.detach().to(dtype)


def final_squash(net: nn.Module) -> Swap | None:
    """The swap that makes a net's last module, a softmax or sigmoid, give log-probabilities or logits; None where there is none."""
    if hooked(net):
        return None
    graph = _trace(net)
    if isinstance(graph, str):
        return None
    (output,) = [node for node in graph.nodes if node.op == "output"]
    last = output.args[0]
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    if not isinstance(last, fx.Node) or last.op != "call_module" or calls[last.target] != 1 or len(last.users) != 1:
        return None
    part = net.get_submodule(str(last.target))
    if type(part) is nn.Softmax:
        return Swap.of(net, part, nn.LogSoftmax(dim=1 if part.dim is None else part.dim))
    if type(part) is nn.Sigmoid:
        return Swap.of(net, part, nn.Identity())
    return None


def _graphs(net: nn.Module) -> Iterator[tuple[nn.Module, "fx.Graph | str"]]:
    """The net's graph; where it cannot be traced, the reason, and then the graphs of the parts that can."""
    if not any(type(part) in _NORMS for part in net.modules()) or type(net) in _NORMS:
        return
    graph = _trace(net)
    yield net, graph
    if isinstance(graph, str):
        for child in net.children():
            yield from _graphs(child)


def _trace(net: nn.Module) -> "fx.Graph | str":
    try:
        parameters = list(inspect.signature(net.forward).parameters.values())[1:]
        # without this, an optional argument would be traced as one that was given
        fixed = {p.name: p.default for p in parameters if p.default is not p.empty}
        # what a forward draws without its input, it draws for real while it is traced
        with warnings.catch_warnings(), torch.no_grad(), private_chance("tracing", device=torch.device("cpu")):
            warnings.simplefilter("ignore")
            return fx.Tracer().trace(net, concrete_args=fixed or None)
    except Exception as error:  # the user's forward runs on stand-ins here, and may fail in any way
        return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:120]


def _pairs(root: nn.Module, graph: fx.Graph) -> Iterator[tuple[nn.Module, nn.Module]]:
    parts = dict(root.named_modules(remove_duplicate=False))
    calls = Counter(id(parts[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    touched = {id(parts[name]) for name in read if name in parts}
    for node in graph.nodes:
        if node.op != "call_module" or type(parts[str(node.target)]) not in _NORMS:
            continue
        norm, source = parts[str(node.target)], node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        layer = parts[str(source.target)]
        if type(layer) not in _LAYERS or calls[id(layer)] != 1 or calls[id(norm)] != 1:
            continue
        if not {id(layer), id(norm)} & touched and _fits(layer, norm):
            yield layer, norm


def _fits(layer: nn.Module, norm: nn.Module) -> bool:
    weight, mean, var = layer.weight, norm._buffers["running_mean"], norm._buffers["running_var"]
    if norm.training or not isinstance(weight, Tensor) or mean is None or var is None:
        return False  # without running statistics it normalises by the batch: the answers depend on the company
    if isinstance(layer, nn.Linear) != (type(norm) is nn.BatchNorm1d and not isinstance(layer, nn.Conv1d)):
        return False
    return weight.is_floating_point() and weight.shape[0] == len(mean)
