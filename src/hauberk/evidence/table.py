"""The table of rows: one row per (example, radius), and a way to write it that gives the same bytes for the same rows."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from hauberk.errors import InputError, RunError

__all__ = ["ROWS", "ROW_GROUP", "STATUSES", "read_rows", "rows_table", "write_rows"]

STATUSES = ("misclassified", "broken", "undecided", "proven")

ROWS = pa.schema(
    [
        pa.field("example", pa.int64(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("predicted", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("method", pa.string()),
        pa.field("radius", pa.float64(), nullable=False),
        pa.field("linf", pa.float32()),
        pa.field("l2", pa.float32()),
        pa.field("l1", pa.float32()),
        pa.field("l0", pa.int32()),
        pa.field("adversarial_label", pa.int32()),
        pa.field("confidence", pa.float32()),
        pa.field("clean_confidence", pa.float32()),
        pa.field("forwards", pa.int64(), nullable=False),
        pa.field("backwards", pa.int64(), nullable=False),
        pa.field("queries", pa.int64(), nullable=False),
        pa.field("vote", pa.float32()),
        pa.field("vote_low", pa.float32()),
        pa.field("vote_high", pa.float32()),
        pa.field("lower", pa.float64()),
        pa.field("estimate", pa.float64()),
        pa.field("upper", pa.float64()),
    ]
)
"""Columns of rows.parquet, in order."""

_ADDED = ("vote", "vote_low", "vote_high", "lower", "estimate", "upper")
"""Columns that came later: empty in runs that were written without them."""

ROW_GROUP = 1 << 16
"""Rows to a row group, whatever the chunks they came in."""

_SETTINGS: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": ["status", "method"],
    "write_page_checksum": True,
}


def rows_table(columns: Mapping[str, Sequence[Any] | Tensor | np.ndarray]) -> pa.Table:
    """The rows as a table of schema `ROWS`, sorted by (example, radius).

    Args:
        columns: for each column one value per row; None, or NaN in a column of numbers, where there is none. The columns of a vote
            and those of proofs may be left out.

    Raises:
        InputError: a column missing, unknown, of another length or kind, empty where it may not be; an unknown status.
    """
    count = len(columns["example"]) if "example" in columns else 0
    columns = {name: [None] * count for name in _ADDED} | dict(columns)
    missing, unknown = [name for name in ROWS.names if name not in columns], sorted(set(columns) - set(ROWS.names))
    if missing or unknown:
        raise InputError(
            f"expected the columns of rows.parquet, got none for {', '.join(missing) or 'nothing'} "
            f"and {', '.join(unknown) or 'nothing'} besides; give exactly hauberk.evidence.ROWS"
        )
    arrays = [_column(ROWS.field(name), columns[name]) for name in ROWS.names]
    lengths = {name: len(array) for name, array in zip(ROWS.names, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise InputError(f"expected columns of one length, got {lengths}")
    table = pa.Table.from_arrays(arrays, schema=ROWS)
    strange = sorted(set(table["status"].unique().to_pylist()) - set(STATUSES))
    if strange:
        raise InputError(f"expected a status of {', '.join(STATUSES)}, got {', '.join(strange)}")
    return table.sort_by([("example", "ascending"), ("radius", "ascending")]).combine_chunks()


def _column(field: pa.Field, values: Sequence[Any] | Tensor | np.ndarray) -> pa.Array:
    plain = values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)
    plain = [value.item() if isinstance(value, Tensor | np.generic) else value for value in plain]
    if not pa.types.is_string(field.type):
        plain = [None if isinstance(value, float) and value != value else value for value in plain]
    try:
        array = pa.array(plain, type=field.type)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise InputError(f"expected {field.type} values in column {field.name}, got: {error}") from error
    if array.null_count and not field.nullable:
        raise InputError(f"expected a value in every row of column {field.name}, got {array.null_count} empty ones")
    return array


def write_rows(sink: BinaryIO | pa.NativeFile, tables: Iterable[pa.Table]) -> int:
    """Write tables of schema `ROWS` one after another as one Parquet file; returns the number of rows.

    The bytes depend on the rows alone (and the version of pyarrow), not on how they were cut into tables. Memory is
    bounded by two row groups and the largest table.
    """
    total, held, count = 0, [], 0
    with pq.ParquetWriter(sink, ROWS, **_SETTINGS) as writer:
        for table in tables:
            held.append(table)
            count += table.num_rows
            while count >= ROW_GROUP:
                joined = pa.concat_tables(held)
                writer.write_table(joined.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
                held, count, total = [joined.slice(ROW_GROUP)], count - ROW_GROUP, total + ROW_GROUP
        if count:
            writer.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=ROW_GROUP)
    return total + count


def read_rows(path: Path, shown: str, cure: str) -> pa.Table:
    """A table that `write_rows` wrote, its checksums verified; columns that came later are empty where it is older than they are.

    Raises:
        RunError: missing, damaged, or with other columns.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(use_threads=False)
    except FileNotFoundError:
        raise RunError(f"expected a file {shown}, got none; {cure}") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"expected the rows of a run in {shown}, got a damaged file ({reason}); {cure}") from error
    names = table.schema.names
    for name in _ADDED:
        if name not in names:
            table = table.append_column(ROWS.field(name), pa.nulls(table.num_rows, ROWS.field(name).type))
    if set(table.schema.names) == set(ROWS.names):
        table = table.select(ROWS.names)
    if not table.schema.equals(ROWS):
        raise RunError(f"expected the columns {', '.join(ROWS.names)} in {shown}, got {', '.join(names)}; {cure}")
    return table
