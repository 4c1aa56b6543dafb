"""Random numbers that torch draws itself (initial weights, dropout, the order of an epoch), with an address and without a trace."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["initialise", "order", "private_draws"]

N = TypeVar("N", bound=nn.Module)


def _number(*address: object) -> int:
    """63 bits from an address."""
    digest = hashlib.blake2b("\x1f".join(map(str, address)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def private_draws(*address: object, device: torch.device | None = None) -> Iterator[None]:
    """Inside, torch's own generators (of the CPU and of a CUDA `device`) are seeded by `address`; outside, they are untouched."""
    cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        seed = _number(*address)
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def initialise(make: Callable[[], N], *, seed: int) -> N:
    """The net that `make` builds, with initial weights that depend on `seed` alone; the global generator is left as it was.

    >>> bool(
    ...     (
    ...         initialise(lambda: nn.Linear(2, 2), seed=1).weight == initialise(lambda: nn.Linear(2, 2), seed=1).weight
    ...     ).all()
    ... )
    True
    """
    with private_draws(seed, "weights"):
        return make()


def order(count: int, *, seed: int, epoch: int, purpose: str = "order") -> Tensor:
    """(count,) int64: the order in which an epoch visits the examples, the same on every device; another for another purpose."""
    generator = torch.Generator().manual_seed(_number(seed, purpose, epoch))
    return torch.randperm(count, generator=generator)
