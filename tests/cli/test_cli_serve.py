"""`hauberk serve-model` in a process of its own, and the commands that ask it."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def served(bench: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    log = tmp_path / "log"
    command = ["serve-model", "py:nets.py:tiny", "--port", "0", "--shape", "1,4,4", "--labels-only", "--log", str(log)]
    child = subprocess.Popen(
        [sys.executable, "-m", "hauberk", *command],
        cwd=bench,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    yield child, child.stdout.readline().strip(), log
    child.kill()
    child.communicate()


def test_an_evaluation_over_http_counts_as_the_server_does_and_ctrl_c_is_clean(
    hauberk: Run, served: tuple[subprocess.Popen[str], str, Path], tmp_path: Path
) -> None:
    child, url, log = served
    cache = str(tmp_path / "c.sqlite")
    command = (
        "evaluate",
        url,
        "--data",
        "good.npz",
        "--threat",
        "linf:0.1@labels",
        "--suite",
        "quick",
        "--price",
        "0.5",
    )
    done = hauberk(*command, "--cache", cache, "--out", str(tmp_path / "run"))
    assert done.exit_code == 0, done.output
    rows = len(log.read_text().splitlines())
    assert f"bought {rows} queries" in done.stderr
    assert f"spent {rows / 2:g}" in done.stderr
    again = hauberk(*command, "--cache", cache)
    assert again.exit_code == 0, again.output
    assert "bought 0 queries" in again.stderr
    assert len(log.read_text().splitlines()) == rows
    short = hauberk(*command, "--budget", "5")
    assert short.exit_code == 2
    assert "--budget" in short.stderr.splitlines()[-2] + short.stderr.splitlines()[-1]
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=20)
    assert child.returncode == 0, said
    assert "rows were answered" in said
    gone = hauberk(*command, "--retries", "0")
    assert gone.exit_code == 2
    assert "cannot be reached" in gone.stderr


@pytest.mark.parametrize(
    "more",
    [
        ("--labels-only", "--top-k", "2"),
        ("--shape", "a,b"),
        ("--port", "99999"),
        ("--round", "-1"),
        ("--shape", "3,3"),
        ("--log", "no/such/folder/log"),
    ],
)
def test_bad_options_of_the_server_are_refused(hauberk: Run, more: tuple[str, ...]) -> None:
    done = hauberk("serve-model", "py:nets.py:tiny", "--port", "0", *more)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
