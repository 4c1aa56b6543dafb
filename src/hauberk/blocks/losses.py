"""Losses of gradient and score attacks: (logits, goal) -> one number per example, each rising towards the goal.

`margin` reads any goal; the others need a goal about classes (`Classed`).
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch.nn.functional import softplus

from hauberk._shapes import Logits, PerExample, double
from hauberk.errors import SettingError, UnknownNameError
from hauberk.threat import Classed, Goal, Rival, Targeted, Untargeted

__all__ = [
    "LOSSES",
    "Loss",
    "cross_entropy",
    "dlr",
    "loss_named",
    "margin",
    "probability_margin",
    "value_and_cotangent",
]

Loss: TypeAlias = Callable[[Logits, Goal], PerExample]


def margin(logits: Logits, goal: Goal) -> PerExample:
    """The goal's own margin (Carlini and Wagner 2017, arXiv:1608.04644, f_6 on logits)."""
    return goal.margin(logits)


def cross_entropy(logits: Logits, goal: Goal) -> PerExample:
    """Cross-entropy of the class to leave, or minus that of the class to reach.

    -log p_c is written softplus(logsumexp of the other logits - z_c): the derivative p_c - 1, taken as it stands, is rounded
    to 0 once the model is sure (in float32 from a margin of 17 on), and the gradient then points in a wrong direction.
    """
    goal = _classed(goal, "cross-entropy")
    classes = goal.classes[:, None]
    others = logits.scatter(1, classes, -torch.inf).logsumexp(dim=1)
    return -goal.sign * softplus(others - logits.gather(1, classes).squeeze(1), threshold=40)


def probability_margin(logits: Logits, goal: Goal) -> PerExample:
    """The goal's margin on softmax probabilities: bounded, so that no example's scale rules
    (Xie et al. 2024, arXiv:2411.15210).

    Written with 1 - p_c = sigmoid(logsumexp of the others - z_c), for the reason given at `cross_entropy`.
    """
    if not isinstance(goal, Untargeted | Targeted):
        return goal.margin(logits.softmax(dim=1))
    classes = goal.classes[:, None]
    rest = logits.scatter(1, classes, -torch.inf)
    missing = torch.sigmoid(rest.logsumexp(dim=1) - logits.gather(1, classes).squeeze(1))
    return goal.sign * (1 - missing - missing * rest.softmax(dim=1).amax(dim=1))


def dlr(logits: Logits, goal: Goal) -> PerExample:
    """Difference of logits ratio (Croce and Hein 2020, arXiv:2003.01690, eq. 6 and, with a target or rival, eq. 7).

    Invariant to shift and scale of the logits. With fewer than three classes (four with a target) the denominator is the
    largest difference there is.
    """
    ordered = logits.sort(dim=1, descending=True).values
    top, third = ordered[:, 0], ordered[:, min(2, logits.shape[1] - 1)]
    if isinstance(goal, Rival | Targeted):
        fourth = ordered[:, min(3, logits.shape[1] - 1)]
        scale = top - (third + fourth) / 2
    else:
        goal = _classed(goal, "DLR")
        scale = top - third
    return goal.margin(logits) / (scale + 1e-12)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr, "probability": probability_margin}


def loss_named(name: str) -> Loss:
    """The loss of this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in LOSSES:
        raise UnknownNameError.of("loss", name, LOSSES)
    return LOSSES[name]


def value_and_cotangent(loss: Loss, logits: Logits, goal: Goal) -> tuple[PerExample, Logits]:
    """The loss of each row, in float64 where the device has it, and the direction of its derivative by that row's logits.

    The derivative is scaled to a largest entry of 1 before it goes back to the dtype of the logits: where a model is sure, that
    of the cross-entropy is too small for float32, and an attack would stand still although the direction is known. Steps read
    directions only.
    """
    with torch.enable_grad():
        leaf = logits.detach().to(double(logits)).requires_grad_()
        values = loss(leaf, goal)
        if values.requires_grad:
            (cotangent,) = torch.autograd.grad(values.sum(), leaf)
        else:  # a predicate that does not depend on the logits smoothly
            cotangent = torch.zeros_like(leaf)
    largest = cotangent.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(cotangent.dtype).tiny)
    return values.detach(), (cotangent / largest).to(logits.dtype)


def _classed(goal: Goal, name: str) -> Classed:
    if not isinstance(goal, Classed):
        raise SettingError(f"the {name} loss needs a goal about classes, got {type(goal).__name__}; use loss='margin'")
    return goal
