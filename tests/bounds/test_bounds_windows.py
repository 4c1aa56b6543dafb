"""Functions of windows are the functions that their dense coefficients say."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from hauberk.bounds import Inputs, crown, ranges_of
from hauberk.bounds.backward import backward, dense, units
from hauberk.bounds.windows import Windows
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.ops import Add, Conv, Elementwise, Scale

F64 = torch.float64


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def some(plane: tuple[int, int, int], seed: int = 0) -> Windows:
    """A unit of every value of the plane, with signs and sizes of its own."""
    count = math.prod(plane)
    return Windows.units(torch.arange(count), normal(seed, count), plane)


def conv(seed: int, inputs: int, outputs: int, settings: tuple[tuple[int, int], ...], groups: int = 1) -> Conv:
    kernel, stride, padding, dilation = settings
    return Conv(
        normal(seed, outputs, inputs // groups, *kernel), normal(seed, outputs), stride, padding, dilation, groups
    )


SETTINGS = [
    (kernel, stride, padding, dilation)
    for kernel, stride, padding, dilation in itertools.product(
        [(1, 1), (3, 2)], [(1, 1), (2, 3)], [(0, 0), (1, 2)], [(1, 1), (2, 1)]
    )
]


def test_units_are_the_units() -> None:
    plane = (2, 3, 4)
    sign = normal(0, 24)
    found = Windows.units(torch.arange(24), sign, plane).dense()
    assert torch.equal(found, torch.diag(sign).reshape(24, *plane))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("groups", [1, 2])
def test_going_back_through_convolutions_is_their_transpose(settings: tuple[tuple[int, int], ...], groups: int) -> None:
    """Twice, so that the second begins with windows that reach past the plane."""
    last, before = conv(1, 4, 2, settings, groups), conv(2, 2, 4, ((3, 3), (1, 2), (2, 1), (1, 1)), groups)
    plane = (2, 9, 12)
    middle = tuple(before(torch.zeros(1, *plane, dtype=F64)).shape[1:])
    top = tuple(last(torch.zeros(1, *middle, dtype=F64)).shape[1:])
    windows = some((top[0], top[1], top[2]))
    once = windows.back_through(last, middle)
    expected = last.transpose(windows.dense(), middle)
    torch.testing.assert_close(once.dense(), expected, rtol=1e-12, atol=1e-12)
    # what lies outside is 0 and not merely unread: constants and slopes are summed over windows
    torch.testing.assert_close(once.a.sum(dim=(1, 2, 3)), expected.sum(dim=(1, 2, 3)), rtol=1e-10, atol=1e-10)
    twice = once.back_through(before, plane)
    torch.testing.assert_close(twice.dense(), before.transpose(expected, plane), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", SETTINGS)
def test_windows_of_planes_are_what_the_functions_look_at(settings: tuple[tuple[int, int], ...]) -> None:
    """The product of coefficients and windows is that of dense coefficients and planes."""
    op, plane = conv(3, 2, 3, settings), (2, 7, 8)
    top = tuple(op(torch.zeros(1, *plane, dtype=F64)).shape[1:])
    windows = some((top[0], top[1], top[2])).back_through(op, plane)
    planes, count = normal(4, 3, *plane), len(windows.a)
    rows = torch.arange(count) % 3
    expected = (windows.dense() * planes[rows]).sum(dim=(1, 2, 3))
    found = (windows.a * windows.of(planes, rows)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    one = (windows.a * windows.of(planes[:1], rows)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(one, (windows.dense() * planes[:1]).sum(dim=(1, 2, 3)), rtol=1e-10, atol=1e-10)
    own = windows.of(planes[rows], None)
    assert torch.equal(own, windows.of(planes, rows))
    inside = Windows(
        windows.inside().expand_as(windows.a), windows.where, windows.grid, windows.stride, windows.offset, plane
    )
    assert torch.equal(inside.cropped().a, inside.a)
    spread = Windows(torch.ones_like(windows.a), windows.where, windows.grid, windows.stride, windows.offset, plane)
    assert torch.equal(spread.cropped().dense(), spread.dense())
    assert torch.equal(spread.cropped().a, windows.inside().expand_as(windows.a))


@pytest.mark.parametrize("kernels", [((1, 1), (3, 3)), ((3, 3), (1, 1)), ((3, 1), (2, 5)), ((5, 2), (1, 1))])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_sums_of_windows_are_sums(kernels: tuple[tuple[int, int], tuple[int, int]], stride: tuple[int, int]) -> None:
    plane, parts = (2, 8, 9), []
    top = (3, 4, 5)
    for number, kernel in enumerate(kernels):
        op = conv(number, 2, 3, (kernel, stride, (kernel[0] // 2, kernel[1] // 2), (1, 1)))
        parts.append(some(top, number).back_through(op, plane))
    together = parts[0].plus(parts[1])
    assert together is not None
    torch.testing.assert_close(together.dense(), parts[0].dense() + parts[1].dense(), rtol=1e-12, atol=1e-12)


def blocks(seed: int, stride: int) -> Graph:
    """Two residual blocks, the first of which strides on both ways, with scales between."""
    builder, relu = Builder((2, 9, 9), dtype=F64), Elementwise("relu")
    step = (stride, stride)
    first = builder.add(relu, builder.add(conv(seed, 2, 4, ((3, 3), (1, 1), (1, 1), (1, 1))), 0))
    left = builder.add(relu, builder.add(conv(seed + 1, 4, 4, ((3, 3), step, (1, 1), (1, 1)), 2), first))
    left = builder.add(conv(seed + 2, 4, 4, ((3, 3), (1, 1), (1, 1), (1, 1))), left)
    right = builder.add(conv(seed + 3, 4, 4, ((1, 1), step, (0, 0), (1, 1))), first)
    both = builder.add(relu, builder.add(Add(), left, right))
    scaled = builder.add(Scale(normal(seed, 4, 1, 1), normal(seed + 1, 4, 1, 1)), both)
    odd = builder.add(Scale(normal(seed, *builder.shape(scaled)), 0.5), scaled)
    last = builder.add(conv(seed + 4, 4, 3, ((2, 2), (1, 1), (0, 0), (1, 1))), builder.add(Add(), odd, both))
    builder.add(conv(seed + 5, 3, 2, ((2, 3), (1, 1), (1, 0), (1, 1))), builder.add(relu, last))
    return builder.finish()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("seed", [0, 10])
def test_going_back_with_windows_is_going_back_without(seed: int, stride: int) -> None:
    graph = blocks(seed, stride)
    x = normal(seed, 2, 2, 9, 9)
    ranges = ranges_of(graph, Inputs(x - 0.05, x + 0.05), "ibp")
    for position in range(1, len(graph.nodes)):
        node = graph.nodes[position]
        count = math.prod(node.shape)
        index = torch.arange(0, count, 5)
        index = torch.cat((index, index))
        rows = torch.arange(2).repeat_interleave(len(index) // 2)
        windows = units(node, index, normal(position, len(index)))
        assert isinstance(windows, Windows)
        with_windows, constant = backward(graph, position, windows, rows, ranges.lines)
        without, other = backward(graph, position, dense(windows), rows, ranges.lines)
        torch.testing.assert_close(dense(with_windows), dense(without), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(constant, other, rtol=1e-9, atol=1e-9)
        least = ranges.inputs.minimum_of(with_windows, rows)
        torch.testing.assert_close(least, ranges.inputs.minimum_of(dense(without), rows), rtol=1e-9, atol=1e-9)


def test_ranges_with_windows_are_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = blocks(3, 2), normal(3, 2, 2, 9, 9)
    inputs = Inputs(x - 0.02, x + 0.02)
    with_windows = ranges_of(graph, inputs)
    monkeypatch.setattr(crown, "units", lambda *settings: dense(units(*settings)))
    for position, (low, high) in ranges_of(graph, inputs).before.items():
        torch.testing.assert_close(with_windows.before[position][0], low, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(with_windows.before[position][1], high, rtol=1e-9, atol=1e-9)
