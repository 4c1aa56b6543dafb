"""The registry of broken claims: every record is whole, and the page and the plot show what it says."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hauberk.threat import ThreatModel

DOCS = Path(__file__).parents[1] / "docs"


def render() -> ModuleType:
    spec = importlib.util.spec_from_file_location("claims_render", DOCS / "claims/render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def claims() -> list[dict[str, Any]]:
    return render().read()["claims"]


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: f"{claim['defense']}, {claim['data']}")
def test_a_claim_states_both_figures_both_sources_and_the_threat(claim: dict[str, Any]) -> None:
    source = render().read()["sources"][claim["by"]]
    assert all(re.match(r"https?://", url) for url in (claim["url"], source["url"], source["figures"]))
    assert 0 <= claim["later"] <= 100
    assert 0 < claim["claimed"] <= 100
    assert ThreatModel.parse(claim["threat"]).radius > 0
    assert claim["model"] in {"available", "authors", "retrained"}


def test_no_claim_stands_twice() -> None:
    named = [(claim["defense"], claim["data"], claim["threat"]) for claim in claims()]
    assert len(set(named)) == len(named)


def test_the_page_shows_the_registry() -> None:
    module, text = render(), (DOCS / "claims.md").read_text(encoding="utf-8")
    assert module.page(module.read(), text) == text, "run: python docs/claims/render.py"


def test_the_plot_names_every_defense() -> None:
    plot = (DOCS / "claims/claims.svg").read_text(encoding="utf-8")
    assert not [claim["defense"] for claim in claims() if claim["defense"] not in plot]
