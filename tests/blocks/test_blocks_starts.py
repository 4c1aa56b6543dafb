"""Starts and canvases: block corners are constant on their blocks, draw no more than these need, and windows fit."""

import pytest
import torch

from hauberk._rng import Streams
from hauberk.blocks import Canvas
from hauberk.blocks.starts import HALVINGS, block_corner
from hauberk.threat import Ball, Norm


@pytest.mark.parametrize("shape", [(7,), (100,), (28, 28), (1, 28, 28), (3, 32, 20), (2, 3, 5, 17)], ids=str)
def test_block_corners_are_signs_constant_on_blocks_of_each_scale(shape: tuple[int, ...]) -> None:
    n = 200
    rows = torch.arange(n)
    x = torch.full((n, *shape), 0.5)
    signs = (block_corner(x, rows, Ball(Norm.LINF, 0.25), Streams(0, rows)) - x) / 0.25
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    axes = [1] if len(shape) == 1 else [x.ndim - 2, x.ndim - 1]
    seen = set()
    for row in range(n):
        fits = []
        for k in range(HALVINGS):
            blocks = signs[row]
            for axis in axes:
                side = -(-x.shape[axis] // 2**k)
                start = torch.arange(x.shape[axis]) // side * side
                blocks = blocks.index_select(axis - 1, start)
            if torch.equal(blocks, signs[row]):
                fits.append(k)
        assert fits
        seen.add(fits[0])
    assert {0, 1} <= seen
    assert abs(float(signs.reshape(n, -1)[:, 0].mean())) < 0.25
    alone = block_corner(x[5:6], torch.arange(1), Ball(Norm.LINF, 0.25), Streams(0, torch.tensor([5])))
    assert torch.equal((alone - x[5:6]) / 0.25, signs[5:6])


def test_block_corners_draw_only_as_many_signs_as_the_finest_blocks_need(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []
    whole = Streams.signs

    def watched(self: Streams, rows: torch.Tensor, shape: tuple[int, ...], **options: torch.dtype) -> torch.Tensor:
        drawn.append(tuple(shape))
        return whole(self, rows, shape, **options)

    monkeypatch.setattr(Streams, "signs", watched)
    rows = torch.arange(2)
    for shape in ((3, 224, 224), (1, 28, 28), (5,)):
        block_corner(torch.full((2, *shape), 0.5), rows, Ball(Norm.LINF, 0.1), Streams(0, rows))
    assert drawn == [(3, 16, 16), (1, 14, 14), (5,)]


def test_the_sides_of_windows_are_the_same_one_by_one_and_together() -> None:
    shares = torch.linspace(0.001, 1, 50)
    for shape in ((3, 28, 20), (40,)):
        canvas = Canvas(torch.zeros(1, *shape))
        assert canvas.sides(shares, 2).tolist() == [canvas.side(float(share), 2) for share in shares]
        assert canvas.sides(shares.double(), 2).dtype == torch.int64


def test_windows_have_their_side_and_stay_on_the_canvas() -> None:
    rows = torch.arange(300)
    canvas = Canvas(torch.zeros(300, 3, 9, 6))
    sides = 1 + rows % 12
    inside, top, left = canvas.window(rows, Streams(0, rows), sides)
    assert torch.equal(inside.sum(dim=(1, 2, 3)), sides.clamp_max(9) * sides.clamp_max(6))
    assert bool((top >= 0).all())
    assert bool((top + sides[:, None].clamp_max(9) <= 9).all())
    assert bool((left + sides[:, None].clamp_max(6) <= 6).all())
    _, top, left = canvas.window(rows, Streams(1, rows), 1)
    assert set(top.unique().tolist()) == set(range(9))
    assert set(left.unique().tolist()) == set(range(6))
