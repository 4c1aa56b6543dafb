"""Checks of the answers: do they repeat themselves, do they depend on the company, can their gradient show what they say?

The flags for randomised and softmax outputs are those of Croce and Hein 2020, arXiv:2003.01690; that a cross-entropy vanishes
once a model is sure is how defensive distillation hid its gradients (Carlini and Wagner 2017, arXiv:1608.04644).
"""

import torch
from torch import Tensor

from hauberk._rng import Streams
from hauberk._shapes import Batch, Labels
from hauberk.evaluate.audit.finding import Finding
from hauberk.evaluate.audit.part import Part
from hauberk.evaluate.clean import look_clean
from hauberk.threat import Access
from hauberk.victims import Meter

__all__ = ["batch_dependent_output", "constant_output", "random_output", "saturated_loss", "softmax_output"]

_NOISE = 16
"""Points of noise that a model of a single answer is asked about."""

_UNDONE = "ends in a softmax"  # what a `TorchVictim` notes where it has taken a softmax off the model's end


def random_output(part: Part) -> Finding | None:
    """The same question twice, the same answer? Two forwards."""
    first, second = part.answers(), part.ask_again(part.x)
    spread = _largest_gap(first, second)
    if spread <= 1e-6 * _scale(first):
        return None
    part.is_random = True
    if part.meter.access < Access.SCORES:
        other = int((first != second).flatten(1).any(dim=1).sum())
        seen = f"{other} of the same {len(part)} examples, asked twice, were labelled differently"
    else:
        seen = f"the same {len(part)} examples, asked twice, gave scores that differ by up to {spread:.3g}"
    return Finding(
        "random-output",
        "error",
        seen,
        "attack the expectation over the model's randomness (EOT), or fix its randomness; one draw is judged here, so the "
        "numbers of this run are not reproducible",
        ("eot",),
    )


def constant_output(meter: Meter, x: Batch, y: Labels, predicted: Labels, streams: Streams) -> Finding | None:
    """Does the answer depend on the input at all? No cost, but where all examples are given one class: 16 forwards on noise."""
    classes = len(y.unique())
    if classes < 2 or len(predicted.unique()) > 1:
        return None
    low, high = meter.bounds
    rows = torch.arange(min(_NOISE, len(x)), device=x.device)
    noise = low + (high - low) * streams.uniform(rows, tuple(x.shape[1:]), dtype=x.dtype)
    if not torch.equal(look_clean(meter, noise, y[rows], rows).predicted, predicted[rows]):
        return None
    return Finding(
        "constant-output",
        "error",
        f"the model answers class {int(predicted[0])} to all of {len(x)} examples of {classes} classes, and to {len(rows)} points of "
        "uniform noise",
        "it does not look at its input, so that nothing can be broken and nothing is robust: look at the weights, the preprocessing, "
        "and what the address or function really answers",
    )


def batch_dependent_output(part: Part) -> Finding | None:
    """Is an example alone answered as in a batch? At most 8 examples are asked alone."""
    count = min(8, len(part))
    together = part.answers()[:count]
    alone = torch.cat([part.ask(part.x[i : i + 1], part.everyone[i : i + 1]) for i in range(count)])
    gap = _largest_gap(together, alone)
    if gap <= 1e-3 * _scale(together) or _largest_gap(together, part.ask(part.x)[:count]) >= gap / 2:
        return None  # equal, or no more different than the model is from itself
    return Finding(
        "batch-dependent-output",
        "error",
        f"{count} examples gave scores in a batch of {len(part)} that differ by up to {gap:.3g} from those each gives alone",
        "look for batch statistics in use at test time (batch norm in training mode, normalisation over the batch); the "
        "model deployed on single inputs is another one than the model evaluated",
    )


def softmax_output(part: Part) -> Finding | None:
    """Are the scores probabilities, and so sure of themselves that a gradient through them is rounded away?"""
    victim, scores = part.meter.victim, part.answers()
    kind = victim.description.get("answers")
    as_they_are = bool(((scores >= 0) & (scores <= 1)).all() and ((scores.double().sum(dim=1) - 1).abs() < 1e-4).all())
    undone = any(_UNDONE in note for note in victim.notes)
    if not as_they_are and not undone and kind != "probabilities":
        return None
    top = scores.amax(dim=1) if as_they_are else scores.softmax(dim=1).amax(dim=1)
    saturated = float((top > 1 - 1e-6).double().mean())
    treated = "taken as they are" if as_they_are else "turned into logarithms"
    if undone:
        treated = "which the attacks here get round by taking its logarithm"
    severity = "error" if as_they_are or (saturated > 0.1 and not undone) else "warning"
    if undone and saturated <= 0.1:
        severity = "info"
    return Finding(
        "softmax-output",
        severity,
        f"the model answers probabilities, {treated}; {saturated:.0%} of the audited examples are saturated beyond what their "
        "gradient can show",
        "give a model that answers logits: take the softmax off its end, or name the logits with output="
        if not undone
        else "nothing here; other tools attack the probabilities and find this model stronger than it is",
        ("logits", "margin") if part.meter.access >= Access.GRADIENTS else (),
    )


def saturated_loss(part: Part) -> Finding | None:
    """Does the cross-entropy, computed in the model's own precision, still have a gradient? No cost: from the known answers."""
    scores = part.answers()
    rest = scores.softmax(dim=1).scatter(
        1, part.y[:, None], 0.0
    )  # the gradient's other entries; its own is minus their sum
    dead = rest.amax(dim=1) == 0
    share = float(dead.double().mean())
    if share <= 0.1:
        return None
    own = scores.gather(1, part.y[:, None]).squeeze(1)
    lead = own - scores.scatter(1, part.y[:, None], -torch.inf).amax(dim=1)
    dtype = str(scores.dtype).removeprefix("torch.")
    return Finding(
        "saturated-loss",
        "warning",
        f"on {share:.0%} of {len(part)} examples the cross-entropy has a gradient of exactly zero in {dtype}: the logits lead by "
        f"{float(lead.median()):.3g} in the median",
        "attacks that climb a cross-entropy stand still there, as they do on a defensively distilled model; climb margins, as "
        "the suites of hauberk do, or divide the logits by a temperature",
        ("margin",) if part.meter.access >= Access.GRADIENTS else (),
    )


def _largest_gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().nan_to_num(0.0).max()) if a.numel() else 0.0


def _scale(scores: Tensor) -> float:
    return max(float(scores.abs().nan_to_num(0.0).max()), 1e-6)
