"""Views between a batch of inputs and a batch of vectors."""

import math
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Batch", "Labels", "Logits", "PerExample", "Rows", "double", "flat", "like", "wide"]

Batch: TypeAlias = Tensor
"""(B, *input shape), floating point, every value inside the victim's bounds."""
Logits: TypeAlias = Tensor
"""(B, classes), floating point."""
Labels: TypeAlias = Tensor
"""(B,), int64 class indices."""
Rows: TypeAlias = Tensor
"""(B,), int64: for each row of a batch, the index of the example it is spent on."""
PerExample: TypeAlias = Tensor
"""(B,), one number for each example."""


def double(x: Tensor) -> torch.dtype:
    """float64 where x's device has it (Apple's does not), x's own dtype elsewhere."""
    return x.dtype if x.device.type == "mps" else torch.float64


def flat(x: Batch) -> Tensor:
    """(B, *shape) seen as (B, D)."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def like(values: PerExample | float, x: Batch) -> Tensor:
    """One value per example, shaped so that it broadcasts over (B, *shape); a float becomes a 0-d tensor of x's kind."""
    if not isinstance(values, Tensor):
        return torch.as_tensor(values, dtype=x.dtype, device=x.device)
    if values.ndim == 0:
        return values.to(x)
    return wide(values.to(x), x)


def wide(flags: Tensor, x: Batch) -> Tensor:
    """(B,) seen so that it broadcasts over (B, *shape)."""
    return flags.reshape(-1, *(1,) * (x.ndim - 1))
