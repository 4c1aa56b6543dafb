"""What is known of open ReLUs: against exhaustive programs, against the bounds of graphs, and against what the network computes."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hauberk.bounds import Inputs, Ranges, ranges_of
from hauberk.bounds.optimise import optimised
from hauberk.bounds.refine import refined
from hauberk.certify._falsify import Witness
from hauberk.certify._open_relus import OpenRelus, Parts, down, found_for
from hauberk.certify._property import Case, Property
from hauberk.certify.branch_and_bound import BranchAndBound
from hauberk.certify.milp import Milp
from hauberk.certify.split_ranges import can_split, split_ranges
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.ops import Add, AvgPool, Concat, Conv, Elementwise, Linear, Reshape, Scale
from hauberk.threat import Norm

RELU = Elementwise("relu")
F64 = torch.float64


def linear(generator: torch.Generator, inputs: int, outputs: int) -> Linear:
    weight = 1.5 * torch.randn(outputs, inputs, generator=generator, dtype=F64) / math.sqrt(inputs)
    return Linear(weight, torch.randn(outputs, generator=generator, dtype=F64) / 4)


def deep(seed: int) -> Graph:
    generator, builder = torch.Generator().manual_seed(seed), Builder((14,), dtype=F64)
    place, width = 0, 14
    for _ in range(3):
        place, width = builder.add(RELU, builder.add(linear(generator, width, 6), place)), 6
    builder.add(linear(generator, 6, 2), place)
    return builder.finish()


def residual(seed: int) -> Graph:
    generator, builder = torch.Generator().manual_seed(seed), Builder((5,), dtype=F64)
    first = builder.add(RELU, builder.add(linear(generator, 5, 5), 0))
    second = builder.add(RELU, builder.add(linear(generator, 5, 5), first))
    both = builder.add(Add(), first, builder.add(Scale(-1.5, 0.25), second))
    third = builder.add(RELU, builder.add(linear(generator, 5, 5), both))
    builder.add(linear(generator, 10, 2), builder.add(Concat(0), third, both))
    return builder.finish()


def picture(seed: int) -> Graph:
    generator, builder = torch.Generator().manual_seed(seed), Builder((2, 4, 4), dtype=F64)
    weight = torch.randn(2, 1, 3, 3, generator=generator, dtype=F64) / 2
    conv = Conv(weight, torch.randn(2, generator=generator, dtype=F64) / 4, (2, 2), (1, 1), (1, 1), 2)
    pooled = builder.add(AvgPool((2, 2), (1, 1), (1, 1)), builder.add(RELU, builder.add(conv, 0)))
    size = math.prod(builder.shape(pooled))
    second = builder.add(RELU, builder.add(linear(generator, size, 5), builder.add(Reshape((size,)), pooled)))
    third = builder.add(RELU, builder.add(linear(generator, 5, 5), second))
    builder.add(linear(generator, 5, 2), third)
    return builder.finish()


NETS: list[Callable[[int], Graph]] = [deep, residual, picture]


def given(make: Callable[[int], Graph], seed: int, kind: torch.dtype = F64) -> tuple[Graph, Ranges]:
    graph = make(seed).to(dtype=torch.float32).to(dtype=kind)  # weights that both dtypes hold
    whole = torch.ones(1, *graph.input_shape, dtype=kind)
    return graph, ranges_of(graph, Inputs(-0.75 * whole, 0.75 * whole))


def drawn(graph: Graph, count: int, seed: int) -> Tensor:
    """Inputs of the box, many at its corners."""
    generator = torch.Generator().manual_seed(seed)
    x = 1.5 * torch.rand(count, *graph.input_shape, generator=generator, dtype=F64) - 0.75
    return torch.where(
        torch.rand(count, *([1] * len(graph.input_shape)), generator=generator) < 0.5, x, 0.75 * x.sign()
    )


def relus_of(graph: Graph, ranges: Ranges, row: Tensor) -> OpenRelus:
    found = found_for(graph, ranges, row[None], torch.zeros(1))
    assert found is not None
    return found


def row_of(seed: int) -> Tensor:
    return torch.randn(2, generator=torch.Generator().manual_seed(100 + seed), dtype=F64).float().double()


@pytest.mark.parametrize("kind", [torch.float32, F64])
@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("seed", range(4))
def test_split_ranges_hold_all_that_is_reached_and_are_no_wider(
    make: Callable[[int], Graph], seed: int, kind: torch.dtype
) -> None:
    graph, ranges = given(make, seed, kind)
    tighter = split_ranges(graph, ranges, rounds=4)
    values = graph.to(dtype=F64).values(drawn(graph, 20_000, seed))
    for place, (low, high) in tighter.before.items():
        assert low.dtype == kind
        assert bool((low >= ranges.before[place][0]).all())
        assert bool((high <= ranges.before[place][1]).all())
        reached = values[graph.nodes[place].inputs[0]]
        assert bool((reached >= low.double()).all())
        assert bool((reached <= high.double()).all())


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_ranges_split_to_the_end_are_those_of_a_mixed_integer_program(make: Callable[[int], Graph], seed: int) -> None:
    graph, ranges = given(make, seed)
    tighter = split_ranges(graph, ranges, rounds=12)
    for place, (low, high) in tighter.before.items():
        builder = Builder(graph.input_shape, dtype=F64)
        builder.nodes = list(graph.nodes)
        part = builder.finish(graph.nodes[place].inputs[0])
        own = ranges_of(part, ranges.inputs)
        wide, narrow = ranges.before[place], (low.flatten(), high.flatten())
        for which in ((wide[0] < 0) & (wide[1] > 0)).flatten().nonzero()[:3, 0].tolist():
            unit = torch.zeros(narrow[0].numel(), dtype=F64)
            unit[which] = 1
            least, most = Milp()(part, own, unit).value, -Milp()(part, own, -unit).value
            assert float(narrow[0][which]) <= least + 1e-7
            assert float(narrow[1][which]) >= most - 1e-7
            # a side is followed only while its sign is open, and few steps are taken for each part
            assert float(narrow[0][which]) >= min(least, 0.0) - 0.12 * (most - least)
            assert float(narrow[1][which]) <= max(most, 0.0) + 0.12 * (most - least)


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("seed", range(4))
def test_bounds_of_parts_hold_wherever_the_signs_do(make: Callable[[int], Graph], seed: int) -> None:
    graph, ranges = given(make, seed)
    row, generator = row_of(seed), torch.Generator().manual_seed(seed)
    relus = relus_of(graph, ranges, row)
    n, count = relus.count, 64
    signs = torch.randint(-1, 2, (count, n), generator=generator).float()
    signs = signs * (torch.rand(count, n, generator=generator) < 3 / n)
    free = torch.rand(count, n, generator=generator) * torch.where(signs != 0, 3.0, 1.0)
    low, high = relus.low.expand(count, n), relus.high.expand(count, n)
    parts = Parts(
        torch.where(signs > 0, low.clamp_min(0), low), torch.where(signs < 0, high.clamp_max(0), high), signs, free
    )
    x = drawn(graph, 20_000, seed)
    values = graph.values(x)
    before = torch.cat(
        [values[graph.nodes[place].inputs[0]].flatten(1)[:, which] for place, which in relus.places], dim=1
    )
    output = values[-1].flatten(1) @ row
    for steps in (0, 5):
        found = relus.bounded(torch.full((count,), n), torch.ones(count), parts, steps=steps, rate=0.2, enough=1e9)
        for number in range(count):
            inside = ((before * signs[number]) >= 0).all(dim=1)
            if bool(inside.any()):
                assert float(output[inside].min()) >= float(found.lower[number])


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_of_the_whole_is_that_of_the_graph(make: Callable[[int], Graph], seed: int) -> None:
    graph, ranges = given(make, seed)
    row = row_of(seed)
    relus = relus_of(graph, ranges, row)
    functions = row.reshape(1, *graph.output_shape)
    for steps, near in ((0, 1e-5), (100, 2e-2)):
        ours = relus.bounded(
            torch.tensor([relus.count]), torch.ones(1), relus.whole(1, relus.count), steps=steps, rate=0.1, enough=1e9
        )
        theirs = optimised(graph, ranges, functions, steps=steps, enough=1e9).lower
        assert float(ours.lower) == pytest.approx(float(theirs), rel=near, abs=near)


@pytest.mark.parametrize("rounds", [None, 3])
@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("seed", range(4))
def test_branch_and_bound_agrees_with_a_mixed_integer_program(
    make: Callable[[int], Graph], seed: int, rounds: int | None
) -> None:
    graph, ranges = given(make, seed)
    row = row_of(seed)
    least = Milp()(graph, refined(graph, ranges), row).value
    if rounds is not None:
        ranges = split_ranges(graph, ranges, rounds=rounds)
    low, high = (side.flatten().numpy() for side in (ranges.inputs.low, ranges.inputs.high))
    for offset, wanted in ((-least + 1e-3, "holds"), (-least - 1e-3, "violated")):
        asked = Property((Case(low, high, row[None].numpy(), torch.tensor([offset], dtype=F64).numpy()),))
        witness = Witness(graph.to(dtype=torch.float32), asked)
        verdict = BranchAndBound()(graph, ranges, row, offset, asked.by_box()[0], witness)
        assert verdict.status == wanted


def test_a_limit_of_domains_leaves_the_question_open() -> None:
    graph, ranges = given(deep, 0)
    row = row_of(0)
    least = Milp()(graph, refined(graph, ranges), row).value
    low, high = (side.flatten().numpy() for side in (ranges.inputs.low, ranges.inputs.high))
    asked = Property((Case(low, high, row[None].numpy(), torch.tensor([-least + 1e-3], dtype=F64).numpy()),))
    witness = Witness(graph.to(dtype=torch.float32), asked)
    assert BranchAndBound(domains=1)(graph, ranges, row, -least + 1e-3, asked.by_box()[0], witness).status == "unknown"


def test_networks_of_another_kind_keep_their_ranges() -> None:
    builder = Builder((3,), dtype=F64)
    builder.add(Linear(torch.ones(1, 3, dtype=F64)), builder.add(Elementwise("tanh"), 0))
    smooth = builder.finish()
    inputs = Inputs(-torch.ones(1, 3, dtype=F64), torch.ones(1, 3, dtype=F64))
    ranges = ranges_of(smooth, inputs)
    assert not can_split(smooth, ranges)
    assert split_ranges(smooth, ranges) is ranges
    graph = deep(0)
    middle = torch.zeros(1, 14, dtype=F64)
    ball = Inputs(middle - 1, middle + 1, Norm.L2, middle, torch.ones(1, dtype=F64))
    ranges = ranges_of(graph, ball)
    assert split_ranges(graph, ranges) is ranges


def test_what_is_late_is_left_as_it_was() -> None:
    graph, ranges = given(deep, 1)
    kept = split_ranges(graph, ranges, late=lambda: True)
    for place, (low, high) in kept.before.items():
        assert torch.equal(low, torch.maximum(low, ranges.before[place][0]))
        assert torch.allclose(low, ranges.before[place][0])
        assert torch.allclose(high, ranges.before[place][1])


def test_rounding_down_never_grows() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert bool((down(values, torch.float32).double() <= values).all())
    assert torch.equal(down(values.float().double(), torch.float32).double(), values.float().double())


def test_parts_of_no_rows_are_none() -> None:
    graph, ranges = given(deep, 0)
    relus = relus_of(graph, ranges, row_of(0))
    parts = relus.whole(4, relus.count)
    assert len(parts.take(torch.tensor([1, 3]))) == 2
    assert len(replace(parts, free=parts.free).halves(torch.zeros(4, 1, dtype=torch.int64))) == 8
