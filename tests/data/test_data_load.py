"""`load`: names, paths, objects of the user's own code, and the first n."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from hauberk.data import Arrays, Pairs, Source, load, names
from hauberk.errors import DataError, HauberkError, SettingError, UnknownNameError


class Listed:
    """A map-style data set over a list."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.asked = items, list[int]()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.asked.append(index)
        return self.items[index]


def test_digits_are_scaled_to_the_bounds() -> None:
    source = load("digits")
    assert (source.name, len(source), source.shape) == ("digits", 1797, (1, 8, 8))
    (chunk,) = source.chunks(2000)
    assert (float(chunk.x.min()), float(chunk.x.max())) == (0.0, 1.0)
    assert torch.equal(chunk.x * 16, (chunk.x * 16).round())
    assert chunk.y[:10].tolist() == list(range(10))
    (other,) = load("digits", bounds=(-1, 1)).chunks(2000)
    torch.testing.assert_close(other.x, chunk.x * 2 - 1)
    assert other.x.min() == -1
    assert source.fingerprint() != load("digits", bounds=(-1, 1)).fingerprint()


def test_mnist5k_is_shuffled_once_so_that_the_first_n_are_a_random_sample() -> None:
    source = load("mnist5k")
    assert (len(source), source.shape) == (5000, (1, 28, 28))
    assert any("shuffled" in note for note in source.notes)
    (chunk,) = source.chunks(5000)
    assert torch.bincount(chunk.y).tolist() == [500] * 10
    assert torch.bincount(chunk.y[:500], minlength=10).min() > 25
    assert torch.equal(chunk.x * 255, (chunk.x * 255).round())
    # The order is a promise: zoo cards and users' tables name examples by it.
    assert chunk.y[:12].tolist() == [4, 3, 3, 6, 8, 9, 5, 7, 9, 5, 7, 8]


def test_names_are_listed_and_a_near_miss_is_suggested() -> None:
    assert set(names()) == {"digits", "mnist5k"}
    with pytest.raises(UnknownNameError, match="did you mean mnist5k"):
        load("mnist5")


@pytest.mark.parametrize("n", [0, -1, 7, 2.0, True, "3"])
def test_an_n_that_cannot_be_is_refused(n: Any) -> None:
    with pytest.raises(DataError, match=r"holds 6 examples, got n=7|whole number >= 1"):
        load((np.zeros((6, 2)), np.arange(6)), n=n)
    with pytest.raises(DataError, match=r"holds 6 examples, got n=7|whole number >= 1"):
        load(Listed([(torch.zeros(2), 0)] * 6), n=n)


def test_n_takes_the_first_and_start_and_stop_stay_inside() -> None:
    whole = Arrays(np.zeros((6, 2)), np.arange(6))
    source = load(whole, n=4)
    assert len(source) == 4
    assert isinstance(source, Source)
    assert (source.name, source.shape, source.fingerprint()) == (whole.name, whole.shape, whole.fingerprint())
    for start, stop in ((0, None), (2, None), (1, 3), (2, 99), (4, None), (9, None)):
        got = [int(i) for chunk in source.chunks(3, start=start, stop=stop) for i in chunk.ids]
        assert got == list(range(4))[start:stop]


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_chunk_size_or_position_that_cannot_be_is_refused(size: Any) -> None:
    source = load((np.zeros((6, 2)), np.arange(6)), n=5)
    with pytest.raises(SettingError, match="chunk size"):
        source.chunks(size)
    with pytest.raises(SettingError, match="positions >= 0"):
        source.chunks(2, start=-1)


def test_a_source_is_given_back_as_it_is() -> None:
    source = Arrays(np.zeros((6, 2)), np.arange(6))
    assert load(source) is source


def test_a_mapping_names_its_arrays(tmp_path: Path) -> None:
    source = load({"x": np.zeros((3, 2)), "target": [0, 1, 2], "other": None})
    assert next(iter(source.chunks(3))).y.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"holds no labels: .* got x"):
        load({"x": np.zeros((3, 2))})


def test_map_style_data_sets_are_read_item_by_item() -> None:
    x, y = torch.rand(9, 2, 3), torch.arange(9)
    source = load(TensorDataset(x, y))
    (chunk,) = source.chunks(9)
    assert torch.equal(chunk.x, x)
    assert torch.equal(chunk.y, y)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    pictures = Listed([{"image": Image.fromarray(one), "label": index} for index, one in enumerate(pixels)])
    (chunk,) = load(pictures).chunks(9)
    assert torch.equal(chunk.x, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float() / 255)
    assert chunk.y.tolist() == [0, 1, 2]
    (chunk,) = load(Listed([(np.zeros(2), [0, 1, 0]), (np.ones(2), [1, 0, 0])])).chunks(9)
    assert chunk.y.tolist() == [1, 0]


def test_the_first_n_of_a_map_style_data_set_touch_no_other_item() -> None:
    items = Listed([(torch.full((2,), float(index)), 0) for index in range(20)])
    source = load(items, n=3)
    assert [int(i) for chunk in source.chunks(2) for i in chunk.ids] == [0, 1, 2]
    first = source.fingerprint()
    assert set(items.asked) == {0, 1, 2}
    items.items[7] = (torch.zeros(2), 1)
    assert load(items, n=3).fingerprint() == first
    items.items[2] = (torch.zeros(2), 0)
    assert load(items, n=3).fingerprint() != first


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([], "is empty"),
        ([3], "expected a pair .* at item 0"),
        ([(torch.zeros(2), 0), (torch.zeros(3), 0)], "at item 1"),
        ([(torch.zeros(2), 0), (torch.zeros(2).double(), 0)], "float32 .* float64 at item 1"),
        ([(torch.zeros(2), 0), (torch.zeros(2), [0, 1])], "labels of one shape, got .* at item 1"),
        ([(torch.zeros(2), 0), (torch.tensor([0.0, torch.nan]), 0)], "NaN in item 1"),
        ([(torch.zeros(2), 0), (torch.zeros(2), -1)], "got -1 at item 1"),
        ([(torch.zeros(()), 0)], "at least one axis"),
        ([({}, 0)], "Python objects"),
        ([{"image": torch.zeros(2)}], "item 0 of data holds no label"),
    ],
)
def test_items_that_cannot_be_used_are_named(items: list[Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        list(load(Listed(items)).chunks(4))


def test_an_item_that_raises_is_one_sentence() -> None:
    class Broken(Listed):
        def __getitem__(self, index: int) -> Any:
            if index == 2:
                raise KeyError("no such file\nat all")
            return super().__getitem__(index)

    with pytest.raises(DataError, match="item 2 of data cannot be read: KeyError") as caught:
        list(load(Broken([(torch.zeros(2), 0)] * 4)).chunks(4))
    assert "\n" not in str(caught.value)


def test_a_loader_is_refused_with_the_cure() -> None:
    with pytest.raises(DataError, match=r"give its \.dataset"):
        load(DataLoader(TensorDataset(torch.zeros(2, 2), torch.zeros(2))))


CODE = """
import numpy as np
from dataclasses import dataclass

pair = (np.zeros((3, 2)), [0, 1, 2])

def make():
    return np.ones((4, 2)), [0, 1, 2, 3]

@dataclass
class Set:
    count: int = 5
    def __len__(self):
        return self.count
    def __getitem__(self, i):
        return np.zeros(2), i

made = Set(2)

def fails():
    raise OSError("disk on fire\\nreally")

def deep():
    return make

class Space:
    inner = pair
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "h2_user_code.py").write_text(CODE)
    (tmp_path / "h2_broken_code.py").write_text("import h2_not_there\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", ["h2_user_code", "h2_user_code.py", "{}/h2_user_code.py"])
@pytest.mark.parametrize(("name", "count"), [("pair", 3), ("make", 4), ("Set", 5), ("made", 2), ("Space.inner", 3)])
def test_objects_of_the_users_code_are_found(code: Path, place: str, name: str, count: int) -> None:
    before = list(sys.path)
    spec = f"py:{place.format(code)}:{name}"
    source = load(spec)
    assert len(source) == count
    assert source.name == spec
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("py:h2_user_code", "expected py:module:object"),
        ("py::pair", "expected py:module:object"),
        ("py:h2_nowhere:pair", "ModuleNotFoundError"),
        ("py:h2_nowhere.py:pair", r"there is no file h2_nowhere\.py"),
        ("py:h2_broken_code:pair", "No module named 'h2_not_there'"),
        ("py:h2_broken_code.py:pair", "No module named 'h2_not_there'"),
        ("py:h2_user_code:pear", "has no 'pear'; it has .*pair"),
        ("py:h2_user_code:fails", "OSError: disk on fire"),
        ("py:h2_user_code:deep", "got function"),
        ("py:h2_user_code:np.pi", "got float"),
    ],
)
def test_code_that_gives_no_data_is_one_sentence(code: Path, spec: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        load(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nowhere.npz", r"no file or folder nowhere\.npz"),
        ("some/where", "no file or folder some/where"),
        ("h2_user_code.py", r"expected an \.npz file"),
        (5, "got int"),
        (None, "got NoneType"),
        ((1, 2, 3), "got 3 things"),
        (np.zeros((2, 2)), "got ndarray"),
        (torch.zeros(2, 2), "got Tensor"),
        (print, "got builtin_function"),
        (Arrays, "got type"),
    ],
)
def test_what_is_no_data_set_is_refused(code: Path, spec: Any, says: str) -> None:
    with pytest.raises(HauberkError, match=says):
        load(spec)


def test_the_classes_of_a_data_set_name_the_classes() -> None:
    items = Listed([(torch.zeros(2), 0)])
    items.classes = ["cat", "dog"]  # type: ignore[attr-defined]
    assert Pairs(items).class_names == ("cat", "dog")
