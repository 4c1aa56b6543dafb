"""What every data set looks like from above: a `Source` that gives its examples chunk by chunk, and the `Chunk`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from hauberk.data.labels import whole_labels
from hauberk.data.values import check_finite, in_bounds
from hauberk.errors import DataError, SettingError

__all__ = ["Chunk", "First", "Source", "check_count", "make_chunk", "pieces"]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some consecutive examples.

    Args:
        ids: (B,) int64, which examples these are; an id names its example for good.
        x: (B, *shape) float32, or float64 where the data is.
        y: (B,) int64 labels >= 0.
    """

    ids: Tensor
    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@runtime_checkable
class Source(Protocol):
    """A labelled data set that is read forward, so that memory depends on the size of a chunk and not on its own."""

    @property
    def name(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]:
        """Every guess made about the data, each a sentence."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None: ...
    def __len__(self) -> int: ...
    def fingerprint(self) -> str:
        """sha256, in hex, over the bytes of the data and over how they become numbers."""
        ...

    def chunks(self, size: int, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """The examples at positions `start` up to `stop` (at most all), `size` at a time, in order.

        Raises:
            DataError: the examples met are not usable; the message names the first one.
        """
        ...


class First:
    """The first `n` examples of a source; its fingerprint is that of the whole."""

    def __init__(self, source: Source, n: int) -> None:
        check_count(n, len(source), source.name)
        self._source, self._n = source, n
        self.name, self.notes = source.name, source.notes
        self.shape, self.class_names = source.shape, source.class_names

    def __len__(self) -> int:
        return self._n

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def chunks(self, size: int, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        return self._source.chunks(
            size, start=min(start, self._n), stop=self._n if stop is None else min(stop, self._n)
        )


def check_count(n: int, available: int, name: str) -> None:
    """Refuse to take `n` of the `available` examples where that cannot be done."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise DataError(f"expected n, the number of examples, to be a whole number >= 1, got {n!r}")
    if n > available:
        raise DataError(
            f"{name} holds {available} examples, got n={n}; ask for at most {available}, or leave n out for all"
        )


def pieces(length: int, size: int, start: int, stop: int | None) -> Iterator[tuple[int, int]]:
    """The ranges (begin, end) of the chunks from `start` to `stop` of a source of this length; checked at the call."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SettingError(f"expected a chunk size that is a whole number >= 1, got {size!r}")
    end = length if stop is None else min(stop, length)
    if start < 0 or end < 0:
        raise SettingError(f"expected start and stop to be positions >= 0, got start={start} and stop={stop}")
    return ((begin, min(begin + size, end)) for begin in range(start, end, size))


def make_chunk(
    ids: np.ndarray, x: np.ndarray, y: np.ndarray, *, bounds: tuple[float, float], name: str, noun: str = "example"
) -> Chunk:
    """Check raw values and labels and bring them to the types of a chunk; nothing of `x` or `y` is shared with it."""
    values = in_bounds(x, bounds, name)
    check_finite(values, ids, name, noun)
    labels = whole_labels(y, ids, name, noun)
    return Chunk(torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(values), torch.from_numpy(labels))
