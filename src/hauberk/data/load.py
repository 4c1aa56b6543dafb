"""`load`: from whatever names a data set to a `Source`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hauberk.data.arrays import Arrays
from hauberk.data.builtin import builtin, names
from hauberk.data.files import IMAGES, LABELS, choose
from hauberk.data.folder import Folder
from hauberk.data.npz import Npz
from hauberk.data.pairs import Pairs
from hauberk.data.parquet import Parquet
from hauberk.data.python import find_object
from hauberk.data.source import First, Source
from hauberk.data.values import check_bounds
from hauberk.errors import DataError, UnknownNameError

__all__ = ["load"]


def load(spec: Any, *, bounds: tuple[float, float] = (0.0, 1.0), n: int | None = None) -> Source:
    """The data set that `spec` names, read lazily.

    Args:
        spec: a registered name (see `names`), the path of an `.npz` or `.parquet` file or of a folder with one subfolder of
            pictures per class, `py:module:object`, a pair (x, y) of arrays or tensors, a mapping that
            names them, a map-style data set, or a Source.
        bounds: what 0 and 255 of 8-bit values become; floats are taken as they are.
        n: only the first n examples.

    Raises:
        DataError: it is no data set, or not a usable one.
        UnknownNameError: a name that is neither registered nor a path.
    """
    box = check_bounds(bounds)
    source = (
        _from_text(str(spec), box, n)
        if isinstance(spec, str | Path)
        else _from_object(spec, box, n, "data", calls=False)
    )
    return source if n is None or isinstance(source, Pairs) else First(source, n)


def _from_text(text: str, bounds: tuple[float, float], n: int | None) -> Source:
    if text in names():
        return builtin(text, bounds)
    if text.startswith("py:"):
        return _from_object(find_object(text), bounds, n, text, calls=True)
    path = Path(text).expanduser()
    if path.is_dir():
        return Folder(path, bounds=bounds)
    readers = {".npz": Npz, ".parquet": Parquet}
    reader = readers.get(path.suffix.lower())
    if not path.exists():
        if reader is None and path.name == text and not path.suffix:
            raise UnknownNameError.of("data set", text, names())
        raise DataError(
            f"there is no file or folder {text}; give a data set that exists, or one of {', '.join(names())}"
        )
    if reader is None:
        raise DataError(
            f"expected an .npz file, a .parquet file or a folder of pictures, got {text}; save the data as one of these"
        )
    return reader(path, bounds=bounds)


def _from_object(found: Any, bounds: tuple[float, float], n: int | None, name: str, *, calls: bool) -> Source:
    if isinstance(found, Source) and not isinstance(found, type):
        return found
    if isinstance(found, Mapping):
        keys = [str(key) for key in found]
        (x, x_notes), (y, y_notes) = choose(IMAGES, keys, "images", name), choose(LABELS, keys, "labels", name)
        return Arrays(found[x], found[y], name=name, bounds=bounds, notes=x_notes + y_notes)
    if isinstance(found, tuple | list):
        if len(found) != 2:
            raise DataError(f"expected a pair (x, y) of examples and labels in {name}, got {len(found)} things")
        return Arrays(found[0], found[1], name=name, bounds=bounds)
    if not isinstance(found, type):
        if hasattr(found, "__getitem__") and hasattr(found, "__len__") and not hasattr(found, "ndim"):
            return Pairs(found, name, bounds, n)
        if hasattr(found, "__iter__") and hasattr(found, "dataset"):
            raise DataError(
                f"{name} is a loader, whose order and batches hauberk has to choose itself; give its .dataset"
            )
    if calls and callable(found):
        try:
            made = found()
        except Exception as error:  # the user's code may raise anything
            text = str(error).strip().splitlines() or [""]
            raise DataError(
                f"calling {name} without arguments failed with {type(error).__name__}: {text[0].rstrip('.')}"
            ) from error
        return _from_object(made, bounds, n, name, calls=False)
    raise DataError(
        f"expected a name, a path, a pair (x, y), a mapping, a map-style data set or a Source as {name}, got {type(found).__name__}"
    )
