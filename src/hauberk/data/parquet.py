"""A data set in a Parquet file, read by record batches: encoded pictures as Hugging Face stores them, or columns of numbers.

Which columns are the images and the labels is read off their names, see `hauberk.data.files`; without such a name the only
column of bytes holds the images. Images are struct{bytes, path}, bytes, or (nested) lists of numbers of one shape.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hauberk.data.files import IMAGES, LABELS, choose, hash_file, reading
from hauberk.data.labels import label_notes
from hauberk.data.pictures import decode, match
from hauberk.data.source import Chunk, make_chunk, pieces
from hauberk.data.values import check_bounds, recognise_layout, value_notes
from hauberk.errors import DataError

__all__ = ["Parquet"]

_BUFFER = 1 << 20
_KIND = "Parquet"


class Parquet:
    """The rows of a `.parquet` file; pictures are decoded as they are needed and mapped to `bounds`.

    Raises:
        DataError: the file is no Parquet, lacks images or labels, or (when it is met) a row cannot be used.
    """

    def __init__(self, path: str | Path, *, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        self._path, self._bounds = Path(path), check_bounds(bounds)
        self.name = self._path.name
        with reading(self._path, _KIND), pq.ParquetFile(self._path) as file:
            schema, self._rows = file.schema_arrow, file.metadata.num_rows
            groups = range(file.metadata.num_row_groups)
            self._group_rows = [file.metadata.row_group(group).num_rows for group in groups]
        self._image, image_notes = _image_column(schema, self.name)
        self._label, key_notes = choose(LABELS, schema.names, "labels column", self.name)
        if self._rows == 0:
            raise DataError(f"{self.name} has no rows; give at least one example")
        first = next(self._batches(0, 1, 1))
        images, labels = f"column {self._image!r} of {self.name}", f"column {self._label!r} of {self.name}"
        self._encoded = _is_encoded(schema.field(self._image).type)
        self._layout, layout_notes = None, ()
        if self._encoded:
            self.shape: tuple[int, ...] = self._decoded(first, 0)[0].shape
            image_dtype = np.dtype(np.uint8)
        else:
            block = _block(first.column(self._image), 0, images)
            if block.ndim < 2 or block.size == 0:
                raise DataError(
                    f"expected {images} to hold pictures or lists of numbers, got {schema.field(self._image).type}"
                )
            self._layout, layout_notes = recognise_layout(block.shape[1:], images)
            self.shape, image_dtype = self._layout.shape, block.dtype
        row_label = _block(first.column(self._label), 0, labels)
        self.class_names: tuple[str, ...] | None = _class_names(schema, self._label)
        self.notes: tuple[str, ...] = (
            *image_notes,
            *key_notes,
            *value_notes(image_dtype, self._bounds, images),
            *label_notes(row_label.dtype, row_label.shape, labels),
            *layout_notes,
        )

    def __len__(self) -> int:
        return self._rows

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"parquet {self._bounds} {self._image} {self._label} {self.shape}".encode())
        with reading(self._path, _KIND):
            hash_file(self._path, digest)
        return digest.hexdigest()

    def chunks(self, size: int, *, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        return self._chunks(list(pieces(len(self), size, start, stop)), size)

    def _chunks(self, ranges: list[tuple[int, int]], size: int) -> Iterator[Chunk]:
        if not ranges:
            return
        batches = self._batches(ranges[0][0], ranges[-1][1], size)
        x: list[np.ndarray] = []
        y: list[np.ndarray] = []
        read = ranges[0][0]
        for begin, end in ranges:
            while read < end:  # a batch ends where a row group does, so a chunk may take several
                batch = next(batches)
                x.append(self._values(batch, read))
                y.append(_block(batch.column(self._label), read, f"column {self._label!r} of {self.name}"))
                read += batch.num_rows
            joined_x, joined_y = _joined(x), _joined(y)
            count = end - begin
            x, y = [joined_x[count:]], [joined_y[count:]]
            yield make_chunk(
                np.arange(begin, end),
                joined_x[:count],
                joined_y[:count],
                bounds=self._bounds,
                name=self.name,
                noun="row",
            )

    def _batches(self, start: int, stop: int, size: int) -> Iterator[pa.RecordBatch]:
        """The rows from `start` to `stop` of the two columns, at most `size` at a time."""
        groups = list(range(len(self._group_rows)))
        while groups and start >= self._group_rows[groups[0]]:
            start, stop = start - self._group_rows[groups[0]], stop - self._group_rows[groups[0]]
            del groups[0]
        with reading(self._path, _KIND):
            file = pq.ParquetFile(self._path, buffer_size=_BUFFER, pre_buffer=False)
            columns = [self._image, self._label]
            batches = file.iter_batches(size, row_groups=groups, columns=columns, use_threads=False)
        with file:
            position = 0
            while position < stop:
                with reading(self._path, _KIND):
                    batch = next(batches, None)
                if batch is None:
                    raise DataError(
                        f"{self.name} ends before the {self._rows} rows that its footer promises; fetch it again"
                    )
                kept = batch.slice(max(start - position, 0), stop - max(start, position))
                position += batch.num_rows
                if kept.num_rows:
                    yield kept

    def _values(self, batch: pa.RecordBatch, position: int) -> np.ndarray:
        if self._encoded:
            out = np.empty((batch.num_rows, *self.shape), dtype=np.uint8)
            for row, pixels in enumerate(self._decoded(batch, position)):
                out[row] = match(pixels, self.shape, f"row {position + row} of {self.name}")
            return out
        assert self._layout is not None
        values = self._layout(_block(batch.column(self._image), position, f"column {self._image!r} of {self.name}"))
        if values.shape[1:] != self.shape:
            raise DataError(
                f"expected examples of shape {self.shape}, got {values.shape[1:]} from row {position} of {self.name}"
            )
        return values

    def _decoded(self, batch: pa.RecordBatch, position: int) -> list[np.ndarray]:
        column = batch.column(self._image)
        if pa.types.is_struct(column.type):
            column = pc.call_function("struct_field", [column], pc.StructFieldOptions(["bytes"]))
        out: list[np.ndarray] = []
        for row, scalar in enumerate(column):
            where, data = f"row {position + row} of {self.name}", scalar.as_py()
            if data is None:
                raise DataError(
                    f"expected the bytes of a picture at {where}, got none; embed the files in the table, or drop the row"
                )
            out.append(decode(data, where))
        return out


def _is_encoded(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _image_column(schema: pa.Schema, name: str) -> tuple[str, tuple[str, ...]]:
    if not {column.lower() for column in schema.names} & set(IMAGES):
        encoded = [field.name for field in schema if _is_encoded(field.type)]
        if len(encoded) == 1:
            return encoded[0], (f"{name} has no column called image; took {encoded[0]!r}, its only column of bytes",)
    return choose(IMAGES, schema.names, "images column", name)


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The names that the Hugging Face metadata gives the classes, where it is there and well formed."""
    try:
        features: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = features["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _block(column: pa.Array, position: int, what: str) -> np.ndarray:
    """A column of numbers, or of (nested) lists of one shape, as one array."""
    shape = [len(column)]
    while _is_list(column.type):
        if column.null_count:
            raise DataError(f"{what} has empty cells from row {position} on; fill or drop them")
        widths = np.asarray(pc.call_function("list_value_length", [column]))
        if len(widths) and (widths != widths[0]).any():
            row = position + int((widths != widths[0]).argmax()) * shape[0] // len(widths)
            raise DataError(
                f"{what} has lists of {widths[0]} and of other lengths (row {row}); give all rows one shape"
            )
        shape.append(int(widths[0]) if len(widths) else 0)
        column = column.flatten()
    if column.null_count:
        raise DataError(f"{what} has empty cells from row {position} on; fill or drop them")
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise DataError(
            f"{what} must hold numbers, got {column.type}; number the classes from 0 and give pixels as numbers or bytes"
        )
    return column.to_numpy(zero_copy_only=False).reshape(shape)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    full = [part for part in parts if len(part)]
    return full[0] if len(full) == 1 else np.concatenate(full)
