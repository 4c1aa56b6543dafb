"""Attacks made to transfer: gradient ascent on a model of one's own, over transformed copies, whose points fool other models.

    z_0 = x;  g_(t+1) = momentum * g_t + G(z_t) / |G(z_t)|_1;  z_(t+1) = project(z_t + step_size * steepest(g_(t+1)))

with G the mean gradient over copies of z_t that `inputs` make (`di`, `si`, `admix`, `ssa`, `bsr`), tuned by `variance` or flattened
by `penalty`, and smoothed by `gradients` (`ti`). The published methods are rows of settings:

    MI  gradients=() variance=0         NI   the same with look_ahead=True      SI-NI  inputs=si gradients=() look_ahead=True
    DI  inputs=di:probability=1         TI   gradients=ti variance=0            VMI    gradients=() variance=20
    Admix  inputs=admix:pool=DATA,si    SSA  inputs=ssa    BSR  inputs=bsr      PGN    gradients=() penalty=20

The default is VMI with 5 neighbours and TI, which turn nothing of the picture; on large photographs add `inputs=("di", "si")`.

Sources: MI Dong et al. 2018, arXiv:1710.06081; NI and SI Lin et al. 2020, arXiv:1908.06281; the others stand, with what differs, in
`hauberk.blocks.transfer` and `hauberk.blocks.transfer_gradient`.
**Differs from the papers:** L2 besides L-inf; the point itself is asked at each step (one forward, none where it is the first copy),
so that the point of the largest margin can be kept, not the last one, and a budget can end the climb; `loss="margin"` and others.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from hauberk._rng import Streams
from hauberk._shapes import Batch
from hauberk.attacks._attack import ball_of, not_negative, positive, step_of
from hauberk.attacks._friendly import friendly
from hauberk.blocks import Frontier, loss_named
from hauberk.blocks.transfer import GRADIENTS, INPUTS, ready, transform_named
from hauberk.blocks.transfer_gradient import Penalty, TransferClimb, Variance
from hauberk.errors import SettingError
from hauberk.threat import Access, Differentiable, Goal, Norm, Region

__all__ = ["Transfer", "transfer"]

_NEIGHBOURS = 5


@dataclass(frozen=True)
class Transfer:
    """Ascent over transformed copies. Cost: at most `steps` * `queries` + 1 forwards and `steps` * `backwards` backwards an example.

    With K copies (the product of those of `inputs`), `backwards` is K * (1 + `variance`), or 2 * K * `penalty`; `queries` is one
    more, but the same where the first copy is the point itself: no `inputs`, or `si` alone, and no `penalty`.

    Args:
        steps: how many steps.
        step_size: size of a step, in the units of the radius; radius / steps where None.
        inputs: transforms that make copies, one after the other, each with its settings after a colon:
            `di:shrink=0.9,probability=0.5`, `si:copies=5`, `admix:pool=DATA,copies=3,share=0.2,size=256`,
            `ssa:copies=20,rho=0.5,sigma=0.0627`, `bsr:copies=20,blocks=2,angle=24`.
        gradients: what smooths the gradient: `ti:size=0,sigma=0`.
        momentum: factor on the past gradients; 0 for none.
        look_ahead: take the gradient where the past ones lead to (NI).
        variance: neighbours that tune the gradient (VMI); 0 for none. Where None, 5 if nothing else makes several gradients: no `inputs`,
            no `penalty`.
        variance_spread: how far they lie, in radii.
        penalty: pairs of neighbours that penalise the gradient's size (PGN); 0 for none.
        penalty_spread: how far they lie, in radii.
        penalty_weight: of the gradient one step back, 0 to 1.
        loss: `ce`, `margin`, `dlr` or `probability`.
        early_stop: leave an example once it is broken, which spoils transfer.
    """

    steps: int = 10
    step_size: float | None = None
    inputs: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ("ti",)
    momentum: float = 1.0
    look_ahead: bool = False
    variance: int | None = None
    variance_spread: float = 1.5
    penalty: int = 0
    penalty_spread: float = 3.0
    penalty_weight: float = 0.5
    loss: str = "ce"
    early_stop: bool = False

    access: ClassVar[Access] = Access.GRADIENTS
    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})

    def __post_init__(self) -> None:
        if self.variance is None:
            object.__setattr__(self, "variance", 0 if self.inputs or self.penalty else _NEIGHBOURS)
        positive(self, "steps", "step_size")
        not_negative(self, "momentum", "variance", "variance_spread", "penalty", "penalty_spread", "penalty_weight")
        for name in ("inputs", "gradients"):
            object.__setattr__(self, name, _spelled(name, getattr(self, name)))
        if self.variance and self.penalty:
            raise SettingError(
                "transfer tunes by variance or by penalty, got "
                f"variance={self.variance} and penalty={self.penalty}; set one of them to 0"
            )
        if self.penalty_weight > 1:
            raise SettingError(f"transfer needs penalty_weight from 0 to 1, got penalty_weight={self.penalty_weight}")
        loss_named(self.loss)
        self.climb()

    def climb(self, inputs: list[Any] | None = None) -> TransferClimb:
        """The climb that these settings spell; its `queries` and `backwards` are the cost of a step."""
        nearby: Variance | Penalty | None = None
        if self.variance:
            nearby = Variance(self.variance, self.variance_spread)
        elif self.penalty:
            nearby = Penalty(self.penalty, self.penalty_spread, self.penalty_weight)
        smooth = [transform_named(text, GRADIENTS, "gradient transform") for text in self.gradients]
        made = self._inputs() if inputs is None else inputs
        return TransferClimb(made, smooth, loss_named(self.loss), self.steps, self.momentum, self.look_ahead, nearby)

    def __call__(self, victim: Differentiable, x: Batch, goal: Goal, region: Region, *, streams: Streams) -> Batch:
        ball = ball_of(self, region)
        frontier = Frontier(victim, x, goal, ball, early_stop=self.early_stop)
        climb = self.climb(ready(self._inputs(), x, ball.box))
        climb(frontier, frontier.x, step_of(ball, self.step_size, 1 / self.steps), streams)
        return frontier.best

    def _inputs(self) -> list[Any]:
        return [transform_named(text, INPUTS, "input transform") for text in self.inputs]


def _spelled(name: str, given: Any) -> tuple[str, ...]:
    """Names with their settings; `("di:shrink=0.8", "probability=1")`, as a list on the command line is cut, is one of them."""
    if isinstance(given, str) or not all(isinstance(text, str) for text in given):
        raise SettingError(f"transfer takes a tuple of names as {name}, got {given!r}; write for example ('di', 'si')")
    made: list[str] = []
    for text in given:
        if ":" not in text.partition("=")[0] and "=" in text and made:
            made[-1] += f",{text.strip()}"
        else:
            made.append(text.strip())
    return tuple(made)


transfer = friendly(Transfer)
