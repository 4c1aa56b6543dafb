"""The verdict before an adaptation stands beside the one after it, in the terminal and on the page."""

import io
from typing import Any

from rich.console import Console

from hauberk.report import audit_page
from hauberk.report.adaptation import adaptation_sentence, indicator_lines, step_lines

SHARE = {"value": 0.75, "low": 0.5, "high": 0.9, "count": 20}
LEFT = {"value": 0.05, "low": 0.0, "high": 0.2, "count": 20}
STEP = {"step": "bpda", "findings": ["dead-gradients"], "what": "replace the backward pass"}


def adapted(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"adapted": {"steps": list(steps), "first": {"robust_accuracy": {"upper": SHARE, "lower": None}}}}


def test_the_first_verdict_is_told_with_the_steps() -> None:
    assert "Adapted to the findings (bpda). Before, the attacks left 75.0" in adaptation_sentence(adapted(STEP))
    assert "Nothing was adapted" in adaptation_sentence(adapted())
    assert adaptation_sentence({"adapted": None}) == adaptation_sentence({}) == ""
    assert step_lines(adapted(STEP)) == [("bpda", "replace the backward pass", "dead-gradients")]
    assert indicator_lines(None) == []


def test_the_page_of_an_audit_shows_errors_first_and_no_markup_of_the_users() -> None:
    found = {
        "model": {"name": "[red]net"},
        "data": {"name": "digits"},
        "threat": "linf:0.1",
        "examples": 20,
        "checks": ["random-output"],
        "cost": {"forwards": 100, "backwards": 20, "seconds": 1.0},
        "findings": [
            {"id": "random-output", "severity": "error", "evidence": "0.3 apart", "next": "average", "adapt": ["eot"]}
        ],
        "indicators": [{"id": "I1", "name": "unavailable gradients", "value": 0.5, "examples": 20}],
        "adapted": {"suite": "quick", "robust_accuracy": {"upper": LEFT}, "steps": [STEP]}
        | {"first": {"robust_accuracy": {"upper": SHARE}}},
    }
    text = io.StringIO()
    audit_page(found, Console(file=text, width=200, force_terminal=False))
    shown = text.getvalue()
    for words in ("[red]net", "1 error:", "random-output: 0.3 apart", "next: average", "I1 unavailable gradients 50.0"):
        assert words in shown
    assert "The suite quick left 75.0" in shown
    assert "at most 5.0" in shown
    assert "6 propagations each" in shown
