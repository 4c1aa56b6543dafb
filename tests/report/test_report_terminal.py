"""The summary and the comparison in a terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from hauberk.evidence.finished import FinishedRun
from hauberk.report import comparison, summary

COMPARED: dict[str, Any] = {
    "schema": "hauberk.comparison/1",
    "a": {"name": "mnist-natural"},
    "b": {"name": "mnist-fgsm-rs"},
    "n": 512,
    "both_robust": 10,
    "only_a": 2,
    "only_b": 430,
    "neither": 70,
    "difference": -0.8359,
    "low": -0.87,
    "high": -0.8,
    "p_value": 1e-90,
    "smallest_detectable_difference": 0.021,
    "sentence": "mnist-fgsm-rs keeps more of the 512 images right than mnist-natural.",
}


def printed(show: Any, result: dict[str, Any], width: int = 100) -> str:
    stream = io.StringIO()
    show(result, Console(file=stream, width=width, color_system=None))
    return stream.getvalue().replace("\N{NO-BREAK SPACE}", " ")


def test_the_summary_says_the_headline_the_outcome_the_attacks_the_cost_and_the_findings(
    digits_run: FinishedRun,
) -> None:
    text = printed(summary, digits_run.result)
    assert "Of 200 test images the model keeps at most 54.0 % (46.8 to 61.1) right" in " ".join(
        text.replace("│", " ").split()
    )
    assert "digits-ridge" in text
    for radius, undecided, broken in (("0.025", 173, 14), ("0.05", 155, 32), ("0.1", 108, 79)):
        line = next(line for line in text.splitlines() if line.split()[:1] == [radius])
        assert line.split()[-3:] == [str(undecided), str(broken), "13"]
    assert next(line for line in text.splitlines() if line.split()[:1] == ["fgsm"]).split()[1:3] == ["514", "78"]
    assert "90.0 propagations per image (61.9 forwards + 28.1 backwards)" in text
    assert "warning  loss-still-rising: On 31 of" in text
    assert "info  one-step-beats-iterated: No iterated" in text
    assert "next: Give it more steps" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_summary_fits_every_width_without_losing_a_digit(digits_run: FinishedRun, width: int) -> None:
    text = printed(summary, digits_run.result, width)
    assert max(map(len, text.splitlines())) <= width
    if width >= 80:
        assert "…" not in text


def test_names_are_neither_markup_nor_commands_to_the_terminal(digits_run: FinishedRun) -> None:
    result = dict(digits_run.result, model=dict(digits_run.result["model"], name="[bold red]x[/] \x1b[2J [/nothing]"))
    text = printed(summary, result)
    assert "[bold red]x[/]" in text
    assert "\x1b" not in text
    text = printed(comparison, COMPARED | {"a": {"name": "[red]a\x07"}})
    assert "only [red]a" in text
    assert "\x07" not in text


def test_an_audit_without_findings_says_so_in_one_line(digits_run: FinishedRun) -> None:
    assert "Audit: 3 checks, no findings." in printed(summary, dict(digits_run.result, audit=[]))
    assert "Audit: left out." in printed(summary, dict(digits_run.result, audit=[], audit_checks=[]))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_console_that_is_not_utf8_is_given_plain_characters(digits_run: FinishedRun, encoding: str) -> None:
    for show, result in ((summary, digits_run.result), (comparison, COMPARED | {"low": None})):
        stream = io.BytesIO()
        with io.TextIOWrapper(stream, encoding=encoding, errors="strict") as file:
            show(result, Console(file=file, width=100, color_system=None))
            file.flush()
            text = stream.getvalue().decode("ascii")
        assert "?" not in text
    assert "84.0 %" in text


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    text = printed(comparison, COMPARED | {"difference": -0.0, "low": -0.0001, "high": 0.0001})
    assert "0.0 points (0.0 to 0.0)" in text
    assert "-0.0" not in text
    assert "+0.0" not in text


def test_a_summary_of_nulls_does_not_fall_over() -> None:
    assert "an unknown share" in printed(
        summary, {"threat": "linf:0.1", "n": None, "radii": [], "attacks": None, "audit": None}
    )


def test_the_comparison_shows_the_four_counts_and_how_sure_they_make_us() -> None:
    text = printed(comparison, COMPARED)
    assert COMPARED["sentence"] in text
    assert [line.split()[-3:] for line in text.splitlines() if "only mnist-fgsm-rs" in line] == [["430", "84.0", "%"]]
    assert "-83.6 points (-87.0 to -80.0)" in text
    assert "<0.0001" in text
    assert "2.1 points" in text


def test_a_comparison_of_a_model_with_itself_tells_the_two_runs_apart() -> None:
    same = COMPARED | {
        "b": {"name": "mnist-natural"},
        "smallest_detectable_difference": None,
        "p_value": 1.0,
        "low": None,
    }
    text = printed(comparison, same)
    assert "only mnist-natural (A)" in text
    assert "only mnist-natural (B)" in text
