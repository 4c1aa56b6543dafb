"""A last layer that scores by angles: each score is the cosine of the angle between features and a class's weights, scaled."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hauberk.errors import ModelError, SettingError

__all__ = ["HypersphereHead", "head_of", "with_hypersphere_head"]


class HypersphereHead(nn.Module):
    """scale * cos(h, w_k) for features h and weights w_k; in place of a net's last linear layer. It has no bias.

    Args:
        features: length of h.
        classes: how many w_k.
        scale: s > 0; it is part of the layer, so softmax and cross-entropy apply to its answer as to any net's.

    Raises:
        SettingError: a scale that is not a positive number.
    """

    def __init__(self, features: int, classes: int, scale: float = 15.0) -> None:
        super().__init__()
        if not (math.isfinite(scale) and scale > 0):
            raise SettingError(f"a hypersphere head needs a finite scale > 0, got {scale}")
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, h: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(h, dim=1), F.normalize(self.weight, dim=1))

    def extra_repr(self) -> str:
        classes, features = self.weight.shape
        return f"features={features}, classes={classes}, scale={self.scale}"


def with_hypersphere_head(net: nn.Module, scale: float = 15.0) -> nn.Module:
    """A copy of the net whose last linear layer is a `HypersphereHead` with the same weights (a bias is dropped).

    Raises:
        ModelError: the net has no linear layer, or has such a head already.
        SettingError: a scale that is not a positive number.
    """
    net = copy.deepcopy(net)
    if any(isinstance(module, HypersphereHead) for module in net.modules()):
        raise ModelError("expected a net with a linear last layer, got one with a hypersphere head; use it as it is")
    name, last = next(
        ((name, module) for name, module in reversed(list(net.named_modules())) if isinstance(module, nn.Linear)),
        ("", None),
    )
    if last is None:
        raise ModelError(f"a hypersphere head replaces a net's last linear layer, got {type(net).__name__} without any")
    with torch.device("meta"):  # nothing is drawn: the weights are there
        head = HypersphereHead(last.in_features, last.out_features, scale)
    head.weight, head.training = nn.Parameter(last.weight.detach()), last.training
    if not name:
        return head
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, head)
    return net


def head_of(net: nn.Module) -> HypersphereHead:
    """The one hypersphere head of a net.

    Raises:
        ModelError: it has none, or several.
    """
    heads = [module for module in net.modules() if isinstance(module, HypersphereHead)]
    if len(heads) != 1:
        raise ModelError(
            f"training on the hypersphere needs a net with one HypersphereHead, got {len(heads)}; "
            "make one with hauberk.train.with_hypersphere_head(net)"
        )
    return heads[0]
