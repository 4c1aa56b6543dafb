"""Hypersphere embedding: adversarial training of angles, with a margin that the true class must keep.

The net ends in a `HypersphereHead`: f_k(x) = s cos(theta_k). With l the cross-entropy and l_m(f, y) = l(f - s * margin *
onehot(y), y), each cross-entropy of the objective becomes l_m; the inner maximiser has no margin:

    at       min_w E  l_m(f(z), y)                                                          z climbs on l(f(z), y)
    alp      min_w E  (l_m(f(x), y) + l_m(f(z), y)) / 2 + beta * |cos(x) - cos(z)|_2^2 / K   z climbs on l(f(z), y)
    trades   min_w E  l_m(f(x), y) + beta * KL(p(x) || p(z))                                z climbs on the divergence

Source: Pang, Yang, Dong, Xu, Zhu, Su 2020, "Boosting adversarial training with hypersphere embedding", arXiv:2002.08619. The
authors' settings on CIFAR-10: s 15 and margin 0.2 for at and trades (beta 6), s 20, margin 0.3 and beta 0.5 for alp.

**Differs from the paper:** the scale belongs to the layer, so the exported net is an ordinary one; the inner maximiser is
whatever `inner` says.

**Status:** partial; the table of AutoAttack (Croce, Hein 2020, arXiv:2003.01690) takes 8.1 points off the authors' figure on CIFAR-10
(60.5 to 52.4 % at radius 0.031). Scores are bounded by s, so attacks should be read on losses that do not depend on scale.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from hauberk._shapes import Batch, Labels, Logits
from hauberk.errors import SettingError
from hauberk.train._adversarial import Adversarial
from hauberk.train._hypersphere_head import HypersphereHead, head_of, with_hypersphere_head
from hauberk.train._losses import divergence
from hauberk.train._objective import Losses, Moment
from hauberk.train._status import Status
from hauberk.train.inner import Climb

__all__ = ["Hypersphere"]

_BETAS = {"at": None, "alp": 0.5, "trades": 6.0}


@dataclass(frozen=True, kw_only=True)
class Hypersphere(Adversarial):
    """Cost: the inner maximiser's, one forward and backward for `at`, two of each for the others; `trades` one forward more to climb from.

    Args:
        on: `at`, `alp` or `trades`.
        margin: of the cosine, in [0, 2).
        beta: weight of the pairing of `alp` or of the divergence of `trades`, > 0; None: the authors', 0.5 and 6.

    Raises:
        SettingError: a setting out of range, or a beta for `at`, which has no second term.
        ModelError: when called: the net has no hypersphere head; see `prepare`.
    """

    status: ClassVar[Status] = Status("partial", "Croce, Hein 2020, arXiv:2003.01690")

    on: str = "at"
    margin: float = 0.2
    beta: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on not in _BETAS:
            raise SettingError(f"the hypersphere is for {', '.join(_BETAS)}, got on={self.on!r}")
        if not 0 <= self.margin < 2:
            raise SettingError(f"the margin of a cosine lies in [0, 2), got {self.margin}")
        if self.on == "at" and self.beta is not None:
            raise SettingError(
                f"adversarial training on the hypersphere has no beta, got {self.beta}; use on='alp' or 'trades'"
            )
        if self.beta is None:
            object.__setattr__(self, "beta", _BETAS[self.on])
        elif not (math.isfinite(self.beta) and self.beta > 0):
            raise SettingError(f"the hypersphere needs a finite beta > 0, got {self.beta}")

    def prepare(self, net: nn.Module) -> nn.Module:
        """A copy of the net with the head that this objective needs, at the authors' scale; a net that has one is ready."""
        if any(isinstance(module, HypersphereHead) for module in net.modules()):
            return net
        return with_hypersphere_head(net, 20.0 if self.on == "alp" else 15.0)

    def climb(self, net: nn.Module, x: Batch, y: Labels) -> Climb:
        if self.on != "trades":
            return super().climb(net, x, y)
        with torch.no_grad():
            clean = net(x)
        return lambda z, rows: divergence(clean[rows], net(z))

    def loss(self, net: nn.Module, x: Batch, z: Batch, y: Labels, *, at: Moment) -> Losses:
        scale = head_of(net).scale
        if self.on == "at":
            moved = net(z)
            return Losses(self._learn(moved, y, scale), moved)
        clean, moved, beta = net(x), net(z), self.beta or 0.0
        if self.on == "alp":
            apart = F.mse_loss(clean / scale, moved / scale)
            learnt = (self._learn(clean, y, scale) + self._learn(moved, y, scale)) / 2
            return Losses(learnt + beta * apart, moved, {"pairing": apart.item()})
        apart = divergence(clean, moved).mean()
        return Losses(self._learn(clean, y, scale) + beta * apart, moved, {"divergence": apart.item()})

    def _learn(self, logits: Logits, y: Labels, scale: float) -> torch.Tensor:
        """Cross-entropy with the margin taken off the true class."""
        return F.cross_entropy(logits - scale * self.margin * F.one_hot(y, logits.shape[1]).to(logits), y)
