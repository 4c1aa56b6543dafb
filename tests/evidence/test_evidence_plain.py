"""Settings become JSON that says the same in every process."""

import enum
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hauberk.errors import SettingError
from hauberk.evidence import plain, pretty


class Kind(enum.Enum):
    ONE = "one"


class Level(enum.IntEnum):
    TWO = 2


@dataclass(frozen=True)
class Settings:
    steps: int
    radius: float


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (0.5, 0.5),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (np.float32(0.5), 0.5),
        (np.float64("inf"), "inf"),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (torch.tensor(2), 2),
        (torch.tensor([1.0, math.inf]), [1.0, "inf"]),
        (np.array([[1, 2]]), [[1, 2]]),
        ((1, [2, (3,)]), [1, [2, [3]]]),
        ({3, 1, 2}, [1, 2, 3]),
        ({1: "a"}, {"1": "a"}),
        (Kind.ONE, "one"),
        (Level.TWO, 2),
        (torch.float32, "float32"),
        (torch.device("cpu"), "cpu"),
        (Path("a/b"), "a/b"),
        (Settings(3, math.inf), {"steps": 3, "radius": "inf"}),
        (math.sqrt, "math.sqrt"),
        (torch.nn.Linear, "torch.nn.modules.linear.Linear"),
    ],
)
def test_values_become_plain(value: Any, expected: Any) -> None:
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)
    assert json.loads(pretty(value)) == expected


def test_what_has_no_lasting_text_is_refused() -> None:
    with pytest.raises(SettingError, match="got object"):
        plain({"a": [object()]})


def test_text_is_kept_readable_and_broken_file_names_survive() -> None:
    assert "é≤" in pretty({"k": "é≤"}).decode()
    assert json.loads(pretty({"k": "\udc80"}))["k"] == "\udc80"
