"""The gallery: a few broken examples, each with what it was, what was done to it and what the model then said.

Broken examples are taken in turn from every true class, in the order of their ids, at the largest radius: a rule
that a reader can check and that shows no class more than another. Their tensors are read chunk by chunk, and no more
chunks than needed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from hauberk.report.pictures import as_pixels, change_uri, image_uri, magnification
from hauberk.report.words import DASH, is_image, percent, plain, size_text

__all__ = ["MOST", "Case", "Moved", "cases", "chosen"]

MOST = 12
"""At most so many examples are shown."""
_MOST_MOVED = 6


@dataclass(frozen=True)
class Moved:
    """One feature that the attack changed."""

    feature: str
    before: str
    after: str
    change: str


@dataclass(frozen=True)
class Case:
    """One broken example, ready to be shown; the pictures are None where the input is no image."""

    example: int
    method: str
    at: str
    label: str
    label_confidence: str
    adversarial_label: str
    confidence: str
    sizes: tuple[tuple[str, str], ...]
    factor: str
    clean: str | None
    change: str | None
    adversarial: str | None
    moved: tuple[Moved, ...]
    unmoved: int


def chosen(rows: pa.Table, most: int = MOST) -> list[dict[str, Any]]:
    """The rows to show: broken at the largest radius, one true class after the other."""
    broken = rows.filter(pc.field("status") == "broken")
    if broken.num_rows == 0:
        return []
    broken = broken.filter(pc.field("radius") == float(broken["radius"].to_numpy().max()))
    by_class: dict[int, list[dict[str, Any]]] = {}
    labels = np.asarray(broken["label"].fill_null(-1).to_numpy())
    examples = np.asarray(broken["example"].to_numpy())
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        first = places[np.argsort(examples[places], kind="stable")][:most]
        by_class[int(label)] = broken.take(first).to_pylist()
    turns = [row for turn in range(most) for row in (held[turn] for held in by_class.values() if turn < len(held))][
        :most
    ]
    return sorted(turns, key=lambda row: (row["label"] if row["label"] is not None else -1, row["example"]))


def cases(
    rows: pa.Table,
    adversarials: Iterable[Mapping[str, Tensor]],
    bounds: tuple[float, float] | None,
    name_of: Callable[[int | None], str],
    spell: Callable[[float], str] = "{:g}".format,
    most: int = MOST,
) -> list[Case]:
    """The examples of the gallery, those whose tensors are in the run.

    Args:
        rows: the table of the run.
        adversarials: its chunks of `example`, `radius`, `adversarials`, `originals`.
        bounds: the range of the input; None takes it from each example.
        name_of: how a class is called.
        spell: how a radius is written.
        most: how many to show.
    """
    wanted = {row["example"]: row for row in chosen(rows, most)}
    found: dict[int, Case] = {}
    for chunk in adversarials if wanted else ():
        # What a smaller radius broke is stored once, at that radius, and counts for every larger one.
        places: dict[int, tuple[float, int]] = {}
        for place, (example, radius) in enumerate(
            zip(chunk["example"].tolist(), chunk["radius"].tolist(), strict=True)
        ):
            if example in wanted and radius <= wanted[example]["radius"]:
                places[example] = max(places.get(example, (radius, place)), (radius, place))
        for example, (radius, place) in places.items():
            before, after = (
                chunk[part][place].detach().cpu().double().numpy() for part in ("originals", "adversarials")
            )
            found[example] = _case(wanted[example], before, after, bounds, name_of, spell(radius))
        if len(found) == len(wanted):
            break
    return [found[example] for example in wanted if example in found]


def _case(
    row: Mapping[str, Any],
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
    bounds: tuple[float, float] | None,
    name_of: Callable[[int | None], str],
    at: str,
) -> Case:
    clean = change = adversarial = None
    factor, moved, unmoved = 1.0, (), 0
    if is_image(before.shape):
        old, new = as_pixels(before, before.shape), as_pixels(after, after.shape)
        range_ = bounds or _range(before, after)
        factor = magnification(new - old, range_)
        clean, adversarial = image_uri(old, range_), image_uri(new, range_)
        change = change_uri(new - old, range_, factor)
    else:
        moved, unmoved = _moved(before, after)
    return Case(
        example=row["example"],
        method=plain(row["method"]) if row["method"] is not None else DASH,
        at=at,
        label=name_of(row["label"]),
        label_confidence=percent(row["clean_confidence"], 0),
        adversarial_label=name_of(row["adversarial_label"]),
        confidence=percent(row["confidence"], 0),
        sizes=tuple(
            (name, size_text(row[key])) for name, key in (("L∞", "linf"), ("L2", "l2"), ("L1", "l1"), ("L0", "l0"))
        ),
        factor=f"{factor:g}",
        clean=clean,
        change=change,
        adversarial=adversarial,
        moved=moved,
        unmoved=unmoved,
    )


def _range(*arrays: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The range of the values themselves, where the model's input has no finite bounds."""
    low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
    return (low, high) if low < high else (low, low + 1.0)


def _moved(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> tuple[tuple[Moved, ...], int]:
    """The features that changed most, and how many others changed."""
    change = (after - before).ravel()
    order = np.argsort(-np.abs(change), kind="stable")
    order = order[change[order] != 0]
    shown = tuple(
        Moved(
            ", ".join(str(i) for i in np.unravel_index(place, before.shape)) or "0",
            f"{before.ravel()[place]:.4g}",
            f"{after.ravel()[place]:.4g}",
            f"{change[place]:+.3g}".replace("-", "\N{MINUS SIGN}"),
        )
        for place in order[:_MOST_MOVED]
    )
    return shown, len(order) - len(shown)
