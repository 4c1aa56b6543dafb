"""The table of rows has one schema, one order and one spelling in bytes."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import hauberk.evidence.table as module
from hauberk.errors import InputError, RunError
from hauberk.evidence import ROWS, read_rows, rows_table, write_rows


def columns_of(count: int) -> dict[str, Any]:
    k = np.arange(count)
    whole = {name: k.astype(np.int64) for name in ("example", "forwards", "backwards", "queries")}
    real = {
        name: np.where(k % 3 == 0, np.nan, k / 7) for name in ("linf", "l2", "l1", "confidence", "clean_confidence")
    }
    return whole | real | {
        "label": k % 10,
        "predicted": k % 10,
        "status": [module.STATUSES[i % 4] for i in k],
        "method": [None if i % 5 else "pgd" for i in k],
        "radius": np.full(count, 0.3),
        "l0": [None if i % 3 else int(i) for i in k],
        "adversarial_label": [None] * count,
    }  # fmt: skip


def test_the_columns_are_those_of_the_contract() -> None:
    assert rows_table(columns_of(3)).schema.equals(ROWS)
    assert ", ".join(f"{field.name} {field.type}" for field in ROWS) == (
        "example int64, label int32, predicted int32, status string, method string, radius double, linf float, l2 float, "
        "l1 float, l0 int32, adversarial_label int32, confidence float, clean_confidence float, forwards int64, "
        "backwards int64, queries int64, vote float, vote_low float, vote_high float, "
        "lower double, estimate double, upper double"
    )


def test_rows_are_sorted_by_example_and_radius() -> None:
    columns = columns_of(6) | {"example": [2, 1, 2, 0, 1, 0], "radius": [0.3, 0.1, 0.1, float("inf"), 0.3, 0.1]}
    table = rows_table(columns)
    pairs = list(zip(table["example"].to_pylist(), table["radius"].to_pylist(), strict=True))
    assert pairs == sorted(pairs)
    assert table["forwards"].to_pylist() == [5, 3, 1, 4, 2, 0]


def test_tensors_arrays_and_lists_give_the_same_table() -> None:
    columns = columns_of(8)
    tensors = {name: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for name, v in columns.items()}
    lists = {name: list(v) for name, v in columns.items()}
    assert rows_table(columns).equals(rows_table(tensors))
    assert rows_table(columns).equals(rows_table(lists))


def test_nan_is_an_empty_field() -> None:
    assert rows_table(columns_of(4))["l2"].null_count == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": ["fine"] * 4}, "got fine"),
        ({"label": [0, 1, None, 2]}, "column label"),
        ({"radius": [float("nan")] * 4}, "column radius"),
        ({"label": [0, 1, 2, 2**40]}, "column label"),
        ({"label": [0, 1, 2, "x"]}, "column label"),
        ({"label": [0, 1, 2]}, "one length"),
        ({"surplus": [0] * 4}, "surplus besides"),
    ],
)
def test_wrong_columns_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rows_table(columns_of(4) | change)


def test_a_missing_column_is_refused() -> None:
    columns = columns_of(4)
    del columns["l2"]
    with pytest.raises(InputError, match="none for l2"):
        rows_table(columns)


@pytest.mark.parametrize("size", [1, 3, 10, 64, 1000])
def test_the_bytes_do_not_depend_on_the_chunks(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 40)
    table = rows_table(columns_of(157))
    whole, cut = io.BytesIO(), io.BytesIO()
    assert write_rows(whole, [table]) == 157
    assert write_rows(cut, (table.slice(k, size) for k in range(0, 157, size))) == 157
    assert cut.getvalue() == whole.getvalue()
    file = pq.ParquetFile(io.BytesIO(cut.getvalue()))
    assert [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] == [40, 40, 40, 37]
    assert file.read().equals(table)


def test_a_table_without_rows_can_be_written(tmp_path: Path) -> None:
    for name, tables in (("none", []), ("empty", [rows_table(columns_of(0))])):
        with (tmp_path / name).open("wb") as file:
            assert write_rows(file, tables) == 0
        assert read_rows(tmp_path / name, "rows", "cure").num_rows == 0


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-10], lambda b: b"", lambda b: b[:200] + bytes([b[200] ^ 255]) + b[201:]]
)
def test_a_damaged_table_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    good = io.BytesIO()
    write_rows(good, [rows_table(columns_of(157))])
    (tmp_path / "rows.parquet").write_bytes(damage(good.getvalue()))
    with pytest.raises(RunError, match=r"damaged file.*; the cure"):
        read_rows(tmp_path / "rows.parquet", "rows.parquet", "the cure")


def test_other_columns_and_no_file_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "rows.parquet")
    with pytest.raises(RunError, match="got a; the cure"):
        read_rows(tmp_path / "rows.parquet", "rows.parquet", "the cure")
    with pytest.raises(RunError, match="got none; the cure"):
        read_rows(tmp_path / "none", "none", "the cure")


@pytest.mark.parametrize("newer", [("vote", "vote_low", "vote_high"), ("lower", "estimate", "upper")])
def test_a_table_from_before_there_were_votes_or_proofs_still_opens(tmp_path: Path, newer: tuple[str, ...]) -> None:
    table = rows_table(columns_of(5))
    old = table.drop_columns(list(newer))
    pq.write_table(old, tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet", "rows.parquet", "none").equals(table)
    assert set(table[newer[0]].to_pylist()) == {None}
