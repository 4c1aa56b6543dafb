"""A budget over HTTP: shared out, spent once, and the same run again asks what it asked before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hauberk.attacks import Noise, hop_skip_jump, ray_s, run_attack
from hauberk.errors import BudgetError, ModelError
from hauberk.victims import HttpVictim, Meter, ModelServer, wrap

X = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
ROWS = torch.arange(6)
W = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


def model() -> Any:
    return wrap(lambda x: x.reshape(len(x), -1) @ W, name="tiny")


def over(server: ModelServer, **settings: Any) -> HttpVictim:
    victim = wrap(server.url, backoff=0.01, timeout=5.0, **settings)
    assert isinstance(victim, HttpVictim)
    return victim


def test_a_meter_leaves_no_more_than_the_victim_has() -> None:
    with ModelServer(model(), labels_only=True) as server:
        victim = over(server, budget=20)
        assert Meter(victim, 6).left(ROWS).tolist() == [4, 4, 3, 3, 3, 3]
        assert Meter(victim, 6, budget=2).left(ROWS).tolist() == [2] * 6
        meter = Meter(victim, 6, budget=5)
        assert meter.left(ROWS).tolist() == [4, 4, 3, 3, 3, 3]
        assert meter.left(ROWS[4:]).tolist() == [5, 5]
        meter.labels(X, ROWS)
        assert meter.left(ROWS).tolist() == [3, 3, 2, 2, 2, 2]


def test_a_victim_with_enough_for_all_that_is_allowed_holds_nobody_back() -> None:
    with ModelServer(model(), labels_only=True) as server:
        meter = Meter(over(server, budget=18), 6, budget=torch.tensor([8, 2, 2, 2, 2, 2]))
        assert meter.left(ROWS).tolist() == [8, 2, 2, 2, 2, 2]
        meter.labels(X[:2], ROWS[:2])
        assert meter.left(ROWS).tolist() == [7, 1, 2, 2, 2, 2]


def test_where_nothing_is_kept_the_judge_is_paid_for() -> None:
    y = model().labels(X, ROWS)
    with ModelServer(model(), labels_only=True) as server:
        victim = over(server, budget=61, cache=False)
        victim.probe(X)
        found = ray_s(victim, X, y, threat="linf:0.02@labels")
        assert int(found.queries.sum()) + 1 + 6 == victim.bought == server.answered <= 61


@pytest.mark.parametrize("attack", [hop_skip_jump, ray_s])
def test_a_run_whose_money_is_gone_finds_the_same_again(tmp_path: Path, attack: Any) -> None:
    y = model().labels(X, ROWS)
    with ModelServer(model(), labels_only=True) as server:
        runs = []
        for _ in range(2):
            victim = over(server, budget=200, cache=tmp_path / "c")
            victim.probe(X)
            runs.append(attack(victim, X, y, threat="linf:0.25@labels"))
            victim.close()
        assert 100 < server.answered <= 200
        assert bool(runs[0].broken.any())
        assert torch.equal(runs[0].adversarials, runs[1].adversarials)
        assert torch.equal(runs[0].queries, runs[1].queries)


def test_what_another_run_has_spent_is_gone_from_the_first_purchase_on(tmp_path: Path) -> None:
    with ModelServer(model(), labels_only=True) as server:
        first = over(server, budget=10, cache=tmp_path / "c")
        first.labels(X, ROWS)
        first.close()
        second = over(server, budget=10, cache=tmp_path / "c")
        second.labels(X[:2], ROWS[:2])
        assert second.purse == 4
        second.labels(1 - X[:2], ROWS[:2])
        assert second.purse == 2
        with pytest.raises(BudgetError, match="2 of them are left and 3 are needed"):
            second.labels(X[:3] / 2, ROWS[:3])
        assert server.answered == second.bought == 8


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_what_is_no_class_is_charged_but_not_kept(tmp_path: Path, label: int) -> None:
    said = [label]

    class Odd(ModelServer):
        def reply(self, method: str, path: str, body: bytes) -> Any:
            status, document, headers = super().reply(method, path, body)
            if method == "POST" and said:
                document["outputs"][0]["data"][0] = said.pop()
            return status, document, headers

    with Odd(model(), labels_only=True) as server:
        victim = over(server, cache=tmp_path / "c", classes=3)
        with pytest.raises(ModelError, match=f"the label {label}, expected 0 .. 2"):
            victim.labels(X, ROWS)
        assert (victim.bought, victim.lost) == (6, 6)
        assert torch.equal(victim.labels(X, ROWS), model().labels(X, ROWS))
        assert (victim.bought, victim.lost) == (12, 6)


@pytest.mark.parametrize("batch_size", [2, 5, 12])
def test_in_python_too_a_budget_is_shared_by_all_examples_whatever_the_batch(batch_size: int) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 3, dtype=torch.float64))
    x = torch.rand(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with ModelServer(wrap(net, dtype="float64"), labels_only=True) as server:
        y = wrap(net, dtype="float64").labels(x, torch.arange(12))
        victim = wrap(server.url, budget=241, classes=3, dtype="float64")
        found = run_attack(Noise(tries=50), victim, x, y, "linf:1e-6", batch_size=batch_size)
        assert found.queries.tolist() == [21] + [20] * 11
        assert server.answered <= 241
