import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from hauberk.bounds import Inputs, lower_bounds, ranges_of
from hauberk.bounds.refine import refined
from hauberk.certify._property import Case, Property
from hauberk.certify.milp import Milp
from hauberk.certify.verify import verify
from hauberk.errors import DataError, ModelError, SettingError, ThreatError
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.lower import lowered
from hauberk.layered.ops import Add, AvgPool, Concat, Conv, Elementwise, Linear, MaxPool, Reshape, Scale
from hauberk.threat import Norm

RELU = Elementwise("relu")
F64 = torch.float64


def linear(generator: torch.Generator, inputs: int, outputs: int) -> Linear:
    weight = torch.randn(outputs, inputs, generator=generator, dtype=F64) / math.sqrt(inputs)
    return Linear(weight, torch.randn(outputs, generator=generator, dtype=F64) / 2)


def dense(seed: int, inputs: int = 3, width: int = 5) -> Graph:
    """Two hidden layers."""
    generator, builder = torch.Generator().manual_seed(seed), Builder((inputs,), dtype=F64)
    first = builder.add(RELU, builder.add(linear(generator, inputs, width), 0))
    second = builder.add(RELU, builder.add(linear(generator, width, width), first))
    builder.add(linear(generator, width, 2), second)
    return builder.finish()


def residual(seed: int, inputs: int = 4) -> Graph:
    """A residual block, a concatenation and a scale that turns signs."""
    generator, builder = torch.Generator().manual_seed(seed), Builder((inputs,), dtype=F64)
    first = builder.add(RELU, builder.add(linear(generator, inputs, 4), 0))
    second = builder.add(RELU, builder.add(linear(generator, 4, 4), first))
    both = builder.add(Add(), first, builder.add(Scale(-1.5, 0.25), second))
    third = builder.add(RELU, builder.add(linear(generator, 4, 3), both))
    builder.add(linear(generator, 7, 2), builder.add(Concat(0), third, both))
    return builder.finish()


def picture(seed: int) -> Graph:
    """Convolution with stride, padding and groups, average pooling."""
    generator, builder = torch.Generator().manual_seed(seed), Builder((2, 4, 4), dtype=F64)
    weight = torch.randn(2, 1, 3, 3, generator=generator, dtype=F64) / 3
    conv = Conv(weight, torch.randn(2, generator=generator, dtype=F64) / 4, (2, 2), (1, 1), (1, 1), 2)
    first = builder.add(RELU, builder.add(conv, 0))
    pooled = builder.add(AvgPool((2, 2), (1, 1), (1, 1)), first)
    size = math.prod(builder.shape(pooled))
    second = builder.add(RELU, builder.add(linear(generator, size, 4), builder.add(Reshape((size,)), pooled)))
    builder.add(linear(generator, 4, 2), second)
    return builder.finish()


def pooled(seed: int) -> Graph:
    """Max pooling, lowered."""
    generator, builder = torch.Generator().manual_seed(seed), Builder((1, 3, 3), dtype=F64)
    conv = Conv(torch.randn(1, 1, 2, 2, generator=generator, dtype=F64), None, (1, 1), (1, 1))
    largest = builder.add(MaxPool((2, 2), (2, 2)), builder.add(conv, 0))
    builder.add(linear(generator, 4, 2), builder.add(Reshape((4,)), largest))
    return lowered(builder.finish())


NETS: list[Callable[[int], Graph]] = [
    dense,
    residual,
    picture,
    pooled,
    lambda seed: dense(seed, 14, 5),
    lambda seed: residual(seed, 13),
]


def box(graph: Graph, low: float = -0.5, high: float = 0.5) -> Inputs:
    whole = torch.ones(1, *graph.input_shape, dtype=F64)
    return Inputs(low * whole, high * whole)


def row_of(seed: int) -> Tensor:
    return torch.randn(2, generator=torch.Generator().manual_seed(100 + seed), dtype=F64)


def enumerated(graph: Graph, inputs: Inputs, row: Tensor) -> float:
    """The minimum by a linear program for each pattern of signs that some input has."""
    size = math.prod(graph.input_shape)
    basis = torch.cat((torch.zeros(1, size, dtype=F64), torch.eye(size, dtype=F64)))
    bounds = torch.stack((inputs.low.flatten(), inputs.high.flatten()), dim=1).numpy()

    def below(signs: tuple[bool, ...]) -> float:
        forms: list[Tensor] = []
        before: list[Tensor] = []
        for node in graph.nodes:
            given = [forms[place] for place in node.inputs]
            if not given:
                forms.append(basis.reshape(-1, *graph.input_shape))
            elif node.op == RELU:
                start = sum(part.shape[1] for part in before)
                before.append(given[0].flatten(1))
                mask = torch.zeros(before[-1].shape[1], dtype=F64)
                known = torch.tensor(signs[start : start + len(mask)], dtype=F64)
                mask[: len(known)] = known
                forms.append((before[-1] * mask).reshape(given[0].shape))
            else:
                forms.append(node.op(*given))
        z = torch.cat(before, dim=1)
        done = len(signs) == z.shape[1]
        fixed = z[:, : len(signs)] * (1 - 2 * torch.tensor(signs, dtype=F64))
        goal = forms[-1].flatten(1) @ row if done else torch.zeros(1 + size, dtype=F64)
        solved = linprog(
            (goal[1:] - goal[0]).numpy(),
            A_ub=(fixed[1:] - fixed[0]).T.numpy() if signs else None,
            b_ub=-fixed[0].numpy() if signs else None,
            bounds=bounds,
        )
        if solved.status == 2:
            return math.inf
        assert solved.status == 0
        return solved.fun + float(goal[0]) if done else min(below((*signs, True)), below((*signs, False)))

    return below(())


@pytest.mark.parametrize(("net", "seed"), [(dense, 0), (dense, 1), (residual, 0)])
def test_the_minimum_is_that_of_all_patterns_of_signs(net: Callable[[int], Graph], seed: int) -> None:
    graph = net(seed)
    row, inputs = row_of(seed), box(graph)
    found = Milp()(graph, ranges_of(graph, inputs), row, 0.75)
    assert found.status == "optimal"
    assert found.value == pytest.approx(enumerated(graph, inputs, row) + 0.75, abs=1e-5)
    assert found.bound == pytest.approx(found.value, abs=1e-5)
    assert found.point is not None
    assert bool(np.all((found.point >= -0.5) & (found.point <= 0.5)))
    y = graph(torch.from_numpy(found.point).reshape(1, *graph.input_shape)).flatten()
    assert found.value == pytest.approx(float(y @ row) + 0.75, abs=1e-12)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("seed", range(2))
def test_linear_bounds_lie_below_the_minimum_and_samples_above(net: Callable[[int], Graph], seed: int) -> None:
    graph = net(10 + seed)
    row, inputs = row_of(seed), box(graph)
    ranges = ranges_of(graph, inputs)
    tight = refined(graph, ranges, steps=3)
    first, second = Milp()(graph, ranges, row), Milp()(graph, tight, row)
    assert first.value == pytest.approx(second.value, abs=1e-5)
    assert second.open <= first.open
    least = min(first.value, second.value)
    for known in (ranges_of(graph, inputs, "ibp"), ranges, tight):
        assert float(lower_bounds(graph, known, row.reshape(1, 1, 2))) <= least + 1e-9
    x = torch.rand(4000, *graph.input_shape, generator=torch.Generator().manual_seed(seed), dtype=F64) - 0.5
    assert float((graph(x).flatten(1) @ row).min()) >= first.bound - 1e-6


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("seed", [0, 3])
def test_verify_agrees_on_either_side_of_the_minimum(net: Callable[[int], Graph], seed: int) -> None:
    graph = net(20 + seed)
    row, inputs = row_of(seed), box(graph)
    least = Milp()(graph, ranges_of(graph, inputs), row)
    assert least.status == "optimal"
    sides = inputs.low.flatten().numpy(), inputs.high.flatten().numpy()
    for shift, expected in ((1e-3, "holds"), (-1e-3, "violated")):
        case = Case(*sides, row.numpy()[None], np.array([shift - least.value]))
        found = verify(graph, Property((case,)), seconds=30)
        assert found.status == expected
        if found.witness is not None:
            at = torch.from_numpy(found.witness).double().reshape(1, *graph.input_shape)
            assert float(graph(at).flatten() @ row) <= least.value + 1e-3 + 1e-5


def test_a_network_without_open_relus_is_a_linear_program() -> None:
    graph = dense(0)
    inputs = box(graph, 0.2, 0.2)
    found = Milp()(graph, ranges_of(graph, inputs), row_of(0))
    assert found.open == 0
    assert found.bound == pytest.approx(found.value, abs=1e-9)
    assert found.value == pytest.approx(float(graph(inputs.low).flatten() @ row_of(0)), abs=1e-9)


def test_float32_networks_and_ranges_are_taken_as_they_are() -> None:
    graph = residual(3)
    single = graph.to(dtype=torch.float32)
    inputs = box(graph)
    ranges = ranges_of(single, inputs.to(torch.float32))
    found = Milp()(single, ranges, row_of(3).float())
    exact = Milp()(graph, ranges_of(graph, inputs), row_of(3))
    assert found.value == pytest.approx(exact.value, abs=1e-5)


def test_time_that_runs_out_leaves_a_bound_below_the_minimum() -> None:
    graph = dense(5, 10, 40)
    inputs = box(graph, -2.0, 2.0)
    ranges = ranges_of(graph, inputs)
    found = Milp(seconds=0.3)(graph, ranges, row_of(5))
    assert found.status == "limit"
    assert found.bound <= found.value
    x = 4 * torch.rand(20_000, 10, generator=torch.Generator().manual_seed(0), dtype=F64) - 2
    assert found.bound <= float((graph(x) @ row_of(5)).min())


def test_what_is_no_program_is_refused() -> None:
    graph = dense(0)
    inputs = box(graph)
    ranges = ranges_of(graph, inputs)
    with pytest.raises(ModelError, match="more than the 10 numbers"):
        Milp(most=10)(graph, ranges, row_of(0))
    with pytest.raises(DataError, match="the row has 3 numbers, the network 2"):
        Milp()(graph, ranges, torch.ones(3))
    with pytest.raises(DataError, match="ranges of one example, got 2"):
        Milp()(graph, ranges.take(torch.tensor([0, 0])), row_of(0))
    with pytest.raises(SettingError, match="seconds"):
        Milp(seconds=0)
    ball = Inputs(inputs.low, inputs.high, Norm.L2, torch.zeros_like(inputs.low), torch.ones(1, dtype=F64))
    with pytest.raises(ThreatError, match="got a ball of l2"):
        Milp()(graph, ranges_of(graph, ball), row_of(0))
    builder = Builder((2,), dtype=F64)
    builder.add(Elementwise("tanh"), 0, name="bend")
    bent = builder.finish()
    with pytest.raises(ModelError, match="'bend': tanh is no part"):
        Milp()(bent, ranges_of(bent, box(bent)), row_of(0))
    wrong = {place: (0 * low - 1e-3, 0 * high + 1e-3) for place, (low, high) in ranges.before.items()}
    with pytest.raises(DataError, match="no input of the box has these ranges"):
        Milp()(graph, type(ranges)(inputs, wrong, ranges.lines), row_of(0))
