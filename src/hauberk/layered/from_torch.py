"""PyTorch modules as layered networks: exported by `torch.export`, then read operator by operator."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hauberk.errors import ModelError
from hauberk.layered.aten_reader import Reader
from hauberk.layered.graph import Graph

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["from_torch"]

_AGREES = MappingProxyType({torch.float32: 1e-3, torch.float64: 1e-8})
"""How far the network read may be from the module, over 1 + the largest answer; rounding stays far below."""


def from_torch(
    module: nn.Module, shape: Sequence[int], *, dtype: torch.dtype | None = None, drop_final_softmax: bool = False
) -> Graph:
    """The layered network that computes what `module` computes in evaluation mode.

    Its weights are the parameters and buffers of the module, not copies, so that gradients of what is done with the graph reach
    the parameters; what is derived from them, such as the factor of a batch norm, is computed here with its gradients. Modes,
    gradients and the global generator are left as they are. Costs an export, and one forward of three examples in which the
    graph is compared with the module.

    Args:
        module: takes (B, *shape), answers with one tensor (B, ...), each row of which depends on its own example only.
        shape: of an example.
        dtype: in which the graph computes, by default that of the module; weights are converted where it is another one.
        drop_final_softmax: leave out a softmax or log_softmax that comes last; the classes keep their order.

    Raises:
        ModelError: the module cannot be exported, has an operator that cannot be read (the message names it and where it
            stands), mixes the examples of a batch, or answers with something else than one tensor.
    """
    shape = tuple(shape)
    first = next((value for value in _state(module).values() if value.is_floating_point()), None)
    own = torch.float32 if first is None else first.dtype
    device = torch.device("cpu") if first is None else first.device
    with _evaluating(module):
        batch = _batch(module, shape)
        program = _exported(module, (batch, *shape), own, device)
        reader = Reader(program, _state(module), batch, shape, own, drop_final_softmax)
        graph = reader.read()
        _compare(graph, module, reader.dropped, own, device)
    return graph if dtype in (None, own) else graph.to(dtype=dtype)


class _One(nn.Module):
    """The module as a function of one argument, whatever else its forward could take."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        """What the module answers."""
        return self.net(x)


def _state(module: nn.Module) -> dict[str, Tensor]:
    named = (module.named_parameters, module.named_buffers)
    return {name: value for names in named for name, value in names(remove_duplicate=False)}


def _batch(module: nn.Module, shape: tuple[int, ...]) -> int:
    """A number of examples that is the size of no axis of the network; no values are computed in exporting."""
    taken = {size for value in _state(module).values() for size in value.shape} | set(shape)
    return next(size for size in (251, 257, 263, 269, 271, 277, 281, 283, 293) if size not in taken)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation mode, and nothing drawn from the global generator."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def _exported(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> "ExportedProgram":
    import torch.export  # imports for seconds what only this function needs

    sample = torch.empty(shape, dtype=dtype, device=device)
    try:
        with warnings.catch_warnings():
            # the user's forward runs on stand-ins here; what it warns of when it runs is for its user, not for this
            warnings.simplefilter("ignore")
            return torch.export.export(
                _One(module), (sample,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False
            )
    except Exception as error:  # the user's forward runs on stand-ins here, and may fail in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
        raise ModelError(
            f"{type(module).__name__} cannot be exported for examples of shape {shape[1:]} ({reason}); expected a forward of one "
            "tensor without branches on its values"
        ) from error


def _compare(graph: Graph, module: nn.Module, dropped: str, dtype: torch.dtype, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, *graph.input_shape, generator=generator, dtype=dtype).to(device)
    with torch.no_grad():
        found, wanted = graph(x.clone()), _only(module(x))
    if dropped:
        found = found.softmax(dim=-1) if dropped == "softmax" else found.log_softmax(dim=-1)
    off = _AGREES.get(dtype, 1e-1) * (1 + float(wanted.nan_to_num(0.0, 0.0, 0.0).abs().max()))
    if not torch.allclose(found, wanted.to(found.dtype), rtol=0.0, atol=off, equal_nan=True):
        far = float((found - wanted).abs().nan_to_num().max())
        raise ModelError(
            f"{type(module).__name__} was read wrongly: on random examples the network read is {far:.1g} away from the module; does "
            "it write in place into views, or depend on the values in its branches?"
        )


def _only(answer: Any) -> Any:
    while isinstance(answer, tuple | list | dict) and len(answer) == 1:
        parts: Any = answer.values() if isinstance(answer, dict) else answer
        answer = next(iter(parts))
    return answer
