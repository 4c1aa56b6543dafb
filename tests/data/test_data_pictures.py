"""Encoded pictures in Parquet files and in folders: decoded, checked, streamed, and refused with the row or file named."""

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hauberk.data import Folder, Parquet, load
from hauberk.errors import DataError


def png(pixels: np.ndarray, mode: str | None = None, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(out, kind)
    return out.getvalue()


def colours(count: int, size: tuple[int, int] = (4, 6)) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def save(path: Path, images: Any, labels: Any, *, image: str = "image", label: str = "label", **options: Any) -> Path:
    pq.write_table(pa.table({image: images, label: labels}), path, **options)
    return path


def structs(data: list[bytes | None]) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": one, "path": "p"} for one in data], kind)


def in_bounds(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 255


def test_parquet_pictures_in_structs_and_in_bytes_are_decoded(tmp_path: Path) -> None:
    x = colours(7)
    data = [png(one) for one in x]
    for images in (structs(list(data)), pa.array(data, pa.binary()), pa.array(data, pa.large_binary())):
        source = load(save(tmp_path / "d.parquet", images, list(range(7))))
        (chunk,) = source.chunks(10)
        assert source.shape == (3, 4, 6)
        assert source.notes == ()
        assert torch.equal(chunk.x, in_bounds(x))
        assert chunk.y.tolist() == list(range(7))


@pytest.mark.parametrize("group", [1, 3, 4, 100])
def test_parquet_gives_the_same_rows_for_every_start_stop_size_and_row_group(tmp_path: Path, group: int) -> None:
    x = np.random.default_rng(0).random((11, 5)).astype(np.float32)
    path = save(tmp_path / "d.parquet", pa.array(list(x)), list(range(11)), row_group_size=group)
    source = load(path)
    for size in (1, 3, 11):
        for start in (0, 4, 11, 20):
            for stop in (None, 4, 9, 50):
                chunks = list(source.chunks(size, start=start, stop=stop))
                ids = [int(i) for chunk in chunks for i in chunk.ids]
                assert ids == list(range(11))[start:stop]
                assert all(len(chunk) == size for chunk in chunks[:-1])
                for chunk in chunks:
                    assert torch.equal(chunk.x, torch.from_numpy(x)[chunk.ids])
                    assert torch.equal(chunk.y, chunk.ids)


@pytest.mark.parametrize("kind", [pa.uint8(), pa.float32(), pa.float64(), pa.int64()])
@pytest.mark.parametrize("fixed", [False, True])
def test_parquet_lists_of_numbers_are_inputs(tmp_path: Path, kind: pa.DataType, fixed: bool) -> None:
    values = [[[0, 1, 2], [3, 4, 255]], [[9, 8, 7], [6, 5, 4]]]
    inner = pa.list_(kind, 3) if fixed else pa.list_(kind)
    outer = pa.list_(inner, 2) if fixed else pa.large_list(inner)
    source = load(save(tmp_path / "d.parquet", pa.array(values, outer), [0, 1], image="pixel_values", label="labels"))
    (chunk,) = source.chunks(2)
    assert source.shape == (1, 2, 3)
    scale = 255 if kind == pa.uint8() else 1
    assert torch.equal(chunk.x, torch.tensor(values, dtype=chunk.x.dtype)[:, None] / scale)
    assert (chunk.x.dtype == torch.float64) == (kind == pa.float64())


def test_parquet_class_names_come_from_the_metadata(tmp_path: Path) -> None:
    info = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}
    table = pa.table({"image": pa.array([[0.5], [0.25]]), "label": [1, 0]})
    for text, expected in ((json.dumps(info), ("cat", "dog")), ("{", None), ("[]", None), ('{"info": null}', None)):
        pq.write_table(table.replace_schema_metadata({"huggingface": text}), tmp_path / "d.parquet")
        assert load(tmp_path / "d.parquet").class_names == expected


def test_parquet_columns_are_guessed_with_a_note(tmp_path: Path) -> None:
    x = colours(2)
    data = pa.array([png(one) for one in x])
    pq.write_table(pa.table({"photo": data, "fine_label": [3, 4], "coarse_label": [0, 1]}), tmp_path / "d.parquet")
    source = load(tmp_path / "d.parquet")
    (chunk,) = source.chunks(2)
    assert chunk.y.tolist() == [3, 4]
    assert len(source.notes) == 2
    assert "took 'photo', its only column of bytes" in source.notes[0]
    assert "took 'fine_label' as the labels column, although 'coarse_label'" in source.notes[1]


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (pa.array([[1.0], [1.0, 2.0]]), [0, 1], r"lists of 1 and of other lengths \(row 1\)"),
        (pa.array([[[1.0]], [[1.0], [2.0, 3.0]]]), [0, 1], "lists of 1 and of other lengths"),
        (pa.array([[1.0], None]), [0, 1], "empty cells"),
        (pa.array([[1.0], [None]]), [0, 1], "empty cells"),
        (pa.array([[1.0], [float("nan")]]), [0, 1], r"NaN in row 1 of d\.parquet"),
        (pa.array([["a"], ["b"]]), [0, 1], "must hold numbers"),
        (pa.array([0.5, 0.5]), [0, 1], "pictures or lists of numbers"),
        (pa.array([[1.0], [2.0]]), ["cat", "dog"], "number the classes"),
        (pa.array([[1.0], [2.0]]), [0, None], "empty cells"),
        (pa.array([[1.0], [2.0]]), [0, -1], "got -1 at row 1"),
        (pa.array([[1.0], [2.0]]), [0.0, 0.5], r"got 0\.5 at row 1"),
        (pa.array([], pa.list_(pa.float32())), pa.array([], pa.int64()), "has no rows"),
        (structs([png(colours(1)[0]), None]), [0, 1], r"bytes of a picture at row 1 of d\.parquet"),
        (structs([png(colours(1)[0]), b"no picture"]), [0, 1], "row 1 .* no picture of a known kind"),
        (structs([png(colours(1)[0]), png(colours(1)[0])[:60]]), [0, 1], "image at row 1 .* cannot be decoded"),
        (structs([png(colours(1)[0]), png(colours(1, (5, 6))[0])]), [0, 1], "5x6 at row 1 .* after 4x6"),
        (structs([png(colours(1)[0], "L"), png(colours(1)[0])]), [0, 1], "first picture is grey"),
    ],
)
def test_parquet_rows_that_cannot_be_used_are_named(tmp_path: Path, images: pa.Array, labels: Any, says: str) -> None:
    save(tmp_path / "d.parquet", images, labels)
    with pytest.raises(DataError, match=says) as caught:
        list(load(tmp_path / "d.parquet").chunks(2))
    assert "\n" not in str(caught.value)


def test_a_table_without_images_or_labels_is_refused_with_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "label": [0]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"holds no images column: .* got a, label"):
        load(tmp_path / "d.parquet")
    pq.write_table(pa.table({"image": [[1.0]], "b": [0]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"holds no labels column: .* got image, b"):
        load(tmp_path / "d.parquet")


def test_a_damaged_table_is_one_sentence(tmp_path: Path) -> None:
    data = save(
        tmp_path / "good.parquet", pa.array(list(np.random.default_rng(0).random((500, 8)))), [0] * 500
    ).read_bytes()
    flipped = bytearray(data)
    flipped[20:400] = b"\xa5" * 380
    bad = tmp_path / "bad.parquet"
    for damaged in (b"", b"hello", data[: len(data) // 2], data[:-9], bytes(flipped)):
        bad.write_bytes(damaged)
        with pytest.raises(DataError, match=r"bad\.parquet cannot be read as Parquet") as caught:
            list(load(bad).chunks(16))
        assert "\n" not in str(caught.value)


def test_parquet_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    schema = pa.schema([("image", pa.list_(pa.uint8(), 1024)), ("label", pa.int64())])
    with pq.ParquetWriter(tmp_path / "d.parquet", schema) as writer:
        block = np.tile(np.arange(1024, dtype=np.uint8), 1000)
        for _ in range(20):
            images = pa.FixedSizeListArray.from_arrays(pa.array(block), 1024)
            writer.write_table(pa.table({"image": images, "label": [1] * 1000}, schema=schema))
    source = load(tmp_path / "d.parquet")
    idle = pa.total_allocated_bytes()
    arrow = 0
    tracemalloc.start()
    try:
        for chunk in source.chunks(100):
            arrow = max(arrow, pa.total_allocated_bytes() - idle)
            assert len(chunk) == 100
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20 < 20_000 * 1024 / 4
    assert arrow < 8 << 20


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("P", 3), ("LA", 1), ("RGBA", 3), ("CMYK", 3)]
)
def test_every_ordinary_kind_of_picture_becomes_grey_or_colour(tmp_path: Path, mode: str, channels: int) -> None:
    data = png(colours(1)[0], mode, "TIFF" if mode == "CMYK" else "PNG")
    source = load(save(tmp_path / "d.parquet", structs([data]), [0]))
    assert source.shape == (channels, 4, 6)


def test_a_grey_picture_among_coloured_ones_gets_three_equal_channels(tmp_path: Path) -> None:
    x = colours(2)
    source = load(save(tmp_path / "d.parquet", structs([png(x[0]), png(x[1], "L")]), [0, 1]))
    (chunk,) = source.chunks(2)
    grey = np.asarray(Image.fromarray(x[1]).convert("L"))
    assert torch.equal(chunk.x[1], torch.from_numpy(grey.copy()).float().expand(3, 4, 6) / 255)


def test_transparent_and_deep_pictures_are_refused(tmp_path: Path) -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    deep = np.zeros((4, 4), np.uint16)
    for pixels, says in ((clear, "transparent pixels at row 0"), (deep, "8-bit pictures")):
        with pytest.raises(DataError, match=says):
            load(save(tmp_path / "d.parquet", structs([png(pixels)]), [0]))


def fill(folder: Path, pixels: np.ndarray, names: list[str]) -> None:
    for one, name in zip(pixels, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(one, kind="PNG"))


def test_a_folder_gives_each_subfolder_a_class_in_sorted_order(tmp_path: Path) -> None:
    x = colours(6)
    names = ["dog/b.png", "cat/z.PNG", "cat/deep/er/a.png", "ant/1.png", "ant/2.png", "dog/a.png"]
    fill(tmp_path / "set", x, names)
    (tmp_path / "set" / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "set" / ".hidden").mkdir()
    source = load(str(tmp_path / "set"))
    assert source.class_names is not None
    (chunk,) = source.chunks(10)
    assert source.name == "set"
    assert source.class_names == ("ant", "cat", "dog")
    assert len(source) == 6
    expected = {
        in_bounds(x[i : i + 1]).numpy().tobytes(): source.class_names.index(n.split("/")[0])
        for i, n in enumerate(names)
    }
    got = {one.numpy().tobytes(): int(y) for one, y in zip(chunk.x, chunk.y, strict=True)}
    assert got == expected
    again = next(iter(Folder(tmp_path / "set").chunks(10)))
    assert torch.equal(again.x, chunk.x)
    assert next(iter(source.chunks(2, start=3))).ids.tolist() == [3, 4]


def test_the_first_pictures_of_a_folder_are_of_many_classes(tmp_path: Path) -> None:
    fill(tmp_path / "set", colours(60, (1, 1)), [f"{index // 20}/{index % 20:02}.png" for index in range(60)])
    source = load(tmp_path / "set", n=20)
    (chunk,) = source.chunks(100)
    assert set(chunk.y.tolist()) == {0, 1, 2}
    assert any("shuffled" in note for note in source.notes)


def test_folders_that_are_no_data_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no subfolders"):
        load(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"holds no pictures"):
        load(tmp_path)
    fill(tmp_path, colours(1), ["a/1.png"])
    fill(tmp_path, colours(1, (7, 6)), ["b/1.png"])
    with pytest.raises(DataError, match=r"(4x6|7x6) at .* after (4x6|7x6) .*resize"):
        list(load(tmp_path).chunks(2))
    (tmp_path / "b" / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"b.1\.png cannot be decoded"):
        list(load(tmp_path).chunks(2))


def test_fingerprints_of_files_and_folders_cover_bytes_names_and_bounds(tmp_path: Path) -> None:
    fill(tmp_path / "set", colours(2), ["a/1.png", "b/1.png"])
    prints = [Folder(tmp_path / "set").fingerprint(), Folder(tmp_path / "set", bounds=(-1, 1)).fingerprint()]
    assert prints[0] == load(tmp_path / "set", n=1).fingerprint()
    (tmp_path / "set" / "a" / "1.png").rename(tmp_path / "set" / "a" / "2.png")
    prints.append(Folder(tmp_path / "set").fingerprint())
    (tmp_path / "set" / "a" / "2.png").write_bytes(png(colours(3)[2]))
    prints.append(Folder(tmp_path / "set").fingerprint())
    path = save(tmp_path / "d.parquet", structs([png(colours(1)[0])]), [0])
    prints += [Parquet(path).fingerprint(), Parquet(path, bounds=(0, 255)).fingerprint()]
    save(path, structs([png(colours(1)[0])]), [1])
    prints.append(Parquet(path).fingerprint())
    assert len(set(prints)) == len(prints)
