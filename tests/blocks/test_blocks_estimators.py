"""Estimators of gradients: exact or unbiased on linear functions, exact costs, and nothing drawn by the batch."""

import pytest
import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk.blocks import Closest, Frontier
from hauberk.blocks.estimators import (
    coordinates,
    directions_named,
    grouped,
    in_span,
    probes,
    random_gradient,
    random_groups,
)
from hauberk.blocks.losses import cross_entropy
from hauberk.errors import UnknownNameError
from hauberk.testing import LinearVictim
from hauberk.threat import Access, Ball, Norm, Untargeted
from hauberk.victims import Meter

LIVE, SHAPE, D = 3, (2, 2, 3), 12
ROWS = torch.arange(LIVE)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


G = numbers(LIVE, *SHAPE)
V = numbers(LIVE, *SHAPE, seed=1)


def linear(points: Tensor) -> Tensor:
    return (points * G[:, None]).flatten(2).sum(dim=2)


def quadratic(points: Tensor) -> Tensor:
    return linear(points) + 1.5 * points.flatten(2).square().sum(dim=2)


def streams(seed: int = 0, rows: Tensor = ROWS) -> Streams:
    return Streams(seed, rows, "estimators")


def chosen(count: int) -> Tensor:
    return streams().uniform(ROWS, (D,), dtype=torch.float64).argsort(dim=1)[:, :count]


def test_coordinates_are_exact_on_linear_functions() -> None:
    places = chosen(5)
    slope, curvature = coordinates(linear, V, places, 0.1)
    assert curvature is None
    torch.testing.assert_close(slope, G.flatten(1).gather(1, places))


def test_coordinates_are_exact_on_quadratic_functions_also_at_the_walls() -> None:
    places, h = chosen(D), 0.1
    v = V.clamp(-1, 1)
    walls = torch.full_like(v, -1.0), torch.full_like(v, 1.0)
    asked: list[Tensor] = []

    def ask(points: Tensor) -> Tensor:
        asked.append(points)
        return quadratic(points)

    slope, curvature = coordinates(ask, v, places, h, centre=quadratic(v[:, None])[:, 0], walls=walls)
    torch.testing.assert_close(slope, (G + 3 * v).flatten(1).gather(1, places))
    torch.testing.assert_close(curvature, torch.full_like(slope, 3.0))
    assert bool((v == 1).any())
    assert bool((v == -1).any())
    assert float(asked[0].abs().max()) <= 1
    assert asked[0].shape[1] == 2 * D


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize(("kind", "scale"), [("normal", 1.0), ("signs", 1.0), ("sphere", float(D))])
def test_random_directions_are_unbiased_on_linear_functions(kind: str, scale: float, one_sided: bool) -> None:
    draw = directions_named(kind)(streams(), ROWS, V)
    centre = linear(V[:, None])[:, 0] if one_sided else None
    found = scale * random_gradient(linear, V, draw, 40_000, 0.1, centre=centre)
    error = (found - G).abs().max()
    assert float(error) < 6 * float(G.flatten(1).norm(dim=1).max()) / 200  # six standard errors


def test_signs_of_derivatives_point_along_the_gradient() -> None:
    found = random_gradient(linear, V, directions_named("normal")(streams(), ROWS, V), 5_000, 0.1, signs=True)
    cosine = torch.cosine_similarity(found.flatten(1), G.flatten(1))
    assert float(cosine.min()) > 0.99


def test_a_group_has_the_mean_slope_of_its_members() -> None:
    groups = random_groups(streams(), ROWS, SHAPE, 5)
    assert groups.flatten(1).sort(dim=1).values.tolist() == [[0] * 5 + [1] * 5 + [2] * 2] * LIVE
    assert not torch.equal(groups[0], groups[1])
    found = grouped(linear, V, groups, 0.1)
    for row in range(LIVE):
        for group in range(3):
            inside = groups[row] == group
            torch.testing.assert_close(found[row][inside], G[row][inside].mean().expand(int(inside.sum())))


def test_in_a_span_the_gradient_is_projected() -> None:
    basis = torch.linalg.qr(numbers(D, 4, seed=2)).Q.T
    found = in_span(linear, V, basis.reshape(4, *SHAPE), 0.1)
    torch.testing.assert_close(found.flatten(1), G.flatten(1) @ basis.T @ basis)


def test_what_an_example_draws_does_not_depend_on_the_batch() -> None:
    whole = directions_named("sphere")(streams(), ROWS, V)(4)
    for row in range(LIVE):
        alone = directions_named("sphere")(streams(rows=ROWS[row : row + 1]), torch.tensor([0]), V[row : row + 1])(4)
        assert torch.equal(alone[0], whole[row])


def test_missing_values_count_as_no_slope() -> None:
    def silent(points: Tensor) -> Tensor:
        return torch.full(points.shape[:2], torch.nan, dtype=torch.float64)

    assert not bool(coordinates(silent, V, chosen(3), 0.1)[0].any())
    assert not bool(random_gradient(silent, V, directions_named("signs")(streams(), ROWS, V), 3, 0.1).any())
    assert not bool(grouped(silent, V, random_groups(streams(), ROWS, SHAPE, 4), 0.1).any())


def test_an_unknown_kind_of_directions_is_refused() -> None:
    with pytest.raises(UnknownNameError):
        directions_named("gaussian")


def victim() -> tuple[LinearVictim, Tensor, Untargeted]:
    found = LinearVictim.random(0, D, 3)
    x = torch.rand((LIVE, D), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return found, x, Untargeted(found.labels(x, ROWS))


def test_probes_cost_one_query_each_and_are_never_proposed() -> None:
    model, x, goal = victim()
    for kind in (Frontier, Closest):
        meter = Meter(model, LIVE)
        live = kind(meter, x, goal, Ball(Norm.L2, 1.0))
        slope, _ = coordinates(lambda points, live=live: probes(live, points), x, chosen(4), 1e-3)
        assert meter.queries.tolist() == [8] * LIVE
        assert torch.equal(live.best, x)
        rival = model.logits(x, ROWS).scatter(1, goal.classes[:, None], -torch.inf).argmax(dim=1)
        expected = (model.weights[rival] - model.weights[goal.classes]).gather(1, chosen(4))
        torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-8)


def test_probes_ask_for_a_loss_and_stop_at_the_budget() -> None:
    model, x, goal = victim()
    meter = Meter(model, LIVE, budget=3)
    live = Frontier(meter, x, goal, Ball(Norm.L2, 1.0))
    meter.queries[1] = 2
    points = x[:, None].repeat(1, 2, 1)
    told = probes(live, points, cross_entropy)
    torch.testing.assert_close(told[0], cross_entropy(model.logits(x, ROWS), goal)[0].expand(2))
    assert told.isnan().tolist() == [[False, False], [False, True], [False, False]]
    assert meter.queries.tolist() == [2, 3, 2]
    live.compact()
    assert live.rows.tolist() == [0, 2]


def test_from_labels_alone_probes_are_signs() -> None:
    model, x, goal = victim()
    live = Frontier(Meter(model, LIVE, access=Access.LABELS), x, goal, Ball(Norm.L2, 1.0))
    assert probes(live, x[:, None], cross_entropy).tolist() == [[-1.0]] * LIVE
