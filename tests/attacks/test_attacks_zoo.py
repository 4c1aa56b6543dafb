"""ZOO and AutoZOOM: their cost to the query, what they find on linear victims, and what they refuse."""

import pytest
import torch

from hauberk._rng import Streams
from hauberk._shapes import flat
from hauberk.attacks import ZOO, AutoZOOM
from hauberk.blocks.subspaces import Decoder
from hauberk.errors import HauberkError, SettingError, UnknownNameError
from hauberk.testing import LinearVictim, linear_settings
from hauberk.testing.setting import Outcome, Setting, constant, pictures, run
from hauberk.threat import Ball, Norm, Targeted, Untargeted
from hauberk.victims import Meter

LINEAR = linear_settings()
L2 = Ball(Norm.L2)


def ratio(victim: LinearVictim, setting: Setting, outcome: Outcome) -> torch.Tensor:
    """Found over optimal, of the examples that can be broken; all of them must be."""
    optimal = victim.optimal_distance(setting.x, setting.y, Norm.L2)
    possible = optimal.isfinite()
    assert bool(outcome.broken[possible].all())
    return (Norm.L2.size(outcome.points - setting.x) / optimal)[possible]


def test_zoo_asks_twice_for_each_coordinate_and_once_for_each_step() -> None:
    _, setting = LINEAR["vectors"]  # 12 values: turns of 5, 5 and 2; once all are known, four points on the line
    assert set(run(ZOO(passes=1, samples=5), setting, L2).queries.tolist()) == {1 + 2 * 12 + 3 + 4}
    adam = run(ZOO(passes=2, samples=5, solver="adam"), setting, L2)
    assert set(adam.queries.tolist()) == {1 + 2 * (2 * 12 + 3)}
    assert not bool(adam.backwards.any())


@pytest.mark.parametrize("what", ["vectors", "pictures", "walls"])
def test_one_pass_of_newton_finds_the_optimum_of_a_linear_victim(what: str) -> None:
    victim, setting = LINEAR[what]
    found = ratio(victim, setting, run(ZOO(passes=1, samples=7), setting, L2))
    assert float(found.min()) >= 1 - 1e-9
    assert float(found.max()) <= 1.002


def test_adam_comes_near_it_after_many_passes() -> None:
    victim, setting = LINEAR["pictures"]
    few, many = (
        ratio(victim, setting, run(ZOO(passes=passes, solver="adam", learning_rate=0.03), setting, L2)).mean()
        for passes in (40, 60)
    )
    assert 1 <= float(many) < 1.1
    assert float(many) < float(few)


def test_adam_in_tanh_space_leaves_a_wall() -> None:
    victim, setting = LINEAR["walls"]
    attack = ZOO(passes=60, solver="adam", learning_rate=0.05, tanh=True)
    assert float(ratio(victim, setting, run(attack, setting, L2)).mean()) < 1.5


def test_every_solver_reaches_its_target() -> None:
    setting = pictures()
    goal = Targeted((setting.y + 1) % 4)
    for attack in (
        ZOO(passes=4),
        ZOO(passes=60, solver="adam", learning_rate=0.03),
        AutoZOOM(space="identity", shrink_steps=5),
    ):
        outcome = run(attack, setting, L2, goal=goal)
        labels = setting.victim.labels(outcome.points, setting.ids)
        assert bool(outcome.broken.all())
        assert labels.tolist() == goal.classes.tolist()


def test_a_confident_point_keeps_its_margin() -> None:
    _, setting = LINEAR["vectors"]
    plain, sure = (run(ZOO(passes=2, confidence=kappa), setting, L2) for kappa in (0.0, 0.05))
    assert float(sure.margin[sure.broken].min()) >= 0.05
    assert float(plain.margin[plain.broken].max()) < 0.05


def test_with_a_radius_the_first_success_ends_it() -> None:
    _, setting = LINEAR["pictures"]
    for attack in (ZOO(passes=3, samples=10), AutoZOOM(space="identity", shrink_steps=20)):
        first, whole = run(attack, setting, Ball(Norm.L2, 100.0)), run(attack, setting, L2)
        assert bool((first.broken == whole.broken).all())
        assert bool((first.queries[first.broken] < whole.queries[first.broken]).all())


def test_a_misclassified_example_costs_one_query() -> None:
    victim, setting = LINEAR["vectors"]
    for attack in (ZOO(), ZOO(solver="adam"), AutoZOOM()):
        meter = Meter(victim, len(setting))
        points = attack(meter, setting.x, Untargeted(1 - setting.y), L2, streams=Streams(0, setting.ids, "zoo"))
        assert set(meter.queries.tolist()) == {1}
        assert torch.equal(points, setting.x)


def test_a_space_that_grows_ends_in_the_last() -> None:
    setting = pictures()
    coarse = run(ZOO(passes=3, space="bilinear:2"), setting, L2)
    grown = run(ZOO(passes=3, space="bilinear:2+identity"), setting, L2)
    sizes = [Norm.L2.size(outcome.points - setting.x)[coarse.broken & grown.broken] for outcome in (coarse, grown)]
    assert len(sizes[0]) >= 6
    assert bool((sizes[1] < sizes[0]).all())
    # two passes of 8 numbers and three of 60, each of one turn: all slopes are known from the second space on
    assert int(grown.queries.max()) == 1 + (16 + 1 + 4) * 2 + (120 + 1 + 4) * 3


def test_importance_draws_after_the_first_pass() -> None:
    _, setting = LINEAR["pictures"]
    plain, drawn = (run(ZOO(passes=2, samples=30, importance=on), setting, L2) for on in (False, True))
    once = [run(ZOO(passes=1, samples=30, importance=on), setting, L2) for on in (False, True)]
    assert torch.equal(once[0].points, once[1].points)
    assert plain.queries.tolist() == drawn.queries.tolist()


def test_auto_zoom_asks_in_pairs_until_it_succeeds() -> None:
    outcome = run(AutoZOOM(steps=9, space="identity"), constant(), L2)
    assert set(outcome.queries.tolist()) == {1 + 2 * 9}
    _, setting = LINEAR["vectors"]
    attack = AutoZOOM(space="identity", shrink_steps=7, samples=5)
    first, whole = run(attack, setting, Ball(Norm.L2, 100.0)), run(attack, setting, L2)
    assert bool((first.queries % 2 == 1).all())
    assert (whole.queries - first.queries)[whole.broken].unique().tolist() == [7 * (5 + 3)]


@pytest.mark.parametrize("what", ["vectors", "pictures", "walls"])
def test_auto_zoom_shrinks_the_change_to_the_optimum_of_a_linear_victim(what: str) -> None:
    victim, setting = LINEAR[what]
    # the random pictures are large enough for a small space to reach the boundary in it
    attack = AutoZOOM(space="bilinear:2" if what == "pictures" else "identity", shrink_steps=60)
    first, whole = (
        ratio(victim, setting, run(attack, setting, Ball(Norm.L2, radius))) for radius in (100.0, torch.inf)
    )
    assert float(whole.max()) < 1.01
    assert float(whole.min()) >= 1 - 1e-9
    assert float(first.mean()) > 1.5


def test_auto_zoom_changes_what_its_decoder_draws() -> None:
    setting = pictures()  # of two channels
    first_alone = Decoder(lambda code: torch.cat((code, 0 * code), dim=1), (1, 5, 6))
    outcome = run(AutoZOOM(decoder=first_alone, shrink_space=None, shrink_steps=3, samples=4), setting, L2)
    changed = flat(outcome.points[:, 0] != setting.x[:, 0]).any(dim=1)
    assert int(outcome.broken.sum()) >= 6
    assert bool(changed[outcome.broken].all())
    assert torch.equal(outcome.points[:, 1], setting.x[:, 1])


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"solver": "sgd"}, UnknownNameError, "solver of zoo"),
        ({"tanh": True}, SettingError, "adam"),
        ({"space": "wavelet:3"}, UnknownNameError, "subspace"),
        ({"space": "bilinear"}, SettingError, "side"),
        ({"samples": 0}, SettingError, "samples > 0"),
    ],
)
def test_zoo_says_what_it_cannot_do(settings: dict[str, object], error: type[HauberkError], says: str) -> None:
    with pytest.raises(error, match=says):
        ZOO(**settings)  # type: ignore[arg-type]  # wrong on purpose
