"""ReLU stability: a penalty on ReLUs whose sign the box around an example leaves open, which is what makes exact verification slow.

    weight * mean over examples of sum over ReLUs of -tanh(1 + l * u),    l <= what the ReLU reads <= u in the box, by intervals

-tanh(1 + l u) is near -1 where l and u have the same sign and grows to 1 as they move apart.

Source: Xiao, Tjeng, Shafiullah, Madry 2019, "Training for faster adversarial robustness verification via inducing ReLU
stability", arXiv:1809.03008, section 3.3. The authors add it to adversarial training at the same radius, with weights of the order of 1e-4
on MNIST.

**Differs from the paper:** plain intervals throughout, where the authors use a tighter form of them at the second layer.

**Status:** partial; it makes nets cheaper to verify and claims no robustness of its own (Xiao et al. 2019, arXiv:1809.03008, add it to
adversarial training and let a verifier say what holds).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.errors import ModelError, SettingError
from hauberk.layered.ops import Elementwise
from hauberk.threat import ThreatModel
from hauberk.train._intervals import box_ranges, graph_of, linf_ball
from hauberk.train._objective import Moment
from hauberk.train._status import Status

__all__ = ["ReluStability"]


@dataclass(frozen=True, kw_only=True)
class ReluStability:
    """A regulariser. Cost: about two forwards and backwards an example, which the trainer does not count.

    Args:
        weight: > 0.
        threat: an L-infinity radius.
        bounds: the range of the input.

    Raises:
        ThreatError: the threat cannot be read.
        SettingError: a weight that is not a positive number; a threat that is no L-infinity radius.
        ModelError: when called: a net without ReLU, one that intervals cannot go through, or one with batch norm.
    """

    status: ClassVar[Status] = Status("partial", "Xiao et al. 2019, arXiv:1809.03008")

    weight: float = 1e-4
    threat: ThreatModel | str = "linf:0.3"
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        threat = ThreatModel.parse(self.threat)
        object.__setattr__(self, "threat", threat)
        linf_ball(threat, self.bounds)
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise SettingError(f"relu_stability needs a finite weight > 0, got {self.weight}")

    def __call__(self, net: nn.Module, x: Batch, y: Labels, *, streams: Streams, at: Moment) -> Tensor:
        graph = graph_of(net, x)
        ranges = box_ranges(graph, x, linf_ball(ThreatModel.parse(self.threat), self.bounds))
        read = [node.inputs[0] for _, node in graph if isinstance(node.op, Elementwise) and node.op.function == "relu"]
        if not read:
            raise ModelError("relu_stability needs a net with ReLU, got one without")
        losses = [-torch.tanh(1 + ranges[place][0] * ranges[place][1]).flatten(1).sum(dim=1).mean() for place in read]
        return self.weight * sum(losses[1:], start=losses[0])
