"""A recipe: all that decides how a net is trained but for the objective and the data."""

import math
from dataclasses import dataclass, field

from hauberk.errors import SettingError, UnknownNameError
from hauberk.train._precision import PRECISIONS
from hauberk.train.augment import Augmentation
from hauberk.train.averages import Average
from hauberk.train.constraints import Constraint
from hauberk.train.rates import Adam, Cyclic, Optimiser, Rate

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How long, how fast and in which order; with an objective and data, all that decides the weights.

    Args:
        epochs: passes over the data, >= 1.
        batch_size: examples per step, >= 1; the last batch of an epoch may be smaller.
        seed: of the order of the examples and of every draw.
        optimiser: see `hauberk.train.rates`.
        rate: the learning rate of each step.
        accumulate: work on each batch in so many pieces, whose gradients are added up before the step; less memory, the same step
            but for what looks at the batch as a whole (batch norm, an objective that compares examples).
        clip: the largest norm of the gradient of all weights; None: any.
        average: of the weights, `EMA` or `SWA`; the averaged net is what comes out of the training.
        augment: changes of the examples, in this order.
        constraints: what the weights are brought back to after each step.
        precision: `float32` (as the weights are), `bfloat16` or `float16` (with scaling of the loss): what the net computes in. In
            float16 small gradients by the input become 0, which weakens inner maximisers; bfloat16 has no such fault.

    Raises:
        SettingError, UnknownNameError: a setting out of range.
    """

    epochs: int
    batch_size: int = 128
    seed: int = 0
    optimiser: Optimiser = field(default_factory=Adam)
    rate: Rate = field(default_factory=lambda: Cyclic(5e-3))
    accumulate: int = 1
    clip: float | None = None
    average: Average | None = None
    augment: tuple[Augmentation, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise SettingError(f"training needs {name} >= 1, got {getattr(self, name)}")
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise SettingError(f"the gradient is clipped to a finite norm > 0, got clip={self.clip}")
        if self.precision not in PRECISIONS:
            raise UnknownNameError.of("precision", self.precision, PRECISIONS)
