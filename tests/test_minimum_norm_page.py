"""The page about the smallest changes shows what the referee measured."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "minimum_norm"


@pytest.fixture(scope="module")
def render(script: Callable[[Path], ModuleType]) -> ModuleType:
    return script(FOLDER / "render.py")


def test_the_page_is_made_of_the_measurements(render: ModuleType) -> None:
    text = (FOLDER.parent / "minimum_norm.md").read_text(encoding="utf-8")
    assert render.page(render.read(), text) == text, "run python docs/minimum_norm/render.py"


def test_nobody_passed_the_budget_and_the_envelope_is_made_of_the_rows(render: ModuleType) -> None:
    measured = render.read()
    for row in measured["rows"]:
        assert row["forwards"] + row["backwards"] <= measured["budget"]
        assert row["optimality"] <= 1 + 1e-9
    for case in {(row["model"], row["norm"]) for row in measured["rows"]}:
        rows = [row for row in measured["rows"] if (row["model"], row["norm"]) == case]
        assert sum(row["smallest_of_all"] for row in rows) >= 1 - 1e-9  # every image has its smallest somewhere
        assert any(row["attack"].startswith("hauberk") for row in rows)
        assert any(row["attack"].startswith("foolbox") for row in rows)
        assert any(row["attack"].startswith("adv-lib") for row in rows)
