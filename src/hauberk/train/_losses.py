"""Per-example losses that several objectives share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hauberk._shapes import Labels, Logits, PerExample

__all__ = ["divergence", "rival_logit", "soft_cross_entropy"]


def divergence(of: Logits, to: Logits) -> PerExample:
    """KL(softmax(of) || softmax(to)), attached to both."""
    p, q = of.log_softmax(dim=1), to.log_softmax(dim=1)
    return (p.exp() * (p - q)).sum(dim=1)


def soft_cross_entropy(logits: Logits, targets: Tensor) -> PerExample:
    """-sum_k targets_k log p_k; targets (B, classes)."""
    return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1)


def rival_logit(logits: Logits, y: Labels) -> PerExample:
    """The largest score of a class other than y."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
