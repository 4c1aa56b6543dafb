import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from hauberk.errors import ModelError
from hauberk.layered.from_torch import from_torch
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.lower import lowered
from hauberk.layered.ops import Conv, Elementwise, Linear, MaxPool, Op, Pick, Shape


def single(op: Op, shape: Shape, dtype: torch.dtype = torch.float64) -> Graph:
    builder = Builder(shape, dtype=dtype)
    size = math.prod(shape[-1:])
    builder.add(op, builder.add(Linear(torch.eye(size, dtype=dtype)), 0))
    return builder.finish()


def nonlinear(graph: Graph) -> int:
    """How many values go through a ReLU; nothing else that bends is left."""
    assert not any(isinstance(node.op, MaxPool) for node in graph.nodes)
    functions = [node for node in graph.nodes if isinstance(node.op, Elementwise)]
    assert all(node.op == Elementwise("relu") for node in functions)
    return sum(math.prod(node.shape) for node in functions)


CLAMPS = [(-0.5, 0.7), (0.0, 6.0), (-math.inf, 0.3), (0.3, math.inf), (-math.inf, math.inf), (0.5, 0.5), (1.0, -1.0)]


@pytest.mark.parametrize(
    "op",
    [
        Elementwise("relu"),
        Elementwise("leaky_relu", (0.2,)),
        Elementwise("leaky_relu", (0.0,)),
        Elementwise("leaky_relu", (1.5,)),
        Elementwise("abs"),
        *(Elementwise("clamp", bounds) for bounds in CLAMPS),
    ],
    ids=str,
)
def test_a_function_with_kinks_becomes_relus(op: Elementwise) -> None:
    graph = single(op, (3, 4))
    found = lowered(graph)
    nonlinear(found)
    x = torch.linspace(-3, 3, 60, dtype=torch.float64).reshape(5, 3, 4)
    torch.testing.assert_close(found(x), graph(x), rtol=1e-12, atol=1e-12)


def test_smooth_functions_and_weights_are_kept() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Sigmoid())
    found = lowered(from_torch(module, (3,)))
    assert [node.op.function for node in found.nodes if isinstance(node.op, Elementwise)] == ["tanh", "sigmoid"]
    first = found.nodes[1].op
    assert isinstance(first, Linear)
    assert first.weight is module[0].weight


def pooled(op: MaxPool, shape: Shape) -> Graph:
    graph = single(op, shape)
    found = lowered(graph)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(found(x), graph(x), rtol=1e-12, atol=1e-12)
    assert found.output_shape == graph.output_shape
    assert nonlinear(found) == (math.prod(op.kernel) - 1) * math.prod(graph.output_shape)
    return found


@pytest.mark.parametrize(
    "op",
    [
        MaxPool((2, 2), (2, 2)),
        MaxPool((3, 3), (2, 1)),
        MaxPool((3, 2), (1, 1), dilation=(2, 3)),
        MaxPool((1, 1), (2, 2)),
        MaxPool((8, 6), (1, 1)),
        MaxPool((2, 2), (2, 2), ceil=True),
    ],
    ids=str,
)
def test_a_pooling_whose_windows_lie_inside_becomes_convolutions(op: MaxPool) -> None:
    kinds = [type(node.op) for node in pooled(op, (3, 8, 6)).nodes]
    assert Conv in kinds
    assert Pick not in kinds


def test_two_by_two_takes_two_rounds_and_sixteen_four() -> None:
    for size, rounds in ((2, 2), (4, 4)):
        found = pooled(MaxPool((size, size), (size, size)), (3, 8, 8))
        assert sum(isinstance(node.op, Elementwise) for node in found.nodes) == rounds


@pytest.mark.parametrize(
    "op",
    [
        MaxPool((3, 3), (2, 2), padding=(1, 1)),
        MaxPool((3, 2), (2, 1), padding=(1, 1), dilation=(2, 1), ceil=True),
        MaxPool((3, 3), (3, 3), ceil=True),
        MaxPool((2, 1), (1, 2), padding=(1, 0)),
        MaxPool((1, 1), (3, 3), ceil=True),
    ],
    ids=str,
)
def test_a_pooling_with_cut_windows_agrees(op: MaxPool) -> None:
    pooled(op, (3, 8, 7))


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    ceil=st.booleans(),
)
def test_any_pooling_agrees(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    ceil: bool,
) -> None:
    assume(all(2 * p <= k for p, k in zip(padding, kernel)))
    try:
        given_by_torch = F.max_pool2d(torch.zeros(1, 1, *size), kernel, stride, padding, dilation, ceil)
    except RuntimeError:
        assume(False)
        return
    assume(bool(given_by_torch.isfinite().all()))  # torch lets a dilated window lie outside of everything
    pooled(MaxPool(kernel, stride, padding, dilation, ceil), (2, *size))


def test_a_pooling_of_what_is_no_picture_is_refused() -> None:
    builder = Builder((2, 3, 4))
    builder.add(MaxPool((2, 2), (2, 2)), 0)
    graph = builder.finish()
    builder = Builder((6, 4))
    builder.nodes.append(graph.nodes[1])
    with pytest.raises(ModelError, match="height, width"):
        lowered(builder.finish())


def test_a_whole_network_agrees_and_its_parameters_stay_live() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(4, 4, 3),
        nn.Hardtanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()
    found = lowered(from_torch(module, (1, 8, 9)))
    nonlinear(found)
    x = torch.randn(4, 1, 8, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(found(x), module(x), rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(found(x).sum(), list(module.parameters()))
    wanted = torch.autograd.grad(module(x).sum(), list(module.parameters()))
    torch.testing.assert_close(gradients, wanted)
