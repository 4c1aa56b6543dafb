"""The contract tests of the attacks: each module has the tables of one kind of access, CASES and BARS, and says which in ACCESS."""

import inspect
from typing import Any, cast

import pytest

from hauberk import attacks
from hauberk.testing import laws
from hauberk.threat import Access

# They refuse inputs of more than a few values, as pictures are; tests/attacks/test_attacks_charts.py has laws for them.
FEW_PARAMETERS: set[type] = {attacks.Grid, attacks.SmallestTransformation}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted, module = set(metafunc.fixturenames), cast(Any, metafunc.module)
    if not hasattr(module, "ACCESS"):
        return
    if {"case", "law"} <= wanted:
        metafunc.parametrize("law", laws(), ids=lambda law: law.__name__)
        metafunc.parametrize("case", module.CASES.values(), ids=module.CASES)
    if {"attack", "norm", "bars"} <= wanted:
        rows = [
            pytest.param(attack, norm, bars.get(norm), id=f"{attack}-{norm}")
            for attack, bars in module.BARS
            for norm in sorted(attack.norms, key=str)
        ]
        metafunc.parametrize(("attack", "norm", "bars"), rows)


@pytest.fixture
def exported(request: pytest.FixtureRequest) -> set[type]:
    """The attacks that `hauberk.attacks` exports and that need what the module is about."""
    access: Access = request.module.ACCESS
    found: set[Any] = {getattr(attacks, name) for name in attacks.__all__}
    kinds = {kind for kind in found if inspect.isclass(kind) and getattr(kind, "access", None) is access}
    return kinds - FEW_PARAMETERS
