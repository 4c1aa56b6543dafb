"""The page and the list of defenses show what the source says of each."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import hauberk.train as train
from hauberk.train import Status, standings

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def render(script: Callable[[Path], ModuleType]) -> ModuleType:
    return script(DOCS / "defenses" / "render.py")


def test_the_page_is_made_of_the_statuses(render: ModuleType) -> None:
    text = (DOCS / "defenses.md").read_text(encoding="utf-8")
    assert render.page(text, standings()) == text, "run python docs/defenses/render.py"


def test_everything_that_works_on_a_net_in_training_has_a_status_and_stands_on_the_page() -> None:
    """What takes a net: objectives, wrappers, regularisers and constraints."""
    text = (DOCS / "defenses.md").read_text(encoding="utf-8")
    listed = {row.name for row in standings()}
    from hauberk.train.spelling import kinds_of

    for what in ("objective", "wrapper", "regulariser", "constraint"):
        for name, kind in kinds_of(what).items():
            assert isinstance(getattr(kind, "status", None), Status), f"{name} has no status"
            assert name in listed
            assert f"| `{name}` |" in text
    exported = [value for name in train.__all__ if inspect.isclass(value := getattr(train, name))]
    with_status = [kind for kind in exported if isinstance(vars(kind).get("status"), Status)]
    assert len(standings()) == len(with_status) == len({row.name for row in standings()})


def test_a_row_names_its_source_and_who_broke_it() -> None:
    rows = {row.name: row for row in standings()}
    assert rows["trades"].source == "arXiv:1901.08573"
    assert rows["quantise"].source == "arXiv:1806.08342"
    assert rows["distillation"].status.kind == "broken"
    assert "arXiv:1607.04311" in rows["distillation"].status.by
    assert rows["awp"].part == "wrapper"
    assert [row.part for row in rows.values() if row.name == "grad_align"] == ["regulariser"]
    for row in rows.values():
        assert row.what.endswith("."), row.name
        assert "\n" not in row.what
        assert "|" not in row.what, row.name  # it would end the cell
        assert not row.source or re.fullmatch(r"arXiv:\d{4}\.\d{4,5}", row.source)


def test_the_most_trustworthy_come_first() -> None:
    order = [row.status.kind for row in standings()]
    assert order == sorted(order, key=["certified", "holds", "partial", "broken", "none"].index)
    assert dataclasses.is_dataclass(standings()[0])
