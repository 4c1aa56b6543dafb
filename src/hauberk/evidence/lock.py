"""One process at a time in a run folder: an advisory lock that the system frees when its holder dies, however it dies."""

import contextlib
import os
import sys
from pathlib import Path

from hauberk.errors import RunError

__all__ = ["LOCK_NAME", "FolderLock"]

LOCK_NAME = ".lock"

if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # the locked byte lies past the text: Windows refuses to read a locked one

    def _acquire(handle: int) -> None:
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def _release(handle: int) -> None:
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _acquire(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _release(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


class FolderLock:
    """The lock on a folder, held from construction until `release`.

    Raises:
        RunError: another process, named by its id, holds it, or the file system cannot lock.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK_NAME
        self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _acquire(self._handle)
        except (BlockingIOError, PermissionError):
            holder = _holder(self._handle)
            self._close()
            raise RunError(
                f"the run folder {folder} is in use by {holder}; wait until it has ended, or choose another --out"
            ) from None
        except OSError as error:
            self._close()
            raise RunError(
                f"cannot lock the run folder {folder}: {error.strerror or error}; choose an --out on a local disk"
            ) from error
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others in; a second call does nothing. The file stays: removing it would race with the next holder."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, 0)
                _release(self._handle)
            self._close()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _holder(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    text = os.read(handle, 32).decode(errors="replace").strip()
    return f"process {text}" if text.isdigit() else "another process"
