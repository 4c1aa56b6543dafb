"""What holds for every network: examples alone and together, no radius, larger radii, both dtypes, all sign patterns."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from hauberk.bounds import Inputs, lower_bounds, ranges_of, require_bounds, supports
from hauberk.bounds.forward import forward_ranges
from hauberk.bounds.optimise import optimised
from hauberk.bounds.refine import refined
from hauberk.certify._property import Case, Property
from hauberk.certify.verify import verify
from hauberk.errors import ModelError, ThreatError
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.ops import Add, AvgPool, Concat, Conv, Elementwise, Linear, Reshape, Scale, Softmax
from hauberk.threat import Ball, Norm

F64 = torch.float64
RELU = Elementwise("relu")


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(generator: torch.Generator, inputs: int, outputs: int) -> Linear:
    weight = torch.randn(outputs, inputs, generator=generator, dtype=F64) / math.sqrt(inputs)
    return Linear(weight, torch.randn(outputs, generator=generator, dtype=F64) / 2)


def residual(seed: int, inputs: int = 4, width: int = 6) -> Graph:
    generator, builder = draws(seed), Builder((inputs,), dtype=F64)
    first = builder.add(RELU, builder.add(linear(generator, inputs, width), 0))
    second = builder.add(RELU, builder.add(linear(generator, width, width), first))
    both = builder.add(Concat(0), builder.add(Add(), first, builder.add(Scale(-0.5), second)), second)
    builder.add(linear(generator, 2 * width, 3), both)
    return builder.finish()


def picture(seed: int) -> Graph:
    generator, builder = draws(seed), Builder((2, 6, 6), dtype=F64)

    def conv(inputs: int, outputs: int, stride: int, groups: int) -> Conv:
        weight = torch.randn(outputs, inputs // groups, 3, 3, generator=generator, dtype=F64) / 3
        return Conv(
            weight, torch.randn(outputs, generator=generator, dtype=F64) / 4, (stride, stride), (1, 1), (1, 1), groups
        )

    first = builder.add(RELU, builder.add(conv(2, 4, 1, 2), 0))
    second = builder.add(RELU, builder.add(conv(4, 4, 1, 1), first))
    pooled = builder.add(AvgPool((2, 2), (2, 2)), builder.add(Add(), first, second))
    third = builder.add(RELU, builder.add(conv(4, 2, 2, 1), pooled))
    builder.add(linear(generator, 8, 3), builder.add(Reshape((8,)), third))
    return builder.finish()


def smooth(seed: int) -> Graph:
    generator, builder, place, size = draws(seed), Builder((4,), dtype=F64), 0, 4
    for name in ("tanh", "gelu", "sigmoid", "softplus", "silu"):
        place = builder.add(Elementwise(name), builder.add(linear(generator, size, 6), place))
        size = 6
    builder.add(linear(generator, 6, 3), place)
    return builder.finish()


NETS: dict[str, Callable[[int], Graph]] = {"residual": residual, "picture": picture, "smooth": smooth}
SPEC = torch.cat((torch.eye(3), torch.tensor([[1.0, -1.0, 0.0], [-0.5, 2.0, 1.0]])))[None].to(F64)


def examples(graph: Graph, seed: int, count: int = 3) -> Tensor:
    return 2 * torch.rand(count, *graph.input_shape, generator=draws(seed), dtype=F64) - 1


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2, Norm.L1], ids=str)
@pytest.mark.parametrize("name", NETS)
def test_the_ranges_of_a_batch_are_those_of_its_examples(name: str, norm: Norm) -> None:
    # of smooth functions' lines that are equally good rounding picks one
    dtype = F64 if name == "smooth" else torch.float32
    graph, spec = NETS[name](0).to(dtype=dtype), SPEC.to(dtype)
    x = examples(graph, 0).to(dtype)
    radii = torch.tensor([0.01, 0.2, 0.5], dtype=dtype)
    for method in (
        lambda inputs: ranges_of(graph, inputs, "ibp"),
        lambda inputs: ranges_of(graph, inputs),
        lambda inputs: forward_ranges(graph, inputs),
        lambda inputs: (
            refined(graph, ranges_of(graph, inputs), steps=3)
            if name == "residual" and norm is Norm.LINF
            else ranges_of(graph, inputs)
        ),
    ):
        whole = method(Inputs.of(Ball(norm, radii, (-2.0, 2.0)), x))
        bounds = lower_bounds(graph, whole, spec)
        for one in range(len(x)):
            alone = method(Inputs.of(Ball(norm, radii[one : one + 1], (-2.0, 2.0)), x[one : one + 1]))
            for place, sides in alone.before.items():
                for side, other in zip(sides, whole.before[place], strict=True):
                    torch.testing.assert_close(side[0], other[one], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(lower_bounds(graph, alone, spec)[0], bounds[one], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2, Norm.L1], ids=str)
@pytest.mark.parametrize("name", ["residual", "picture"])
def test_without_a_radius_bounds_are_the_outputs(name: str, norm: Norm, dtype: torch.dtype) -> None:
    graph = NETS[name](1).to(dtype=dtype)
    x = examples(graph, 1).to(dtype)
    inputs = Inputs.of(Ball(norm, 0.0, (-1.0, 1.0)), x)
    y = graph(x).double() @ SPEC[0].T
    near = 1e-4  # a ball is a little wider than its radius
    for ranges in (ranges_of(graph, inputs, "ibp"), ranges_of(graph, inputs), forward_ranges(graph, inputs)):
        found = lower_bounds(graph, ranges, SPEC.to(dtype)).double()
        assert bool((found <= y + near / 100).all())
        torch.testing.assert_close(found, y, rtol=near, atol=near)


@pytest.mark.parametrize("name", NETS)
def test_a_larger_radius_never_has_a_better_bound(name: str) -> None:
    """Exactly so for intervals. Slopes of ReLUs are chosen by the ranges, so that CROWN may gain a little: the ranges are compared."""
    graph = NETS[name](2)
    x, last = examples(graph, 2), None
    for radius in (0.0, 1e-3, 0.02, 0.1, 0.4):
        ranges = ranges_of(graph, Inputs(x - radius, x + radius), "ibp")
        if last is not None:
            for place, (low, high) in ranges.before.items():
                assert bool(
                    (low <= last.before[place][0] + 1e-9).all() and (high >= last.before[place][1] - 1e-9).all()
                )
        last = ranges


@pytest.mark.parametrize("name", ["residual", "picture"])
def test_float32_bounds_do_not_exceed_those_of_float64(name: str) -> None:
    for seed in range(3):
        graph = NETS[name](3 + seed)
        single, x = graph.to(dtype=torch.float32), examples(graph, 3 + seed)
        exact = single.to(dtype=F64)  # the rounded weights
        for radius in (0.0, 0.01, 0.2):
            inputs = Inputs((x - radius).float(), (x + radius).float())
            for kind in ("ibp", "crown"):
                low = lower_bounds(single, ranges_of(single, inputs, kind), SPEC.float()).double()
                high = lower_bounds(exact, ranges_of(exact, inputs.to(F64), kind), SPEC)
                assert bool((low <= high + 1e-5 * (1 + high.abs())).all())


def exact_minimum(graph: Graph, low: Tensor, high: Tensor, row: Tensor) -> float:
    """The least value of the row, by a linear program for each pattern of signs that some input has."""
    size = math.prod(graph.input_shape)
    basis = torch.cat((torch.zeros(1, size, dtype=F64), torch.eye(size, dtype=F64)))

    def forms_of(signs: list[bool]) -> tuple[Tensor, Tensor]:
        forms, before, used = [basis.reshape(-1, *graph.input_shape)], [], 0
        for node in graph.nodes[1:]:
            given = [forms[place] for place in node.inputs]
            if node.op != RELU:
                forms.append(node.op(*given))
                continue
            before.append(given[0].flatten(1))
            count = before[-1].shape[1]
            known = torch.tensor((signs[used:] + [False] * count)[:count], dtype=F64)
            forms.append((before[-1] * known).reshape(given[0].shape))
            used += count
        return torch.cat(before, dim=1), forms[-1].flatten(1) @ row

    def below(signs: list[bool]) -> float:
        before, goal = forms_of(signs)
        done = len(signs) == before.shape[1]
        fixed = before[:, : len(signs)] * (1 - 2 * torch.tensor(signs, dtype=F64))
        if not done:
            goal = torch.zeros_like(goal)
        solved = linprog(
            (goal[1:] - goal[0]).numpy(),
            A_ub=(fixed[1:] - fixed[0]).T.numpy() if signs else None,
            b_ub=-fixed[0].numpy() if signs else None,
            bounds=torch.stack((low.flatten(), high.flatten()), dim=1).numpy(),
        )
        if solved.status == 2:
            return math.inf
        assert solved.status == 0
        return solved.fun + float(goal[0]) if done else min(below([*signs, True]), below([*signs, False]))

    return below([])


@pytest.mark.parametrize("inputs", [2, 3])
@pytest.mark.parametrize("seed", range(2))
def test_bounds_lie_below_the_minimum_over_all_patterns_of_signs(seed: int, inputs: int) -> None:
    """bound <= truth <= sampled minimum; CROWN's gap >= that of optimised slopes >= 0; verdicts on either side of the truth."""
    graph, x = residual(20 + seed, inputs, 5), torch.zeros(1, inputs, dtype=F64)
    row = torch.randn(3, generator=draws(seed), dtype=F64)
    low, high = x - 0.6, x + 0.6
    truth = exact_minimum(graph, low, high, row)
    points = low + (high - low) * torch.rand(20_000, inputs, generator=draws(seed), dtype=F64)
    assert truth <= float((graph(points) @ row).min()) + 1e-7
    boxes = Inputs(low, high)
    bounds = {}
    crown = ranges_of(graph, boxes)
    for name, ranges in (
        ("ibp", ranges_of(graph, boxes, "ibp")),
        ("forward", forward_ranges(graph, boxes)),
        ("crown", crown),
        ("refined", refined(graph, crown, steps=5)),
    ):
        bounds[name] = float(lower_bounds(graph, ranges, row.reshape(1, 1, 3)))
        better = float(optimised(graph, ranges, row[None], steps=15, enough=math.inf).lower)
        plain = float(lower_bounds(graph, replace(ranges, last=None), row.reshape(1, 1, 3)))
        assert plain <= better <= truth + 1e-7, name
        assert plain <= bounds[name] <= truth + 1e-7, name
        bounds[f"{name} optimised"] = better
    assert bounds["ibp optimised"] <= bounds["refined optimised"] + 1e-6
    for shift, expected in ((1e-3, "holds"), (-1e-3, "violated")):
        case = Case(low[0].numpy(), high[0].numpy(), row.numpy()[None], np.array([shift - truth]))
        assert verify(graph, Property((case,)), seconds=30).status == expected


def test_what_cannot_be_bounded_is_named() -> None:
    builder = Builder((3,))
    builder.add(Softmax(0), builder.add(Elementwise("sin"), 0, name="wave"), name="soft")
    graph = builder.finish()
    assert supports(graph) == [
        "node 'wave': sin has no linear bounds here",
        "node 'soft': Softmax has no linear bounds here",
    ]
    with pytest.raises(ModelError, match="'wave': sin has no linear bounds here \\(and 1 more\\)"):
        require_bounds(graph)
    assert supports(residual(0)) == []


def test_regions_that_are_no_finite_balls_are_refused() -> None:
    with pytest.raises(ThreatError, match="got l0"):
        Inputs.of(Ball(Norm.L0, 1.0), torch.zeros(1, 2))
    with pytest.raises(ThreatError, match="finite radius"):
        Inputs.of(Ball(Norm.LINF), torch.zeros(1, 2))


def test_a_mask_holds_the_other_values_where_they_are() -> None:
    x = torch.full((2, 3), 0.5)
    mask = torch.tensor([[True, False, True]])
    for norm in (Norm.LINF, Norm.L2, Norm.L1):
        inputs = Inputs.of(Ball(norm, 0.25, mask=mask), x)
        assert bool((inputs.high - inputs.low)[:, 1].eq(0).all())
        torch.testing.assert_close((inputs.high - inputs.low)[:, 0], torch.full((2,), 0.5), rtol=2e-5, atol=0)
