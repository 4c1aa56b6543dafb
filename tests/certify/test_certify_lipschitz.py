import itertools
import math
from typing import TypeAlias

import pytest
import torch
from torch import Tensor

from hauberk.bounds import Inputs
from hauberk.certify.lipschitz import certified_radius, global_bound, local_bound
from hauberk.errors import DataError, ModelError, ThreatError
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.lower import lowered
from hauberk.layered.ops import Add, AvgPool, Concat, Conv, Elementwise, Linear, MaxPool, Op, Reshape, Scale
from hauberk.threat import Ball, Norm

NORMS = (Norm.LINF, Norm.L2, Norm.L1)
F64 = torch.float64
Pair: TypeAlias = tuple[int, int]


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=F64)


def linear(generator: torch.Generator, inputs: int, outputs: int) -> Linear:
    return Linear(normal(generator, outputs, inputs) / math.sqrt(inputs), normal(generator, outputs))


def only(shape: tuple[int, ...], op: Op) -> Graph:
    builder = Builder(shape, dtype=F64)
    builder.add(op, 0)
    return builder.finish()


def residual(seed: int, function: str = "relu") -> Graph:
    """Dense, a residual block and a concatenation."""
    generator, builder = draws(seed), Builder((4,), dtype=F64)
    first = builder.add(Elementwise(function), builder.add(linear(generator, 4, 6), 0))
    second = builder.add(Elementwise(function), builder.add(linear(generator, 6, 6), first))
    both = builder.add(Concat(0), builder.add(Add(), first, second), first)
    builder.add(linear(generator, 12, 3), both)
    return builder.finish()


def picture(seed: int) -> Graph:
    generator, builder = draws(seed), Builder((2, 5, 5), dtype=F64)
    conv = Conv(normal(generator, 4, 1, 3, 3) / 3, normal(generator, 4), (2, 1), (1, 1), (1, 1), 2)
    first = builder.add(Elementwise("relu"), builder.add(conv, 0))
    scaled = builder.add(Scale(normal(generator, 4, 1, 1), normal(generator, 4, 1, 1)), first)
    pooled = builder.add(AvgPool((2, 2), (1, 1)), scaled)
    size = math.prod(builder.shape(pooled))
    builder.add(linear(generator, size, 3), builder.add(Reshape((size,)), pooled))
    return builder.finish()


def matrix_of(graph: Graph) -> Tensor:
    """(outputs, inputs) of a linear network."""
    size = math.prod(graph.input_shape)
    basis = torch.cat((torch.zeros(1, size, dtype=F64), torch.eye(size, dtype=F64)))
    found = graph(basis.reshape(-1, *graph.input_shape)).flatten(1)
    return (found[1:] - found[0]).T


def norm_of(matrix: Tensor, norm: Norm) -> float:
    order: float = {Norm.LINF: math.inf, Norm.L2: 2, Norm.L1: 1}[norm]
    return float(torch.linalg.matrix_norm(matrix, order))


def gradients(graph: Graph, row: Tensor, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((graph(leaf).flatten(1) @ row).sum(), leaf)
    return found


@pytest.mark.parametrize("norm", NORMS)
def test_the_global_constant_of_a_dense_layer_is_its_norm(norm: Norm) -> None:
    op = linear(draws(0), 7, 5)
    assert global_bound(only((7,), op), norm) == pytest.approx(norm_of(op.weight, norm), rel=1e-9)


@pytest.mark.parametrize(
    "settings", list(itertools.product([(1, 1), (2, 1)], [(0, 0), (1, 2)], [(1, 1), (2, 1)], [1, 2]))
)
def test_the_global_constant_of_a_convolution_is_at_least_its_norm_and_exact_in_linf_and_l1(
    settings: tuple[Pair, Pair, Pair, int],
) -> None:
    stride, padding, dilation, groups = settings
    generator = draws(1)
    op = Conv(normal(generator, 4, 2 // groups, 3, 2), None, stride, padding, dilation, groups)
    graph = only((2, 6, 5), op)
    matrix = matrix_of(graph)
    for norm in (Norm.LINF, Norm.L1):
        assert global_bound(graph, norm) == pytest.approx(norm_of(matrix, norm), rel=1e-9)
    true = norm_of(matrix, Norm.L2)
    assert true <= global_bound(graph, Norm.L2) <= 4 * true


def test_the_frequencies_of_a_large_plane_come_near_to_the_norm_of_a_convolution() -> None:
    graph = only((2, 14, 14), Conv(normal(draws(2), 3, 2, 3, 3), None, (1, 1), (1, 1)))
    true = norm_of(matrix_of(graph), Norm.L2)
    assert true <= global_bound(graph, Norm.L2) <= 1.05 * true
    line = only((2, 30), Conv(normal(draws(2), 3, 2, 3), None, (1,), (1,), (1,)))
    true = norm_of(matrix_of(line), Norm.L2)
    assert true <= global_bound(line, Norm.L2) <= 1.05 * true


@pytest.mark.parametrize("norm", NORMS)
def test_the_local_constant_of_a_linear_network_is_the_dual_norm_of_its_row(norm: Norm) -> None:
    generator, builder = draws(3), Builder((2, 4, 4), dtype=F64)
    conv = builder.add(Conv(normal(generator, 3, 2, 3, 3), normal(generator, 3), (2, 2), (1, 1)), 0)
    builder.add(linear(generator, 12, 3), builder.add(Reshape((12,)), conv))
    graph = builder.finish()
    rows = normal(generator, 1, 4, 3)
    inputs = Inputs(torch.zeros(2, 2, 4, 4, dtype=F64), torch.ones(2, 2, 4, 4, dtype=F64))
    expected = norm.dual.size(rows[0] @ matrix_of(graph)).expand(2, 4)
    torch.testing.assert_close(local_bound(graph, inputs, rows, norm), expected, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("function", ["relu", "sigmoid", "tanh", "gelu", "silu", "softplus", "exp"])
def test_the_local_constant_is_at_least_the_dual_norm_of_every_gradient(function: str, seed: int, norm: Norm) -> None:
    graph, generator = residual(seed, function), draws(10 + seed)
    x, row = torch.rand(2, 4, generator=generator, dtype=F64), normal(generator, 3)
    inputs = Inputs(x - 0.2, x + 0.2)
    bound = local_bound(graph, inputs, row.reshape(1, 1, 3), norm)[:, 0]
    for example in range(2):
        points = x[example] + 0.4 * (torch.rand(4000, 4, generator=generator, dtype=F64) - 0.5)
        assert float(norm.dual.size(gradients(graph, row, points)).max()) <= float(bound[example])
    if function != "exp":
        assert bool((bound <= global_bound(graph, norm) * float(norm.dual.size(row[None])) * (1 + 1e-9)).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(3))
def test_outputs_change_by_no_more_than_the_constants_say(seed: int, norm: Norm) -> None:
    graph, generator = picture(seed), draws(20 + seed)
    x = torch.rand(1, 2, 5, 5, generator=generator, dtype=F64)
    spec = torch.tensor([[[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]]], dtype=F64)
    local = local_bound(graph, Inputs(x - 0.05, x + 0.05), spec, norm)[0]
    points = x + 0.1 * (torch.rand(1000, 2, 5, 5, generator=generator, dtype=F64) - 0.5)
    moved, changed = norm.size(points - x), graph(points) - graph(x)
    assert bool(((changed @ spec[0].T).abs() <= local * moved[:, None] + 1e-12).all())
    assert bool((norm.size(changed) <= global_bound(graph, norm) * moved + 1e-12).all())


def test_a_smaller_region_has_no_larger_constant_and_float32_agrees() -> None:
    graph, x = residual(5), torch.full((1, 4), 0.5, dtype=F64)
    row = torch.tensor([[[1.0, -1.0, 0.0]]], dtype=F64)
    found = [float(local_bound(graph, Inputs(x - r, x + r), row, Norm.L2)) for r in (0.01, 0.1, 0.3, 1.0, 10.0)]
    assert found == sorted(found)
    assert found[0] < found[-1]
    inputs = Inputs(x.float() - 0.1, x.float() + 0.1)
    single = float(local_bound(graph.to(dtype=torch.float32), inputs, row.float(), Norm.L2))
    assert single == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_within_the_certified_radius_no_sample_and_no_descent_changes_the_class(norm: Norm) -> None:
    checked = 0
    for seed in range(6):
        graph, generator = residual(seed), draws(30 + seed)
        x = torch.rand(1, 4, generator=generator, dtype=F64)
        label = int(graph(x).argmax())
        spec = torch.stack(
            [torch.eye(3, dtype=F64)[label] - torch.eye(3, dtype=F64)[t] for t in range(3) if t != label]
        )
        region = Ball(norm, 0.3, (-1.0, 2.0))
        constants = local_bound(graph, Inputs.of(region, x), spec[None], norm)
        margins = graph(x) @ spec.T
        radius = float(certified_radius(margins, constants, 0.3))
        assert 0 < radius <= 0.3
        delta = normal(generator, 3000, 4)
        delta = delta / norm.size(delta)[:, None] * radius
        assert bool(((graph(x + delta) @ spec.T) >= -1e-12).all())
        for target in spec:
            step = norm.steepest(-gradients(graph, target, x))
            assert float(graph(x + radius * step) @ target) >= -1e-12
        checked += 1
    assert checked == 6


def test_the_certified_radius_is_the_worst_rows_capped_and_zero_without_a_margin() -> None:
    margins = torch.tensor([[2.0, 1.0], [4.0, 9.0], [-1.0, 5.0], [math.nan, 1.0], [1.0, 1.0], [1.0, 1.0]])
    constants = torch.tensor([[4.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [math.nan, 1.0]])
    found = certified_radius(margins, constants, torch.tensor([3.0] * 6))
    assert found.tolist() == [0.5, 3.0, 0.0, 0.0, 3.0, 0.0]
    assert certified_radius(margins, constants, math.inf).tolist() == [0.5, 4.0, 0.0, 0.0, math.inf, 0.0]


def test_lowered_networks_of_max_pooling_have_local_constants_as_the_pooling_itself() -> None:
    builder = Builder((1, 4, 4), dtype=F64)
    builder.add(MaxPool((2, 2), (2, 2)), 0)
    graph = builder.finish()
    with pytest.raises(ModelError, match="MaxPool has no Lipschitz constant"):
        global_bound(graph, Norm.L2)
    x = torch.arange(16, dtype=F64).reshape(1, 1, 4, 4)  # the largest of each window is far from the others
    row = torch.zeros(1, 1, 1, 2, 2, dtype=F64)
    row[..., 0, 0] = 3.0
    found = local_bound(lowered(graph).to(dtype=F64), Inputs(x - 0.1, x + 0.1), row, Norm.L2)
    assert float(found) == pytest.approx(3.0)


def test_what_has_no_constant_is_refused_by_name() -> None:
    builder = Builder((2,), dtype=F64)
    builder.add(Elementwise("exp"), 0, name="growing")
    graph = builder.finish()
    with pytest.raises(ModelError, match="'growing': exp has no Lipschitz constant"):
        global_bound(graph, Norm.LINF)
    with pytest.raises(ThreatError, match="l0"):
        global_bound(graph, Norm.L0)
    inputs = Inputs(torch.zeros(1, 2, dtype=F64), torch.ones(1, 2, dtype=F64))
    assert float(local_bound(graph, inputs, torch.ones(1, 1, 2, dtype=F64), Norm.LINF)) == pytest.approx(2 * math.e)
    with pytest.raises(ThreatError, match="l0"):
        local_bound(graph, inputs, torch.ones(1, 1, 2, dtype=F64), Norm.L0)
    for wrong in ((1, 1, 3), (2, 1, 2), (2,)):
        with pytest.raises(DataError, match="expected rows"):
            local_bound(graph, inputs, torch.ones(wrong, dtype=F64), Norm.L2)
    bad = Builder((2,), dtype=F64)
    bad.add(Elementwise("sin"), 0, name="wave")
    with pytest.raises(ModelError, match="'wave'"):
        local_bound(bad.finish(), inputs, torch.ones(1, 1, 2, dtype=F64), Norm.L2)
