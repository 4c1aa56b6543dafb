"""Objectives and the parts of a training are found by name, and what cannot be read is said in a sentence."""

from collections.abc import Callable
from typing import Any

import pytest

from hauberk import train
from hauberk.errors import HauberkError
from hauberk.train import (
    AWP,
    EMA,
    PGDAT,
    SGD,
    Adam,
    ClipWeights,
    Cyclic,
    GradAlign,
    InnerPGD,
    Natural,
    Objective,
    Piecewise,
    RandomCrop,
    Regularised,
    Trades,
)
from hauberk.train.spelling import kinds_of, objective_named, objectives


def test_an_objective_is_read_with_its_settings_and_what_goes_around_it() -> None:
    inner = InnerPGD(steps=40, step_size=0.01, start="gaussian")
    made = objective_named("trades:beta=3", threat="linf:0.1", inner="pgd:steps=40,step_size=0.01,start=gaussian")
    assert made == Trades(threat="linf:0.1", inner=inner, beta=3.0)
    around = objective_named("pgd_at", threat="linf:2/255", extras=["grad_align:weight=0.5", "awp:gamma=0.01"])
    sharp = AWP(objective=PGDAT(threat="linf:2/255"), gamma=0.01)
    assert around == Regularised(objective=sharp, regularisers=(GradAlign(weight=0.5, threat="linf:2/255"),))
    assert objective_named("natural", threat="linf:0.1") == Natural()


def test_the_other_parts_are_read_alike() -> None:
    assert train.optimiser_named("adam:betas=0.8,0.99,weight_decay=1e-4") == Adam((0.8, 0.99), 1e-4)
    assert train.optimiser_named("sgd:nesterov=true") == SGD(nesterov=True)
    assert train.rate_named("0.01") == train.rate_named("cyclic:peak=0.01") == Cyclic(0.01)
    assert train.rate_named("piecewise:peak=0.1,drops=0.4,0.6,0.9") == Piecewise(0.1, (0.4, 0.6, 0.9))
    assert train.inner_named("pgd:step_size=2/255") == InnerPGD(step_size=2 / 255)
    assert train.average_named("ema:decay=0.99") == EMA(0.99)
    assert train.augmentation_named("random_crop") == RandomCrop()
    assert train.constraint_named("clip_weights:limit=0.2,biases=true") == ClipWeights(0.2, biases=True)


def test_every_objective_that_is_exported_has_a_name() -> None:
    spelled = set(objectives().values())
    named = {
        value for name in train.__all__ if isinstance(value := getattr(train, name), type) and hasattr(value, "status")
    }
    regularisers = set(kinds_of("regulariser").values())
    left = {kind.__name__ for kind in named - spelled - regularisers}
    assert "Trades" not in left
    assert "Regularised" in left  # extras make it
    assert {"natural", "pgd_at", "trades", "fast", "awp"} <= set(objectives())
    assert all(not name.startswith("_") and name == name.lower() for name in objectives())


@pytest.mark.parametrize("name", sorted(kinds_of("objective")))
def test_every_objective_without_further_needs_is_made_by_its_name_alone(name: str) -> None:
    made: Objective = objective_named(name, threat="linf:0.1")
    assert type(made) is kinds_of("objective")[name]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: objective_named("tradess"), "did you mean trades?"),
        (lambda: objective_named("trades:bta=3"), "setting of trades 'bta'; did you mean beta?"),
        (lambda: objective_named("trades:beta=x"), "trades takes a number as beta, got 'x'"),
        (lambda: objective_named("trades:beta"), "key=value"),
        (lambda: objective_named("trades:"), "write for example trades:beta=6"),
        (lambda: objective_named("trades:beta=1,beta=2"), "gives beta twice"),
        (lambda: objective_named("trades:inner=pgd"), "cannot be given as text"),
        (lambda: objective_named("awp:gamma=0.1"), "--objective trades --with awp:gamma=0.1"),
        (lambda: objective_named("natural", inner="pgd"), "leave out the inner maximiser"),
        (lambda: objective_named("trades", extras=["grad_alin"]), "did you mean grad_align?"),
        (lambda: objective_named("trades:beta=-1"), "beta > 0"),
        (lambda: train.inner_named("pgd:steps=many"), "a whole number as steps"),
        (lambda: train.inner_named("pdg"), "unknown inner maximiser 'pdg'; did you mean pgd?"),
        (lambda: train.rate_named("constant"), "constant needs peak"),
        (lambda: train.rate_named("-1"), "> 0"),
        (lambda: train.optimiser_named("adam:betas=0.9"), "2 numbers with commas"),
        (lambda: train.optimiser_named("sgd:nesterov=maybe"), "true or false as nesterov"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(HauberkError) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
