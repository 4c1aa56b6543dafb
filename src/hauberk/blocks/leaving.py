"""Examples that an attack gives up before they are broken or out of queries: it has looked everywhere it wants to look."""

import torch
from torch import Tensor

from hauberk.blocks.frontier import Frontier

__all__ = ["leaving"]


def leaving(frontier: Frontier, gone: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Work on without these of the live examples, (live,) bool, each of one row; the rest of these per-row tensors."""
    if not bool(gone.any()):
        return tensors
    among = torch.zeros_like(frontier.margin, dtype=torch.bool)
    among[frontier.rows[~gone]] = True
    frontier.restart(among=among)
    return tuple(tensor[~gone] for tensor in tensors)
