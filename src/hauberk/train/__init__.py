"""Training: objectives (what is minimised), a recipe (how long and how fast), and `fit`, which is seeded and resumable."""

from hauberk.train._draws import initialise
from hauberk.train._examples import Examples, collect
from hauberk.train._objective import Losses, Objective
from hauberk.train.fast import FastAdversarial
from hauberk.train.natural import Natural
from hauberk.train.rates import SGD, Adam, Constant, Cyclic, OneCycle, Optimiser, Rate
from hauberk.train.trainer import Epoch, Fitted, Recipe, fit

__all__ = [
    "SGD",
    "Adam",
    "Constant",
    "Cyclic",
    "Epoch",
    "Examples",
    "FastAdversarial",
    "Fitted",
    "Losses",
    "Natural",
    "Objective",
    "OneCycle",
    "Optimiser",
    "Rate",
    "Recipe",
    "collect",
    "fit",
    "initialise",
]
