"""The rows of a chunk: one for each example and radius, as `hauberk.evidence.ROWS` has them."""

from math import isinf, isnan
from typing import Any

import torch
from torch import Tensor

from hauberk._shapes import flat
from hauberk.data import Chunk
from hauberk.evaluate.clean import Clean
from hauberk.evaluate.found import Found
from hauberk.evaluate.proving import Proofs
from hauberk.threat import Norm

__all__ = ["add_rows"]


def add_rows(
    columns: dict[str, list[Any]],
    chunk: Chunk,
    clean: Clean,
    found: Found,
    proofs: Proofs | None,
    radius: float,
    spent: Tensor,
) -> None:
    """Add the rows of one radius to the columns; `spent` is (3, n), the forwards, backwards and queries that it cost."""
    broken, n = found.within(radius).tolist(), len(chunk)
    delta = (found.points - found.x).to(torch.float64 if found.x.device.type != "mps" else found.x.dtype)
    sizes = {norm: norm.size(delta).tolist() for norm in Norm} if flat(delta).shape[1] else {}
    right = clean.correct.tolist()
    held = [False] * n if proofs is None else proofs.hold(radius).tolist()
    status = [
        "misclassified" if not right[k] else "broken" if broken[k] else "proven" if held[k] else "undecided"
        for k in range(n)
    ]
    method: list[str | None] = [found.methods[index] for index in found.method_index.tolist()] if found.methods else []
    method = [
        method[k] if broken[k] else proofs.method[k][radius] if proofs is not None and status[k] == "proven" else None
        for k in range(n)
    ]

    def where_broken(values: list[Any]) -> list[Any]:
        return [value if fell else None for value, fell in zip(values, broken, strict=True)]

    new: dict[str, list[Any]] = {
        "example": chunk.ids.tolist(),
        "label": chunk.y.tolist(),
        "predicted": clean.predicted.tolist(),
        "status": status,
        "method": method,
        "radius": [radius] * len(status),
        **{norm.value: where_broken(sizes[norm]) for norm in (Norm.LINF, Norm.L2, Norm.L1)},
        "l0": where_broken([int(size) for size in sizes[Norm.L0]]),
        "adversarial_label": where_broken(found.labels.tolist()),
        "confidence": where_broken(found.confidence.tolist()),
        "clean_confidence": clean.confidence.tolist(),
        "forwards": spent[0].tolist(),
        "backwards": spent[1].tolist(),
        "queries": spent[2].tolist(),
        "vote": where_broken(found.vote[1].tolist()),
        "vote_low": where_broken(found.vote[0].tolist()),
        "vote_high": where_broken(found.vote[2].tolist()),
        **_ends(proofs, right),
    }
    for name, values in new.items():
        columns.setdefault(name, []).extend(values)


def _ends(proofs: Proofs | None, right: list[bool]) -> dict[str, list[float | None]]:
    """The columns of both ends: 0 where the example is wrong anyhow, None where nothing is known."""
    if proofs is None:
        return {name: [None] * len(right) for name in ("lower", "estimate", "upper")}
    looked, estimate, upper = proofs.looked.tolist(), proofs.estimate.tolist(), proofs.upper.tolist()
    return {
        "lower": [low if good else 0.0 for low, good in zip(proofs.lower.tolist(), right, strict=True)],
        "estimate": [
            None if not seen else 0.0 if not good else None if isnan(guess) else guess
            for guess, good, seen in zip(estimate, right, looked, strict=True)
        ],
        "upper": [0.0 if not good else None if isinf(size) else size for size, good in zip(upper, right, strict=True)],
    }
