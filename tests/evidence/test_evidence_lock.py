"""Two processes never share a run folder, and a dead one never keeps it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hauberk.errors import RunError
from hauberk.evidence import Manifest, RunFolder
from hauberk.evidence.lock import FolderLock

HOLD = """
import sys, time
from pathlib import Path
from hauberk.evidence.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path: Path, manifest: Manifest) -> None:
    RunFolder.open(tmp_path, manifest).close()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"in use by process {holder.pid}; wait"):
            RunFolder.open(tmp_path, manifest)
        holder.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        holder.wait()
    RunFolder.open(tmp_path, manifest).close()


def test_one_process_cannot_open_a_folder_twice_at_once(tmp_path: Path, manifest: Manifest) -> None:
    with RunFolder.open(tmp_path, manifest), pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        RunFolder.open(tmp_path, manifest)
    RunFolder.open(tmp_path, manifest).close()


def test_a_refusal_lets_go_of_the_lock(tmp_path: Path, manifest: Manifest, changed: Callable[..., Manifest]) -> None:
    RunFolder.open(tmp_path, manifest).close()
    with pytest.raises(RunError, match="seed was 0, is 9"):
        RunFolder.open(tmp_path, changed(seed=9))
    RunFolder.open(tmp_path, manifest).close()


def test_an_error_inside_lets_go_of_the_lock(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder.open(tmp_path, manifest):
        _ = 1 / 0
    RunFolder.open(tmp_path, manifest).close()


def test_a_lock_can_be_released_twice_and_needs_no_text(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    (tmp_path / ".lock").write_text("garbage")
    with pytest.raises(RunError, match="in use by another process"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    FolderLock(tmp_path).release()
