"""Starting points far away: random points that reach the goal, drawn towards the example until they almost do not.

Where the gradients at an example mislead, a search that begins at the other side of the boundary is not misled: it is where Brendel
et al. 2019, arXiv:1907.01003, begin.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch, like
from hauberk.blocks.closest import Closest
from hauberk.blocks.starts import block_corner

__all__ = ["FAR", "far_start"]

_DRAWS, _HALVINGS = 10, 8

Draw: TypeAlias = Callable[[Closest, Streams], Batch]


def _noise(found: Closest, streams: Streams) -> Batch:
    low, high = found.space.box
    return low + (high - low) * streams.uniform(found.rows, found.x.shape[1:], dtype=found.x.dtype)


def _blocks(found: Closest, streams: Streams) -> Batch:
    corner = block_corner(found.x, found.rows, found.space.with_radius(torch.inf), streams)
    share = streams.uniform(found.rows, (), dtype=found.x.dtype)
    return found.x + like(share, corner) * (corner - found.x)


def _salt(found: Closest, streams: Streams) -> Batch:
    low, high = found.space.box
    shape, dtype = found.x.shape[1:], found.x.dtype
    thrown = streams.uniform(found.rows, shape, dtype=dtype)
    share = streams.uniform(found.rows, (), dtype=dtype) / 2
    wall = low + (high - low) * (streams.uniform(found.rows, shape, dtype=dtype) >= 0.5)
    return torch.where(thrown < like(share, thrown), wall, found.best[found.rows])


FAR: dict[str, Draw] = {"noise": _noise, "blocks": _blocks, "salt": _salt}
"""Uniform in the box; a corner that is constant on coarse blocks, part of the way; the best so far, a random share of its values, half
at most, thrown to the walls."""


def far_start(found: Closest, streams: Streams, draw: Draw) -> Batch:
    """A point near the boundary that reaches the goal, for each example that stays; those without one after ten draws go.

    Cost: at most 18 queries an example.
    """
    starts = found.x.new_zeros((len(found.size), *found.x.shape[1:]))
    reached = torch.zeros_like(found.size, dtype=torch.bool)
    for _ in range(_DRAWS):
        if not len(found):
            break
        z = found.inside(draw(found, streams))
        crossed = found.ask(z) > 0
        starts[found.rows[crossed]], reached[found.rows] = z[crossed], crossed
        found.drop(crossed)
        found.compact()
    found.restart()
    found.drop(~reached[found.rows])
    found.compact()
    far = starts[found.rows]
    near, share = far.new_zeros(len(far)), far.new_ones(len(far))
    for _ in range(_HALVINGS):
        if not len(found):
            break
        middle = (near + share) / 2
        crossed = found.ask(found.x + like(middle, far) * (far - found.x)) > 0
        near, share = torch.where(crossed, near, middle), torch.where(crossed, middle, share)
        near, share, far = found.compact(near, share, far)
    return found.x + like(share, far) * (far - found.x)
