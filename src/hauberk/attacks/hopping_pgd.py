"""Hopping PGD: short climbs from screened low-frequency corners, every second one from a changed copy of the best point.

    first two climbs, then every second:  z_0 = block corner;   else  z_0 = best point, a random window of it replaced by a corner
    of several such z_0 the one of the largest margin is climbed from, with steps falling linearly from eps to 0

Adversarially trained nets hide some adversarial examples behind flat or misleading gradients: PGD from the example or from
uniform noise does not find them, a score attack does after thousands of queries. Block corners are the score attack's prior,
screening costs a forward instead of a climb, and hopping searches near the best corner found, as iterated local search does.

Source: hauberk's own combination of: random corners constant on blocks, after Square (Andriushchenko et al. 2020,
arXiv:1912.00049); the margin of probabilities (Xie et al. 2024, arXiv:2411.15210); falling steps and restarts on survivors
(Croce and Hein 2020, arXiv:2003.01690); iterated local search (Lourenco, Martin, Stuetzle 2003, arXiv:math/0102188).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import ball_of, positive
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Canvas, Frontier, ascend, best_start, loss_named, schedule_named, start_named
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["HoppingPGD", "hopping_pgd"]

_WINDOW = (0.02, 0.3)
"""The share of the picture that a hop replaces is drawn uniformly from this range."""


@dataclass(frozen=True)
class HoppingPGD:
    """Hopping PGD. Cost: at most `restarts` * (`candidates` + `steps` + 1) forwards and `restarts` * `steps` backwards.

    Args:
        steps: steps of each climb.
        restarts: climbs; later ones work only on examples that are not broken yet.
        candidates: points screened for the beginning of each climb.
        loss: `ce`, `margin`, `dlr` or `probability`.
        early_stop: leave an example once it is broken.
    """

    steps: int = 20
    restarts: int = 12
    candidates: int = 5
    loss: str = "probability"
    early_stop: bool = True

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "candidates")
        loss_named(self.loss)

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        region = ball_of(self, region)
        frontier = Frontier(victim, x, goal, region, early_stop=self.early_stop)
        for climb in range(self.restarts):
            frontier.restart()
            if not len(frontier):
                break
            draw = _hop if climb > 2 and climb % 2 else _corner
            ascend(
                frontier,
                best_start(lambda draw=draw: draw(frontier, streams), frontier, self.candidates),
                loss=loss_named(self.loss),
                steps=self.steps,
                step_size=region.reach,
                schedule=schedule_named("linear"),
            )
        return frontier.best


def _corner(frontier: Frontier, streams: Streams) -> Batch:
    return start_named("blocks")(frontier.x, frontier.rows, frontier.region, streams)


def _hop(frontier: Frontier, streams: Streams) -> Batch:
    x, rows, canvas = frontier.x, frontier.rows, Canvas(frontier.x)
    low, high = _WINDOW
    share = low + (high - low) * streams.uniform(rows, (), dtype=x.dtype)
    inside, _, _ = canvas.window(rows, streams, canvas.sides(share, least=2))
    best, fresh = canvas.picture(frontier.best[rows]), canvas.picture(_corner(frontier, streams))
    return frontier.region.project(canvas.back(torch.where(inside, fresh, best)), x)


hopping_pgd = friendly(HoppingPGD)
