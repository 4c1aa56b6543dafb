import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hauberk.layered.ops import (
    FUNCTIONS,
    Add,
    AvgPool,
    Concat,
    Conv,
    Elementwise,
    Input,
    Linear,
    LinearOp,
    MaxPool,
    Mean,
    Pad,
    Permute,
    Pick,
    Product,
    Quotient,
    Reshape,
    Scale,
    Shape,
    Softmax,
    moves,
)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


LINEAR: dict[str, tuple[LinearOp, Shape]] = {
    "linear": (Linear(drawn(3, 5), drawn(3)), (5,)),
    "linear without bias": (Linear(drawn(3, 5)), (5,)),
    "linear on rows": (Linear(drawn(3, 5), drawn(3)), (2, 4, 5)),
    "conv": (Conv(drawn(4, 3, 3, 2), drawn(4), (2, 1), (1, 0)), (3, 6, 5)),
    "conv that leaves a remainder": (Conv(drawn(4, 3, 3, 3), None, (3, 3), (1, 1)), (3, 7, 6)),
    "conv in groups": (Conv(drawn(4, 1, 2, 2), drawn(4), groups=2, dilation=(2, 1)), (2, 5, 4)),
    "conv along a line": (Conv(drawn(4, 3, 3), drawn(4), (2,), (1,), (2,)), (3, 10)),
    "scale": (Scale(drawn(3, 1, 1), drawn(3, 1, 1)), (3, 2, 4)),
    "scale by numbers": (Scale(-2.0, 0.5), (3, 2)),
    "shift": (Scale(shift=drawn(2)), (3, 2)),
    "scale by a number and a tensor": (Scale(drawn(), drawn(3, 2)), (3, 2)),
    "reshape": (Reshape((3, 4)), (2, 6)),
    "permute": (Permute((2, 0, 1)), (2, 3, 4)),
    "pick": (Pick(torch.tensor([[5, -1, 0], [0, 3, 5]])), (2, 3)),
    "pick of one": (Pick(torch.tensor(4)), (2, 3)),
    "pad": (Pad((1, 2, 0, 3)), (2, 2, 3)),
    "pad that cuts": (Pad((-1, 2)), (2, 3)),
    "mean": (Mean((1, 2)), (2, 3, 4)),
    "mean kept": (Mean((0,), keep=True), (2, 3)),
    "sum": (Mean((0, 2), total=True), (2, 3, 4)),
    "average pooling": (AvgPool((2, 2), (2, 2)), (2, 4, 5)),
    "average pooling with zeros": (AvgPool((3, 2), (2, 1), (1, 1)), (2, 5, 4)),
    "average pooling that does not count them": (
        AvgPool((3, 3), (2, 2), (1, 1), count_padding=False, ceil=True),
        (2, 5, 4),
    ),
}


def rows(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


def dense(op: LinearOp, shape: Shape) -> Tensor:
    """(outputs, inputs) of L."""
    size = math.prod(shape)
    return rows(op.apply(torch.eye(size, dtype=torch.float64).reshape(size, *shape))).T


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def lawful(op: LinearOp, shape: Shape) -> None:
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = op.apply(x)
    a = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    back = op.transpose(a, shape)
    assert back.shape == x.shape
    close(rows(back * x).sum(1), rows(y * a).sum(1))

    matrix = dense(op, shape)
    close(rows(y), rows(x) @ matrix.T)
    close(rows(op.magnitude(x)), rows(x) @ matrix.abs().T)
    close(rows(back), rows(a) @ matrix)

    at_zero = op(torch.zeros_like(x))
    close(op(x), y + at_zero)
    close(op.constant(a), rows(a * at_zero).sum(1))


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_operator_has_its_transpose_magnitude_and_constant(name: str) -> None:
    op, shape = LINEAR[name]
    assert isinstance(op, LinearOp)
    lawful(op, shape)


@settings(max_examples=60)
@given(
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.lists(st.integers(1, 9), min_size=1, max_size=2),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bias=st.booleans(),
)
def test_a_convolution_of_any_settings_is_lawful(
    groups: int,
    channels: tuple[int, int],
    size: list[int],
    kernel: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    bias: bool,
) -> None:
    axes = len(size)
    kernel, stride, padding, dilation = (each[:axes] for each in (kernel, stride, padding, dilation))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    size = [max(s, span - 2 * p) for s, span, p in zip(size, spans, padding)]
    inside, outside = (groups * each for each in channels)
    weight = drawn(outside, inside // groups, *kernel)
    lawful(Conv(weight, drawn(outside) if bias else None, stride, padding, dilation, groups), (inside, *size))


@pytest.mark.parametrize("name", LINEAR)
def test_operators_without_weights_are_never_negative(name: str) -> None:
    op, shape = LINEAR[name]
    assert moves(op) == (not isinstance(op, Linear | Conv | Scale))
    if moves(op):
        assert (dense(op, shape) >= 0).all()
        assert not op(torch.zeros(1, *shape, dtype=torch.float64)).any()


@pytest.mark.parametrize("name", ["average pooling with zeros", "pick", "mean", "conv", "linear"])
def test_a_transpose_can_be_differentiated(name: str) -> None:
    op, shape = LINEAR[name]
    a = torch.ones_like(op.apply(torch.zeros(1, *shape, dtype=torch.float64))).requires_grad_()
    x = drawn(1, *shape)
    (gradient,) = torch.autograd.grad((op.transpose(a, shape) * x).sum(), a)
    torch.testing.assert_close(gradient, op.apply(x))


def test_a_transpose_works_where_gradients_are_off() -> None:
    op, shape = LINEAR["average pooling"]
    with torch.no_grad():
        found = op.transpose(drawn(1, 2, 2, 2), shape)
    assert not found.requires_grad


def test_pick_repeats_moves_and_puts_zeros() -> None:
    x = torch.tensor([[10.0, 11.0, 12.0], [20.0, 21.0, 22.0]])
    wanted = torch.tensor([[[12.0, 0.0], [10.0, 10.0]], [[22.0, 0.0], [20.0, 20.0]]])
    assert torch.equal(Pick(torch.tensor([[2, -1], [0, 0]]))(x), wanted)


def test_operators_of_several_inputs_compute_what_they_say() -> None:
    a, b = drawn(2, 3, 4), drawn(2, 3, 4).abs() + 1
    assert torch.equal(Input()(a), a)
    assert torch.equal(Add()(a, b, a), a + b + a)
    assert torch.equal(Product()(a, b), a * b)
    assert torch.equal(Quotient()(a, b), a / b)
    assert torch.equal(Concat(1)(a, b), torch.cat([a, b], dim=2))
    assert torch.equal(Softmax(0)(a), a.softmax(dim=1))
    assert torch.equal(MaxPool((2, 2), (1, 1))(a[:, None]), F.max_pool2d(a[:, None], 2, 1))


def test_functions_compute_what_they_say() -> None:
    x = torch.linspace(-2, 3, 11, dtype=torch.float64)
    wanted = {
        Elementwise("relu"): x.clamp(min=0),
        Elementwise("leaky_relu", (0.1,)): torch.where(x > 0, x, 0.1 * x),
        Elementwise("abs"): torch.where(x > 0, x, -x),
        Elementwise("clamp", (-1.0, math.inf)): torch.where(x > -1, x, -1.0),
        Elementwise("sigmoid"): 1 / (1 + (-x).exp()),
        Elementwise("tanh"): (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
        Elementwise("gelu"): x * (1 + torch.erf(x / math.sqrt(2))) / 2,
        Elementwise("gelu_tanh"): x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        Elementwise("silu"): x / (1 + (-x).exp()),
        Elementwise("softplus"): (1 + x.exp()).log(),
        Elementwise("elu", (0.5,)): torch.where(x > 0, x, 0.5 * (x.exp() - 1)),
        Elementwise("exp"): math.e**x,
        Elementwise("sin"): torch.cos(x - math.pi / 2),
        Elementwise("cos"): torch.sin(x + math.pi / 2),
        Elementwise("power", (3.0,)): x * x * x,
    }
    for op, value in wanted.items():
        torch.testing.assert_close(op(x), value, rtol=1e-10, atol=1e-10)
    positive = x + 3
    torch.testing.assert_close(Elementwise("log")(positive).exp(), positive)
    torch.testing.assert_close(Elementwise("sqrt")(positive) ** 2, positive)
    assert {op.function for op in wanted} | {"log", "sqrt"} <= set(FUNCTIONS)
