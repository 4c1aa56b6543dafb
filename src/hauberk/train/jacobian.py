"""Jacobian regularisation: a penalty on how far the scores move with the input, whatever the label.

    weight / 2 * E |J(x)|_F^2,    J = d f(x) / d x    (scores, before softmax)

With C classes and v uniform on the unit sphere of the scores, |J|_F^2 = C * E_v |v^T J|_2^2: a few random directions cost a
few backwards where the whole Jacobian costs C.

Source: Hoffman, Roberts, Yaida 2019, "Robust learning with Jacobian regularization", arXiv:1908.02729, algorithm 1; the
authors use one projection and weight 0.01 on MNIST.

**Differs from the paper:** directions come from the stream of each example; the penalty has a forward of its own.

**Status:** partial; the authors try it on small nets under FGSM, PGD and Carlini and Wagner's attack; no test by others that
know it is known to us.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import SettingError
from hauberk.train._adversarial import in_mode
from hauberk.train._objective import Moment
from hauberk.train._status import Status

__all__ = ["JacobianPenalty"]


@dataclass(frozen=True, kw_only=True)
class JacobianPenalty:
    """A regulariser. Cost: one forward, and per projection one backward and one backward through it.

    Args:
        weight: > 0.
        projections: random directions, >= 1; None: the exact norm, at the cost of one direction for each class.
        mode: `train` or `eval`: what batch norm and dropout do here.

    Raises:
        SettingError: a setting out of range.
    """

    status: ClassVar[Status] = Status("partial", "Hoffman, Roberts, Yaida 2019, arXiv:1908.02729")

    weight: float = 0.01
    projections: int | None = 1
    mode: str = "train"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise SettingError(f"the Jacobian penalty needs a finite weight > 0, got {self.weight}")
        if self.projections is not None and self.projections < 1:
            raise SettingError(
                f"the Jacobian penalty needs projections >= 1, or None for the exact norm, got {self.projections}"
            )
        if self.mode not in ("eval", "train"):
            raise SettingError(f"the mode of the Jacobian penalty is eval or train, got {self.mode!r}")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Tensor:
        leaf = x.detach().requires_grad_()
        with in_mode(net, training=self.mode == "train"):
            logits = net(leaf)
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        directions = self._directions(logits.detach(), streams)
        for v in directions:
            (pulled,) = torch.autograd.grad(logits, leaf, v, create_graph=True)
            total = total + pulled.square().sum() / len(x)
        factor = logits.shape[1] / len(directions)
        return self.weight / 2 * factor * total

    def _directions(self, logits: Tensor, streams: Streams) -> list[Tensor]:
        """Each (B, C), every row of length 1."""
        if self.projections is None:
            return [
                torch.zeros_like(logits).index_fill_(1, torch.tensor([k], device=logits.device), 1.0)
                for k in range(logits.shape[1])
            ]
        rows = torch.arange(len(logits))
        drawn = [streams.normal(rows, logits.shape[1:], dtype=torch.float64) for _ in range(self.projections)]
        return [(v / v.norm(dim=1, keepdim=True)).to(logits) for v in drawn]
