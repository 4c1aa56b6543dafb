"""Training data in memory: every epoch visits it in a new order, so unlike evaluation it is not streamed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hauberk._shapes import Batch, Labels
from hauberk.errors import DataError
from hauberk.evidence.fingerprint import array_fingerprint

__all__ = ["Examples", "collect"]


class _Chunk(Protocol):
    @property
    def ids(self) -> Tensor: ...
    @property
    def x(self) -> Tensor: ...
    @property
    def y(self) -> Tensor: ...


@runtime_checkable
class _Chunked(Protocol):
    """What is asked of a `hauberk.data.Source`."""

    def __len__(self) -> int: ...
    def chunks(self, size: int) -> Iterator[_Chunk]: ...


@dataclass(frozen=True, eq=False)
class Examples:
    """A training set.

    Args:
        x: (n, *shape) floating point.
        y: (n,) int64 labels, not negative.
        ids: (n,) int64, what an example's random draws depend on; distinct.

    Raises:
        DataError: lengths that differ, no example, or values of the wrong kind.
    """

    x: Batch
    y: Labels
    ids: Tensor

    def __post_init__(self) -> None:
        if len(self.x) == 0:
            raise DataError("training needs at least one example, got none")
        if not (self.y.shape == self.ids.shape == (len(self.x),)):
            raise DataError(
                f"training needs one label and one id per example, got {len(self.x)} examples, labels of shape "
                f"{tuple(self.y.shape)} and ids of shape {tuple(self.ids.shape)}"
            )
        if not self.x.is_floating_point():
            raise DataError(f"training needs floating-point inputs, got {self.x.dtype}; divide 8-bit pictures by 255")
        if self.y.dtype != torch.int64 or bool((self.y < 0).any()):
            raise DataError(f"training needs int64 labels >= 0, got {self.y.dtype} with smallest {self.y.min().item()}")
        if len(self.ids.unique()) != len(self.ids):
            raise DataError(
                "training needs distinct example ids, got one twice; two examples would share their random draws"
            )

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> "Examples":
        """The examples `rows`, with their ids."""
        return Examples(self.x[rows], self.y[rows], self.ids[rows])

    def fingerprint(self) -> str:
        """Hex SHA-256 over ids, inputs and labels."""
        return array_fingerprint(self.ids, self.x, self.y)


def collect(data: object) -> Examples:
    """Training data from a pair of tensors (x, y), from a `hauberk.data.Source`, or as `Examples` already.

    Raises:
        DataError: it is none of these, or its content cannot be trained on.
    """
    if isinstance(data, Examples):
        return data
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        x, y = data
        return Examples(x, y.to(torch.int64) if not y.is_floating_point() else y, torch.arange(len(x)))
    if not isinstance(data, _Chunked):
        raise DataError(
            f"training data is a pair of tensors (x, y) or a hauberk.data source, got {type(data).__name__}"
        )
    whole: Examples | None = None
    start = 0
    for chunk in data.chunks(1024):
        if whole is None:  # one allocation, so that the peak is the data and one chunk
            n = len(data)
            whole = Examples(
                chunk.x.new_empty((n, *chunk.x.shape[1:])), torch.zeros(n, dtype=torch.int64), torch.arange(n)
            )
        stop = start + len(chunk.x)
        whole.x[start:stop], whole.y[start:stop], whole.ids[start:stop] = chunk.x, chunk.y, chunk.ids
        start = stop
    if whole is None or start != len(whole):
        raise DataError(f"training data said it holds {len(data)} examples, got {start}")
    return Examples(whole.x, whole.y, whole.ids)
