"""Bounds hold at every input that can be thought of, for every method, operator, norm and dtype."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hauberk.bounds import Inputs, Ranges, lower_bounds, ranges_of
from hauberk.bounds.crown import bound_of
from hauberk.bounds.forward import forward_ranges
from hauberk.bounds.optimise import optimised
from hauberk.bounds.refine import refined
from hauberk.layered.fold import folded
from hauberk.layered.from_torch import from_torch
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.lower import lowered
from hauberk.layered.ops import Add, AvgPool, Concat, Conv, Elementwise, Linear, Mean, Pad, Scale
from hauberk.threat import Ball, Norm

F64 = torch.float64
RELU = Elementwise("relu")
NORMS = (Norm.LINF, Norm.L2, Norm.L1)
BOX = (-2.0, 2.0)
ALLOWED = {torch.float32: 1e-5, F64: 1e-11}
"""What rounding of the samples' own values may be, by 1 + the largest value."""


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(generator: torch.Generator, inputs: int, outputs: int) -> Linear:
    weight = torch.randn(outputs, inputs, generator=generator, dtype=F64) / math.sqrt(inputs)
    return Linear(weight, torch.randn(outputs, generator=generator, dtype=F64) / 2)


def conv(
    generator: torch.Generator, inputs: int, outputs: int, kernel: int, groups: int = 1, **more: tuple[int, int]
) -> Conv:
    weight = torch.randn(outputs, inputs // groups, kernel, kernel, generator=generator, dtype=F64)
    bias = torch.randn(outputs, generator=generator, dtype=F64) / 4
    return Conv(weight * math.sqrt(groups / inputs) / kernel, bias, groups=groups, **more)


def dense(seed: int, function: str = "relu", inputs: int = 4, width: int = 7, depth: int = 3) -> Graph:
    generator, builder = draws(seed), Builder((inputs,), dtype=F64)
    place, size = 0, inputs
    for _ in range(depth):
        place = builder.add(
            Elementwise(function, (0.1,) if function == "leaky_relu" else ()),
            builder.add(linear(generator, size, width), place),
        )
        size = width
    builder.add(linear(generator, size, 3), place)
    return builder.finish()


def tangled(seed: int) -> Graph:
    """Sums and concatenations of what several nodes read, two functions of one node, a sum of a node with itself."""
    generator, builder = draws(seed), Builder((4,), dtype=F64)
    first = builder.add(RELU, builder.add(linear(generator, 4, 6), 0))
    middle = builder.add(linear(generator, 6, 6), first)
    bent, cut = builder.add(Elementwise("tanh"), middle), builder.add(RELU, middle)
    block = builder.add(Add(), first, cut, builder.add(Scale(-0.5, 0.1), bent))
    twice = builder.add(Add(), block, block)
    wide = builder.add(Concat(0), twice, first, builder.add(RELU, 0))
    builder.add(linear(generator, 16, 3), builder.add(RELU, builder.add(Scale(-1.0), wide)))
    return builder.finish()


def picture(seed: int) -> Graph:
    """Strides, zeros around, groups, dilation, a residual block, a scale per channel, average pooling, a mean."""
    generator, builder = draws(seed), Builder((2, 6, 6), dtype=F64)
    first = builder.add(RELU, builder.add(conv(generator, 2, 4, 3, 2, stride=(2, 1), padding=(1, 1)), 0))
    second = builder.add(RELU, builder.add(conv(generator, 4, 4, 3, padding=(2, 2), dilation=(2, 2)), first))
    scale = Scale(*(torch.randn(4, 1, 1, generator=generator, dtype=F64) for _ in range(2)))
    both = builder.add(Concat(0), builder.add(Add(), first, builder.add(scale, second)), first)
    pooled = builder.add(AvgPool((2, 2), (1, 2), (1, 1), count_padding=False), builder.add(Pad((0, 1, 1, 0)), both))
    third = builder.add(RELU, builder.add(conv(generator, 8, 3, 2), pooled))
    builder.add(Mean((1, 2)), third)
    return builder.finish()


class Modules(nn.Module):
    """What people write: batch norm, leaky ReLU, max pooling with cut windows, a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.LeakyReLU(0.1))
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Hardtanh(-0.5, 0.75))
        self.last = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(27, 6), nn.GELU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.block(x))


def modules(seed: int) -> Graph:
    generator = draws(seed)
    net = Modules().double()
    with torch.no_grad():
        for value in [*net.parameters(), *net.buffers()]:
            if value.is_floating_point():
                fan = max(1, value[0].numel()) if value.ndim else 1
                value.copy_(torch.randn(value.shape, generator=generator, dtype=F64) / math.sqrt(fan))
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_var is not None
                part.running_var.abs_().add_(0.5)
    return lowered(folded(from_torch(net, (1, 6, 6)).detach()))


SMOOTH = ("sigmoid", "tanh", "gelu", "silu", "softplus", "exp")
NETS: dict[str, Callable[[int], Graph]] = {
    "dense": dense,
    "tangled": tangled,
    "picture": picture,
    "modules": modules,
    "leaky": lambda seed: lowered(dense(seed, "leaky_relu")),
    "abs": lambda seed: lowered(dense(seed, "abs")),
    **{name: lambda seed, name=name: dense(seed, name, depth=2) for name in SMOOTH},
}


def regions(norm: Norm, graph: Graph, x: Tensor, radius: float) -> Inputs:
    spread = math.sqrt(x[0].numel()) if norm is Norm.L2 else (float(x[0].numel()) if norm is Norm.L1 else 1.0)
    return Inputs.of(Ball(norm, radius * spread / (2 if norm is not Norm.LINF else 1), BOX), x)


def points_of(inputs: Inputs, count: int, seed: int) -> Tensor:
    """(B, count, *shape) float64: corners of the box or of the ball, its middle, and points between, all inside."""
    generator, box = draws(seed), inputs.to(F64)
    shape = (len(inputs), count, *inputs.low.shape[1:])
    share = torch.rand(shape, generator=generator, dtype=F64)
    share[:, : count // 2] = share[:, : count // 2].round()
    low, high = box.low[:, None], box.high[:, None]
    x = low + (high - low) * share
    x[:, -1:] = (low + high) / 2
    if box.center is None or box.radius is None:
        return x
    center, change = box.center[:, None], (x - box.center[:, None]).flatten(0, 1)
    if box.norm is Norm.L1:  # most of an L1 ball's corners have one coordinate
        keep = torch.rand(change.shape, generator=generator, dtype=F64).flatten(1)
        rank = keep.argsort(dim=1).argsort(dim=1).reshape(change.shape)
        change = torch.where(
            rank < torch.randint(1, 4, (len(change), *[1] * (change.ndim - 1)), generator=generator), change, 0
        )
    size = box.norm.size(change).clamp_min(1e-300)
    shrink = (box.radius.repeat_interleave(count) / size).clamp_max(1.0) * (1 - 1e-15)
    return center + (change * shrink.reshape(-1, *[1] * (change.ndim - 1))).reshape(shape)


def descended(graph: Graph, inputs: Inputs, spec: Tensor, x: Tensor, steps: int = 12) -> Tensor:
    """(B, S * P, *shape) from points (B, P, *shape) down each row, by signed steps, back into the box or ball."""
    box = inputs.to(F64)
    each, found = x.shape[1], []
    for row in spec:
        at = x.clone()
        for step in range(steps):
            leaf = at.flatten(0, 1).requires_grad_()
            (slope,) = torch.autograd.grad((graph(leaf).flatten(1) @ row).sum(), leaf)
            move = slope.sign().reshape(at.shape) * (box.high - box.low)[:, None] * 0.5 * 0.75**step
            at = torch.minimum(torch.maximum(at - move, box.low[:, None]), box.high[:, None])
            if box.center is not None and box.radius is not None:
                change = (at - box.center[:, None]).flatten(0, 1)
                shrink = (box.radius.repeat_interleave(each) / box.norm.size(change).clamp_min(1e-300)).clamp_max(1.0)
                change = change * shrink.reshape(-1, *[1] * (change.ndim - 1)) * (1 - 1e-15)
                at = box.center[:, None] + change.reshape(at.shape)
        found.append(at)
    return torch.cat(found, dim=1)


def check(graph: Graph, ranges: Ranges, x: Tensor, dtype: torch.dtype) -> None:
    """The ranges contain what the network's nodes give at the points (B, P, *shape), in float64."""
    values = graph.to(dtype=F64).values(x.flatten(0, 1))
    for position, (low, high) in ranges.before.items():
        assert not bool((low.isnan() | high.isnan()).any())
        z = values[graph.nodes[position].inputs[0]].reshape(*x.shape[:2], *low.shape[1:])
        allowed = ALLOWED[dtype] * (1 + float(z.abs().max()))
        assert bool((z >= low.double()[:, None] - allowed).all()), graph.nodes[position].name
        assert bool((z <= high.double()[:, None] + allowed).all()), graph.nodes[position].name


def hold(graph: Graph, inputs: Inputs, spec: Tensor, count: int, *, costly: bool) -> None:
    """Every method, against samples and descent."""
    exact, dtype = graph.to(dtype=F64), inputs.dtype
    x = points_of(inputs, count, 7)
    rows = spec.double().flatten(1)
    x = torch.cat((x, descended(exact, inputs, rows, x[:, : min(count, 24)])), dim=1)
    with torch.no_grad():
        y = exact(x.flatten(0, 1)).reshape(*x.shape[:2], -1) @ rows.T
    least, allowed = y.amin(dim=1), ALLOWED[dtype] * (1 + float(y.abs().max()))
    known = {"ibp": ranges_of(graph, inputs, "ibp"), "crown": ranges_of(graph, inputs, "crown")}
    known |= {"forward": forward_ranges(graph, inputs), "loose": forward_ranges(graph, inputs, tighten=False)}
    if costly:
        known["refined"] = refined(graph, known["crown"], steps=3)
    for name, ranges in known.items():
        check(graph, ranges, x, dtype)
        found = lower_bounds(graph, ranges, spec[None].to(dtype))
        assert bool((found.double() <= least + allowed).all()), name
    for number, row in list(enumerate(spec.to(dtype)))[-2:]:
        asked = row.expand(len(inputs), *row.shape)
        better = optimised(graph, known["crown"], asked, steps=5, enough=torch.inf)
        assert bool((better.lower.double() <= least[:, number] + allowed).all())
        at = better.least.double()
        inside = bool((at >= inputs.low.double()).all() and (at <= inputs.high.double()).all())
        assert inside
        first, _ = bound_of(graph, len(graph.nodes) - 1, asked, None, inputs, known["crown"].lines)
        assert bool((better.lower >= first).all())


def spec_of(seed: int, outputs: int = 3) -> Tensor:
    return torch.cat((torch.eye(outputs, dtype=F64), torch.randn(2, outputs, generator=draws(seed), dtype=F64)))


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_every_method_contains_samples_corners_and_descent(name: str, norm: Norm) -> None:
    number = 3 * list(NETS).index(name) + NORMS.index(norm)
    dtype = (torch.float32, F64)[number % 2]
    graph = NETS[name](number).to(dtype=dtype)
    x = (2 * torch.rand(2, *graph.input_shape, generator=draws(number), dtype=F64) - 1).to(dtype)
    costly = name in ("dense", "tangled") and norm is Norm.LINF
    hold(graph, regions(norm, graph, x, 0.2), spec_of(number), 300, costly=costly)


@pytest.mark.parametrize("name", ["dense", "tangled", "picture"])
def test_ten_thousand_samples_stay_inside(name: str) -> None:
    graph = NETS[name](1)
    x = torch.zeros(1, *graph.input_shape, dtype=F64)
    hold(graph, regions(Norm.LINF, graph, x, 0.5), spec_of(1), 10_000, costly=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", NETS)
def test_every_method_contains_samples_of_many_networks(name: str, seed: int) -> None:
    norm, dtype = NORMS[seed % 3], (torch.float32, F64)[seed % 2]
    graph = NETS[name](1000 + seed).to(dtype=dtype)
    x = (2 * torch.rand(2, *graph.input_shape, generator=draws(seed), dtype=F64) - 1).to(dtype)
    for radius in (0.0, 1e-4, 0.3):
        hold(graph, regions(norm, graph, x, radius), spec_of(seed), 2_000, costly=name in ("dense", "tangled"))
