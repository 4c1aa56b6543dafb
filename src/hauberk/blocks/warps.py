"""Pictures read at other places, axes cut and shuffled, and the cosine transform: what transformed copies are made of."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dct_matrix", "sampled", "shuffled"]


def sampled(picture: Tensor, y: Tensor, x: Tensor, inside: Tensor, outside: float) -> Tensor:
    """(B, C, H, W) the picture read between its values at rows y and columns x, and `outside` where not `inside`."""
    n, _, height, width = picture.shape
    places = [
        (at.to(picture) * (2 / max(length - 1, 1)) - 1).expand(n, height, width)
        for at, length in ((x, width), (y, height))
    ]
    read = F.grid_sample(picture, torch.stack(places, dim=-1), "bilinear", padding_mode="border", align_corners=True)
    return torch.where(inside[:, None], read, torch.full_like(read, outside))


def shuffled(length: int, cut: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pieces of an axis put in another order: for each new place the place in its piece, where the piece began, how long it is,
    and which it is; (B, lines, length) each, from draws (B, lines, pieces). No piece is more than twice as long as another."""
    pieces = cut.shape[-1]
    weights = (1 + cut.double()).cumsum(dim=-1)
    ends = (weights / weights[..., -1:] * length).round().long()
    lengths = ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1]))
    order = order.argsort(dim=-1, stable=True)
    placed = lengths.gather(-1, order)
    new_ends = placed.cumsum(dim=-1)
    place = torch.arange(length, device=cut.device).expand(*cut.shape[:-1], length)
    slot = torch.searchsorted(new_ends.contiguous(), place.contiguous(), right=True).clamp_max(pieces - 1)
    piece = order.gather(-1, slot)
    within = place - (new_ends - placed).gather(-1, slot)
    return within, (ends - lengths).gather(-1, piece), lengths.gather(-1, piece), piece


def dct_matrix(length: int, x: Tensor) -> Tensor:
    """(length, length) the orthonormal DCT-II as a matrix."""
    place = torch.arange(length, dtype=torch.float64)
    matrix = torch.cos(math.pi / length * (place[None] + 0.5) * place[:, None]) * (2 / length) ** 0.5
    matrix[0] /= 2**0.5
    return matrix.to(x)
