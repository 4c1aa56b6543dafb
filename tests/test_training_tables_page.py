"""The page of trained nets shows what was measured, and names the commands that were run."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FOLDER, BENCHMARK = ROOT / "docs" / "training", ROOT / "benchmarks" / "training"


def loaded(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"of_training_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def render() -> ModuleType:
    return loaded(FOLDER / "render.py")


def test_the_page_is_made_of_the_measurements(render: ModuleType) -> None:
    text = (ROOT / "docs" / "training_tables.md").read_text(encoding="utf-8")
    assert render.page(text) == text, "run python docs/training/render.py"


def test_every_figure_comes_of_the_command_that_the_benchmark_would_run_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARK))
    tables = loaded(BENCHMARK / "tables.py").TABLES
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
