"""Fingerprints: SHA-256 over what decides a result, so that two runs can be known to be about the same thing.

The same content has the same fingerprint as a NumPy array and as a tensor, on every device and byte order. Nothing is
copied whole: files and arrays are hashed piece by piece.
"""

import hashlib
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hauberk.errors import InputError
from hauberk.evidence.plain import canonical

__all__ = ["array_fingerprint", "file_fingerprint", "setting_fingerprint", "state_fingerprint"]

_PIECE = 1 << 22


def array_fingerprint(*arrays: Tensor | np.ndarray) -> str:
    """Hex SHA-256 over the dtype, shape and bytes of each array, in order.

    Raises:
        InputError: an array of Python objects, which have no bytes of their own.
    """
    digest = hashlib.sha256()
    for array in arrays:
        _update(digest, array)
    return digest.hexdigest()


def state_fingerprint(state: Mapping[str, Any]) -> str:
    """Hex SHA-256 over a state dict: names in sorted order, each with its tensor (or plain value, or nested dict or list).

    Raises:
        InputError: a value that is neither an array nor plain.
    """
    digest = hashlib.sha256()
    _update_value(digest, dict(state))
    return digest.hexdigest()


def file_fingerprint(path: str | PathLike[str]) -> str:
    """Hex SHA-256 of the bytes of a file, streamed.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"expected a readable file at {path}, got: {error.strerror or error}; check the path"
        ) from error


def setting_fingerprint(value: Any) -> str:
    """Hex SHA-256 of a plain value (see `hauberk.evidence.plain`), whatever the order of its keys."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _update_value(digest: "hashlib._Hash", value: Any) -> None:
    if isinstance(value, Tensor | np.ndarray):
        digest.update(b"a")
        _update(digest, value)
    elif isinstance(value, Mapping):
        digest.update(b"m%d;" % len(value))
        for name in sorted(value, key=str):
            text = str(name).encode()
            digest.update(b"%d:%b" % (len(text), text))
            _update_value(digest, value[name])
    elif isinstance(value, list | tuple):
        digest.update(b"l%d;" % len(value))
        for item in value:
            _update_value(digest, item)
    else:
        text = value if isinstance(value, bytes | bytearray) else canonical(value).encode()
        digest.update(b"v%d:" % len(text))
        digest.update(text)


def _update(digest: "hashlib._Hash", array: Tensor | np.ndarray) -> None:
    name, shape, pieces = _torch_pieces(array) if isinstance(array, Tensor) else _numpy_pieces(array)
    digest.update(f"{name}({','.join(map(str, shape))})".encode())
    for piece in pieces:
        digest.update(piece.data)


def _torch_pieces(array: Tensor) -> tuple[str, tuple[int, ...], Iterator[np.ndarray]]:
    array = array.detach()
    if array.layout is not torch.strided:
        array = array.to_dense()
    name, shape = str(array.dtype).removeprefix("torch."), tuple(array.shape)
    if array.is_quantized:  # the name keeps the kind, the values keep scale and zero point
        array = array.dequantize()
    if array.is_conj() or array.is_neg():
        array = array.resolve_conj().resolve_neg()
    # cut before flattening: a big tensor that is not contiguous (channels last) is then copied a piece at a time
    rows = array.reshape(1) if array.ndim == 0 else array
    step = max(1, _PIECE // max(1, rows[:1].numel() * rows.element_size()))
    return (
        name,
        shape,
        (
            rows[k : k + step].contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
            for k in range(0, len(rows), step)
            if rows.numel()
        ),
    )


def _numpy_pieces(array: np.ndarray) -> tuple[str, tuple[int, ...], Iterator[np.ndarray]]:
    if array.dtype.hasobject:
        raise InputError("a fingerprint needs an array of numbers or text, got one of Python objects; convert it first")
    rows = array.reshape(1) if array.ndim == 0 else array
    little = array.dtype.newbyteorder("<")
    step = max(1, _PIECE // max(1, rows[:1].size * rows.itemsize))
    return (
        array.dtype.name,
        array.shape,
        (
            np.ascontiguousarray(rows[k : k + step], dtype=little).reshape(-1).view(np.uint8)
            for k in range(0, len(rows), step)
            if rows.size
        ),
    )
