"""Exchanges: one changed value goes, the best of many candidates comes, each of them asked.

A search that follows slopes takes one value for another at their word; where the scores bend between the walls, the value whose slope
promises most is often not the one that helps most. An exchange asks the likeliest candidates and takes the one of the largest margin,
better than before or not, in a tabu search (Glover 1989).
"""

import torch
from torch import Tensor

from hauberk._shapes import flat
from hauberk.blocks.boundaries import margin_slope
from hauberk.blocks.closest import Closest

__all__ = ["exchange", "first_of"]


def first_of(score: Tensor, count: Tensor) -> Tensor:
    """(B, D) True at the `count` largest scores of each row."""
    places = score.argsort(
        dim=1, descending=True, stable=True
    )  # topk breaks ties by how many are asked for: by the batch
    kept = torch.arange(score.shape[1], device=score.device)[None] < count[:, None]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, places, kept)


def exchange(found: Closest, *, moves: int, candidates: int, patience: int, tenure: int) -> None:
    """From the smallest success, give up the values that are worth least until one fewer than it has would do, and exchange.

    An exchange asks the `candidates` / k likeliest values where k would do, and ends at the first success. Those that came do not go
    for `tenure` exchanges and those that went do not come. An example stops after `patience` exchanges without a success, at one
    changed value, or after `moves` of them.

    Cost: each exchange one backward and at most 1 + `candidates` / k, rounded up, queries for each example that goes on.
    """
    z = flat(found.best).clone()
    came, went = torch.full_like(z, -torch.inf), torch.full_like(z, -torch.inf)  # when each value last did
    idle, known = torch.zeros_like(found.size), found.size.clone()
    for move in range(moves):
        _only(found, found.size.isfinite() & (found.size > 1) & (idle < patience))
        if not len(found):
            return
        rows, x = found.rows, found.x
        _, logits, vjp = found.look(z[rows].reshape(x.shape))
        _, slope = margin_slope(logits.nan_to_num(0.0, 0.0, 0.0), found.goal)
        g = flat(vjp(slope))
        base, wall, order, useful = _likeliest(
            found, z[rows], g, known[rows], came[rows] >= move - tenure, went[rows] >= move - tenure
        )
        tries = (candidates / (known[rows] - 1)).ceil().minimum(useful.to(known))
        best, chosen = torch.full_like(known[rows], -torch.inf), order[:, 0].clone()
        for place in range(int(tries.max())):
            trying = torch.zeros_like(known, dtype=torch.bool)
            trying[rows[(place < tries) & (found.size[rows] == known[rows])]] = True
            _only(found, trying)
            if not len(found):
                break
            asked = torch.searchsorted(rows, found.rows)  # both ascend
            candidate = order[asked, place]
            margin = found.ask(_with(base[asked], wall[asked], candidate).reshape(found.x.shape)).to(best)
            better = margin > best[asked]
            best[asked[better]], chosen[asked[better]] = margin[better], candidate[better]
        taken = best > -torch.inf
        went[rows] = torch.where(base != z[rows], float(move), went[rows])
        z[rows] = torch.where(taken[:, None], _with(base, wall, chosen), base)
        came[rows[taken], chosen[taken]] = float(move)
        shrunk = found.size < known
        idle = torch.where(shrunk, 0.0, idle + 1)
        known = found.size.clone()


def _likeliest(
    found: Closest, z: Tensor, g: Tensor, size: Tensor, stays: Tensor, barred: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, D) each: the points without the values that go, where every value would come to stand, and the values in the order in which
    they promise to help; and how many promise anything."""
    (low, high), x = found.space.box, flat(found.x)
    changed = z != x
    worth = torch.where(changed, g * (z - x), torch.inf)
    worth = torch.where(
        changed & stays, worth + 2 * worth.abs().nan_to_num(0, 0, 0).amax(dim=1, keepdim=True) + 1, worth
    )
    count = changed.sum(dim=1)
    going = first_of(-worth, (count - size + 2).clamp_min(1).minimum(count))
    wall = torch.where(g > 0, high, low).to(x)
    gain = torch.where((changed & ~going) | going | barred, 0.0, g * (wall - x))
    order = gain.argsort(dim=1, descending=True, stable=True)
    return torch.where(going, x, z), wall, order, (gain > 0).sum(dim=1)


def _with(base: Tensor, wall: Tensor, chosen: Tensor) -> Tensor:
    """The points with one more value at its wall."""
    return base.scatter(1, chosen[:, None], wall.gather(1, chosen[:, None]))


def _only(found: Closest, wanted: Tensor) -> None:
    """Of all examples that can still pay, go on with these."""
    found.restart()
    found.drop(~wanted[found.rows])
    found.compact()
