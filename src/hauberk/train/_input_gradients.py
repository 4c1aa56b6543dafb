"""Gradients of the loss by the input, as regularisers and the monitor read them, and the angle between two of them."""

import torch
import torch.nn.functional as F
from torch import nn

from hauberk._shapes import Batch, Labels, PerExample, flat

__all__ = ["cosine", "loss_gradients"]


def loss_gradients(net: nn.Module, x: Batch, y: Labels, *, attached: bool) -> Batch:
    """(B, *shape) the gradient of each example's cross-entropy by that example; `attached` keeps the graph to the weights."""
    leaf = x.detach().requires_grad_()
    loss = F.cross_entropy(net(leaf), y, reduction="sum")
    (gradients,) = torch.autograd.grad(loss, leaf, create_graph=attached)
    return gradients


def cosine(a: Batch, b: Batch) -> PerExample:
    """(B,) the cosine of the angle between two gradients; 1 where one of them is 0."""
    a, b = flat(a), flat(b)
    # scaled first, by numbers that cancel: the squares of a sure net's gradients underflow
    most = [value.detach().abs().amax(dim=1) for value in (a, b)]
    rows = ((most[0] > 0) & (most[1] > 0)).nonzero().squeeze(1)
    p, q = a[rows] / most[0][rows, None], b[rows] / most[1][rows, None]
    found = (p * q).sum(dim=1) / (p.norm(dim=1) * q.norm(dim=1))
    return torch.ones_like(most[0]).index_put((rows,), found)
