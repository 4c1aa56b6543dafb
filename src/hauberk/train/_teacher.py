"""A net that teaches another: what it answers is data, so nothing of it changes and no gradient reaches it."""

import copy
from dataclasses import dataclass, field

import torch
from torch import nn

from hauberk._shapes import Batch, Logits
from hauberk.evidence.fingerprint import state_fingerprint

__all__ = ["Teacher"]


@dataclass(frozen=True, eq=False)
class Teacher:
    """A copy of a net, frozen, in evaluation mode; its repr is the fingerprint of its weights, so that it can stand in a setting.

    Args:
        net: any module that answers (B, classes) logits; changing it later does not change the teacher.
    """

    net: nn.Module = field(repr=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        net = copy.deepcopy(self.net).eval().requires_grad_(False)
        object.__setattr__(self, "net", net)
        object.__setattr__(self, "fingerprint", state_fingerprint(net.state_dict()))

    def __call__(self, x: Batch) -> Logits:
        """(B, classes) logits in the kind of number of x; the net is moved to the device of x, and computes in its own kind."""
        own = next(self.net.parameters(), x)
        if own.device != x.device:
            self.net.to(x.device)
        with torch.no_grad():
            return self.net(x.to(own.dtype)).to(x.dtype)
