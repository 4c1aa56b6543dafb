"""Values as plain JSON, the same text for the same value: settings, ledgers, manifests and results pass through here."""

import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hauberk.errors import SettingError

__all__ = ["canonical", "plain", "pretty"]


def plain(value: Any) -> Any:
    """`value` as what JSON holds: None, bool, int, float, str, list, and dict with string keys.

    JSON has no numbers beyond the finite ones, so those become the strings "inf", "-inf" and "nan". Enumerations become
    their value, dtypes and devices their name, functions and classes their qualified name, dataclasses a dict of fields.

    Raises:
        SettingError: something whose text would not repeat from one process to the next.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Tensor | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, torch.dtype | torch.device | PurePath):
        return str(value).removeprefix("torch.")
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=canonical)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str) and callable(value):
        return f"{getattr(value, '__module__', None)}.{name}"
    raise SettingError(
        f"a setting that is recorded must be a number, text, a list, a dict or a dataclass of these, got {type(value).__name__}"
    )


def canonical(value: Any) -> str:
    """One line of JSON, keys sorted: equal for equal values, so it can be hashed."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def pretty(value: Any) -> bytes:
    """JSON to be read by people, in UTF-8; keys stay in their order."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # half a surrogate pair (an odd file name) becomes a JSON escape
