"""A run that is kept in memory, for evaluations without a folder; the same face as a `RunFolder`."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
from torch import Tensor

from hauberk.errors import RunError
from hauberk.evidence.finished import FinishedRun, check_chunk
from hauberk.evidence.manifest import Manifest
from hauberk.evidence.plain import plain
from hauberk.evidence.table import ROWS

__all__ = ["MemoryRun"]


class MemoryRun:
    """The evidence of one evaluation in memory, which grows with the number of broken examples."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.done: set[int] = set()
        self.drift: tuple[str, ...] = ()
        self._chunks: dict[int, tuple[pa.Table, dict[str, Tensor], dict[str, Any]]] = {}
        self._result: dict[str, Any] | None = None

    def write_chunk(self, index: int, rows: pa.Table, tensors: dict[str, Tensor], ledger: dict[str, Any]) -> None:
        """Keep copies of the evidence of one chunk.

        Raises:
            InputError: the chunk was written before, or its rows or tensors are not those of a chunk.
        """
        check_chunk(index, self.done, rows, tensors)
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        self._chunks[index] = rows, copies, plain(ledger) | {"chunk": index, "rows": rows.num_rows}
        self.done.add(index)

    def ledgers(self) -> list[dict[str, Any]]:
        """The ledgers of the chunks done, in order."""
        return [ledger for _, _, ledger in self._in_order()]

    def finish(self, result: dict[str, Any]) -> None:
        """Keep the result.

        Raises:
            RunError: a chunk is missing.
        """
        if gap := sorted(set(range(max(self.done, default=-1) + 1)) - self.done):
            raise RunError(
                f"expected every chunk up to {max(self.done)}, got none for {gap}; write them before finishing"
            )
        self._result = plain(result)

    def finished(self) -> FinishedRun:
        """The finished run.

        Raises:
            RunError: `finish` was not called.
        """
        if self._result is None:
            raise RunError("expected a finished run, got one without a result; call finish first")
        tables = [rows for rows, _, _ in self._in_order()]
        rows = pa.concat_tables(tables).combine_chunks() if tables else ROWS.empty_table()
        return FinishedRun(self._result, rows, self._adversarials, self.manifest, self.ledgers())

    def close(self) -> None:
        """Nothing to let go of; the evidence stays."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _in_order(self) -> list[tuple[pa.Table, dict[str, Tensor], dict[str, Any]]]:
        return [self._chunks[index] for index in sorted(self.done)]

    def _adversarials(self) -> Iterator[dict[str, Tensor]]:
        for _, tensors, _ in self._in_order():
            if any(map(len, tensors.values())):
                yield dict(tensors)
