"""A map-style data set: anything with `len(d)` and `d[i]` that gives (x, y) or a mapping, read item by item.

x is a tensor, an array or a PIL picture; of a mapping the entries are chosen by their names, see
`hauberk.data.files`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from hauberk.data.arrays import as_array
from hauberk.data.files import IMAGES, LABELS, choose
from hauberk.data.labels import label_notes
from hauberk.data.pictures import from_pil
from hauberk.data.source import Chunk, check_count, make_chunk, pieces
from hauberk.data.values import check_bounds, value_notes
from hauberk.errors import DataError

__all__ = ["Pairs"]


class Pairs:
    """A map-style data set.

    Args:
        dataset: has `__len__` and `__getitem__`.
        name: what reports call it.
        bounds: what 0 and 255 of uint8 values become.
        n: use only the first n items. The fingerprint then covers these only, since it has to compute every item.

    Raises:
        DataError: it is empty, or (when it is met) an item is no pair, of another shape than the first, or raises.
    """

    def __init__(
        self, dataset: Any, name: str = "dataset", bounds: tuple[float, float] = (0.0, 1.0), n: int | None = None
    ) -> None:
        self._dataset, self.name, self._bounds = dataset, name, check_bounds(bounds)
        try:
            available = len(dataset)
        except Exception as error:
            raise DataError(
                f"the length of {name} cannot be had: {_first_line(error)}; give a map-style data set"
            ) from error
        if n is not None:
            check_count(n, available, name)
        self._count = available if n is None else n
        if self._count == 0:
            raise DataError(f"{name} is empty; give at least one example")
        self._key_notes: tuple[str, ...] = ()
        x, y = self._item(0)
        self.shape: tuple[int, ...] = tuple(x.shape)
        if x.size == 0 or x.ndim == 0:
            raise DataError(f"expected examples with at least one axis and one value, got shape {self.shape} in {name}")
        self._dtype = x.dtype
        self.notes: tuple[str, ...] = (
            *self._key_notes,
            *value_notes(x.dtype, self._bounds, f"the examples of {name}"),
            *label_notes(y.dtype, (1, *y.shape), f"the labels of {name}"),
        )
        names = getattr(dataset, "classes", None)
        self.class_names: tuple[str, ...] | None = (
            tuple(map(str, names)) if isinstance(names, list | tuple) and names else None
        )

    def __len__(self) -> int:
        return self._count

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"pairs {self._bounds} {self._count} {self.shape} {self._dtype}".encode())
        for position in range(self._count):
            x, y = self._item(position)
            digest.update(np.ascontiguousarray(x).data)
            digest.update(f"{y.tolist()}".encode())
        return digest.hexdigest()

    def chunks(self, size: int, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        return (self._chunk(begin, end) for begin, end in pieces(len(self), size, start, stop))

    def _chunk(self, begin: int, end: int) -> Chunk:
        x = np.empty((end - begin, *self.shape), dtype=self._dtype)
        labels: list[np.ndarray] = []
        for position in range(begin, end):
            value, label = self._item(position)
            if value.shape != self.shape or value.dtype != self._dtype:
                raise DataError(
                    f"expected examples of shape {self.shape} and dtype {self._dtype} as item 0 has, "
                    f"got {value.shape} and {value.dtype} at item {position} of {self.name}"
                )
            if labels and label.shape != labels[0].shape:
                raise DataError(f"expected labels of one shape, got {label.shape} at item {position} of {self.name}")
            x[position - begin] = value
            labels.append(label)
        return make_chunk(np.arange(begin, end), x, np.stack(labels), bounds=self._bounds, name=self.name, noun="item")

    def _item(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        where = f"item {position} of {self.name}"
        try:
            item = self._dataset[position]
        except Exception as error:  # the user's code may raise anything
            raise DataError(f"{where} cannot be read: {_first_line(error)}") from error
        if isinstance(item, Mapping):
            present = [str(key) for key in item]
            x_key, x_notes = choose(IMAGES, present, "image", where)
            y_key, y_notes = choose(LABELS, present, "label", where)
            x, y, self._key_notes = item[x_key], item[y_key], x_notes + y_notes
        elif isinstance(item, tuple | list) and len(item) >= 2:
            x, y = item[0], item[1]
        else:
            raise DataError(f"expected a pair (x, label) at {where}, got {type(item).__name__}")
        values = from_pil(x, where) if isinstance(x, Image.Image) else as_array(x, where)
        return values, as_array(y, f"the label of {where}")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}" if text else type(error).__name__
