"""Fingerprints follow the content and nothing else."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hauberk.evidence.fingerprint as module
from hauberk.errors import InputError
from hauberk.evidence import array_fingerprint, file_fingerprint, setting_fingerprint, state_fingerprint

GRID = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "same",
    [
        torch.from_numpy(GRID.copy()),
        GRID.astype(">f4"),
        np.asfortranarray(GRID),
        torch.from_numpy(GRID.copy()).transpose(0, 2).contiguous().transpose(0, 2),
        torch.from_numpy(GRID.copy()).requires_grad_(),
    ],
    ids=["tensor", "big endian", "fortran order", "strided tensor", "with gradient"],
)
def test_the_same_content_in_another_layout_has_the_same_fingerprint(same: Any) -> None:
    assert array_fingerprint(same) == array_fingerprint(GRID)


@pytest.mark.parametrize(
    "other",
    [
        GRID.astype(np.float64),
        GRID.reshape(3, 2, 4),
        GRID + np.eye(4, dtype=np.float32)[:3] * 1e-3,
        GRID.view(np.int32),
    ],
    ids=["dtype", "shape", "one value", "same bytes, other dtype"],
)
def test_other_content_has_another_fingerprint(other: np.ndarray) -> None:
    assert array_fingerprint(other) != array_fingerprint(GRID)


def test_where_one_array_ends_matters() -> None:
    a = np.arange(4)
    assert array_fingerprint(a[:1], a[1:]) != array_fingerprint(a[:2], a[2:]) != array_fingerprint(a)


def test_pieces_do_not_show_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(37, 5, generator=torch.Generator().manual_seed(0))
    whole = array_fingerprint(x)
    monkeypatch.setattr(module, "_PIECE", 64)
    assert array_fingerprint(x) == whole == array_fingerprint(x.numpy())


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.bfloat16, torch.float16, torch.complex64, torch.int64]
)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (5,)])
def test_every_dtype_and_shape_has_a_fingerprint(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.ones(shape).to(dtype)
    assert array_fingerprint(x) == array_fingerprint(x.clone())
    if dtype is not torch.bfloat16:
        assert array_fingerprint(x.numpy()) == array_fingerprint(x)


def test_conjugate_views_and_sparse_tensors_count_by_their_values() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j])
    assert array_fingerprint(z.conj()) == array_fingerprint(z.conj().resolve_conj()) != array_fingerprint(z)
    assert array_fingerprint(torch.eye(3).to_sparse()) == array_fingerprint(torch.eye(3))


def test_objects_are_refused() -> None:
    with pytest.raises(InputError, match="Python objects"):
        array_fingerprint(np.array([None, 1]))


def test_a_state_dict_is_hashed_by_name_not_by_order() -> None:
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    backwards = dict(reversed(state.items()))
    assert state_fingerprint(state) == state_fingerprint(backwards)
    assert len(state_fingerprint(state)) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {("z" if k == "a" else k): v for k, v in s.items()},
        lambda s: s | {"a": s["a"] + 1e-6},
        lambda s: s | {"a": s["a"].double()},
        lambda s: s | {"b": s["a"], "a": s["b"]},
        lambda s: s | {"extra": {"k": 2}},
        lambda s: s | {"extra": [1]},
        lambda s: {k: v for k, v in s.items() if k != "extra"},
    ],
)
def test_every_change_of_a_state_dict_shows(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    state = {"a": torch.ones(2), "b": torch.zeros(2), "extra": {"k": 1}}
    assert state_fingerprint(state) == state_fingerprint(dict(state))
    assert state_fingerprint(change(state)) != state_fingerprint(state)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # old checkpoints hold them all the same
def test_quantised_tensors_count_their_scale() -> None:
    a = torch.quantize_per_tensor(torch.ones(3), 0.5, 0, torch.qint8)
    b = torch.quantize_per_tensor(torch.ones(3) * 2, 1.0, 0, torch.qint8)
    assert torch.equal(a.int_repr(), b.int_repr())
    assert array_fingerprint(a) != array_fingerprint(b)


def test_a_file_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"abc" * 1000)
    assert file_fingerprint(file) == hashlib.sha256(b"abc" * 1000).hexdigest()
    with pytest.raises(InputError, match="check the path"):
        file_fingerprint(tmp_path / "none")


def test_settings_are_hashed_whatever_the_order_of_their_keys() -> None:
    assert setting_fingerprint({"a": 1, "b": [1.5]}) == setting_fingerprint({"b": (1.5,), "a": 1})
    assert setting_fingerprint({"a": 1}) != setting_fingerprint({"a": 1.0}) != setting_fingerprint({"a": True})
