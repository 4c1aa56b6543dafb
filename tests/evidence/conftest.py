"""A small evaluation to keep evidence of."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from hauberk.evidence import RESULT_SCHEMA, Manifest, rows_table

Chunk = tuple[pa.Table, dict[str, Tensor], dict[str, Any]]


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        model_name="net",
        model_fingerprint="a" * 64,
        data_name="digits",
        data_fingerprint="b" * 64,
        threat="linf:0.2,0.3",
        suite="quick",
        attacks=[
            {"name": "fgsm", "settings": {"eps": 0.3}},
            {"name": "pgd", "settings": {"steps": 20, "momentum": None}},
        ],
        seed=0,
        n=12,
        batch_size=4,
        dtype="float32",
    )


@pytest.fixture
def changed(manifest: Manifest) -> Callable[..., Manifest]:
    return lambda **values: dataclasses.replace(manifest, **values)


@pytest.fixture
def chunk_of() -> Callable[[int], Chunk]:
    """The evidence of four examples at two radii; the second half is broken."""

    def make(index: int) -> Chunk:
        ids = [4 * index + k for k in range(4) for _ in range(2)]
        broken = [k % 4 >= 2 for k in ids]
        columns: dict[str, Any] = {
            "example": ids,
            "label": [k % 10 for k in ids],
            "predicted": [k % 10 for k in ids],
            "status": ["broken" if b else "undecided" for b in broken],
            "method": ["pgd" if b else None for b in broken],
            "radius": [0.2, 0.3] * 4,
            "linf": [0.1 if b else None for b in broken],
            "l2": [k / 7 if b else None for k, b in zip(ids, broken, strict=True)],
            "l1": [float("nan")] * 8,
            "l0": [5 if b else None for b in broken],
            "adversarial_label": [3 if b else None for b in broken],
            "confidence": [0.5 if b else None for b in broken],
            "clean_confidence": torch.linspace(0, 1, 8),
            "forwards": range(8),
            "backwards": range(8),
            "queries": range(8),
        }
        at = [k for k, b in enumerate(broken) if b]
        shift = torch.full((len(at), 1, 2, 2), float(index))
        tensors = {
            "example": torch.tensor([ids[k] for k in at]),
            "radius": torch.tensor([[0.2, 0.3][k % 2] for k in at], dtype=torch.float64),
            "adversarials": shift + 0.1,
            "originals": shift,
        }
        attack = {
            "name": "pgd",
            "attempted": 8,
            "broken": 4,
            "forwards": 160,
            "backwards": 160,
            "queries": 160,
            "seconds": 0.5,
        }
        return rows_table(columns), tensors, {"examples": 4, "attacks": [attack]}

    return make


@pytest.fixture
def result() -> dict[str, Any]:
    return {"schema": RESULT_SCHEMA, "n": 12}
