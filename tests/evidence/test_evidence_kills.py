"""Killed at any instant, the same command finishes the run and gives the same table, byte for byte.

A driver process imports everything once and forks a child for each instant. The child counts the lines of
`hauberk.evidence` it executes (or the fsyncs it makes, cutting the file in half first) and sends itself SIGKILL at the
chosen one. Then a second child gives the same command again, unharmed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = '''
import hashlib, json, os, signal, sys
from pathlib import Path

import torch

torch.set_num_threads(1)
import hauberk.evidence.table as table
from hauberk.evidence import Manifest, RunFolder, rows_table

table.pa.array([None])  # imports pandas where that is installed: once here, not in every child
table.ROW_GROUP = 5  # several to the final table, so that kills fall between them
HOME = os.path.dirname(table.__file__)
CHUNKS = 3


def evaluate(path):
    manifest = Manifest("net", "a" * 64, "data", "b" * 64, "linf:0.3", "quick", [], 0, 12, 4, "float32")
    with RunFolder.open(path, manifest) as run:
        for k in range(CHUNKS):
            if k in run.done:
                continue
            ids = torch.arange(4) + 4 * k
            columns = {name: [None] * 4 for name in table.ROWS.names}
            columns |= {name: ids for name in ("example", "label", "predicted", "forwards", "backwards", "queries")}
            columns |= {"status": ["broken"] * 4, "radius": [0.3] * 4, "l2": torch.sin(ids)}
            tensors = {"example": ids, "adversarials": torch.sin(ids.float())[:, None].expand(4, 50)}
            run.write_chunk(k, rows_table(columns), tensors, {"examples": 4})
        run.finish({"schema": "hauberk.evaluation/1"})


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def count_lines(limit):
    """Trace lines inside the package; die at the one numbered `limit`; returns the count so far as a list."""
    seen = [0]

    def lines(frame, event, argument):
        if event == "line":
            seen[0] += 1
            if seen[0] == limit:
                kill()
        return lines

    sys.settrace(lambda frame, event, argument: lines if frame.f_code.co_filename.startswith(HOME) else None)
    return seen


def cut_at_sync(limit):
    seen, real = [0], os.fsync

    def fsync(handle):
        seen[0] += 1
        if seen[0] == limit:
            if os.path.isfile(f"/proc/self/fd/{handle}"):
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
            kill()
        real(handle)

    os.fsync = fsync
    return seen


def in_child(work):
    """The exit status of a fork that runs `work`."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def total(hook, path):
    def work():
        seen = hook(-1)
        evaluate(path)
        sys.settrace(None)
        Path(f"{path}.total").write_text(str(seen[0]))

    assert in_child(work) == 0
    return int(Path(f"{path}.total").read_text())


def digest(path):
    names = sorted(p.relative_to(path) for p in Path(path).rglob("*") if p.is_file())
    return {str(name): hashlib.sha256((Path(path) / name).read_bytes()).hexdigest() for name in names}


root, instants = sys.argv[1], int(sys.argv[2])
problems, kills, states = [], 0, set()
for hook in (count_lines, cut_at_sync):
    whole = f"{root}/{hook.__name__}"
    count = total(hook, whole)
    expected = digest(whole)
    step = max(1, count // instants)
    for limit in range(1, count + 1, step):
        path = f"{root}/{hook.__name__}-{limit}"

        def killed():
            hook(limit)
            evaluate(path)

        status = in_child(killed)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            problems.append(f"{hook.__name__} {limit}: was not killed, status {status}")
            continue
        kills += 1
        states.add(tuple(sorted(digest(path))) if os.path.isdir(path) else ())
        if in_child(lambda: evaluate(path)) != 0:
            problems.append(f"{hook.__name__} {limit}: could not be resumed")
        elif digest(path) != expected:
            problems.append(f"{hook.__name__} {limit}: another outcome")
print(json.dumps({"problems": problems, "kills": kills, "states": len(states)}))
'''


def run_driver(folder: Path, instants: int) -> dict[str, object]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(folder), str(instants)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"stderr": done.stderr}


needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="kills itself by fork and looks at /proc")


@needs_fork
def test_a_run_killed_at_many_instants_ends_with_the_same_bytes(tmp_path: Path) -> None:
    found = run_driver(tmp_path, 30)
    assert found["problems"] == [], found["stderr"]
    assert int(str(found["kills"])) >= 45
    assert int(str(found["states"])) >= 12  # the kills fell on many different states of the folder


@needs_fork
@pytest.mark.slow
def test_a_run_killed_at_every_fifth_line_ends_with_the_same_bytes(tmp_path: Path) -> None:
    found = run_driver(tmp_path, 1000)
    assert found["problems"] == [], found["stderr"]
    assert int(str(found["kills"])) >= 700
