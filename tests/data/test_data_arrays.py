"""Data in memory: what is accepted, how it is mapped, and what is refused with which sentence."""

from typing import Any

import numpy as np
import pytest
import torch

from hauberk.data import Arrays, Chunk, load
from hauberk.errors import DataError, SettingError


def all_of(source: Any, size: int = 4) -> Chunk:
    parts = list(source.chunks(size))
    return Chunk(*(torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "x", "y")))


def pictures(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)


def test_bytes_are_mapped_so_that_0_is_low_and_255_is_high() -> None:
    x = np.arange(256, dtype=np.uint8).reshape(2, 128)
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.3, 0.7)):
        got = all_of(Arrays(x, [0, 1], bounds=(low, high))).x
        assert got.dtype == torch.float32
        expected = torch.arange(256, dtype=torch.float64).reshape(2, 128) / 255 * (high - low) + low
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-7 * max(1.0, abs(high)))
        assert got.min() == torch.tensor(low)
        assert got.max() == torch.tensor(high)
    assert torch.equal(all_of(Arrays(x, [0, 1])).x, torch.from_numpy(x).float() / 255)
    assert torch.equal(all_of(Arrays(x, [0, 1], bounds=(0, 255))).x, torch.from_numpy(x).float())


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.int16, torch.float32),
        (torch.bool, torch.float32),
    ],
)
def test_numbers_other_than_bytes_are_taken_as_they_are(dtype: torch.dtype, kept: torch.dtype) -> None:
    x = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    source = Arrays(x, torch.tensor([0, 1]))
    got = all_of(source).x
    assert got.dtype == kept
    assert torch.equal(got, x.to(kept))
    assert bool(source.notes) == (not dtype.is_floating_point)


def test_a_foreign_byte_order_and_a_memory_map_are_read(tmp_path: Any) -> None:
    x = np.linspace(0, 1, 12).reshape(4, 3)
    np.save(tmp_path / "x.npy", x.astype(">f8"))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.equal(all_of(Arrays(mapped, [0, 1, 2, 3])).x, torch.from_numpy(x))


def test_a_chunk_shares_no_memory_with_the_users_arrays() -> None:
    x, y = torch.rand(4, 3, requires_grad=True), torch.arange(4)
    before = x.detach().clone()
    for chunk in Arrays(x, y).chunks(2):
        chunk.x.zero_()
        chunk.y.zero_()
        chunk.ids.zero_()
    assert torch.equal(x.detach(), before)
    assert torch.equal(y, torch.arange(4))


def test_ids_are_positions_unless_given() -> None:
    x = pictures()
    assert all_of(Arrays(x, np.zeros(6, int))).ids.tolist() == [0, 1, 2, 3, 4, 5]
    shuffled = Arrays(x, np.zeros(6, int), ids=[5, 3, 1, 0, 2, 40])
    assert all_of(shuffled).ids.tolist() == [5, 3, 1, 0, 2, 40]
    assert next(iter(shuffled.chunks(2, start=3))).ids.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("y", "expected", "noted"),
    [
        ([2, 0, 1], [2, 0, 1], ""),
        (np.array([2, 0, 1], dtype=np.uint8), [2, 0, 1], ""),
        (np.array([[2], [0], [1]]), [2, 0, 1], ""),
        (np.array([2.0, 0.0, 1.0]), [2, 0, 1], "float64"),
        (np.array([True, False, True]), [1, 0, 1], "booleans"),
        (np.eye(3)[[2, 0, 1]], [2, 0, 1], "one-hot"),
        (torch.eye(3, dtype=torch.int64)[[2, 0, 1]], [2, 0, 1], "one-hot"),
    ],
)
def test_labels_in_any_honest_form_become_class_indices(y: Any, expected: list[int], noted: str) -> None:
    source = Arrays(pictures(3), y)
    got = all_of(source).y
    assert got.dtype == torch.int64
    assert got.tolist() == expected
    assert noted in " ".join(source.notes)
    assert bool(source.notes) == bool(noted)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        ([0, -1, 2], r"got -1 at example 1 of arrays; -1 often marks"),
        ([0, -7, 2], r"got -7 at example 1"),
        ([0.0, 1.5, 2.0], r"got 1\.5 at example 1"),
        ([0.0, 1.0, float("nan")], r"got nan at example 2"),
        ([0.0, 1.0, float("inf")], r"got inf at example 2"),
        ([0, 1, 2**31], r"got 2\.14748e\+09 at example 2"),
        ([[0.5, 0.5], [0, 1], [1, 0]], r"one-hot .* at example 0"),
        ([[0, 0], [0, 1], [1, 0]], r"one-hot .* at example 0"),
        ([[0, 1], [1, 0], [1, 1]], r"one-hot .* at example 2"),
    ],
)
def test_labels_that_are_no_classes_are_refused_where_they_are_met(y: Any, says: str) -> None:
    source = Arrays(pictures(3), y)
    with pytest.raises(DataError, match=says):
        all_of(source)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.zeros((3, 2)), [0, 1], "3 examples but 2 labels"),
        (np.zeros((0, 2)), [], "is empty"),
        (np.zeros((2, 0)), [0, 1], "is empty"),
        (np.zeros(2), [0, 1], "one number is no input"),
        (np.float64(1.0), [0], "a single number"),
        (np.array([[1], [None]], dtype=object), [0, 1], "Python objects"),
        ([[1.0, 2.0], [3.0]], [0, 1], "do not form one array"),
        (np.zeros((2, 2), dtype=complex), [0, 1], "complex128"),
        (np.zeros((2, 2), dtype=np.longdouble), [0, 1], "uint8 or float"),
        (np.array([["a"], ["b"]]), [0, 1], "uint8 or float"),
        (torch.zeros(2, 2).to_sparse(), [0, 1], "sparse"),
        (np.ma.masked_equal(np.array([[1.0], [2.0]]), 2.0), [0, 1], "masked"),
        (np.zeros((2, 2)), ["cat", "dog"], "number the classes from 0"),
        (np.zeros((2, 2)), np.array([None, 1]), "Python objects"),
        (np.zeros((2, 2)), np.zeros((2, 2, 2), int), "one-hot"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused_at_once(x: Any, y: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        Arrays(x, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([0, 1], "one id for each"),
        ([0, 0, 1], "distinct"),
        ([0, -1, 1], "ids >= 0"),
        ([0.0, 1.0, 2.0], "whole numbers"),
    ],
)
def test_ids_that_name_no_examples_are_refused(ids: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        Arrays(np.zeros((3, 2)), [0, 1, 2], ids)


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "an infinite value"), (-np.inf, "an infinite")])
def test_the_first_example_with_a_value_that_is_not_finite_is_named(value: float, kind: str) -> None:
    x = np.zeros((10, 2, 2), dtype=np.float32)
    x[7, 1, 0] = value
    x[8] = value
    source = Arrays(x, np.zeros(10, int), ids=np.arange(100, 110))
    chunks = source.chunks(3)
    assert len(next(chunks)) == len(next(chunks)) == 3
    with pytest.raises(DataError, match=f"got {kind}.* in example 107"):
        next(chunks)


def test_whole_numbers_that_float32_cannot_hold_are_refused() -> None:
    with pytest.raises(DataError, match="lose digits"):
        all_of(Arrays(np.array([[2**24 + 1], [0]]), [0, 1]))
    assert all_of(Arrays(np.array([[2**24], [0]]), [0, 1])).x[0, 0] == 2**24


def test_the_fingerprint_knows_values_labels_ids_bounds_and_nothing_else() -> None:
    x, y = pictures(), np.arange(6)
    same = [Arrays(x, y), Arrays(x.copy(), torch.from_numpy(y), name="other"), load((x, y))]
    assert len({source.fingerprint() for source in same}) == 1
    other_x, other_y = x.copy(), y.copy()
    other_x[5, 0, 3, 3] ^= 1
    other_y[5] = 0
    others = [
        Arrays(other_x, y),
        Arrays(x, other_y),
        Arrays(x, y, bounds=(-1, 1)),
        Arrays(x, y, ids=[5, 4, 3, 2, 1, 0]),
        Arrays(x.reshape(6, 16), y),
        Arrays(x.astype(np.float32), y),
    ]
    prints = {source.fingerprint() for source in (same[0], *others)}
    assert len(prints) == 1 + len(others)
    assert all(len(text) == 64 for text in prints)


def test_bounds_that_are_no_range_are_refused() -> None:
    for bounds in ((1, 0), (0, float("inf")), (0,), "ab", (0, "x")):
        with pytest.raises(SettingError, match="bounds"):
            load(([[1.0]], [0]), bounds=bounds)  # type: ignore[arg-type]
