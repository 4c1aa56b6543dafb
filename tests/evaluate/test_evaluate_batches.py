"""Neither the batch size nor the order of the examples changes a row: exactly in float64, in float32 but for rounding."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import torch

from hauberk import data
from hauberk.attacks import FGSM, PGD, AutoPGD, HoppingPGD, Noise, Square
from hauberk.evaluate import evaluate
from hauberk.victims import wrap

if TYPE_CHECKING:
    from conftest import Digits
else:
    Digits = Any

SUITE = [
    FGSM(loss="margin"),
    PGD(steps=6, loss="margin", start="uniform", restarts=2),
    AutoPGD(steps=8, loss="dlr", targets=2),
    HoppingPGD(steps=5, restarts=4, candidates=2),
    Noise(tries=6),
    Square(steps=20),
]


def table(digits: Digits, dtype: str, threat: str, n: int, batch_size: int, *, shuffle: bool = False) -> pa.Table:
    suite = [attack for attack in SUITE if threat.split(":")[0] in {str(norm) for norm in attack.norms}]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1)) if shuffle else torch.arange(n)
    source = data.Arrays(digits.x[:n][order].to(getattr(torch, dtype)), digits.y[:n][order], ids=order)
    victim = wrap(digits.conv, dtype=dtype)
    found = evaluate(victim, source, threat, suite=suite, batch_size=batch_size, audit=False, keep_adversarials=False)
    return found.run.rows.sort_by([("example", "ascending"), ("radius", "ascending")])


@pytest.mark.parametrize("threat", ["linf:0.05,0.1", "l2:0.6", "l1:1.2", "l0:2"])
def test_in_float64_every_batch_size_and_order_gives_the_same_rows(digits: Digits, threat: str) -> None:
    n = 70
    whole = table(digits, "float64", threat, n, 64)
    statuses = whole.column("status").to_pylist()
    assert statuses.count("broken") >= 5
    assert statuses.count("undecided") >= 5
    for other in (
        table(digits, "float64", threat, n, 7),
        table(digits, "float64", threat, n, 64, shuffle=True),
        table(digits, "float64", threat, 20, 1),
    ):
        assert other.equals(whole.slice(0, other.num_rows))


def test_in_float32_at_most_one_status_in_200_changes_with_the_batch(digits: Digits) -> None:
    n, threat = 400, "linf:0.08"
    whole = table(digits, "float32", threat, n, 64).column("status").to_pylist()
    assert min(whole.count("broken"), whole.count("undecided")) > 40
    for other in (
        table(digits, "float32", threat, n, 7),
        table(digits, "float32", threat, n, 64, shuffle=True),
        table(digits, "float32", threat, n // 4, 1),
    ):
        statuses = other.column("status").to_pylist()
        changed = sum(a != b for a, b in zip(statuses, whole, strict=False))
        assert changed <= len(statuses) / 200, f"{changed} of {len(statuses)} examples changed their status"
