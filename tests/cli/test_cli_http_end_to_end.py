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

from hauberk.victims import ModelServer, load

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


def here(bench: Path, log: Path) -> ModelServer:
    """The same server in this process, for where nobody kills it."""
    return ModelServer(load(f"py:{bench / 'nets.py'}:tiny"), name="tiny", shape=(1, 4, 4), labels_only=True, log=log)


def test_whoever_is_killed_nothing_is_bought_twice(bench: Path, hauberk: Run, tmp_path: Path) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    with here(bench, log) as server:
        done = hauberk("evaluate", server.url, *COMMAND, *ASKING, "--out", str(run))
        assert done.exit_code == 0, done.output
    bought, found = rows_of(log), result_of(run)
    assert f"bought {len(bought)} queries" in done.stderr
    assert f"spent {len(bought) / 2:g}" in done.stderr
    assert max(Counter(bought).values()) == 1

    log, run = tmp_path / "client killed.log", tmp_path / "client killed"
    with here(bench, log) as server:
        command = ("evaluate", server.url, *COMMAND, *ASKING, "--out", str(run))
        first = client(bench, *command)
        wait_for(log, len(bought) // 2, first)
        first.kill()
        first.communicate()
        done = hauberk(*command)
        assert done.exit_code == 0, done.output
    assert_bought_once(log, bought)
    assert result_of(run) == found

    log, run = tmp_path / "server_killed.log", tmp_path / "server_killed.1"
    with serving(bench, log) as (served, url):
        command = ("evaluate", url, *COMMAND, *ASKING, "--out", str(run))
        first = client(bench, *command)
        wait_for(log, len(bought) // 2, first)
        served.send_signal(signal.SIGKILL)
        _, said = first.communicate(timeout=60)
    assert first.returncode == 2
    assert said.splitlines()[-1].startswith(("error: ", "bought "))
    assert "Traceback" not in said
    with serving(bench, log, url.split(":")[2].split("/")[0]) as (_, same):
        assert same == url
        done = hauberk(*command)
        assert done.exit_code == 0, done.output
    assert_bought_once(log, bought)
    assert result_of(run) == found
    assert (tmp_path / "server_killed.1.bought.sqlite").is_file()


def assert_bought_once(log: Path, bought: list[str]) -> None:
    """But for the one request that was answered and whose answer never arrived."""
    twice = [row for row, count in Counter(rows_of(log)).items() if count > 1]
    assert len(twice) <= ROWS
    assert set(rows_of(log)) == set(bought)


@pytest.mark.parametrize("name", ["ray_s", "hop_skip_jump", "noise"])
def test_an_attack_shares_its_budget_and_the_same_command_finds_the_same(
    bench: Path, hauberk: Run, tmp_path: Path, name: str
) -> None:
    log, kept = tmp_path / "log", []
    with here(bench, log) as server:
        command = f"attack {name} {server.url} --data good.npz --threat linf:0.25@labels --budget 200".split()
        for cache, batch in (("a", 128), ("a", 128), ("b", 5)):
            before = server.answered
            saved = tmp_path / f"{cache}{batch}.safetensors"
            more = ("--cache", str(tmp_path / cache), "--batch-size", str(batch), "--out", str(saved))
            done = hauberk(*command, *more)
            assert done.exit_code == 0, done.output
            spent = server.answered - before
            assert spent <= 200
            assert f"bought {spent} queries" in done.stderr
            assert "the budget lets each of" in done.stderr
            kept.append((spent, saved.read_bytes()))
    assert len(rows_of(log)) == server.answered
    assert kept[0][0] > 10
    assert kept[1] == (0, kept[0][1])
    assert kept[2] == kept[0]


def test_a_budget_that_is_too_small_for_the_examples_is_refused(bench: Path, hauberk: Run, tmp_path: Path) -> None:
    with here(bench, tmp_path / "log") as server:
        done = hauberk(*f"attack noise {server.url} --data good.npz --threat linf:0.25@labels --budget 3".split())
        assert done.exit_code == 2
        assert "too few for" in done.stderr.splitlines()[-1]
        assert server.answered == 1
