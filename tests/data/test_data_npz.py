"""npz files: recognised, streamed in bounded memory, and refused in one sentence when damaged."""

import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hauberk.data import Npz, load
from hauberk.errors import DataError


def save(path: Path, *, compressed: bool = True, **arrays: Any) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def pictures(count: int = 10, shape: tuple[int, ...] = (5, 4)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("x", "y"), ("X", "Y"), ("x_test", "y_test"), ("data", "targets"), ("arr_0", "arr_1")],
)
def test_the_usual_names_are_found(tmp_path: Path, images: str, labels: str) -> None:
    x, y = pictures(), np.arange(10)
    source = load(save(tmp_path / "d.npz", **{images: x, labels: y}))
    (chunk,) = source.chunks(10)
    assert torch.equal(chunk.x[:, 0], torch.from_numpy(x).float() / 255)
    assert chunk.y.tolist() == list(range(10))


def test_of_many_names_a_refusal_lists_the_first(tmp_path: Path) -> None:
    columns: dict[str, Any] = {f"p{place}": np.zeros(3) for place in range(784)}
    path = save(tmp_path / "d.npz", **columns)
    with pytest.raises(DataError, match=r"got p0, p1, [p\d, ]*, p11, \.\.\. and 772 more; rename yours"):
        load(path)


def test_a_choice_between_names_is_noted(tmp_path: Path) -> None:
    x, y = pictures(), np.arange(10)
    source = load(save(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y, data=x))
    assert any("took 'x_test' as the images, although 'data' would do" in note for note in source.notes)


@pytest.mark.parametrize(
    ("stored", "shape", "noted"),
    [
        ((5, 4), (1, 5, 4), "one channel"),
        ((1, 5, 6), (1, 5, 6), ""),
        ((3, 5, 4), (3, 5, 4), "fits two layouts"),
        ((3, 5, 6), (3, 5, 6), ""),
        ((5, 6, 3), (3, 5, 6), "height x width x channels"),
        ((5, 6, 1), (1, 5, 6), "height x width x channels"),
        ((5, 6, 7), (5, 6, 7), ""),
        ((20,), (20,), ""),
    ],
)
def test_the_layout_is_recognised_and_a_guess_is_noted(
    tmp_path: Path, stored: tuple[int, ...], shape: tuple[int, ...], noted: str
) -> None:
    x = pictures(4, stored)
    source = load(save(tmp_path / "d.npz", images=x, labels=np.zeros(4)))
    layout_notes = [note for note in source.notes if "labels" not in note]
    (chunk,) = source.chunks(4)
    assert source.shape == shape
    assert chunk.x.shape == (4, *shape)
    assert bool(layout_notes) == bool(noted)
    assert noted in " ".join(layout_notes)
    moved = x.transpose(0, 3, 1, 2) if "height" in noted else x
    assert torch.equal(chunk.x, torch.from_numpy(np.ascontiguousarray(moved)).reshape(4, *shape).float() / 255)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, ">f4"])
def test_every_start_stop_and_size_gives_the_rows_it_should(tmp_path: Path, compressed: bool, dtype: Any) -> None:
    x, y = pictures(11).astype(dtype), np.arange(11, dtype=np.int16)
    source = load(save(tmp_path / "d.npz", compressed=compressed, images=x, labels=y))
    whole = next(iter(source.chunks(100)))
    assert torch.equal(
        whole.x[:, 0], torch.from_numpy(x.astype(np.dtype(dtype).newbyteorder("="))) / (255 if dtype is np.uint8 else 1)
    )
    for size in (1, 3, 11):
        for start in (0, 4, 11, 20):
            for stop in (None, 4, 9, 50):
                chunks = list(source.chunks(size, start=start, stop=stop))
                ids = [int(i) for chunk in chunks for i in chunk.ids]
                assert ids == list(range(11))[start:stop]
                assert all(len(chunk) == size for chunk in chunks[:-1])
                for chunk in chunks:
                    assert torch.equal(chunk.x, whole.x[chunk.ids])
                    assert torch.equal(chunk.y, whole.y[chunk.ids])


def test_memory_does_not_grow_with_the_number_of_examples(tmp_path: Path) -> None:
    x = np.zeros((100_000, 16, 16), dtype=np.uint8)
    x[:, 3, 3] = np.arange(100_000) % 251
    save(tmp_path / "d.npz", images=x, labels=(np.arange(100_000) % 10).astype(np.int64))
    whole = x.nbytes
    del x
    tracemalloc.start()
    try:
        source = load(tmp_path / "d.npz")
        seen = 0
        for chunk in source.chunks(200):
            assert int(chunk.x[-1, 0, 3, 3] * 255 + 0.5) == int(chunk.ids[-1]) % 251
            seen += len(chunk)
        last = next(iter(source.chunks(200, start=99_999)))
        fingerprint = source.fingerprint()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == 100_000
    assert int(last.y[0]) == 9
    assert len(fingerprint) == 64
    chunk_bytes = 200 * 16 * 16 * 4
    assert peak < max(10 * chunk_bytes, 4 << 20) < whole / 6


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"labels": np.arange(3)}, "holds no images: expected one of images, image, .* got labels"),
        ({"images": np.zeros((3, 2, 2))}, "holds no labels: .* got images"),
        ({"images": np.zeros((3, 2, 2)), "labels": np.arange(2)}, "3 images in 'images' but 2 labels in 'labels'"),
        ({"images": np.zeros((0, 2, 2)), "labels": np.arange(0)}, "is empty"),
        ({"images": np.zeros(3), "labels": np.arange(3)}, r"shape \(n, \.\.\.\)"),
        ({"images": np.float64(3), "labels": np.arange(3)}, "a single value"),
        ({"images": np.array([[None]]), "labels": np.arange(1)}, "unpickling"),
        ({"images": np.zeros((1, 2)), "labels": np.array([None])}, "unpickling"),
        ({"images": np.zeros((1, 2), complex), "labels": np.arange(1)}, "uint8 or float"),
        ({"images": np.zeros((1, 2)), "labels": np.array(["a"])}, "number the classes"),
        ({"images": np.zeros((2, 2), [("é", "f4")]), "labels": np.arange(2)}, "record array|uint8 or float"),
        ({"images": np.asfortranarray(np.zeros((3, 2, 2))), "labels": np.arange(3)}, "Fortran"),
    ],
)
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_archives_that_are_no_data_set_are_refused(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        load(save(tmp_path / "d.npz", **arrays))
    assert "\n" not in str(caught.value)


def test_a_nan_and_a_bad_label_are_named_where_they_are(tmp_path: Path) -> None:
    x = np.zeros((9, 2, 2), np.float32)
    x[6] = np.nan
    with pytest.raises(DataError, match=r"NaN in example 6 of d\.npz"):
        list(load(save(tmp_path / "d.npz", images=x, labels=np.zeros(9, int))).chunks(4))
    y = np.zeros(9, int)
    y[5] = -1
    with pytest.raises(DataError, match=r"got -1 at example 5 of d\.npz"):
        list(load(save(tmp_path / "d.npz", images=np.zeros((9, 2)), labels=y)).chunks(4))


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    good = save(tmp_path / "good.npz", images=pictures(200, (20, 20)), labels=np.zeros(200, int))
    data = good.read_bytes()
    bad = tmp_path / "bad.npz"
    flipped = bytearray(data)
    for position in range(3000, 3400):
        flipped[position] ^= 0x5A
    for damaged in (b"", b"hello", data[: len(data) // 2], data[:-10], bytes(flipped)):
        bad.write_bytes(damaged)
        with pytest.raises(DataError, match=r"bad\.npz cannot be read as an npz archive") as caught:
            list(load(bad).chunks(16))
        assert "\n" not in str(caught.value)


def test_a_member_shorter_than_its_header_is_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "good.npz", compressed=False, images=pictures(20), labels=np.zeros(20, int))
    with zipfile.ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data[:-30] if name == "images.npy" else data)
    with pytest.raises(DataError, match="'images' ends before the 20 rows"):
        list(load(tmp_path / "short.npz").chunks(8))


def test_the_fingerprint_covers_the_bytes_and_the_bounds(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", images=pictures(), labels=np.arange(10))
    first = Npz(path).fingerprint()
    assert first == Npz(path).fingerprint() == load(str(path), n=3).fingerprint()
    assert first != Npz(path, bounds=(-1, 1)).fingerprint()
    save(path, images=pictures(), labels=np.arange(10)[::-1].copy())
    assert first != Npz(path).fingerprint()
