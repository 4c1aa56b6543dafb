"""What the certified objectives share: the net as a graph of operators, a box that grows, and the worst logits in a box.

With D_c = w_y - w_c the difference of two rows of the last layer, [l, u] the range of what that layer reads, m = (l + u) / 2 its
middle and r = (u - l) / 2 its half width, the worst logits are

    worst_y = 0,    worst_c = -(D_c m - |D_c| r + b_y - b_c) >= z_c - z_y    at every point of the box

so that cross-entropy of `worst` is at least that of the net anywhere in the box. To subtract the rows before the bound is taken
("elision of the last layer", Gowal et al. 2018, arXiv:1810.12715, section 3) is tighter than to subtract two ranges.

The bounds hold in exact arithmetic: no slack for rounding is added, which only a certificate needs (`hauberk.bounds` adds it).
"""

import math
from collections import OrderedDict
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hauberk._shapes import Batch, Labels, Logits
from hauberk.bounds import Inputs, Ranges, lower_bounds, require_bounds
from hauberk.bounds.interval import Range, intervals
from hauberk.bounds.relaxations import lines_of
from hauberk.errors import ModelError, SettingError
from hauberk.layered.from_torch import from_torch
from hauberk.layered.graph import Graph
from hauberk.layered.lower import lowered
from hauberk.layered.ops import Elementwise, Linear
from hauberk.threat import Ball, Norm, ThreatModel
from hauberk.train._layers import layers
from hauberk.train._objective import Moment
from hauberk.train._status import Status

__all__ = [
    "Certified",
    "box_ranges",
    "graph_of",
    "linf_ball",
    "scale_for_intervals",
    "worst_by_crown",
    "worst_by_intervals",
]


@dataclass(frozen=True, kw_only=True)
class Certified:
    """Base of the objectives that learn from bounds: a threat whose radius grows from 0 in the course of the training.

    Args:
        threat: an L-infinity radius, such as `linf:0.3`. To train at a somewhat larger one than is to be certified often helps.
        bounds: the range of the input, to which boxes are cut.
        warm_up: share of the training, at its beginning, in which the radius is 0 and the loss is that of the examples alone.
        ramp: share of the training, after that, in which the radius grows in a straight line; 0: it is whole at once.
        init: begin with weights scaled for intervals, see `scale_for_intervals`; not for nets that are trained already.

    Raises:
        ThreatError: the threat cannot be read.
        SettingError: a threat that is no L-infinity radius; shares that are negative or together more than 1.
    """

    status: ClassVar[Status]

    threat: ThreatModel | str = "linf:0.3"
    bounds: tuple[float, float] = (0.0, 1.0)
    warm_up: float = 0.05
    ramp: float = 0.5
    init: bool = False

    def __post_init__(self) -> None:
        threat = ThreatModel.parse(self.threat)
        object.__setattr__(self, "threat", threat)
        linf_ball(threat, self.bounds)
        if not (self.warm_up >= 0 and self.ramp >= 0 and self.warm_up + self.ramp <= 1):
            raise SettingError(
                "the radius grows within the training: expected warm_up >= 0, ramp >= 0 and at most 1 together, got "
                f"warm_up={self.warm_up} and ramp={self.ramp}"
            )

    def prepare(self, net: nn.Module) -> nn.Module:
        """The net, with weights scaled for intervals where `init` asks for it."""
        if self.init:
            scale_for_intervals(net)
        return net

    def grown(self, at: Moment) -> float:
        """How much of the radius this step has, in [0, 1]."""
        past = (at.step + 1) / at.steps - self.warm_up
        if past <= 0:
            return 0.0
        return min(1.0, past / self.ramp) if self.ramp else 1.0

    def radius(self, share: float) -> float:
        """This share of the radius."""
        return ThreatModel.parse(self.threat).radius * share

    def ball(self, share: float) -> Ball:
        """The region around each example with this share of the radius."""
        return replace(linf_ball(ThreatModel.parse(self.threat), self.bounds), radius=self.radius(share))


def linf_ball(threat: ThreatModel, bounds: tuple[float, float]) -> Ball:
    """The region of a threat that is an L-infinity radius and nothing else.

    Raises:
        SettingError: it is another one.
    """
    plain = len(threat.radii) == 1 and threat.chart is None and threat.goal == "untargeted" and threat.grid is None
    if not plain or threat.norm is not Norm.LINF or not math.isfinite(threat.radius):
        raise SettingError(f"interval training needs an L-infinity radius, got {threat}; write for example linf:0.3")
    return threat.ball(bounds)


@dataclass(frozen=True, eq=False)
class _Read:
    """A graph and what it was read from; versions of tensors that are not trained, since what was computed from them is a copy."""

    graph: Graph
    tensors: tuple[Tensor, ...] = field(repr=False)
    versions: tuple[int, ...] = ()


_READ: WeakKeyDictionary[nn.Module, dict[Any, _Read]] = WeakKeyDictionary()


def graph_of(net: nn.Module, x: Batch) -> Graph:
    """The graph that computes what the net computes in evaluation mode, without dropout, with the net's own parameters.

    It is read once for a net and a shape of examples, and again only where the net has other tensors, or those that are not
    trained have changed. Cost of reading: one export, about a second.

    Raises:
        ModelError: a net that cannot be read or bounded, or has batch norm or weights that are computed from others, which would be
            out of date after a step.
    """
    tensors = (*net.parameters(), *net.buffers())
    versions = tuple(tensor._version for tensor in tensors if not tensor.requires_grad)
    key = (tuple(x.shape[1:]), tensors[0].dtype, tensors[0].device)
    known = _READ.setdefault(net, {})
    read = known.get(key)
    if read is None or read.versions != versions or not _same(read.tensors, tensors):
        read = known[key] = _Read(_read(net, tuple(x.shape[1:])), tensors, versions)
    return read.graph


def _same(some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _read(net: nn.Module, shape: tuple[int, ...]) -> Graph:
    norm = next((name for name, part in net.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)), None)
    if norm is not None:
        raise ModelError(
            f"interval training needs a net without batch norm, whose factors change while it trains; got one at {norm!r}"
        )
    with torch.enable_grad():  # without, weights computed from others would look like plain ones
        graph = lowered(from_torch(_bare(net), shape))
    require_bounds(graph)
    for node in graph.nodes:
        held = [value for value in vars(node.op).values() if isinstance(value, Tensor)]
        if any(value.grad_fn is not None for value in held):
            raise ModelError(
                f"interval training needs plain weights, got weights computed from others at {node.name!r}; leave out "
                "weight norm, spectral norm and other parametrisations"
            )
    return graph


def _bare(net: nn.Module) -> nn.Module:
    """The net without the trainer's hooks, which count and cast; what hooks of others do is part of what it computes."""
    bare = copy(net)
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        hooks: dict[int, Any] = getattr(net, name)
        left = (
            (key, hook)
            for key, hook in hooks.items()
            if not getattr(hook, "__module__", "").startswith("hauberk.train.")
        )
        setattr(bare, name, OrderedDict(left))
    return bare


def box_ranges(graph: Graph, x: Batch, ball: Ball) -> list[Range]:
    """The ranges of all nodes for the box around each example, cut to the range of the input; attached to the weights."""
    bottom, top = ball.box
    return intervals(graph, (x - ball.reach).clamp_min(bottom), (x + ball.reach).clamp_max(top), slack=False)


def worst_by_intervals(graph: Graph, ranges: list[Range], y: Labels) -> Logits:
    """(B, classes) the worst logits, 0 for the label; see above."""
    node = graph.nodes[-1]
    if not isinstance(node.op, Linear):
        low, high = ranges[-1]
        worst = high - low.gather(1, y[:, None])
        return worst.scatter(1, y[:, None], 0.0)
    low, high = ranges[node.inputs[0]]
    weight, bias = node.op.weight, node.op.bias
    rows = weight[y][:, None] - weight
    middle, half = (low + high)[..., None] / 2, (high - low)[..., None] / 2
    margin = (rows @ middle - rows.abs() @ half)[..., 0]
    return -margin if bias is None else -margin - bias[y][:, None] + bias


def worst_by_crown(graph: Graph, ranges: list[Range], y: Labels) -> Logits:
    """(B, classes) the same by one pass backward through lines that the intervals give (CROWN-IBP, arXiv:1906.06316).

    Cost: `classes` rows backward for each example.
    """
    before = {place: ranges[node.inputs[0]] for place, node in graph if isinstance(node.op, Elementwise)}
    lines = {place: lines_of(node.op, *before[place]) for place, node in graph if isinstance(node.op, Elementwise)}
    classes = graph.output_shape[0]
    unit = torch.eye(classes, dtype=ranges[0][0].dtype, device=y.device)
    return -lower_bounds(graph, Ranges(Inputs(*ranges[0]), before, lines), unit[y][:, None] - unit)


def scale_for_intervals(net: nn.Module) -> None:
    """Scale, in place, the weights of linear and convolutional layers so that intervals keep their width from layer to layer.

    Their mean size becomes 2 / (inputs of a unit), and biases 0: a layer then widens intervals by 2 on average, and the ReLU after it
    halves them, where ordinary initial weights widen them with the square root of the inputs.

    Source: Shi, Wang, Zhang, Yi, Hsieh 2021, "Fast certified robust training with short warmup", arXiv:2103.17033.
    **Differs from the paper:** there weights are drawn anew from a normal distribution of deviation sqrt(2 pi) / inputs, whose mean
    size is this; here the weights that the net was given are scaled, so that its seed decides them. Its regularisers and its batch
    norms are not here.

    Raises:
        ModelError: a layer whose weight is computed from others.
    """
    with torch.no_grad():
        for _, layer in layers(net):
            inputs = layer.weight[0].numel()
            size = layer.weight.abs().mean()
            if size > 0:
                layer.weight.mul_(2 / inputs / size)
            if layer.bias is not None:
                layer.bias.zero_()
