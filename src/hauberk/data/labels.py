"""Labels as they are stored, brought to int64 class indices: whole numbers >= 0, or one-hot rows; all else is refused."""

import numpy as np

from hauberk.errors import DataError

__all__ = ["label_notes", "whole_labels"]

_MOST = 2**31 - 1  # results store labels as int32


def label_notes(dtype: np.dtype, shape: tuple[int, ...], what: str) -> tuple[str, ...]:
    """What is done with labels of this dtype and shape (with the first axis), where that is a guess.

    Raises:
        DataError: arrays of this kind cannot be labels.
    """
    if dtype.hasobject:
        raise DataError(
            f"{what} hold Python objects, which would need unpickling, and unpickling can run any code; "
            "save them as one array of whole numbers"
        )
    if dtype.kind not in "iubf":
        raise DataError(f"{what} must be whole numbers >= 0, one per example, got {dtype}; number the classes from 0")
    if len(shape) == 2 and shape[1] > 1:
        return (f"{what} have {shape[1]} columns, taken as one-hot rows",)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] == 0):
        raise DataError(f"{what} must be one number per example, or one-hot rows, got shape {tuple(shape)}")
    if dtype.kind == "f":
        return (f"{what} are {dtype.name} holding whole numbers, taken as classes",)
    if dtype.kind == "b":
        return (f"{what} are booleans, taken as classes 0 and 1",)
    return ()


def whole_labels(raw: np.ndarray, ids: np.ndarray, name: str, noun: str = "example") -> np.ndarray:
    """(B,) int64 labels, freshly allocated.

    Raises:
        DataError: a label is not a whole number from 0 to 2**31 - 1, or a row is not one-hot.
    """
    label_notes(raw.dtype, raw.shape, f"the labels of {name}")
    if raw.ndim == 2 and raw.shape[1] > 1:
        ones = raw == 1
        bad = (ones.sum(axis=1) != 1) | ((raw != 0) & ~ones).any(axis=1)
        if bad.any():
            first = int(bad.argmax())
            raise DataError(
                f"expected one-hot labels (a single 1 among zeros), got another row at {noun} {int(ids[first])} of {name}; "
                "give class indices"
            )
        return ones.argmax(axis=1).astype(np.int64)
    column = raw.reshape(len(raw))
    with np.errstate(invalid="ignore"):
        bad = ~((column >= 0) & (column <= _MOST))
    if column.dtype.kind == "f":
        bad |= ~(np.isfinite(column) & (np.floor(column) == column))
    if bad.any():
        first = int(bad.argmax())
        value = column[first].item()
        hint = "; -1 often marks examples without a label, which must be left out" if value == -1 else ""
        raise DataError(
            f"expected labels that are whole numbers >= 0 (below 2**31), got {value:g} at {noun} {int(ids[first])} of {name}{hint}"
        )
    return column.astype(np.int64)
