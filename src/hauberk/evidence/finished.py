"""A finished run: what reports, comparisons and notebooks read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from torch import Tensor

from hauberk.errors import InputError
from hauberk.evidence.manifest import Manifest
from hauberk.evidence.table import ROWS

__all__ = ["RESULT_SCHEMA", "FinishedRun", "Run", "check_chunk"]

RESULT_SCHEMA = "hauberk.evaluation/1"
"""The schema of result.json, the JSON contract."""


@dataclass(frozen=True, repr=False)
class FinishedRun:
    """The whole evidence of an evaluation.

    Args:
        result: the JSON contract, schema `hauberk.evaluation/1`.
        rows: table of `hauberk.evidence.ROWS`.
        adversarials: call it for an iterator over the chunks that hold broken rows, in order; each a dict of `example` (k,)
            int64, `radius` (k,) float64, `adversarials` (k, *shape) and `originals` (k, *shape). One chunk is in
            memory at a time.
        manifest: what was evaluated.
        ledgers: for each chunk what its examples cost, in order.
        path: the run folder, None for a run kept in memory.
    """

    result: dict[str, Any]
    rows: pa.Table
    adversarials: Callable[[], Iterator[dict[str, Tensor]]]
    manifest: Manifest
    ledgers: list[dict[str, Any]]
    path: Path | None = None

    def __repr__(self) -> str:
        what = self.manifest
        place = "in memory" if self.path is None else f"in {str(self.path)!r}"
        return f"FinishedRun({what.model_name!r} on {what.data_name!r}, {what.threat}, suite {what.suite}, n={what.n}, {place})"


class Run(Protocol):
    """Where an evaluation puts its evidence while it goes on: a `RunFolder` or a `MemoryRun`."""

    @property
    def done(self) -> set[int]:
        """Indices of the chunks that are written."""
        ...

    @property
    def drift(self) -> tuple[str, ...]:
        """What differs in versions, platform or git between the first and this opening of the run."""
        ...

    def write_chunk(self, index: int, rows: pa.Table, tensors: dict[str, Tensor], ledger: dict[str, Any]) -> None:
        """Keep the evidence of one chunk, whole or not at all."""
        ...

    def ledgers(self) -> list[dict[str, Any]]:
        """The ledgers of the chunks done, in order."""
        ...

    def finish(self, result: dict[str, Any]) -> None:
        """Join the rows of all chunks and keep the result."""
        ...

    def finished(self) -> FinishedRun:
        """The finished run."""
        ...


def check_chunk(index: int, done: set[int], rows: pa.Table, tensors: dict[str, Tensor]) -> None:
    """Refuse a chunk that is not one.

    Raises:
        InputError: written before, a negative index, rows of another schema, tensors of different lengths.
    """
    if index < 0 or index in done:
        raise InputError(f"expected a chunk that is not written yet, got chunk {index}; evidence is only ever added")
    if not rows.schema.equals(ROWS):
        raise InputError(
            f"expected rows of hauberk.evidence.ROWS, got the columns {', '.join(rows.schema.names)}; use rows_table"
        )
    if len({len(tensor) for tensor in tensors.values()}) > 1:
        sizes = {name: len(tensor) for name, tensor in tensors.items()}
        raise InputError(f"expected as many entries in every tensor of a chunk, got {sizes}")
