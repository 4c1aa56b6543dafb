"""Gradients of the loss by the input, as regularisers read them: attached to the weights or not."""

import torch
import torch.nn.functional as F
from torch import nn

from hauberk._shapes import Batch, Labels

__all__ = ["loss_gradients"]


def loss_gradients(net: nn.Module, x: Batch, y: Labels, *, attached: bool) -> Batch:
    """(B, *shape) the gradient of each example's cross-entropy by that example; `attached` keeps the graph to the weights."""
    leaf = x.detach().requires_grad_()
    loss = F.cross_entropy(net(leaf), y, reduction="sum")
    (gradients,) = torch.autograd.grad(loss, leaf, create_graph=attached)
    return gradients
