"""Suites fit the threat and the access, cheap attacks first, and `first` cuts them."""

import itertools

import pytest

from hauberk.attacks import PGD, Noise, name_of
from hauberk.errors import SettingError, UnknownNameError
from hauberk.evaluate import SUITES, Suite, suite_for
from hauberk.threat import Access, Norm, ThreatModel

RADIUS = {Norm.LINF: 0.1, Norm.L2: 1.0, Norm.L1: 5.0, Norm.L0: 5.0}


@pytest.mark.parametrize(("name", "norm", "access"), list(itertools.product(SUITES, Norm, Access)), ids=str)
def test_a_named_suite_holds_only_attacks_that_can_run(name: str, norm: Norm, access: Access) -> None:
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
