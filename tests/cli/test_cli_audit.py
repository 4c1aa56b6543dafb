"""`hauberk audit` and `--adapt`: what is printed, written and exited with."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Run = Callable[..., Any]
AUDIT = ("audit", "py:nets.py:tiny", "--data", "good.npz", "--threat", "linf:0.1")
ROUNDED = """
import torch
from torch import nn
class Rounded(nn.Module):
    def forward(self, x):
        return 2 * ((x * 16).round() / 16).flatten(1).reshape(len(x), 4, 4)[:, :3].sum(dim=2)
def rounded(): return Rounded()
"""


@pytest.fixture
def rounded(tmp_path: Path) -> str:
    file = tmp_path / "rounded.py"
    file.write_text(ROUNDED)
    return f"py:{file}:rounded"


def check(document: dict[str, Any]) -> dict[str, Any]:
    schema = json.loads(resources.files("hauberk.evaluate").joinpath("audit.schema.json").read_text("utf-8"))
    jsonschema.validate(document, schema)
    return document


def words(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_a_net_that_hides_nothing_is_passed_over_in_silence(hauberk: Run, tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    done = hauberk(*AUDIT, "--quick", "--json", str(file))
    assert done.exit_code == 0, done.output
    assert "Nothing was found that speaks against the attacks" in words(done.stdout)
    assert "I6 unconstrained attack failure" in words(done.stdout)
    found = check(json.loads(file.read_text()))
    assert found["findings"] == []
    assert found["environment"]["command"].startswith("hauberk audit py:nets.py:tiny")


def test_an_error_is_shown_with_its_next_step_and_ends_with_1(hauberk: Run, rounded: str, bench: Path) -> None:
    done = hauberk("audit", rounded, *AUDIT[2:], "--quick")
    assert done.exit_code == 1, done.output
    shown = words(done.stdout)
    assert "dead-gradients: the gradient of the margin is exactly zero at" in shown
    assert "next: " in shown
    assert done.stderr.splitlines()[-1].startswith("not to be trusted: the audit found errors (dead-gradients")


def test_json_on_standard_output_is_all_there_is(hauberk: Run) -> None:
    done = hauberk(*AUDIT, "--quick", "--json", "-")
    assert done.exit_code == 0
    assert check(json.loads(done.stdout))["schema"] == "hauberk.audit/1"


def test_adapt_shows_both_verdicts(hauberk: Run, rounded: str) -> None:
    done = hauberk("audit", rounded, *AUDIT[2:], "--quick", "--adapt", "--suite", "quick")
    assert done.exit_code == 1
    assert "The suite quick left" in words(done.stdout)
    assert "bpda: replace the backward pass" in words(done.stdout)
    done = hauberk("evaluate", rounded, *AUDIT[2:], "--suite", "quick", "--adapt")
    assert done.exit_code == 0, done.output
    assert "Adapted to the findings (bpda" in words(done.stdout)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--threat", "linf"), "an audit needs a radius"),
        (("--examples", "0"), "--examples is at least 1"),
        (("--n", "0"), "--n is at least 1"),
        (("--n", "99"), "12 examples"),
        (("--suite", "slow"), "slow"),
        (("--threat", "linf:0.1@scores", "--binarisation"), "needs gradients"),
        (("--json", "nowhere/file.json"), "--json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_sentence_and_2(hauberk: Run, options: tuple[str, ...], said: str) -> None:
    done = hauberk(*AUDIT, *options)
    assert done.exit_code == 2, done.output
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last


def test_adapting_without_the_audit_is_refused(hauberk: Run) -> None:
    done = hauberk("evaluate", *AUDIT[1:], "--adapt", "--no-audit")
    assert done.exit_code == 2
    assert "--no-audit" in done.stderr.splitlines()[-1]
