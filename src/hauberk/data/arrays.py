"""A data set in memory: numpy arrays, torch tensors, or anything numpy makes an array of. Chunks are copies."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from hauberk.data.labels import label_notes
from hauberk.data.source import Chunk, make_chunk, pieces
from hauberk.data.values import check_bounds, value_notes
from hauberk.errors import DataError

__all__ = ["Arrays", "as_array"]

_BLOCK = 1 << 22  # bytes hashed at a time, so that a memory map is never read whole


class Arrays:
    """Examples and labels from arrays, in the shape they have: what the user holds is not rearranged.

    Args:
        x: (n, *shape), uint8 (mapped to `bounds`) or float (taken as it is).
        y: (n,) labels, or (n, classes) one-hot.
        ids: (n,) distinct whole numbers >= 0 that name the examples, positions if None; a shuffled data set keeps its own.
        name: what reports call it.
        bounds: what 0 and 255 of uint8 values become.
        class_names: the names of classes 0, 1, ... .
        notes: what else is to be known of it.

    Raises:
        DataError: empty, of unequal lengths, or not numbers.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        ids: Any = None,
        name: str = "arrays",
        bounds: tuple[float, float] = (0.0, 1.0),
        *,
        class_names: tuple[str, ...] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name, self.class_names = name, class_names
        self._bounds = check_bounds(bounds)
        self._x, self._y = as_array(x, f"the examples of {name}"), as_array(y, f"the labels of {name}")
        if self._x.ndim == 0 or self._y.ndim == 0:
            raise DataError(f"expected one row per example and one label per row in {name}, got a single number")
        if len(self._x) != len(self._y):
            raise DataError(f"{name} has {len(self._x)} examples but {len(self._y)} labels; give one label per example")
        if self._x.size == 0:
            raise DataError(f"{name} is empty, its examples have shape {self._x.shape}; give at least one example")
        if self._x.ndim == 1:
            raise DataError(
                f"expected examples of shape (n, ...), got shape {self._x.shape} in {name}; one number is no input"
            )
        self.shape: tuple[int, ...] = tuple(self._x.shape[1:])
        self.notes: tuple[str, ...] = (
            *value_notes(self._x.dtype, self._bounds, f"the examples of {name}"),
            *label_notes(self._y.dtype, self._y.shape, f"the labels of {name}"),
            *notes,
        )
        self._ids = np.arange(len(self._x)) if ids is None else _checked_ids(ids, len(self._x), name)
        self._own_ids = ids is not None

    def __len__(self) -> int:
        return len(self._x)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for array in (self._x, self._y, *((self._ids,) if self._own_ids else ())):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            step = max(1, _BLOCK // max(1, array[:1].nbytes))
            for begin in range(0, len(array), step):
                digest.update(np.ascontiguousarray(array[begin : begin + step]).data)
        digest.update(repr(self._bounds).encode())
        return digest.hexdigest()

    def chunks(self, size: int, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        return (self._chunk(begin, end) for begin, end in pieces(len(self), size, start, stop))

    def _chunk(self, begin: int, end: int) -> Chunk:
        x, y, ids = self._x[begin:end], self._y[begin:end], self._ids[begin:end]
        return make_chunk(ids, x, y, bounds=self._bounds, name=self.name)


def as_array(values: Any, what: str) -> np.ndarray:
    """A numpy array of these values, sharing their memory where it can.

    Raises:
        DataError: they are ragged, sparse, complex, or not numbers.
    """
    if isinstance(values, torch.Tensor):
        if values.layout != torch.strided:
            raise DataError(f"{what} are a sparse tensor; make it dense with .to_dense()")
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        return values.resolve_conj().numpy()
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise DataError(f"{what} have masked entries; fill or drop them")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{what} do not form one array ({str(error).splitlines()[0]}); give them all one shape"
        ) from error
    if array.dtype.hasobject:
        raise DataError(f"{what} must be numbers in one array, got {type(values).__name__} with Python objects inside")
    return array


def _checked_ids(ids: Any, count: int, name: str) -> np.ndarray:
    raw = as_array(ids, f"the ids of {name}")
    if raw.shape != (count,):
        raise DataError(f"expected one id for each of the {count} examples of {name}, got ids of shape {raw.shape}")
    if raw.dtype.kind not in "iu":
        raise DataError(f"expected ids that are whole numbers, got {raw.dtype} in {name}")
    if int(raw.min()) < 0:
        raise DataError(f"expected ids >= 0, got {int(raw.min())} in {name}")
    if len(np.unique(raw)) != count:
        raise DataError(f"expected distinct ids, got repeated ones in {name}; an id names one example for good")
    return raw.astype(np.int64)
