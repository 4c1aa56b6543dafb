"""`hauberk certify`, and the proofs of `hauberk evaluate`: what they print, write and exit with."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hauberk.evidence import RunFolder

Run = Callable[..., Any]
CERTIFY = (
    "certify",
    "py:nets.py:tiny",
    "--data",
    "good.npz",
    "--threat",
    "linf:0.02,0.1",
    "--seconds",
    "0.2",
    "--sandwich",
    "6",
)
EVALUATE = ("evaluate", *CERTIFY[1:6], "--suite", "quick", "--certify", "auto", "--sandwich", "6")


@pytest.mark.parametrize("command", [CERTIFY, EVALUATE], ids=["certify", "evaluate"])
def test_both_bounds_are_printed_and_written(hauberk: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    done = hauberk(*command, "--out", str(tmp_path / "run"), "--json", str(tmp_path / "result.json"))
    assert done.exit_code == 0, done.output
    told = " ".join(done.stdout.replace("│", " ").split()).replace("\N{NO-BREAK SPACE}", " ")
    assert "the model keeps between" in told
    assert "(proven)" in told
    assert "Proofs took" in told
    document = json.loads((tmp_path / "result.json").read_text("utf-8"))
    schema = json.loads(resources.files("hauberk.evaluate").joinpath("evaluation.schema.json").read_text("utf-8"))
    jsonschema.validate(document, schema)
    lower, upper = (document["robust_accuracy"][end]["value"] for end in ("lower", "upper"))
    assert lower == upper  # the net is linear: nothing is left open
    assert document["certified"]["looked"] == 6
    rows = RunFolder.read(tmp_path / "run").rows.to_pylist()
    assert all(row["upper"] is None or row["lower"] <= row["upper"] for row in rows)
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "What is proven" in page
    assert "Both ends at any radius" in page
    again = hauberk(*command, "--out", str(tmp_path / "run"))
    assert "already finished" in again.stderr


def test_a_bar_for_what_is_proven_is_held(hauberk: Run) -> None:
    assert hauberk(*CERTIFY, "--fail-under-proven", "0").exit_code == 0
    below = hauberk(*CERTIFY, "--fail-under-proven", "1")
    assert below.exit_code == 1
    assert "are proven to withstand linf:0.1" in " ".join(below.stderr.split())
    assert "--fail-under-proven asks for 100.0" in " ".join(below.stderr.split())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--fail-under-proven", "0.5", "--certify", "off"), "--fail-under-proven asks for proofs"),
        (("--fail-under-proven", "80"), "write 0.8 for 80 %"),
        (("--certify", "crwn"), "did you mean crown"),
        (("--certify-seconds", "-1"), "a number >= 0"),
        (("--sandwich", "-1"), "a number of examples >= 0"),
        (("--threat", "l0:3"), "balls of linf, l2 and l1"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(hauberk: Run, more: tuple[str, ...], told: str) -> None:
    done = hauberk(*EVALUATE, *more)
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.output


def test_a_model_that_cannot_be_looked_into_is_refused_with_a_cure(hauberk: Run) -> None:
    done = hauberk("certify", "py:nets.py:only_scores", *CERTIFY[2:])
    assert done.exit_code == 2
    assert "smoothing" in done.stderr


def test_files_of_weights_take_an_architecture_of_the_zoo(hauberk: Run) -> None:
    done = hauberk("evaluate", "nothing.safetensors", "--arch", "zoo:mnist_cn", *EVALUATE[2:])
    assert done.exit_code == 2
    assert "did you mean mnist_cnn" in done.stderr
