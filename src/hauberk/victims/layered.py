"""A victim as a layered network, for proofs: its preprocessing, its weights, and the part of its answer that are the scores."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hauberk.errors import AccessError, ModelError
from hauberk.layered.from_torch import from_torch
from hauberk.layered.graph import Graph
from hauberk.victims.onnx import OnnxVictim
from hauberk.victims.torch import TorchVictim

__all__ = ["layered"]


class _Posed(nn.Module):
    """The network as the victim asks it."""

    def __init__(self, victim: TorchVictim | OnnxVictim, net: nn.Module) -> None:
        super().__init__()
        self.net, self.normalisation, self.answers = net, victim.normalisation, victim.answers

    def forward(self, x: Tensor) -> Tensor:
        return self.answers.pick(self.net(self.normalisation(x)))


def layered(victim: Any, shape: Sequence[int]) -> Graph:
    """The graph from inputs in the victim's bounds to its scores; a softmax at the end is left out.

    Args:
        victim: of a PyTorch network, or of an ONNX file.
        shape: of one example.

    Raises:
        AccessError: the victim is no network that can be looked into.
        ModelError: an operator that is not known; the message names it.
    """
    if not isinstance(victim, TorchVictim | OnnxVictim):
        raise AccessError(
            f"a proof needs the network itself, got {type(victim).__name__} {victim.name!r}; wrap the nn.Module or an ONNX file, or use "
            "`smoothing`, which needs labels only"
        )
    if (
        isinstance(victim, OnnxVictim) and not victim.answers.settled
    ):  # what the file answers says whether it was read rightly
        low, high = victim.bounds
        victim.probe(torch.full((1, *shape), (low + high) / 2, dtype=victim.dtype, device=victim.device))
    if victim.net is None:
        raise ModelError(f"the network in {victim.name!r} cannot be looked into; {' '.join(victim.notes)}")
    graph = from_torch(_Posed(victim, victim.net).eval(), tuple(shape), dtype=victim.dtype, drop_final_softmax=True)
    return graph.detach().to(device=torch.device("cpu"))
