"""Suites fit the threat and the access, cheap attacks first, and `first` cuts them."""

import itertools

import pytest

from hauberk.attacks import FAB, PGD, AutoPGD, HoppingPGD, Noise, SparseRS, Square, name_of, settings_of
from hauberk.errors import AccessError, SettingError, ThreatError, UnknownNameError
from hauberk.evaluate import SUITES, Suite, suite_for
from hauberk.threat import Access, Norm, ThreatModel

RADIUS = {Norm.LINF: 0.1, Norm.L2: 1.0, Norm.L1: 5.0, Norm.L0: 5.0}


@pytest.mark.parametrize(("name", "norm", "access"), list(itertools.product(SUITES, Norm, Access)), ids=str)
def test_a_named_suite_holds_only_attacks_that_can_run(name: str, norm: Norm, access: Access) -> None:
    if name == "autoattack" and (
        access is Access.LABELS or norm is Norm.L0 or (access is Access.SCORES and norm is Norm.L1)
    ):
        with pytest.raises((AccessError, ThreatError), match="use the suite standard"):
            suite_for(name, ThreatModel(norm, (RADIUS[norm],)), access)
        return
    for goal in ("untargeted", "target=3", "least-likely", "top2"):
        suite = suite_for(name, ThreatModel(norm, (RADIUS[norm],), goal=goal), access)
        assert suite.attacks
        assert all(attack.access <= access and norm in attack.norms for attack in suite.attacks)
        assert suite_for(suite, ThreatModel(norm, (RADIUS[norm],), goal=goal), access) is suite
        if goal != "untargeted":
            assert all(getattr(attack, "targets", 0) == 0 for attack in suite.attacks)
    gradients = [attack.access is Access.GRADIENTS for attack in suite.attacks]
    assert gradients == sorted(gradients, reverse=True)  # what needs many queries comes last


def test_a_suite_is_cut_at_its_first_stages() -> None:
    suite = suite_for("standard", ThreatModel.parse("linf:0.1"), Access.GRADIENTS)
    assert suite.first(1).attacks == suite.attacks[:1]
    assert suite.first(1).name == "standard[:1]"
    assert suite.first(len(suite.attacks)) is suite
    with pytest.raises(SettingError, match="stages=0"):
        suite.first(0)


def test_attacks_of_ones_own_make_a_suite() -> None:
    threat = ThreatModel.parse("l2:1")
    assert suite_for(PGD(), threat, Access.GRADIENTS).name == "pgd"
    both = suite_for([PGD(), Noise()], threat, Access.GRADIENTS)
    assert (both.name, [name_of(attack) for attack in both.attacks]) == ("custom", ["pgd", "noise"])
    assert suite_for(Suite("mine", (Noise(),)), threat, Access.LABELS).name == "mine"
    with pytest.raises(UnknownNameError, match="standard"):
        suite_for("standrad", threat, Access.GRADIENTS)


def test_autoattack_has_the_stages_and_settings_of_the_original() -> None:
    found = suite_for("autoattack", ThreatModel.parse("linf:8/255"), Access.GRADIENTS).attacks
    ce, targeted, fab, square = found
    assert isinstance(ce, AutoPGD)
    assert (ce.steps, ce.loss, ce.restarts, ce.targets) == (100, "ce", 1, 0)
    assert isinstance(targeted, AutoPGD)
    assert (targeted.steps, targeted.loss, targeted.targets) == (100, "dlr", 9)
    assert isinstance(fab, FAB)
    assert (fab.steps, fab.targets, fab.restarts) == (100, 9, 1)
    assert isinstance(square, Square)
    assert square.steps == 5000
    assert suite_for("autoattack", ThreatModel.parse("l2:1"), Access.GRADIENTS).attacks == found
    assert suite_for("autoattack", ThreatModel.parse("l1:9"), Access.GRADIENTS).attacks == (
        AutoPGD(restarts=5),
        AutoPGD(loss="dlr", targets=5),
        fab,
    )


def test_the_exhaustive_suite_never_lets_an_example_go_that_stands() -> None:
    for norm in Norm:
        attacks = suite_for("exhaustive", ThreatModel(norm, (RADIUS[norm],)), Access.GRADIENTS).attacks
        assert all(attack.near is None for attack in attacks if isinstance(attack, HoppingPGD))
        assert all(getattr(attack, "patience", None) is None for attack in attacks)


def test_a_suite_does_not_choose_targets_under_a_goal_that_names_one() -> None:
    with pytest.raises(SettingError, match="targets=9 chooses the targets itself"):
        suite_for([FAB(targets=9)], ThreatModel.parse("linf:0.1@target=3"), Access.GRADIENTS)


@pytest.mark.parametrize("access", [Access.SCORES, Access.LABELS], ids=str)
@pytest.mark.parametrize("norm", list(Norm), ids=str)
def test_the_exhaustive_suite_asks_more_than_the_standard_one(norm: Norm, access: Access) -> None:
    def asked(name: str) -> int:
        attacks = suite_for(name, ThreatModel(norm, (RADIUS[norm],)), access).attacks
        rounds = (settings_of(each) for each in attacks)
        return sum(each.get("steps", each.get("tries", 0)) * each.get("restarts", 1) for each in rounds)

    assert 0 < 2 * asked("quick") <= asked("standard") <= asked("exhaustive") / 2


@pytest.mark.parametrize("access", [Access.SCORES, Access.LABELS], ids=str)
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2, Norm.L0], ids=str)
def test_limited_queries_are_shared_and_planned_for(norm: Norm, access: Access) -> None:
    threat = ThreatModel(norm, (RADIUS[norm],))
    free, limited = (suite_for("standard", threat, access, limit) for limit in (None, 400))
    assert [type(attack) for attack in limited.attacks] == [type(attack) for attack in free.attacks]
    assert [limited.share(stage) for stage in range(len(limited.attacks))] == [0.75] * (len(limited.attacks) - 1) + [1]
    assert [free.share(stage) for stage in range(len(free.attacks))] == [1] * len(free.attacks)
    for attack, queries in zip(limited.attacks, (300, 75, 25), strict=False):
        if isinstance(attack, Square | SparseRS):
            assert attack.steps == queries - 1 if attack is limited.attacks[0] else attack.steps < 100
    assert limited.first(1).shares == ()
