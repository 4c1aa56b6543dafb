"""What an interface lets through of scores: the best few classes, rounded; and scores made of that little again.

A service seldom shows all it knows. The classes it hides are given what its answer leaves for them: of probabilities an equal share of the
rest, less than the least that is shown; of other scores, one less than the least that is shown. The order of what is shown stays.
"""

from typing import Any

import numpy as np

from hauberk.errors import ModelError

__all__ = ["best", "filled", "narrowed"]


def best(scores: Any, k: int) -> tuple[Any, Any]:
    """Classes and scores (n, k) of the k best, best first; of equal scores the lower class comes first."""
    classes = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return classes, np.take_along_axis(scores, classes, axis=1)


def filled(name: str, classes: Any, shown: Any, count: int) -> Any:
    """(n, count) scores from the classes (n, k) and their scores (n, k).

    Raises:
        ModelError: they are no classes with scores.
    """
    if classes.ndim == 1:
        classes, shown = classes[:, None], shown[:, None]
    if (
        classes.shape != shown.shape
        or classes.ndim != 2
        or shown.dtype.kind not in "fiu"
        or classes.dtype.kind not in "iu"
    ):
        raise ModelError(
            f"{name!r} answers classes of shape {classes.shape} and scores of shape {shown.shape}, expected whole numbers and their scores"
        )
    if classes.size and (int(classes.min()) < 0 or int(classes.max()) >= count):
        raise ModelError(
            f"{name!r} answers the class {int(classes.max() if classes.min() >= 0 else classes.min())}, expected 0 .. {count - 1}; "
            "say how many there are with classes (--classes)"
        )
    if any(len(set(row)) != len(row) for row in classes.tolist()):
        raise ModelError(f"{name!r} answers a class twice for one example, expected each class once")
    shown = shown.astype(np.float64)
    least, total = shown.min(axis=1, keepdims=True), shown.sum(axis=1, keepdims=True)
    hidden = count - classes.shape[1]
    share = np.minimum((1 - total).clip(0) / max(hidden, 1), least * (1 - 1e-6))  # below what is shown, in float32 too
    likely = (shown >= 0).all(axis=1, keepdims=True) & (total <= 1 + 1e-2)
    whole = np.broadcast_to(np.where(likely, share, least - 1), (len(shown), count)).copy()
    np.put_along_axis(whole, classes, shown, axis=1)
    return whole


def narrowed(name: str, scores: Any, top_k: int | None, rounding: int | None) -> Any:
    """Scores (n, classes) as an interface would show them that rounds and names the best few only."""
    if scores.ndim != 2:
        return scores if rounding is None or scores.dtype.kind != "f" else scores.round(rounding)
    if rounding is not None:
        scores = scores.round(rounding)
    if top_k is not None and top_k < scores.shape[1]:
        scores = filled(name, *best(scores, top_k), scores.shape[1])
    return scores
