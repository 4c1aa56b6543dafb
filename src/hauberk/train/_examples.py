"""Training data in memory: every epoch visits it in a new order, so unlike evaluation it is not streamed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hauberk._shapes import Batch, Labels, Rows
from hauberk.errors import DataError, ModelError, SettingError
from hauberk.evidence.fingerprint import array_fingerprint
from hauberk.train._adversarial import in_mode
from hauberk.train._draws import order, private_draws

__all__ = ["Examples", "check_net", "collect"]


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
        supplement: how many of the examples, the last ones, only supplement the others: an epoch is a pass over the others.
        share: of each batch that is drawn from the supplement, 0 < share < 1; 0 where there is none.

    Raises:
        DataError: lengths that differ, no example, or values of the wrong kind or not finite.
        SettingError: a supplement without a share of the batches, or a share without a supplement.
    """

    x: Batch
    y: Labels
    ids: Tensor
    supplement: int = 0
    share: float = 0.0

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
        # in parts, so that there is no copy of it all
        bad = sum(int((~part.isfinite()).reshape(len(part), -1).any(1).sum()) for part in self.x.split(1024))
        if bad:
            raise DataError(
                f"training needs finite inputs, got {bad} of {len(self.x)} examples with NaN or infinity; leave those out"
            )
        if self.y.dtype != torch.int64 or bool((self.y < 0).any()):
            raise DataError(f"training needs int64 labels >= 0, got {self.y.dtype} with smallest {self.y.min().item()}")
        if len(self.ids.unique()) != len(self.ids):
            raise DataError(
                "training needs distinct example ids, got one twice; two examples would share their random draws"
            )
        if not (0 < self.supplement < len(self.x) and 0 < self.share < 1) and (self.supplement or self.share):
            raise SettingError(
                f"a supplement is some, not all, of the examples and a share of each batch between 0 and 1, got {self.supplement} "
                f"of {len(self.x)} examples and a share of {self.share}"
            )

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> "Examples":
        """The examples `rows`, with their ids."""
        return Examples(self.x[rows], self.y[rows], self.ids[rows])

    def fingerprint(self) -> str:
        """Hex SHA-256 over ids, inputs and labels, and over what is a supplement to what."""
        more = (torch.tensor([self.supplement, self.share], dtype=torch.float64),) if self.supplement else ()
        return array_fingerprint(self.ids, self.x, self.y, *more)

    def steps(self, batch_size: int) -> int:
        """How many batches an epoch has."""
        return math.ceil((len(self) - self.supplement) / self._own(batch_size))

    def batches(self, batch_size: int, *, seed: int, epoch: int) -> tuple[Rows, ...]:
        """The rows of each batch of an epoch, which depend on seed and epoch alone.

        Without a supplement: a permutation, cut. With one: each batch takes its part of the others from a permutation of them, and
        its share of the supplement from one permutation of that after another, which go on from epoch to epoch.
        """
        if not self.supplement:
            return order(len(self), seed=seed, epoch=epoch).split(batch_size)
        count, own = len(self) - self.supplement, self._own(batch_size)
        first = order(count, seed=seed, epoch=epoch).split(own)
        more = [round(len(rows) / own * (batch_size - own)) for rows in first]
        begin = epoch * sum(more)
        rounds = range(begin // self.supplement, (begin + sum(more)) // self.supplement + 1)
        drawn = torch.cat([order(self.supplement, seed=seed, epoch=turn, purpose="supplement") for turn in rounds])
        drawn = count + drawn[begin - rounds[0] * self.supplement :][: sum(more)]
        mixed = (torch.cat(pair) for pair in zip(first, drawn.split(more), strict=True))
        purpose = f"mix/{epoch}"
        return tuple(
            rows[order(len(rows), seed=seed, epoch=place, purpose=purpose)] for place, rows in enumerate(mixed)
        )

    def pieces(self, batch_size: int, *, seed: int) -> tuple[Rows, ...]:
        """The rows of all examples in nearly equal pieces of at least `batch_size`, to estimate statistics on.

        Shuffled, for data sorted by class; no small last piece, for one example alone has no variance.
        """
        return order(len(self), seed=seed, epoch=0, purpose="norms").tensor_split(max(1, len(self) // batch_size))

    def _own(self, batch_size: int) -> int:
        """How many rows of a whole batch are not drawn from the supplement."""
        return max(1, batch_size - int(batch_size * self.share + 1e-9))


def check_net(net: nn.Module, *data: Examples) -> None:
    """Refuse a net that cannot learn, or that has no score for a label; one forward of one example."""
    if not any(value.requires_grad for value in net.parameters()):
        raise ModelError(
            f"training needs a net with trainable parameters, got {type(net).__name__} without any; set requires_grad on some"
        )
    reference = next(net.parameters())
    x = data[0].x[:1].to(reference.device, reference.dtype)
    with in_mode(net, training=False), private_draws("check", device=reference.device), torch.no_grad():
        scores = net(x)
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ModelError(f"training needs a net that answers (B, classes) scores, got {got} for one example")
    most = max(int(examples.y.max()) for examples in data)
    if most >= scores.shape[1]:
        raise DataError(
            f"training needs labels below {scores.shape[1]}, the number of the net's classes, got {most}; relabel the examples or "
            "give a net with more outputs"
        )


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
    whole: tuple[Tensor, Tensor, Tensor] | None = None
    start = 0
    for chunk in data.chunks(1024):
        if whole is None:  # one allocation, so that the peak is the data and one chunk
            n = len(data)
            whole = chunk.x.new_empty((n, *chunk.x.shape[1:])), torch.zeros(n, dtype=torch.int64), torch.arange(n)
        stop = start + len(chunk.x)
        for kept, part in zip(whole, (chunk.x, chunk.y, chunk.ids), strict=True):
            kept[start:stop] = part
        start = stop
    if whole is None or start != len(data):
        raise DataError(f"training data said it holds {len(data)} examples, got {start}")
    return Examples(*whole)
