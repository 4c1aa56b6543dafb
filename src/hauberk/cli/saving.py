"""A safetensors file written row by row, so that memory does not grow with the number of examples.

The format is 8 bytes of length (little-endian), a JSON header, and the tensors' bytes one after the other; as every shape
is known before the first row, each batch goes straight to its place.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

import torch
from torch import Tensor

from hauberk.errors import DataError
from hauberk.evidence.disk import replacing, speaking

__all__ = ["TensorFile"]

_NAMES = {torch.int64: "I64", torch.float32: "F32", torch.float64: "F64", torch.bool: "BOOL"}
_ALIGNMENT = 8  # of the first byte of data; the header is filled up with spaces


class TensorFile:
    """Columns that grow together, each with a dtype and its whole shape (n, ...).

    Args:
        file: empty, open for writing.
        columns: name -> dtype and shape.
        facts: strings for the header.
    """

    def __init__(
        self, file: BinaryIO, columns: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], facts: Mapping[str, str]
    ) -> None:
        self._file, self._columns = file, columns
        header: dict[str, object] = {"__metadata__": dict(facts)}
        self._next: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        begin = 0
        # Wide numbers first keeps every tensor aligned to its own size, as readers that map the file expect.
        for name, (dtype, shape) in sorted(columns.items(), key=lambda item: -item[1][0].itemsize):
            end = begin + dtype.itemsize * torch.Size(shape).numel()
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
            self._next[name], self._ends[name] = begin, end
            begin = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        file.write(len(text).to_bytes(8, "little") + text)
        self._start = 8 + len(text)

    @classmethod
    @contextmanager
    def replacing(
        cls, path: Path, columns: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], facts: Mapping[str, str]
    ) -> Iterator[Self]:
        """A file that takes the place of `path` when all rows are in it, and vanishes if the block fails.

        Raises:
            RunError: the disk refuses.
            DataError: fewer rows came than were promised.
        """
        with speaking(f"write {path}"), replacing(path) as file:
            made = cls(file, columns, facts)
            yield made
            if made._next != made._ends:
                raise DataError(f"the data ended before the {next(iter(columns.values()))[1][0]} examples it promised")

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Write the next rows of every column."""
        for name, (dtype, _) in self._columns.items():
            content = rows[name].detach().to(device="cpu", dtype=dtype).contiguous().numpy().tobytes()
            self._file.seek(self._start + self._next[name])
            self._file.write(content)
            self._next[name] += len(content)
