"""Mixed precision: the net works in 16 bits, weights, losses and steps stay as they are.

Source: Micikevicius et al. 2017, "Mixed precision training", arXiv:1710.03740 (float16 needs the loss scaled up, so that small gradients do
not become 0). **Differs from the paper:** casts are torch's autocast, around each pass through the net and not around the objective, so the
losses of every objective are computed in the weights' own precision.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PRECISIONS", "LossScale", "lowered"]

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""`float32` stands for: as the weights are."""


@contextmanager
def lowered(net: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Inside, each pass through the net runs under autocast to `dtype`, and its scores come out in the dtype of the weights."""
    if dtype is None:
        yield
        return
    first = next(net.parameters())
    inside: list[torch.autocast] = []

    def enter(*_: Any) -> None:
        cast = torch.autocast(first.device.type, dtype=dtype)
        cast.__enter__()
        inside.append(cast)

    def leave(module: nn.Module, given: Any, scores: Any) -> Any:
        inside.pop().__exit__(None, None, None)
        return scores.to(first.dtype) if isinstance(scores, Tensor) else scores

    before = net.register_forward_pre_hook(enter, prepend=True)
    after = net.register_forward_hook(leave, prepend=True, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


@dataclass(frozen=True)
class LossScale:
    """What the loss is multiplied by before it goes backwards in float16; a power of two, so that it rounds nothing.

    Args:
        value: the factor.
        good: steps since it last changed.
    """

    value: float = 2.0**16
    good: int = 0

    def after(self, *, finite: bool) -> "LossScale":
        """Halved after gradients that overflowed (that step is left out), doubled after 2,000 good ones in a row."""
        if not finite:
            return LossScale(self.value / 2)
        return LossScale(self.value * 2) if self.good + 1 == 2000 else LossScale(self.value, self.good + 1)
