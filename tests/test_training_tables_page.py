"""The page of trained nets shows what was measured, and names the commands that were run."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FOLDER, BENCHMARK = ROOT / "docs" / "training", ROOT / "benchmarks" / "training"


@pytest.fixture(scope="module")
def render(script: Callable[[Path], ModuleType]) -> ModuleType:
    return script(FOLDER / "render.py")


def test_the_page_is_made_of_the_measurements(render: ModuleType) -> None:
    text = (ROOT / "docs" / "training_tables.md").read_text(encoding="utf-8")
    assert render.page(text) == text, "run python docs/training/render.py"


def test_every_figure_comes_of_the_command_that_the_benchmark_would_run_today(
    monkeypatch: pytest.MonkeyPatch, script: Callable[[Path], ModuleType]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARK))
    tables = script(BENCHMARK / "tables.py").TABLES
    for file in FOLDER.glob("*.json"):
        measured, table = json.loads(file.read_text(encoding="utf-8")), tables[file.stem]
        wanted = {row.name: row.options for row in table.rows}
        for row, found in measured["rows"].items():
            assert found["options"] == wanted[row], row
        assert (measured["test"], measured["n"]) == (table.test, table.n)


def test_the_suite_is_never_above_another_column(render: ModuleType) -> None:
    for row in render.read("objectives").values():
        for column in ("clean", "fgsm", "pgd10", "pgd20", "cw"):
            assert row["suite"]["value"] <= row[column]["value"] + 0.004, (row["options"], column)
