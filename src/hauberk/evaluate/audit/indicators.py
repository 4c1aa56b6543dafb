"""The six indicators of attack failure, for each example of an audit, averaged.

Source: Pintor, Demetrio, Sotgiu, Demontis, Carlini, Biggio, Roli 2022, "Indicators of attack failure: debugging and improving
optimization of adversarial examples", arXiv:2106.09947; the constants are those of the authors' code.

    I1  unavailable gradients         no gradient can be computed, or it is zero
    I2  unstable predictions          mean |L(x + d) - L(x)| / |L(x)|, each at most 1, over points near x
    I3  silent success                a point on the path was adversarial, the last one is not
    I4  incomplete optimisation       the best loss, scaled to [0, 1], still rose by more than 0.05 in the last 10 steps
    I5  transfer failure              the attack saw success, the judge, who asks the model again, does not
    I6  unconstrained attack failure  PGD fails although every value may be anything

**Differs from the paper:** the loss is the margin; I1 counts gradients that are not finite too; I2 is measured on 8 points at
a tenth of the radius (in `hauberk audit` on 100 points drawn from half the radius, as in the paper, whose radius of 8/255 this is
for a threat of 8/255), and each point's change is at most 1, there their mean; I3 speaks of the path of PGD, though no attack of
hauberk returns its last point.

I4 differs from the authors' code in two constants' meaning. *Scale*: theirs puts the loss as it stands, its falls included, on
[0, 1] and then takes the best so far; here the best so far is put on [0, 1], from its value at the start to that at the end. The
range is never larger, so 0.05 of it is reached more easily. *Window*: theirs are the last 10 values, 9 steps; here the last 10
steps of a run of 20, half of them. Both make I4 larger here than there for the same path, never smaller.
"""

import torch

from hauberk._shapes import PerExample
from hauberk.evaluate.audit.climbs import incomplete, unbounded_attack
from hauberk.evaluate.audit.finding import Indicator
from hauberk.evaluate.audit.gradients import Probes
from hauberk.evaluate.audit.part import Part

__all__ = ["NAMES", "indicators"]

NAMES = {
    "I1": "unavailable gradients",
    "I2": "unstable predictions",
    "I3": "silent success",
    "I4": "incomplete optimisation",
    "I5": "transfer failure",
    "I6": "unconstrained attack failure",
}
"""As the paper names them."""


def indicators(part: Part, probes: Probes, change: PerExample | None = None) -> tuple[Indicator, ...]:
    """All six; what they need was asked for by the checks before.

    Args:
        change: (n,) what I2 averages, where it was measured on more points than `probes` did.
    """
    slope, climb = part.slope(), part.climb()
    path = climb.path.nan_to_num(-torch.inf)
    per_example = {
        "I1": slope.dead | ~slope.finite,
        "I2": probes.change if change is None else change,
        "I3": (path[:-1] > 0).any(dim=0) & ~(path[-1] > 0),
        "I4": incomplete(part),
        "I5": climb.claimed & ~climb.broken,
        "I6": ~unbounded_attack(part),
    }
    return tuple(
        Indicator(id_, NAMES[id_], float(values.double().mean()), len(part)) for id_, values in per_example.items()
    )
