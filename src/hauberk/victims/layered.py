"""A victim as a layered network, for proofs: its preprocessing, its weights, and the part of its answer that are the scores."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hauberk.errors import AccessError
from hauberk.layered.from_torch import from_torch
from hauberk.layered.graph import Graph
from hauberk.victims.torch import TorchVictim

__all__ = ["layered"]


class _Posed(nn.Module):
    """The network as the victim asks it."""

    def __init__(self, victim: TorchVictim) -> None:
        super().__init__()
        self.net, self.normalisation, self.answers = victim.net, victim.normalisation, victim.answers

    def forward(self, x: Tensor) -> Tensor:
        return self.answers.pick(self.net(self.normalisation(x)))


def layered(victim: Any, shape: Sequence[int]) -> Graph:
    """The graph from inputs in the victim's bounds to its scores; a softmax at the end is left out.

    Args:
        victim: of a PyTorch network.
        shape: of one example.

    Raises:
        AccessError: the victim is no network that can be looked into.
        ModelError: an operator that is not known; the message names it.
    """
    if not isinstance(victim, TorchVictim):
        raise AccessError(
            f"a proof needs the network itself, got {type(victim).__name__} {victim.name!r}; wrap the nn.Module, or use `smoothing`, which "
            "needs labels only"
        )
    graph = from_torch(_Posed(victim).eval(), tuple(shape), dtype=victim.dtype, drop_final_softmax=True)
    return graph.detach().to(device=torch.device("cpu"))
