"""The page about suites shows what was measured."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "suites"


@pytest.fixture(scope="module")
def render(script: Callable[[Path], ModuleType]) -> ModuleType:
    return script(FOLDER / "render.py")


def test_the_page_is_made_of_the_measurements(render: ModuleType) -> None:
    text = (FOLDER.parent / "suites.md").read_text(encoding="utf-8")
    assert render.page(render.read(), text) == text


def test_the_curve_falls_to_what_the_suite_left() -> None:
    for model in json.loads((FOLDER / "standard.json").read_text(encoding="utf-8")).values():
        spent, left = zip(*model["curve"], strict=True)
        assert list(spent) == sorted(spent)
        assert list(left) == sorted(left, reverse=True)
        assert round(left[-1] * model["n"]) == model["robust"]
        assert spent[-1] == pytest.approx(model["propagations"], abs=0.1)
