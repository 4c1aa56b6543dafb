"""SPSA: its cost to the query, and what it refuses."""

import pytest
import torch

from hauberk._rng import Streams
from hauberk.attacks import SPSA
from hauberk.errors import SettingError
from hauberk.testing import linear_settings
from hauberk.threat import Ball, Norm, Untargeted
from hauberk.victims import Meter


def test_every_step_costs_its_samples_and_one() -> None:
    victim, setting = linear_settings()["vectors"]
    meter = Meter(victim, len(setting))
    attack = SPSA(steps=4, samples=10)
    attack(meter, setting.x, Untargeted(setting.y), Ball(Norm.LINF, 1e-6), streams=Streams(0, setting.ids, "spsa"))
    assert set(meter.queries.tolist()) == {4 * 11}
    assert not bool(meter.backwards.any())


def test_an_odd_number_of_samples_is_refused() -> None:
    with pytest.raises(SettingError, match="pairs"):
        SPSA(samples=3)


def test_a_misclassified_example_costs_one_step() -> None:
    victim, setting = linear_settings()["vectors"]
    meter = Meter(victim, len(setting))
    wrong = Untargeted(1 - setting.y)
    points = SPSA(samples=2)(meter, setting.x, wrong, Ball(Norm.L2, 1e-6), streams=Streams(0, setting.ids, "spsa"))
    assert set(meter.queries.tolist()) == {3}
    assert torch.equal(victim.labels(points, setting.ids), setting.y)
