"""An evaluation killed by SIGKILL at random instants and begun again by the same command ends with the same bytes.

The fast test forks its children from one process that has imported everything; the slow one starts `python -m hauberk
evaluate` afresh each time. Both kill twenty times.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
ARGUMENTS = [
    *("evaluate", "zoo:digits-mlp", "--data", "digits", "--threat", "linf:0.05,0.1", "--suite", "quick"),
    *("--n", "64", "--batch-size", "4", "--seed", "3", "--threads", "1"),
]

DRIVER = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path

import torch

torch.set_num_threads(1)
import pyarrow.parquet, sklearn.datasets, rich.progress
import hauberk.report, hauberk.zoo
from hauberk.cli import main
hauberk.zoo.load("digits-mlp")

arguments, root, kills, seed = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
chance = random.Random(seed)


def begin(out):
    child = os.fork()
    if child == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(nothing, handle)
        sys.argv = ["hauberk", *arguments, "--out", str(out)]
        try:
            main()
            os._exit(0)
        except SystemExit as end:
            os._exit(end.code or 0)
        finally:
            os._exit(99)  # whatever was raised, a child never goes on as the driver
    return child


def whole(out):
    started = time.monotonic()
    status = os.waitpid(begin(out), 0)[1]
    assert status == 0, f"a child ended with {os.waitstatus_to_exitcode(status)}"
    return time.monotonic() - started


def state(out):
    return tuple(sorted(str(p.relative_to(out)) for p in out.rglob("*"))) if out.exists() else ()


seconds = whole(root / "unbroken")
expected = (root / "unbroken" / "rows.parquet").read_bytes()
killed, finished, states, same, turn = 0, 0, set(), True, 0
while killed < kills:
    out = root / f"run-{turn}"
    child = begin(out)
    deadline = time.monotonic() + chance.uniform(0.2, 0.6) * seconds
    while time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    try:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        states.add(state(out))
    except (ProcessLookupError, ChildProcessError):  # it finished before
        same &= (out / "rows.parquet").read_bytes() == expected
        finished, turn = finished + 1, turn + 1
whole(out)
same &= (out / "rows.parquet").read_bytes() == expected
print(json.dumps({"killed": killed, "finished": finished + 1, "states": len(states), "same": bool(same), "seconds": seconds}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_twenty_kills_at_random_instants_leave_the_table_as_it_is(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, json.dumps(ARGUMENTS), str(tmp_path), "20", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] == 20
    assert found["same"]
    assert found["states"] >= 6  # the kills fell on many different states of the folder


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "hauberk", *ARGUMENTS, "--out", str(out)]


@pytest.mark.slow
def test_twenty_kills_of_the_command_itself_leave_the_table_as_it_is(tmp_path: Path) -> None:
    began = time.monotonic()
    subprocess.run(command(tmp_path / "unbroken"), check=True, capture_output=True, env=ENVIRONMENT)
    seconds = time.monotonic() - began
    expected = (tmp_path / "unbroken" / "rows.parquet").read_bytes()
    chance, killed, out = random.Random(0), 0, tmp_path / "run-0"
    while killed < 20:
        child = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
        try:
            child.wait(timeout=chance.uniform(0.3, 1) * seconds)
            assert child.returncode == 0
            assert (out / "rows.parquet").read_bytes() == expected
            out = tmp_path / f"run-{killed}"
        except subprocess.TimeoutExpired:
            child.kill()
            assert child.wait() == -signal.SIGKILL
            killed += 1
    subprocess.run(command(out), check=True, capture_output=True, env=ENVIRONMENT)
    assert (out / "rows.parquet").read_bytes() == expected
