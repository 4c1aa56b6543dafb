"""Randomness with an address: one stream of numbers per example, the same on every device and in every batch.

A draw is a pure function of (seed, purpose, example id, how many draws this example has made, position), through the
counter-based generator Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").
So neither batch size, nor the order of the examples, nor who left the batch early changes what an example draws.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Streams", "philox"]

_MASK = 0xFFFFFFFF
_ROUNDS = 10


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int], words: int = 4) -> Tensor:
    """Philox4x32-10 on int64 tensors that hold 32-bit words.

    Args:
        counter: four tensors of words, broadcastable against each other.
        key: two words.
        words: how many of the four words of each block are wanted.

    Returns:
        (*broadcast shape, words) int64 tensor of words in [0, 2**32).
    """
    a, b, c, d = counter  # not broadcast here: the first rounds are then nearly free
    k0, k1 = key
    for _ in range(_ROUNDS):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = ((q >> 32) & _MASK) ^ (b ^ k0), q & _MASK, ((p >> 32) & _MASK) ^ (d ^ k1), p & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return torch.stack((a, b, c, d)[:words], dim=-1) if words > 1 else a[..., None]


class Streams:
    """One independent stream per example.

    Draws are handed out on the device of `ids`. Apple's devices have no float64 and are not trusted with 64-bit integers, so
    there the work is done on the CPU, where float64 draws then stay.

    Args:
        seed: any integer; the same seed repeats every draw.
        ids: (n,) int64 example ids, non-negative. Row r of a batch draws from the stream of `ids[r]`.
        purpose: what the numbers are for; streams of different purposes are independent.
    """

    def __init__(self, seed: int, ids: Tensor, purpose: str = "") -> None:
        self.seed, self.purpose = seed, purpose
        self.ids = ids.to(torch.int64)
        self._ids = self.ids.cpu() if ids.device.type == "mps" else self.ids
        self._made = torch.zeros_like(self._ids)
        digest = hashlib.blake2b(f"{seed}\x1f{purpose}".encode(), digest_size=8).digest()
        word = int.from_bytes(digest, "little")
        self._key = (word & _MASK, word >> 32)

    def __len__(self) -> int:
        return len(self.ids)

    def child(self, purpose: str | int) -> "Streams":
        """Fresh streams of the same examples for another purpose (a stage, a restart)."""
        return Streams(self.seed, self.ids, f"{self.purpose}/{purpose}")

    def take(self, rows: Tensor) -> "Streams":
        """Fresh streams of the examples `rows`, which become rows 0, 1, ... ."""
        return Streams(self.seed, self.ids[rows.to(self.ids.device)], self.purpose)

    def _words(self, rows: Tensor, count: int) -> Tensor:
        """(len(rows), count) words; rows must not repeat."""
        rows = rows.to(self._ids.device)
        ids, made = self._ids[rows, None], self._made[rows, None]
        self._made[rows] += 1
        block = torch.arange(-(-count // 4), device=ids.device)[None]
        words = philox((block, made & _MASK, ids & _MASK, (ids >> 32) & _MASK), self._key, min(count, 4))
        return words.reshape(len(rows), words.shape[1] * words.shape[2])[:, :count]

    def _give(self, values: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        values = values.to(dtype).reshape(len(values), *shape)
        stays = dtype == torch.float64 and self.ids.device.type == "mps"
        return values if stays else values.to(self.ids.device)

    def uniform(self, rows: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """(len(rows), *shape) numbers uniform in [0, 1); rows must not repeat within one call."""
        count = math.prod(shape)
        if dtype == torch.float64:
            words = self._words(rows, 2 * count)
            high, low = words[:, :count], words[:, count:]
            values = ((high >> 5) * 67108864 + (low >> 6)).to(dtype) * 2.0**-53
        else:
            values = (self._words(rows, count) >> 8).to(torch.float32) * 2.0**-24
        return self._give(values, shape, dtype)

    def signs(self, rows: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """(len(rows), *shape) fair -1 or +1."""
        return self._give((self._words(rows, math.prod(shape)) >> 31) * 2 - 1, shape, dtype)

    def normal(self, rows: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """(len(rows), *shape) standard normal numbers (Box-Muller, computed in float64)."""
        count = math.prod(shape)
        pairs = -(-count // 2)
        u = self.uniform(rows, (2, pairs), dtype=torch.float64)
        radius, angle = (-2 * torch.log1p(-u[:, 0])).sqrt(), 2 * math.pi * u[:, 1]
        values = torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)[:, :count]
        return self._give(values, shape, dtype)

    def exponential(self, rows: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """(len(rows), *shape) exponential numbers of rate 1."""
        return self._give(-torch.log1p(-self.uniform(rows, shape, dtype=torch.float64)), shape, dtype)

    def integers(self, rows: Tensor, high: int | Tensor, shape: Sequence[int] = ()) -> Tensor:
        """(len(rows), *shape) integers in [0, high), uniform up to high / 2**32; `high` <= 2**31 is one int or one per row."""
        words = self._words(rows, math.prod(shape))
        if isinstance(high, Tensor):
            high = high.to(words).reshape(-1, 1)
        return self._give((words * high) >> 32, shape, torch.int64)
