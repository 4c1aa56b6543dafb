"""A folder of pictures with one subfolder per class, in sorted order of their names as class 0, 1, ... .

Within the sorted list of all pictures the order is then shuffled once, the same for everybody: in sorted order the first
n pictures would all be of the first classes, and a statement about "the first n" is to be one about a random sample.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from hauberk._rng import Streams
from hauberk.data.files import hash_file, reading
from hauberk.data.pictures import SUFFIXES, decode, match
from hauberk.data.source import Chunk, make_chunk, pieces
from hauberk.data.values import check_bounds, value_notes
from hauberk.errors import DataError

__all__ = ["Folder", "shuffled"]


def shuffled(count: int, purpose: str) -> np.ndarray:
    """A permutation of `count` positions that depends on nothing but its arguments."""
    streams = Streams(0, torch.arange(count), f"data/{purpose}")
    return streams.uniform(torch.arange(count), (), dtype=torch.float64).argsort(stable=True).numpy()


class Folder:
    """Pictures in `path/CLASS/**`, decoded as they are needed.

    Raises:
        DataError: no such structure, or (when it is met) a picture that is damaged or of another size than the first.
    """

    def __init__(self, path: str | Path, *, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        self._path, self._bounds = Path(path), check_bounds(bounds)
        self.name = self._path.resolve().name
        with reading(self._path, "a folder"):
            classes = sorted(
                entry for entry in self._path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
            )
            found = [_pictures(folder) for folder in classes]
        if not classes:
            raise DataError(f"{self._path} has no subfolders; expected one subfolder of pictures per class")
        for folder, files in zip(classes, found, strict=True):
            if not files:
                raise DataError(
                    f"the class folder {folder} holds no pictures ({', '.join(sorted(SUFFIXES))}); fill or remove it"
                )
        self.class_names: tuple[str, ...] | None = tuple(folder.name for folder in classes)
        listed = [(file, index) for index, files in enumerate(found) for file in files]
        self._files = [listed[position] for position in shuffled(len(listed), "folder")]
        self.shape: tuple[int, ...] = decode(self._files[0][0], str(self._files[0][0])).shape
        self.notes: tuple[str, ...] = (
            *value_notes(np.dtype(np.uint8), self._bounds, f"the pictures of {self.name}"),
            f"the pictures of {self.name} are in a fixed shuffled order, so that the first n are a random sample of all classes",
        )

    def __len__(self) -> int:
        return len(self._files)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"folder {self._bounds} {self.class_names}".encode())
        for file, label in self._files:
            digest.update(f"\n{file.relative_to(self._path).as_posix()} {label} {file.stat().st_size}\n".encode())
            hash_file(file, digest)
        return digest.hexdigest()

    def chunks(self, size: int, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        return (self._chunk(begin, end) for begin, end in pieces(len(self), size, start, stop))

    def _chunk(self, begin: int, end: int) -> Chunk:
        pixels = np.empty((end - begin, *self.shape), dtype=np.uint8)
        for row, (file, _) in enumerate(self._files[begin:end]):
            pixels[row] = match(decode(file, str(file)), self.shape, str(file))
        labels = np.array([label for _, label in self._files[begin:end]])
        return make_chunk(np.arange(begin, end), pixels, labels, bounds=self._bounds, name=self.name)


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
