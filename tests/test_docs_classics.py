"""The page of the classic experiments says what was measured."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/classics.md"


@pytest.fixture
def classics(monkeypatch: pytest.MonkeyPatch, script: Callable[[Path], ModuleType]) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))  # the script adds its folder
    return script(ROOT / "benchmarks/classics.py")


def test_the_tables_of_the_page_are_those_of_the_figures(classics: ModuleType) -> None:
    figures = json.loads((ROOT / "docs/classics.json").read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    drawn = classics.tables(figures)
    assert set(re.findall(r"<!-- table: ([\w-]+) -->", page)) == set(drawn) == set(classics.PARTS)
    assert classics.render(page, figures) == page, "run: python benchmarks/classics.py --page"
    changed = json.loads(json.dumps(figures))
    changed["fgsm"]["nets"]["mnist-natural"]["fgsm"]["confidence"] = 0.1234
    assert "12.3" in classics.render(page, changed)
    assert classics.render(page, changed) != page
