"""What the readers of files share: hashing their bytes, and turning what goes wrong while reading into one sentence."""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hauberk.errors import DataError

__all__ = ["IMAGES", "LABELS", "choose", "hash_file", "listed", "reading"]

IMAGES = ("images", "image", "img", "x", "x_test", "pixel_values", "features", "data", "arr_0")
LABELS = (
    "labels",
    "label",
    "fine_label",
    "y",
    "y_test",
    "targets",
    "target",
    "class",
    "coarse_label",
    "digit",
    "arr_1",
)
"""What keys and columns are called in public data sets, those that say most first."""

_BLOCK = 1 << 20
_SHOWN = 12  # names in a sentence; a table of pixels has a column for each


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Whatever a damaged file raises in here becomes a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"{path} cannot be read as {kind}: {cause}; the file is truncated, damaged or of another kind, so fetch or save it again"
        ) from error


def hash_file(path: Path, digest: "hashlib._Hash") -> None:
    """Add the bytes of a file, a block at a time."""
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)


def listed(names: list[str]) -> str:
    """The names for a sentence, the first of them where they are many: "a, b, ... and 772 more"."""
    more = f", ... and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def choose(known: tuple[str, ...], present: list[str], what: str, where: str) -> tuple[str, tuple[str, ...]]:
    """The first of the `known` names among those `present`, whatever their case, and a note if there was a choice.

    Raises:
        DataError: none is present; the message lists what is.
    """
    lowered = {name.lower(): name for name in reversed(present)}
    found = [lowered[name] for name in known if name in lowered]
    if not found:
        raise DataError(
            f"{where} holds no {what}: expected one of {', '.join(known)}, got {listed(present)}; rename yours"
        )
    note = f"{where}: took {found[0]!r} as the {what}, although {', '.join(map(repr, found[1:]))} would do as well"
    return found[0], (note,) if len(found) > 1 else ()
