"""The feature ball: on linear features, where the way out of the set is known, and in every verb of a region."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hauberk._rng import Streams
from hauberk.errors import DataError, ThreatError
from hauberk.threat import FeatureBall

N, SHAPE = 5, (2, 4, 3)


def numbers(purpose: str, shape: tuple[int, ...], count: int = N) -> Tensor:
    return Streams(0, torch.arange(count), purpose).uniform(torch.arange(count), shape, dtype=torch.float64)


X = numbers("x", SHAPE)
MATRIX = numbers("matrix", (24,), 7) - 0.5


def linear(x: Tensor) -> Tensor:
    return x.flatten(1) @ MATRIX.T


def curved(x: Tensor) -> Tensor:
    return (x.flatten(1) @ MATRIX.T * 3).tanh()


def test_project_goes_to_where_the_segment_leaves_the_set() -> None:
    z = numbers("z", SHAPE)
    ball = FeatureBall(linear, 0.2, bisections=30)
    share = (0.2 / linear(z - X).norm(dim=1)).clamp_max(1).reshape(-1, 1, 1, 1)
    assert bool((share < 1).any())
    torch.testing.assert_close(ball.project(z, X), X + share * (z - X), rtol=0, atol=1e-8)


def test_what_is_allowed_is_projected_onto_itself() -> None:
    ball = FeatureBall(linear, 5.0)
    z = numbers("z", SHAPE)
    assert torch.equal(ball.project(z, X), z)
    assert torch.equal(FeatureBall(linear).project(2 * z - 0.5, X), (2 * z - 0.5).clamp(0, 1))


@pytest.mark.parametrize("features", [linear, curved], ids=["linear", "curved"])
def test_every_verb_gives_allowed_points(features: Any) -> None:
    radius = torch.tensor([0.0, 0.01, 0.1, 0.4, 2.0], dtype=torch.float64)
    ball = FeatureBall(features, radius)
    rows = torch.arange(N)
    gradient = numbers("gradient", SHAPE) - 0.5
    found = {
        "project": ball.project(3 * numbers("z", SHAPE) - 1, X),
        "start": ball.start(X, rows, Streams(1, rows, "start")),
        "linear_max": ball.linear_max(gradient, X),
        "step": ball.project(ball.step(X, gradient, 0.1), X),
        "snap": ball.snap(X, X),
    }
    for verb, z in found.items():
        assert bool(ball.contains(z, X).all()), verb
        assert bool((ball.size(z, X) <= radius + 1e-9).all()), verb
    assert torch.equal(found["project"][0], X[0])  # a radius of 0
    assert not bool(ball.contains(found["project"] + 0.3, X).any())


def test_sizes_are_distances_of_features() -> None:
    z = numbers("z", SHAPE)
    torch.testing.assert_close(FeatureBall(curved).size(z, X), (curved(z) - curved(X)).norm(dim=1))
    assert FeatureBall(curved, 0.1).finite
    assert not FeatureBall(curved).finite


def test_points_outside_the_box_or_not_finite_are_not_in_it() -> None:
    ball = FeatureBall(linear, 100.0, box=(0.0, 1.0))
    for value in (-0.001, 1.001, math.nan):
        z = X.clone()
        z[:, 0, 0, 0] = value
        assert not bool(ball.contains(z, X).any())


def test_a_part_has_the_radii_of_its_rows() -> None:
    ball = FeatureBall(linear, torch.arange(5.0))
    assert torch.equal(torch.as_tensor(ball.take(torch.tensor([3, 1])).radius), torch.tensor([3.0, 1.0]))
    one = FeatureBall(linear, 0.5)
    assert one.take(torch.tensor([2])) is one


def test_each_example_is_projected_alone() -> None:
    z, ball = 3 * numbers("z", SHAPE) - 1, FeatureBall(curved, 0.1)
    alone = torch.cat([ball.project(z[i : i + 1], X[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(alone, ball.project(z, X), rtol=0, atol=1e-12)
    assert ball.project(z[:0], X[:0]).shape == (0, *SHAPE)


def test_features_are_asked_without_gradients() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 4)).double().eval()
    z = FeatureBall(net, 0.01).project(numbers("z", SHAPE), X)
    assert not z.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: FeatureBall(linear, -1.0), "radius is a number >= 0"),
        (lambda: FeatureBall(linear, torch.tensor([0.1, math.nan])), "radius is a number >= 0"),
        (lambda: FeatureBall(linear, 1.0, box=(1.0, 0.0)), "finite low < high"),
        (lambda: FeatureBall(linear, 1.0, share=0.0), "0 < share <= 1"),
        (lambda: FeatureBall(linear, 1.0, bisections=0), "at least one bisection"),
        (lambda: FeatureBall(nn.Dropout(), 1.0), "training mode"),
        (lambda: FeatureBall(linear, torch.ones(3)).check(X), "one for each of the 5 examples"),
        (lambda: FeatureBall(lambda x: x.sum(), 1.0).check(X), "features of shape"),
        (lambda: FeatureBall(lambda x: x @ MATRIX, 1.0).check(X), "the features failed"),
        (lambda: FeatureBall(linear).start(X, torch.arange(N), Streams(0, torch.arange(N))), "finite radius"),
    ],
)
def test_what_makes_no_sense_is_refused(build: Any, says: str) -> None:
    with pytest.raises(ThreatError, match=says):
        build()


def test_examples_outside_the_box_are_refused() -> None:
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        FeatureBall(linear, 1.0).check(X + 1)
