"""A data set in an `.npz` file, read forward out of the zip archive without ever holding more than a chunk.

Which members are the images and the labels is read off their names, see `hauberk.data.files`: `images` and `labels`, `x` and
`y`, `x_test` and `y_test`, `data` and `targets`, `arr_0` and `arr_1`, ... .
"""

import hashlib
import math
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from hauberk.data.files import IMAGES, LABELS, choose, hash_file, reading
from hauberk.data.labels import label_notes
from hauberk.data.source import Chunk, make_chunk, pieces
from hauberk.data.values import check_bounds, recognise_layout, value_notes
from hauberk.errors import DataError

__all__ = ["Npz"]

_BLOCK = 1 << 18
_KIND = "an npz archive"


class Npz:
    """The examples of an `.npz` file; 8-bit images are mapped to `bounds`, the layout is recognised and noted.

    Raises:
        DataError: the file is no archive, lacks images or labels, or holds something that cannot be them.
    """

    class_names: tuple[str, ...] | None = None

    def __init__(self, path: str | Path, *, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        self._path, self._bounds = Path(path), check_bounds(bounds)
        self.name = self._path.name
        with reading(self._path, _KIND), zipfile.ZipFile(self._path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            image_key, image_notes = choose(IMAGES, keys, "images", self.name)
            label_key, label_key_notes = choose(LABELS, keys, "labels", self.name)
            self._x = _header(archive, image_key, self.name)
            self._y = _header(archive, label_key, self.name)
        images, labels = f"{image_key!r} of {self.name}", f"{label_key!r} of {self.name}"
        dtype_notes = value_notes(self._x.dtype, self._bounds, images)
        dtype_notes += label_notes(self._y.dtype, self._y.shape, labels)
        for array, what in ((self._x, images), (self._y, labels)):
            if array.fortran and len(array.shape) > 1:
                raise DataError(
                    f"{what} is stored in Fortran order, which cannot be streamed; save np.ascontiguousarray of it"
                )
        if len(self._x.shape) < 2:
            raise DataError(f"expected images of shape (n, ...), got shape {self._x.shape} in {images}")
        if self._x.shape[0] != self._y.shape[0]:
            raise DataError(
                f"{self.name} has {self._x.shape[0]} images in {image_key!r} but {self._y.shape[0]} labels in {label_key!r}; "
                "give one label per image"
            )
        if math.prod(self._x.shape) == 0:
            raise DataError(f"{images} is empty, of shape {self._x.shape}; give at least one example")
        self._layout, layout_notes = recognise_layout(self._x.shape[1:], images)
        self.shape: tuple[int, ...] = self._layout.shape
        self.notes: tuple[str, ...] = (*image_notes, *label_key_notes, *dtype_notes, *layout_notes)

    def __len__(self) -> int:
        return self._x.shape[0]

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"npz {self._bounds} {self._x.key} {self._y.key} {self.shape}".encode())
        with reading(self._path, _KIND):
            hash_file(self._path, digest)
        return digest.hexdigest()

    def chunks(self, size: int, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        return self._chunks(pieces(len(self), size, start, stop), start)

    def _chunks(self, ranges: Iterator[tuple[int, int]], start: int) -> Iterator[Chunk]:
        with ExitStack() as stack:
            with reading(self._path, _KIND):
                archive = stack.enter_context(zipfile.ZipFile(self._path))
                x = _Reader(stack.enter_context(archive.open(f"{self._x.key}.npy")), self._x, start)
                y = _Reader(stack.enter_context(archive.open(f"{self._y.key}.npy")), self._y, start)
            for begin, end in ranges:
                with reading(self._path, _KIND):
                    raw_x, raw_y = x.read(end - begin), y.read(end - begin)
                yield make_chunk(np.arange(begin, end), self._layout(raw_x), raw_y, bounds=self._bounds, name=self.name)


@dataclass(frozen=True)
class _Array:
    """What the header of one member says."""

    key: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def _header(archive: zipfile.ZipFile, key: str, name: str) -> _Array:
    with archive.open(f"{key}.npy") as stream:
        shape, fortran, dtype = _parse(stream, key, name)
    if not shape:
        raise DataError(f"expected {key!r} of {name} to have one row per example, got a single value")
    return _Array(key, shape, fortran, dtype)


def _parse(stream: IO[bytes], key: str, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy.read_array_header_2_0(stream)
    raise DataError(
        f"{key!r} of {name} is a record array (npy format {version[0]}.{version[1]}); save plain arrays of numbers"
    )


class _Reader:
    """Reads the rows of one member forward."""

    def __init__(self, stream: IO[bytes], array: _Array, start: int) -> None:
        self._stream, self._array = stream, array
        _parse(stream, array.key, "")
        self._row = math.prod(array.shape[1:]) * array.dtype.itemsize
        # In steps: a jump in a stored member, inflating in a compressed one, and in either case no large buffer.
        for skipped in range(0, start * self._row, _BLOCK):
            stream.seek(min(_BLOCK, start * self._row - skipped), 1)

    def read(self, rows: int) -> np.ndarray:
        raw = np.empty((rows, *self._array.shape[1:]), dtype=self._array.dtype)
        view = raw.reshape(-1).view(np.uint8)
        filled = 0
        while filled < len(view):
            block = self._stream.read(min(_BLOCK, len(view) - filled))
            if not block:
                raise DataError(
                    f"{self._array.key!r} ends before the {self._array.shape[0]} rows that its header promises; "
                    "the file is truncated, so fetch or save it again"
                )
            view[filled : filled + len(block)] = np.frombuffer(block, np.uint8)
            filled += len(block)
        return raw
