"""Substitutes trained on a victim's labels: what they ask, what they spend, and that they learn and transfer."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk import data, zoo
from hauberk.errors import DataError, ModelError, SettingError, UnknownNameError
from hauberk.evaluate.substitute import METHODS, substitute
from hauberk.train import Recipe
from hauberk.victims import wrap

RECIPE = Recipe(20, 64)


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def digits() -> Tensor:
    return next(iter(data.load("digits").chunks(2000))).x


class Oracle:
    """Answers labels, and remembers what it was asked."""

    def __init__(self) -> None:
        self.net = zoo.net("digits-mlp")
        self.asked: list[np.ndarray] = []

    def __call__(self, array: np.ndarray) -> np.ndarray:
        self.asked.append(array)
        with torch.no_grad():
            return self.net(torch.from_numpy(array).float()).argmax(dim=1).numpy()


@pytest.mark.parametrize("method", METHODS)
def test_a_substitute_spends_its_queries_and_learns_from_labels_alone(method: str) -> None:
    x, oracle = digits(), Oracle()
    victim = wrap(oracle, output="labels")
    seeds, pool, held = x[500:560], x[560:], x[:200]
    options: dict[str, Any] = {
        "queries": 230,
        "pool": None if method == "jacobian" else pool,
        "recipe": RECIPE,
        "batch": 60,
    }
    few: dict[str, Any] = options | {"queries": 60}
    first = substitute(victim, seeds, net, method=method, **few, held_out=held)
    oracle.asked.clear()
    found = substitute(victim, seeds, net, method=method, **options)
    asked = sum(len(array) for array in oracle.asked)
    assert 230 <= asked <= 230 + 2 * 9  # the probes of the edge are not the attacker's
    assert found.queries == 230 == len(found.x) == len(found.labels)
    assert torch.equal(found.x[:60], seeds)
    assert torch.equal(found.labels, zoo.load("digits-mlp").labels(found.x, torch.arange(230)))
    assert [one.queries for one in found.rounds] == ([60, 120, 230] if method == "jacobian" else [60, 120, 180, 230])
    assert found.agreement is None
    again = substitute(victim, seeds, net, method=method, **options, held_out=held)
    assert torch.equal(again.x, found.x)  # neither chance nor what is measured changes what is asked
    assert first.agreement is not None
    assert again.agreement is not None
    assert again.agreement.value > first.agreement.value + (0.0 if method == "jacobian" else 0.1)
    assert not again.net.training


def test_the_ledger_tells_agreement_and_transfer_for_each_round() -> None:
    x, victim = digits(), zoo.load("digits-mlp")
    found = substitute(
        victim, x[500:600], net, queries=300, method="active", pool=x[600:], held_out=x[:150], threat="linf:0.15"
    )
    last = found.rounds[-1]
    assert last.agreement is not None
    assert last.transferred is not None
    rows = torch.arange(150)
    same = (found.victim.labels(x[:150], rows) == victim.labels(x[:150], rows)).double().mean()
    assert last.agreement.value == pytest.approx(float(same))
    assert last.agreement.value > 0.9
    assert last.transferred.value > 0.3
    assert last.transferred_per_thousand_queries == pytest.approx(last.transferred.value * 1000 / 300)
    result = json.loads(json.dumps(found.to_json()))
    assert result["schema"] == "hauberk.substitute/1"
    assert (result["threat"], result["attack"]) == ("linf:0.15", "transfer")
    assert [one["queries"] for one in result["rounds"]] == [100, 200, 300]


def test_jacobian_points_are_a_signed_step_away_and_inside_the_box() -> None:
    x = digits()
    found = substitute(zoo.load("digits-mlp"), x[500:550], net, queries=150, step=0.25, recipe=RECIPE)
    change = (found.x[50:100] - found.x[:50]).abs()
    assert float(change.max()) == pytest.approx(0.25)
    assert float(found.x.min()) >= 0
    assert float(found.x.max()) <= 1
    assert found.rounds[-1].queries == 150


def test_a_reservoir_bounds_the_growth() -> None:
    x = digits()
    found = substitute(zoo.load("digits-mlp"), x[500:510], net, queries=100, full=2, reservoir=25, recipe=Recipe(2, 64))
    assert [one.queries for one in found.rounds] == [10, 20, 40, 65, 90, 100]


def test_active_without_a_pool_chooses_around_what_was_asked() -> None:
    x = digits()
    found = substitute(zoo.load("digits-mlp"), x[500:530], net, queries=70, method="active", batch=20, recipe=RECIPE)
    assert [one.queries for one in found.rounds] == [30, 50, 70]
    gaps = (found.x[30:50, None] - x[None, 500:530]).abs().flatten(2).amax(dim=2).amin(dim=1)
    assert bool((gaps <= 0.2 + 1e-6).all())


def test_a_pool_is_never_asked_twice_and_ends_the_queries_when_it_is_used_up() -> None:
    x = digits()
    pool = torch.cat([x[500:520], x[520:560]])  # the seeds are in it
    found = substitute(
        zoo.load("digits-mlp"),
        x[500:520],
        net,
        queries=500,
        method="knockoff",
        pool=pool,
        batch=30,
        recipe=Recipe(2, 64),
    )
    assert found.queries == 60
    assert len(found.x.flatten(1).unique(dim=0)) == len(pool.flatten(1).unique(dim=0))


def test_any_architecture_does_and_the_seed_decides() -> None:
    x, victim = digits(), zoo.load("digits-mlp")

    def linear() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    options: dict[str, Any] = {
        "queries": 80,
        "method": "knockoff",
        "pool": x[600:],
        "batch": 40,
        "recipe": Recipe(2, 64),
    }
    one, two, other = (substitute(victim, x[500:540], linear, **options, seed=seed) for seed in (1, 1, 2))
    same = zip(one.net.state_dict().values(), two.net.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(one.x, other.x)


def test_an_oracle_that_answers_nothing_teaches_nothing() -> None:
    dumb = wrap(lambda array: np.full((len(array), 10), np.nan), output="logits", classes=10)
    with pytest.raises(ModelError):
        substitute(dumb, digits()[:20], net, queries=20)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "theft"}, UnknownNameError, "unknown method of substitution 'theft'"),
        ({"method": "knockoff"}, SettingError, "knockoff asks about the inputs of a pool"),
        ({"queries": 0}, SettingError, "queries to be a whole number >= 1"),
        ({"step": 0.0}, SettingError, "a step above 0"),
        ({"threat": "linf:0.1"}, SettingError, "give held_out="),
        ({"threat": "linf:0.1,0.2", "held_out": torch.rand(3, 1, 8, 8)}, SettingError, "one radius"),
        ({"seeds": []}, DataError, "made of inputs"),
    ],
)
def test_what_means_nothing_is_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    seeds = options.pop("seeds", digits()[:5])
    with pytest.raises(error, match=words):
        substitute(zoo.load("digits-mlp"), seeds, net, **options)
