"""Lines and images hold on dense grids of every interval that can be thought of."""

import pytest
import torch
from torch import Tensor

from hauberk.bounds.relaxations import Lines, can_bound, has_kink, image, lines_of, relu_lines
from hauberk.layered.ops import Elementwise

F64 = torch.float64
NAMES = ("relu", "sigmoid", "tanh", "gelu", "silu", "softplus", "exp")
SCALES = (1e-12, 1e-6, 1e-3, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e5, 1e10)
LARGEST = {"exp": 3.0, "softplus": 10.0}
"""Where there is one, the largest scale of which this holds today; what lies beyond is the affair of another test."""


def intervals(scale: float, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """Of widths 0, tiny, small and as large as the places are; some begin or end at 0, some have it inside."""
    generator = torch.Generator().manual_seed(seed)
    low = scale * (2 * torch.rand(240, generator=generator, dtype=F64) - 1)
    width = scale * torch.rand(240, generator=generator, dtype=F64) * torch.tensor([0, 1e-7, 1e-3, 1.0] * 60, dtype=F64)
    low[:20], low[20:40] = 0.0, -width[20:40]
    low[40:60] = -width[40:60] / 2
    small, large = low.to(dtype), (low + width).to(dtype)
    return small, torch.maximum(small, large)


def grid(low: Tensor, high: Tensor) -> Tensor:
    """(1500, N) float64 places of the intervals, both ends among them."""
    low, high = low.double(), high.double()
    share = torch.linspace(0, 1, 1500, dtype=F64)[:, None]
    return torch.minimum(torch.maximum(low + (high - low) * share, low), high)


def gap_of(lines: Lines, op: Elementwise, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(1500, N) how far f lies above the lower line, and the upper line above f."""
    z = grid(low, high)
    offset = 0.0 if lines.lower_offset is None else lines.lower_offset.double()
    y = op(z)
    return y - (
        lines.lower_slope.double() * z + offset
    ), lines.upper_slope.double() * z + lines.upper_offset.double() - y


def scales_of(name: str) -> list[float]:
    return [scale for scale in SCALES if scale <= LARGEST.get(name, SCALES[-1])]


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_lines_hold_on_a_dense_grid_of_every_interval(name: str, dtype: torch.dtype) -> None:
    op = Elementwise(name)
    for number, scale in enumerate(scales_of(name)):
        low, high = intervals(scale, dtype, number)
        above, below = gap_of(lines_of(op, low, high), op, low, high)
        # the grid itself rounds in float64
        allowed = 4e-16 * (1 + float(high.double().abs().max())) if dtype == F64 else 0.0
        assert float(above.min()) >= -allowed, scale
        assert float(below.min()) >= -allowed, scale


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_the_image_contains_the_function_and_is_tight(name: str, dtype: torch.dtype) -> None:
    op = Elementwise(name)
    for number, scale in enumerate(scales_of(name)):
        low, high = intervals(scale, dtype, number)
        least, most = image(op, low, high)
        y = op(grid(low, high))
        assert bool((least.double() <= y).all() and (y <= most.double()).all()), scale
        if scale <= 10:  # past it the grid is too coarse to meet the least value
            loose = 1e-3 * (1 + y.abs().amax(dim=0))
            tight = (least >= y.amin(dim=0) - loose) & (most <= y.amax(dim=0) + loose)
            assert bool(tight.all()), scale


@pytest.mark.parametrize("name", ["softplus", "exp"])
def test_lines_of_smooth_functions_are_tight(name: str) -> None:
    """Both touch the function, and on narrow intervals they leave almost nothing between them."""
    op = Elementwise(name)
    low, high = intervals(2.0, F64, 0)
    above, below = gap_of(lines_of(op, low, high), op, low, high)
    assert float(above.amin(dim=0).max()) < 1e-4
    assert float(below.amin(dim=0).max()) < 1e-4
    width, curve = high - low, 8.0 if name == "exp" else 1.0
    assert bool((above + below <= curve * width**2 + 1e-8).all())


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
def test_relu_lines_hold_for_every_slope_from_0_to_1(dtype: torch.dtype) -> None:
    op = Elementwise("relu")
    for slope in (0.0, 0.25, 1.0):
        low, high = intervals(3.0, dtype, 5)
        above, below = gap_of(relu_lines(low, high, torch.full_like(low, slope)), op, low, high)
        assert float(above.min()) >= 0.0
        assert float(below.min()) >= -1e-15


def test_relu_of_known_sign_is_exact_and_at_0_flat_or_straight() -> None:
    low = torch.tensor([-2.0, 0.0, 1.0, 0.0, -1.0])
    high = torch.tensor([-1.0, 0.0, 3.0, 2.0, 0.0])
    above, below = gap_of(lines_of(Elementwise("relu"), low, high), Elementwise("relu"), low, high)
    assert float(above.abs().max()) == float(below.abs().max()) == 0.0


def test_lines_of_the_examples_asked_for_are_theirs() -> None:
    low, high = torch.tensor([[-1.0], [-2.0], [1.0]]), torch.tensor([[1.0], [1.0], [2.0]])
    for name in ("relu", "tanh"):
        lines = lines_of(Elementwise(name), low, high)
        for rows in (torch.tensor([2, 0, 0]), slice(1, 3)):
            some = lines.take(rows)
            assert torch.equal(some.upper_slope, lines.upper_slope[rows])
            assert (some.lower_offset is None) == (name == "relu")


def test_only_relu_has_a_kink_and_what_has_no_rule_is_known() -> None:
    assert [name for name in NAMES if has_kink(Elementwise(name))] == ["relu"]
    assert all(can_bound(Elementwise(name)) for name in NAMES)
    assert not any(
        can_bound(Elementwise(name)) for name in ("sin", "cos", "log", "sqrt", "power", "abs", "clamp", "elu")
    )
