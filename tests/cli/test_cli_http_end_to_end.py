"""A model behind an address, attacked with labels alone: the server's own log is the count, whoever is killed in between."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
ROWS = 4
"""Examples a request: what may be on its way when somebody dies."""
COMMAND = (
    *["--data", "good.npz", "--threat", "linf:0.25", "--access", "labels", "--max-queries", "120", "--no-audit"],
)
ASKING = (*f"--request-rows {ROWS} --retries 0 --price 0.5".split(),)


@contextmanager
def serving(bench: Path, log: Path, port: str = "0") -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = f"serve-model py:nets.py:tiny --port {port} --shape 1,4,4 --labels-only --log {log}".split()
    child = subprocess.Popen(
        [sys.executable, "-m", "hauberk", *command],
        cwd=bench,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None
        yield child, child.stdout.readline().strip()
    finally:
        child.kill()
        child.communicate()


def rows_of(log: Path) -> list[str]:
    """The digest of every row that was answered; a line that a kill has cut is none."""
    whole = log.read_text().splitlines(keepends=True)
    return [json.loads(line)["sha256"] for line in whole if line.endswith("\n")]


def wait_for(log: Path, rows: int, child: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().splitlines()) < rows:
        assert time.monotonic() < deadline
        assert child is None or child.poll() is None, "it ended before it was killed"
        time.sleep(0.01)


def client(bench: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hauberk", *arguments],
        cwd=bench,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def result_of(run: Path) -> dict[str, Any]:
    found = json.loads((run / "result.json").read_text())
    return {key: found[key] for key in ("robust_accuracy", "radii", "queries")} | {
        "attacks": [{key: value for key, value in entry.items() if key != "seconds"} for entry in found["attacks"]]
    }


@pytest.fixture(scope="module")
def undisturbed(bench: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, Any]]:
    """What is bought, and found, where nobody is killed."""
    place = tmp_path_factory.mktemp("undisturbed")
    with serving(bench, place / "log") as (_, url):
        done = client(
            bench, "evaluate", url, *COMMAND, *ASKING, "--out", str(place / "run"), "--cache", str(place / "c")
        )
        _, said = done.communicate(timeout=60)
    assert done.returncode == 0, said
    bought = rows_of(place / "log")
    assert f"bought {len(bought)} queries" in said
    assert f"spent {len(bought) / 2:g}" in said
    assert max(Counter(bought).values()) == 1
    return bought, result_of(place / "run")


@pytest.mark.parametrize("who", ["server", "client"])
def test_whoever_is_killed_nothing_is_bought_twice(
    bench: Path, tmp_path: Path, undisturbed: tuple[list[str], dict[str, Any]], who: str
) -> None:
    bought, found = undisturbed
    log, run = tmp_path / "log", tmp_path / "run"
    with serving(bench, log) as (server, url):
        command = ("evaluate", url, *COMMAND, *ASKING, "--out", str(run))
        first = client(bench, *command)
        wait_for(log, len(bought) // 2, first)
        (server if who == "server" else first).send_signal(signal.SIGKILL)
        _, said = first.communicate(timeout=60)
        if who == "client":
            _again(bench, command)
    if who == "server":
        assert first.returncode == 2
        assert said.splitlines()[-1].startswith(("error: ", "bought "))
        assert "Traceback" not in said
        with serving(bench, log, url.split(":")[2].split("/")[0]) as (_, same):
            assert same == url
            _again(bench, command)
    assert (tmp_path / "run.bought.sqlite").is_file()
    twice = [row for row, count in Counter(rows_of(log)).items() if count > 1]
    assert len(twice) <= ROWS  # the one request that was answered and whose answer never arrived
    assert set(rows_of(log)) == set(bought)
    assert result_of(run) == found


def _again(bench: Path, command: tuple[str, ...]) -> None:
    second = client(bench, *command)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said


def test_when_the_money_is_gone_attacks_end_with_what_they_have(bench: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(bench, log) as (_, url):
        for name in ("ray_s", "hop_skip_jump", "noise"):
            before = len(rows_of(log)) if log.exists() else 0
            saved = tmp_path / f"{name}.safetensors"
            command = (
                f"attack {name} {url} --data good.npz --threat linf:0.25@labels --budget 100 --cache {tmp_path / name}"
            )
            done = client(bench, *command.split(), "--out", str(saved))
            _, said = done.communicate(timeout=60)
            assert done.returncode == 0, said
            spent = len(rows_of(log)) - before
            assert spent <= 100
            assert f"bought {spent} queries" in said
            assert saved.is_file()
