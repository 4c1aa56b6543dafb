"""Gradient attacks on perturbation sets beyond balls, unchanged: inside the set, reproducible, independent of the batch."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hauberk as hb
from hauberk import data, zoo
from hauberk._rng import Streams
from hauberk.attacks import (
    BIM,
    FGSM,
    FMN,
    PGD,
    Attack,
    AttackResult,
    AutoPGD,
    Grid,
    Noise,
    SmallestTransformation,
    run_attack,
)
from hauberk.errors import BudgetError, SettingError, ThreatError
from hauberk.testing.setting import RowByRow
from hauberk.threat import Ball, FeatureBall, Norm, Spatial, Targeted, ThreatModel, Untargeted
from hauberk.victims import Meter, Rendered, Victim, posed, wrap
from hauberk.victims.eot import eot

N = 5


def _weights(purpose: str, *shape: int) -> Tensor:
    rows = torch.arange(shape[0])
    return Streams(3, rows, purpose).normal(rows, shape[1:], dtype=torch.float64)


def _net() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    for layer, size in ((net[1], 108), (net[3], 16)):
        assert isinstance(layer, nn.Linear)
        layer.weight.data = 2 * _weights(f"layer of {size}", *layer.weight.shape) / size**0.5
        layer.bias.data = _weights(f"bias of {size}", len(layer.bias)) * 0.3
    return net


NET = _net()
VICTIM = wrap(NET, name="tanh net on colour pictures")
X = Streams(5, torch.arange(N), "pictures").uniform(torch.arange(N), (3, 6, 6), dtype=torch.float64)
VICTIM.probe(X)
Y = VICTIM.labels(X, torch.arange(N))
ALONE = RowByRow(VICTIM)  # so that not even the rounding of kernels depends on the batch
IDS = torch.tensor([7, 3, 11, 2, 30])


def features(x: Tensor) -> Tensor:
    return torch.tanh(x.flatten(1) @ NET[1].weight.T / 2)  # type: ignore[union-attr, operator]


def one_by_one(x: Tensor) -> Tensor:
    return torch.cat([features(row[None]) for row in x])


# each set, wide enough that some examples break and narrow enough that some do not
SETS: dict[str, dict[str, Any]] = {
    "spatial": {"threat": "spatial:rotation=20,translation=0.1"},
    "spatial, all": {"threat": "spatial:rotation=10,scale=0.2,shear=10@padding=reflect"},
    "colour": {"threat": "colour:hue=0.1,saturation=0.3,brightness=0.2"},
    "rotation": {"threat": "rotation:25"},
    "contrast": {"threat": "contrast:0.5"},
    "blind spot": {"threat": "linf:0.02@scale=0.8@shift=0.1"},
    "blind spot in l2": {"threat": "l2:0.2@scale=0.8@shift=0.1"},
    "feature ball": {"region": FeatureBall(one_by_one, radius=0.3)},
}
ATTACKS: dict[str, Attack] = {
    "fgsm": FGSM(loss="margin"),
    "bim": BIM(steps=3),
    "pgd": PGD(steps=4, restarts=2, start="blocks", momentum=0.5),
    "auto_pgd": AutoPGD(steps=6),
    "noise": Noise(tries=6),
    "grid": Grid(points=27),
    "smallest_transformation": SmallestTransformation(points=27, bisections=4),
}
NEED_BALLS = {"auto_pgd"}
FEW = {"grid", "smallest_transformation"}
PAIRS = [
    pytest.param(attack, where, id=f"{attack} on {where}")
    for attack in ATTACKS
    for where in SETS
    if not (attack in NEED_BALLS and where == "feature ball")
    and not (attack in FEW and where in {"feature ball", "blind spot", "blind spot in l2"})
]


def attacked(
    attack: str, where: str, rows: list[int] | None = None, model: Any = ALONE, **options: Any
) -> AttackResult:
    pick = torch.arange(N) if rows is None else torch.tensor(rows)
    return run_attack(ATTACKS[attack], model, X[pick], Y[pick], ids=IDS[pick], **(SETS[where] | options))


def allowed(where: str, points: Tensor, found: AttackResult) -> Tensor:
    """As told by what is known of the set, not by the region's own word."""
    assert bool(((points >= 0) & (points <= 1)).all())
    if where == "feature ball":
        return (features(points) - features(X)).norm(dim=1) <= 0.3 * 1.001
    threat = ThreatModel.parse(SETS[where]["threat"])
    if where.startswith("blind spot"):
        return threat.norm.size(points - (0.8 * X + 0.1)) <= threat.radius * 1.001
    assert threat.chart is not None
    assert found.parameters is not None
    corner = torch.full((1, len(threat.chart.names)), threat.radius, dtype=torch.float64)
    most, least = threat.chart.values(corner), threat.chart.values(-corner)
    inside = (found.parameters <= most + 1e-4) & (found.parameters >= least - 1e-4)
    return inside.all(dim=1) & (found.sizes <= threat.radius * 1.001)


@pytest.mark.parametrize(("attack", "where"), PAIRS)
def test_an_attack_stays_in_the_set_repeats_itself_and_does_not_depend_on_the_batch(attack: str, where: str) -> None:
    found = attacked(attack, where)
    assert bool(allowed(where, found.adversarials, found).all())
    labels = VICTIM.labels(found.adversarials, torch.arange(N))
    assert torch.equal(found.labels, labels)
    assert torch.equal(found.broken, labels != Y)
    again, cut = attacked(attack, where), attacked(attack, where, batch_size=1)
    assert torch.equal(found.adversarials, again.adversarials)
    mixed = attacked(attack, where, rows=[3, 0, 1, 4, 2])
    back = torch.tensor([3, 0, 1, 4, 2]).argsort()
    for other in (cut.adversarials, mixed.adversarials[back]):
        torch.testing.assert_close(found.adversarials, other, rtol=0, atol=1e-6)
    for counts in ("queries", "forwards", "backwards", "broken"):
        assert torch.equal(getattr(found, counts), getattr(cut, counts)), counts
        assert torch.equal(getattr(found, counts), getattr(mixed, counts)[back]), counts


@pytest.mark.parametrize(("attack", "where"), PAIRS)
def test_a_budget_is_kept_and_more_of_it_breaks_no_less(attack: str, where: str) -> None:
    before = torch.zeros(N, dtype=torch.bool)
    for budget in (1, 4, None):
        found = attacked(attack, where, max_queries=budget)
        assert budget is None or int(found.queries.max()) <= budget
        assert not bool((before & ~found.broken).any())
        before = found.broken


@pytest.mark.parametrize("where", SETS)
def test_the_sets_are_neither_harmless_nor_hopeless(where: str) -> None:
    broken = attacked("pgd", where).broken | attacked("noise", where).broken
    assert 0 < int(broken.sum()) <= N


@pytest.mark.parametrize(("attack", "where"), PAIRS)
def test_a_set_that_is_a_point_gives_back_the_example(attack: str, where: str) -> None:
    if where == "feature ball":
        found = run_attack(ATTACKS[attack], VICTIM, X, Y, region=FeatureBall(one_by_one, radius=0.0))
        assert torch.equal(found.adversarials, X)
        return
    threat = ThreatModel.parse(SETS[where]["threat"])
    rows = torch.arange(N)
    asked, start = posed(threat.chart, VICTIM, X)
    ball = replace(threat.ball(VICTIM.bounds), radius=0.0)
    points = ATTACKS[attack](asked, start, Untargeted(Y), ball, streams=Streams(0, rows))
    assert torch.equal(points, start)


@pytest.mark.parametrize("where", SETS)
def test_targets_that_are_reached_are_reached(where: str) -> None:
    found = attacked("pgd", where, goal=Targeted((Y + 1) % 4))
    assert bool((found.labels == (Y + 1) % 4)[found.broken].all())


@pytest.mark.parametrize("where", [where for where in SETS if where != "feature ball"])
def test_labels_are_enough_for_attacks_that_need_no_more(where: str) -> None:
    threat = SETS[where]["threat"] + "@labels"
    found = run_attack(Noise(tries=5), VICTIM, X, Y, threat)
    assert bool((found.backwards == 0).all())
    assert int(found.queries.max()) <= 5


def test_rows_are_charged_to_their_examples_behind_a_rendering() -> None:
    meter = Meter(VICTIM, N, budget=2)
    seen = Rendered(meter, Spatial(rotation=10), X)
    rows = torch.tensor([4, 1])
    z = torch.zeros(2, 1, dtype=torch.float64)
    logits, vjp = seen.pullback(z, rows)
    torch.testing.assert_close(logits, VICTIM.logits(X[rows], rows))
    assert vjp(torch.ones_like(logits)).shape == z.shape
    assert torch.equal(vjp(torch.ones_like(logits)), vjp(torch.ones_like(logits)))
    seen.labels(z, rows)
    assert meter.queries.tolist() == [0, 2, 0, 0, 2]
    assert meter.backwards.tolist() == [0, 3, 0, 0, 3]
    assert seen.left(torch.tensor([0, 1])).tolist() == [2, 0]
    with pytest.raises(BudgetError):
        seen.logits(z, rows)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return NET(x + 0.05 * torch.randn_like(x))


def test_a_randomised_victim_votes_on_what_is_rendered() -> None:
    victim = eot(wrap(Noisy(), name="noisy", output="logits", dtype="float64"), samples=2, judge_samples=9)
    found = run_attack(PGD(steps=4), victim, X, Y, "spatial:rotation=20,translation=0.1")
    votes = victim.votes(found.adversarials, torch.arange(N))
    assert torch.equal(found.broken, votes.broken(Untargeted(Y)))
    assert torch.equal(found.labels, votes.winner)
    meter = Meter(victim, N)
    assert Rendered(meter, Spatial(rotation=10), X).judge_samples == 9
    assert Rendered(Meter(VICTIM, N), Spatial(rotation=10), X).judge_samples == 0


def test_the_gradient_of_the_parameters_is_that_of_finite_differences_through_the_victim() -> None:
    rows = torch.arange(N)
    seen = Rendered(VICTIM, Spatial(rotation=30, translation=0.1, scale=0.3), X)
    z = 0.3 * (Streams(1, rows).uniform(rows, (4,), dtype=torch.float64) - 0.5)
    cotangent = _weights("cotangent", N, 4)
    gradient = seen.pullback(z, rows)[1](cotangent)
    for k in range(4):
        step = torch.zeros_like(z)
        step[:, k] = 1e-6
        slope = ((seen.logits(z + step, rows) - seen.logits(z - step, rows)) * cotangent).sum(dim=1) / 2e-6
        torch.testing.assert_close(gradient[:, k], slope, rtol=1e-4, atol=1e-6)


class Upright(nn.Module):
    """Class 1 where more lies in the lowest row of the picture than in the highest: told apart by an angle."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).reshape(len(x), -1, *x.shape[-2:]).sum(dim=(1, 3))
        return torch.stack((rows[:, 0], rows[:, -1]), dim=1)


def test_the_smallest_rotation_is_known_where_the_answer_turns_at_a_right_angle() -> None:
    # a picture that is bright above and dark below; the sums of its first and last row are equal once it lies on its side
    ramp = torch.linspace(1, 0, 8, dtype=torch.float64).reshape(1, 1, 8, 1).expand(2, 1, 8, 8).clone()
    victim = wrap(Upright().double(), name="upright", output="logits")
    y = torch.zeros(2, dtype=torch.int64)
    found = hb.attacks.smallest_transformation(victim, ramp, y, "rotation", points=181, bisections=12)
    assert bool(found.broken.all())
    assert found.sizes.tolist() == pytest.approx([90, 90], abs=0.01)
    assert found.parameters is not None
    assert found.parameters.abs().flatten().tolist() == pytest.approx([90, 90], abs=0.01)
    assert bool((found.sizes >= 90 - 1e-6).all())


def test_the_other_side_is_tried_where_it_may_do_with_less() -> None:
    class Sided(nn.Module):
        """Class 1 where the shift to the left is above 0.15 or, to the right, above 0.11 of the side."""

        def forward(self, x: Tensor) -> Tensor:
            columns = torch.arange(x.shape[-1], dtype=x.dtype)
            centre = (x.sum(dim=(1, 2)) * columns).sum(dim=1) / x.sum(dim=(1, 2, 3))
            shift = (centre - 9.5) / 20
            return torch.stack((torch.zeros_like(shift), torch.maximum(shift - 0.11, -0.15 - shift)), dim=1)

    x = torch.zeros(1, 1, 20, 20, dtype=torch.float64)
    x[..., 8:12, 8:12] = 1.0
    victim = wrap(Sided().double(), name="sided", output="logits")
    found = hb.attacks.smallest_transformation(victim, x, [0], "translation", points=441, bisections=16)
    assert float(found.sizes) == pytest.approx(0.11, abs=1e-4)  # 0.2, the first shell that breaks, is met on the left


def test_what_is_misclassified_needs_no_transformation() -> None:
    found = hb.attacks.smallest_transformation(VICTIM, X, (Y + 1) % 4, "rotation", points=9)
    assert bool(found.broken.all())
    assert float(found.sizes.max()) == 0
    assert int(found.queries.max()) == 1


def test_a_finer_lattice_finds_no_larger_rotation_and_stays_within_a_step_of_the_coarse_one() -> None:
    fine = hb.attacks.smallest_transformation(VICTIM, X, Y, "rotation", points=721)
    coarse = hb.attacks.smallest_transformation(VICTIM, X, Y, "rotation", points=181)
    assert bool(fine.broken.all())
    assert bool((fine.sizes <= coarse.sizes + 1e-2).all())


@pytest.mark.parametrize("threat", ["rotation", "translation", "spatial:rotation=90,scale=0.5@smallest"])
def test_more_budget_never_finds_a_larger_transformation(threat: str) -> None:
    before = torch.full((N,), torch.inf, dtype=torch.float64)
    for budget in (1, 3, 10, 30, 60, None):
        attack = SmallestTransformation(points=81, bisections=4)
        found = run_attack(attack, VICTIM, X, Y, threat, max_queries=budget)
        size = torch.where(found.broken, found.sizes, torch.inf)
        assert bool((size <= before).all())
        assert budget is None or int(found.queries.max()) <= budget
        before = size
    assert bool(before.isfinite().all())


@pytest.mark.parametrize("threat", ["rotation", "spatial:rotation=90,scale=0.5@smallest"])
def test_attacks_for_the_smallest_change_seek_the_smallest_transformation(threat: str) -> None:
    fine = run_attack(SmallestTransformation(points=6561), VICTIM, X, Y, threat)
    assert bool(fine.broken.all())
    found = run_attack(FMN(steps=30), VICTIM, X, Y, threat)
    assert bool(found.broken.any())
    step = 2 * ThreatModel.parse(threat).ball((0.0, 1.0)).box[1] / (6561 ** (1 / len(fine.parameter_names)) - 1)
    assert bool(
        (found.sizes >= fine.sizes - step)[found.broken].all()
    )  # nothing smaller than a lattice so fine can miss


def test_grid_tries_every_point_of_the_lattice_once() -> None:
    asked: list[Tensor] = []

    class Spy(nn.Module):
        """Keeps what is asked; answers class 0."""

        def forward(self, z: Tensor) -> Tensor:
            asked.append(z.clone())
            return torch.stack((torch.ones(len(z)), torch.zeros(len(z))), dim=1).double()

    victim = wrap(Spy(), name="spy", bounds=(-1, 1), output="logits", dtype="float64")

    ball = Ball(Norm.LINF, torch.tensor([1.0, 0.5]), (-1.0, 1.0))
    zeros = torch.zeros(2, dtype=torch.int64)
    start = torch.zeros(2, 2, dtype=torch.float64)
    victim.probe(start)
    asked.clear()
    Grid(points=30)(victim, start, Untargeted(zeros), ball, streams=Streams(0, zeros))
    points = torch.stack(asked, dim=1)
    assert points.shape == (2, 25, 2)
    axis = [-1, -0.5, 0, 0.5, 1]
    for example, radius in enumerate((1.0, 0.5)):
        seen = {tuple(point) for point in points[example].tolist()}
        assert seen == {(radius * a, radius * b) for a in axis for b in axis}


@pytest.mark.parametrize("attack", ["grid", "smallest_transformation"])
def test_many_values_are_no_grid(attack: str) -> None:
    with pytest.raises(ThreatError, match="takes at most 3 parameters, got 108"):
        run_attack(ATTACKS[attack], VICTIM, X, Y, "linf:0.1")


def test_grid_beats_ten_draws_and_climbing_on_a_trained_net() -> None:
    chunk = next(iter(data.load("digits").chunks(300)))
    victim: Victim = zoo.load("digits-mlp")
    threat = "spatial:rotation=15,translation=0.05"
    drawn, tried, climbed = (
        run_attack(attack, victim, chunk.x, chunk.y, threat).success_rate
        for attack in (Noise(tries=10), Grid(points=729), PGD(steps=20, loss="margin"))
    )
    assert drawn <= tried
    assert climbed < tried


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "a threat, such as 'linf:8/255', or a region in its place, got neither"),
        ({"threat": "linf:0.1", "region": FeatureBall(features, 1.0)}, "got both"),
        ({"threat": "spatial:rotation=10", "mask": torch.ones(1, 3, 6, 6)}, "a mask is for balls of a norm"),
        ({"region": FeatureBall(features, 1.0), "mask": torch.ones(1, 3, 6, 6)}, "a mask is for balls of a norm"),
        ({"threat": "spatial:rotation=10@curve=0.5,1"}, "an attack works at one radius"),
        ({"threat": "rotation"}, "finite radius"),
        ({"region": FeatureBall(features)}, "finite radius"),
    ],
)
def test_what_cannot_be_attacked_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ThreatError, match=says):
        hb.attacks.pgd(VICTIM, X, Y, **options)


def test_attacks_made_for_balls_refuse_other_regions() -> None:
    with pytest.raises(ThreatError, match="FeatureBall"):
        hb.attacks.auto_pgd(VICTIM, X, Y, region=FeatureBall(features, 1.0))


def test_a_setting_that_is_not_one_is_refused_with_region_among_the_known() -> None:
    with pytest.raises(SettingError, match="region"):
        hb.attacks.pgd(VICTIM, X, Y, "rotation:5", angle=3)
