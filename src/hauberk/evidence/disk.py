"""Writing so that a kill or a power cut leaves the old state or the new one: temporary name, fsync, rename, fsync."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hauberk.errors import RunError

__all__ = ["TEMPORARY", "read_bytes", "replace_file", "replacing", "sha256", "speaking", "sync_folder", "write_file"]

TEMPORARY = ".tmp-"
"""What is still being written has a name that begins so; after a kill it may be thrown away."""


@contextlib.contextmanager
def speaking(doing: str) -> Iterator[None]:
    """Turn an error of the disk inside into a `RunError` of one sentence that begins "cannot `doing`"."""
    try:
        yield
    except OSError as error:
        cure = "choose a folder that can be written to"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cure = "make room and give the same command again, finished chunks are kept"
        raise RunError(f"cannot {doing}: {error.strerror or error}; {cure}") from error


def sync_folder(path: Path) -> None:
    """Make renames inside a folder last through a power cut, where the system can."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync folders
            raise
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> str:
    """Write and fsync; returns the SHA-256 of the content."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once the block has ended well, and vanishes if it has not."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Replace the whole content of a file at once."""
    with replacing(path) as file:
        file.write(content)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, shown: str, cure: str) -> bytes:
    """The content of a file of a run.

    Raises:
        RunError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"expected a file {shown}, got none; {cure}") from None
    except OSError as error:
        raise RunError(f"expected a readable file {shown}, got: {error.strerror or error}; {cure}") from error
