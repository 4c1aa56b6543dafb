"""Networks on which something once proved what is false, or failed: small, and each for one reason."""

import numpy as np
import pytest
import torch

from hauberk.bounds import Inputs, lower_bounds, ranges_of
from hauberk.bounds.interval import intervals
from hauberk.bounds.refine import refined
from hauberk.bounds.relaxations import lines_of
from hauberk.certify._property import Case, Property
from hauberk.certify.verify import verify
from hauberk.layered.graph import Builder, Graph
from hauberk.layered.ops import Add, Concat, Elementwise, Linear


def _residual(seed: int, inputs: int = 13) -> Graph:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    build = Builder((inputs,))
    first = build.add(Elementwise("relu"), build.add(Linear(drawn(6, inputs), 0.3 * drawn(6)), 0))
    second = build.add(Elementwise("relu"), build.add(Linear(drawn(6, 6), 0.3 * drawn(6)), first))
    third = build.add(
        Elementwise("relu"), build.add(Linear(drawn(6, 6), 0.3 * drawn(6)), build.add(Add(), first, second))
    )
    build.add(Linear(drawn(2, 6)), third)
    return build.finish()


@pytest.mark.parametrize("seed", range(6))
def test_domains_whose_signs_all_follow_are_decided_as_the_network_computes_them(seed: int) -> None:
    """ReLUs that narrowed ranges decide are not off only because the root left them open."""
    graph, row = _residual(seed), np.array([[1.0, -1.0]])
    box = np.ones(13)
    generator = torch.Generator().manual_seed(seed)
    points = 2 * torch.rand(20_000, 13, generator=generator) - 1
    for _ in range(60):  # descend to near the true minimum
        leaf = points[:2000].requires_grad_() if points.requires_grad else points[:2000].clone().requires_grad_()
        values = graph(leaf) @ torch.tensor(row[0], dtype=torch.float32)
        (slope,) = torch.autograd.grad(values.sum(), leaf)
        points = (leaf.detach() - 0.05 * slope.sign()).clamp(-1, 1)
    least = float((graph(points) @ torch.tensor(row[0], dtype=torch.float32)).min())
    violated = verify(graph, Property((Case(-box, box, row, np.array([-least - 1e-3])),)), seconds=20)
    assert violated.status == "violated"
    holds = verify(graph, Property((Case(-box, box, row, np.array([-least + 0.2])),)), seconds=20)
    assert holds.status == "holds"


def test_what_overflows_is_not_proven() -> None:
    n = 20
    build = Builder((n,))
    pick = torch.zeros(1, n)
    pick[0, 0], pick[0, 1] = 60.0, -60.0
    far = build.add(Elementwise("exp"), build.add(Linear(pick), 0))
    far = build.add(Linear(torch.tensor([[1e-30]])), far)
    corner = build.add(Elementwise("relu"), build.add(Linear(torch.ones(1, n), torch.tensor([0.05 - n])), 0))
    build.add(Add(), far, build.add(Linear(torch.tensor([[-100.0]]), torch.tensor([1.0])), corner))
    graph = build.finish()
    asked = Property((Case(-np.ones(n), np.ones(n), np.ones((1, 1)), np.zeros(1)),))
    assert verify(graph, asked, seconds=10).status != "holds"  # the corner of ones violates it
    low, high = intervals(graph, -torch.ones(1, n), torch.ones(1, n))[-1]
    assert not bool(low.isnan().any() or high.isnan().any())


def test_constants_that_cancel_do_not_raise_a_bound() -> None:
    build = Builder((1,))
    first = build.add(Linear(torch.tensor([[1.0], [1.0]]), torch.tensor([1e5, -1e5])), 0)
    build.add(Linear(torch.tensor([[1.0, 1.0]]), torch.tensor([0.0])), first)
    graph = build.finish()
    inputs = Inputs(-torch.ones(1, 1), torch.ones(1, 1))
    bound = lower_bounds(graph, ranges_of(graph, inputs), torch.ones(1, 1, 1))
    assert float(bound) <= -2.0


def test_relus_that_lie_on_no_way_to_what_is_bounded_are_no_failure() -> None:
    generator = torch.Generator().manual_seed(0)
    build = Builder((14,))
    one = build.add(Elementwise("relu"), build.add(Linear(torch.randn(4, 14, generator=generator)), 0))
    middle = build.add(Linear(torch.randn(5, 14, generator=generator)), 0)
    two = build.add(Elementwise("relu"), build.add(Linear(torch.randn(4, 5, generator=generator)), middle))
    build.add(Linear(torch.randn(1, 8, generator=generator)), build.add(Concat(0), one, two))
    graph = build.finish()
    ranges = ranges_of(graph, Inputs(-torch.ones(1, 14), torch.ones(1, 14)))
    tighter = refined(graph, ranges)
    for place, (low, high) in tighter.before.items():
        assert bool((low >= ranges.before[place][0]).all())
        assert bool((high <= ranges.before[place][1]).all())


@pytest.mark.parametrize("name", ["exp", "softplus", "sigmoid", "tanh", "gelu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lines_of_smooth_functions_hold_on_wide_intervals(name: str, dtype: torch.dtype) -> None:
    op = Elementwise(name)
    ends = torch.tensor([-25.0, -20.0, -8.0, -3.0, -1.0, 0.0, 1.0, 2.0, 8.0, 20.0, 25.0], dtype=dtype)
    low, high = (side.flatten() for side in torch.meshgrid(ends, ends, indexing="ij"))
    low, high = low[low <= high], high[low <= high]
    lines = lines_of(op, low, high)
    z = (low + (high - low) * torch.linspace(0, 1, 2001, dtype=dtype)[:, None]).double()
    exact = op(z)
    offset = torch.zeros_like(low) if lines.lower_offset is None else lines.lower_offset
    assert bool((lines.lower_slope.double() * z + offset.double() <= exact).all())
    assert bool((lines.upper_slope.double() * z + lines.upper_offset.double() >= exact).all())
