"""The attack of a textbook, with all that can go wrong with it: PGD on the cross-entropy in float32, one start, one look.

    z_0 = x + uniform noise in the ball,      z_(t+1) = clip(z_t + step * sign(grad CE(f(z_t), y)))

Source: Madry, Makelov, Schmidt, Tsipras, Vladu 2018, arXiv:1706.06083. It is here to be fooled: what the model answers is taken
for logits, a gradient that does not exist for zero, and one draw of a randomised model for its answer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels

__all__ = ["naive_pgd"]


def naive_pgd(model: nn.Module, x: Batch, y: Labels, radius: float, *, steps: int = 40, seed: int = 0) -> Tensor:
    """(B,) bool: the model is right at the last point of a textbook PGD in the L-infinity ball, so "robust".

    Args:
        model: in evaluation mode, for inputs in [0, 1]; what it draws, it draws from torch's global generator.
        steps: of 2.5 * radius / steps each; one forward and one backward an example and step.
        seed: of the start.
    """
    rows = torch.arange(len(x))
    start = Streams(seed, rows, "naive").uniform(rows, x.shape[1:], dtype=x.dtype)
    z = (x + radius * (2 * start - 1)).clamp(0, 1)
    for _ in range(steps):
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            loss = F.cross_entropy(model(leaf), y)
            found: Any = torch.autograd.grad(loss, leaf, allow_unused=True) if loss.requires_grad else (None,)
        gradient = torch.zeros_like(z) if found[0] is None else found[0]
        z = z + 2.5 * radius / steps * gradient.sign()
        z = torch.minimum(torch.maximum(z, x - radius), x + radius).clamp(0, 1)
    with torch.no_grad():
        return model(z).argmax(dim=1) == y
