"""The edge: examples, labels and models checked before anything is spent on them, each fault one sentence with its cure."""

from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import Batch, Labels
from hauberk.errors import DataError, ModelError
from hauberk.threat import Access
from hauberk.victims.answers import as_tensor
from hauberk.victims.victim import first_line

__all__ = ["check_inputs", "layout_hint", "probe"]

_PROBED = 8


def check_inputs(victim: Any, x: Any, y: Any, *, ids: Tensor | None = None) -> tuple[Batch, Labels]:
    """Examples and labels as the strict layer takes them: on the victim's device, in its dtype.

    Floats are taken as they are; uint8 is mapped from [0, 255] to the victim's bounds. A victim that has not answered yet is
    probed with the first examples.

    Args:
        victim: a victim, or a meter around one.
        x: (n, *shape) array or tensor.
        y: (n,) whole numbers.
        ids: (n,) what the examples are called in messages; 0 .. n - 1 where None.

    Returns:
        x and y as tensors; y int64.

    Raises:
        DataError: not what a classifier with these bounds can be tested on; the message says why, and the usual mistake.
        ModelError: the victim fails on them.
    """
    x, y = _tensor(x, "examples"), _tensor(y, "labels")
    if x.ndim < 2 or (len(x) and x.numel() == 0):
        raise DataError(f"expected a batch of examples (n, *shape), got shape {tuple(x.shape)}; one example is x[None]")
    y = _checked_labels(y, len(x))
    if x.dtype == torch.bool or x.is_complex():
        raise DataError(f"expected floats or uint8, got {_name(x.dtype)}; convert the examples first")
    low, high = victim.bounds
    if x.dtype == torch.uint8:
        x = x.to(victim.device, victim.dtype) * ((high - low) / 255) + low
        x = x.clamp_(low, high)
    else:
        x = x.detach().to(victim.device, victim.dtype)
    y = y.to(victim.device)
    _check_finite(x, ids)
    _check_range(victim, x)
    _check_layout(victim, x)
    if victim.classes is None:
        inner = getattr(victim, "victim", victim)  # what a meter stands before: a probe is not charged
        inner.probe(x) if hasattr(inner, "probe") else probe(inner, x)
    if victim.classes is not None and int(y.max()) >= victim.classes:
        raise DataError(
            f"expected labels 0 .. {victim.classes - 1} for the {victim.classes} classes of {victim.name!r}, got the label "
            f"{int(y.max())}; number the classes from 0 in the order of the model's outputs"
        )
    return x, y


def probe(victim: Any, x: Batch) -> None:
    """Ask about the first few examples of x, and about one alone; uncounted, at most 9 forwards.

    Raises:
        ModelError: no finite scores (B, classes), a number of classes that depends on the batch, or the model fails.
    """
    x = x[:_PROBED]
    rows = torch.arange(len(x), device=x.device)
    victim.labels(x[:1], rows[:1])  # settles what the access is
    if victim.access < Access.SCORES:
        labels = victim.labels(x, rows)
        if labels.shape != (len(x),):
            raise ModelError(f"{victim.name!r} answers labels of shape {tuple(labels.shape)} to {len(x)} examples")
        return
    scores = victim.logits(x, rows)
    alone = victim.logits(x[:1], rows[:1])
    if scores.ndim != 2 or len(scores) != len(x) or alone.shape != (1, scores.shape[1]):
        raise ModelError(
            f"{victim.name!r} answers shape {tuple(scores.shape)} to {len(x)} examples and {tuple(alone.shape)} to one; "
            "expected (B, classes) for every batch size B"
        )
    bad = ~torch.isfinite(scores).all(dim=1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ModelError(
            f"{victim.name!r} answers {_list(scores[row])} to example {row}, expected finite scores; "
            "look for overflow or a division by zero in the model, or weights that are NaN"
        )


def layout_hint(victim: Any, x: Tensor) -> str:
    """What is probably wrong with the shape of x, for a model that refused it; empty where nothing shows."""
    channels, shape = getattr(victim, "channels", None), tuple(x.shape[1:])
    if len(shape) == 3 and shape[-1] in (1, 3, 4) and shape[0] not in (1, 3, 4):
        return "the images seem to be (height, width, channels): pass x.permute(0, 3, 1, 2)"
    if channels is not None and len(shape) == 2:
        return (
            f"the images seem to lack their channel axis: pass x[:, None] for {channels} channel{'s' * (channels != 1)}"
        )
    if channels is not None and shape and channels != shape[0]:
        return f"its first convolution reads {channels} channel{'s' * (channels != 1)}, the examples have {shape[0]}"
    return ""


def _tensor(value: Any, what: str) -> Tensor:
    try:
        return as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the {what} are no numeric array ({first_line(error)}); pass a numpy array or a tensor"
        ) from error


def _checked_labels(y: Tensor, n: int) -> Tensor:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        cure = "; of one-hot rows pass y.argmax(1)" if y.ndim == 2 else ""
        raise DataError(f"expected labels of shape (n,), got {tuple(y.shape)}{cure}")
    if len(y) != n:
        raise DataError(f"expected one label per example, got {n} examples and {len(y)} labels")
    if n == 0:
        raise DataError("expected at least one example, got none")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        if y.is_complex() or bool((y != y.round() if y.is_floating_point() else torch.zeros_like(y)).any()):
            raise DataError(
                f"expected labels that are whole numbers, got {_name(y.dtype)} with fractions; a classifier is needed"
            )
        if y.is_floating_point() and not bool(torch.isfinite(y).all()):
            raise DataError("expected labels that are whole numbers, got NaN or infinity")
    y = y.to(torch.int64)
    if int(y.min()) < 0:
        raise DataError(
            f"expected labels 0, 1, ..., got {int(y.min())}; drop examples without a label, or renumber the classes"
        )
    return y


def _check_finite(x: Tensor, ids: Tensor | None) -> None:
    bad = ~torch.isfinite(x).reshape(len(x), -1).all(dim=1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        kind = "NaN" if bool(torch.isnan(x[row]).any()) else "infinity"
        number = row if ids is None else int(ids[row])
        raise DataError(f"expected finite values, got {kind} in example {number}; drop or repair it")


def _check_range(victim: Any, x: Tensor) -> None:
    low, high = victim.bounds
    least, most = float(x.min()), float(x.max())
    if least >= low and most <= high:
        if high - low > 100 and least >= 0 and 0 < most <= 1:
            raise DataError(
                f"expected values in [{low:g}, {high:g}], got values in [{least:.4g}, {most:.4g}]: this looks like data divided "
                "by 255 already; wrap the model with bounds=(0, 1), and mean and std in the same units"
            )
        return
    said = f"expected values in [{low:g}, {high:g}], got values in [{least:.4g}, {most:.4g}]"
    width = high - low
    if least >= low - 1e-3 * width and most <= high + 1e-3 * width:
        raise DataError(f"{said}: this looks like rounding, from resizing perhaps; clip the examples to the bounds")
    if low == 0 and high <= 1 and least >= 0 and most <= 255:
        raise DataError(f"{said}: this looks like 8-bit data; divide by 255, or wrap the model with bounds=(0, 255)")
    if least < low and -20 * width < least and most < high + 20 * width:
        if getattr(getattr(victim, "victim", victim), "description", {}).get("mean") is not None:
            cure = "pass raw values: this victim normalises inside already"
        else:
            cure = "pass raw values and give mean= and std= to wrap, so that the normalisation happens inside"
        raise DataError(
            f"{said}: this looks like data normalised already (mean {float(x.mean()):.3g}, std {float(x.std()):.3g}); {cure}, "
            f"or wrap with bounds=({least:.4g}, {most:.4g}) if these are the true limits of the data"
        )
    raise DataError(
        f"{said}; wrap the model with the bounds of the data, bounds=({least:.4g}, {most:.4g}), or rescale it"
    )


def _check_layout(victim: Any, x: Tensor) -> None:
    channels = getattr(getattr(victim, "victim", victim), "channels", None)
    if channels is None or x.ndim != 4 or x.shape[1] == channels or x.shape[3] != channels:
        return
    raise DataError(
        f"expected images (n, {channels}, height, width), got {tuple(x.shape)}: the channels come last; "
        "pass x.permute(0, 3, 1, 2)"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _list(values: Tensor) -> str:
    numbers = [f"{value:g}" for value in values[:4].tolist()]
    return f"[{', '.join(numbers)}{', ...' if len(values) > 4 else ''}]"
