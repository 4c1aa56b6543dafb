"""Two models on the same examples: the paired table, McNemar and the interval, worked by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk.attacks import FGSM, PGD, Noise
from hauberk.errors import InputError
from hauberk.evaluate import Evaluation, Suite, compare, evaluate

# x is one number; class 1 where it exceeds 0.5. 40 examples of class 1 at 0.5 + margin.
X = torch.cat((torch.full((30, 1), 0.65), torch.full((10, 1), 0.9)))
Y = torch.ones(40, dtype=torch.int64)


class Step(nn.Module):
    """Class 1 where one of the values is larger than `at`."""

    def __init__(self, at: float, column: int) -> None:
        super().__init__()
        self.at, self.column = nn.Parameter(torch.tensor(at)), column

    def forward(self, x: Tensor) -> Tensor:
        score = (x[:, self.column, None] - self.at) * 10
        return torch.cat((-score, score), dim=1)


def run(at: float, threat: str = "linf:0.1,0.2", column: int = 0, **options: Any) -> Evaluation:
    spoken = {"suite": FGSM(loss="margin"), "audit": False, "data": (X, Y)} | options
    return evaluate(Step(at, column), spoken.pop("data"), threat, **spoken)


def test_the_paired_table_and_its_test_are_those_worked_by_hand() -> None:
    strong, weak = run(0.4), run(0.5)  # at 0.2: 0.65 stands against 0.4, falls against 0.5; 0.9 stands against both
    found = compare(strong.run, weak.run)
    counts = (found["both_robust"], found["only_a"], found["only_b"], found["neither"])
    assert counts == (10, 30, 0, 0)
    assert found["difference"] == pytest.approx(0.75)
    assert found["p_value"] == pytest.approx(2 * 0.5**30)
    assert found["low"] < 0.75 < found["high"]
    assert found["sentence"].startswith("Step withstands the attacks on 75.0 % more of the 40 examples")
    back = compare(weak.run, strong.run)
    assert back["difference"] == -found["difference"]
    assert (back["low"], back["high"]) == pytest.approx((-found["high"], -found["low"]))
    assert back["p_value"] == found["p_value"]


def test_equal_models_differ_by_nothing_and_the_smallest_visible_difference_is_told() -> None:
    few = compare(run(0.4).run, run(0.4).run)
    assert few["smallest_detectable_difference"] is None
    assert few["sentence"].endswith("remains possible.")


def test_models_that_fall_on_different_examples_may_be_equally_robust() -> None:
    x = torch.tensor([[0.9, 0.65], [0.65, 0.9]]).repeat(50, 1)
    data = (x, torch.ones(100, dtype=torch.int64))
    found = compare(run(0.5, data=data).run, run(0.5, column=1, data=data).run)
    assert (found["both_robust"], found["only_a"], found["only_b"], found["neither"]) == (0, 50, 50, 0)
    assert (found["difference"], found["p_value"]) == (0.0, 1.0)
    assert found["low"] < 0 < found["high"]
    assert 0 < found["smallest_detectable_difference"] < 1
    assert f"{100 * found['smallest_detectable_difference']:.1f} %" in found["sentence"]


def test_the_interval_is_that_of_newcombes_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17, 2635, table III, method 10: 36, 12, 2, 0 of 50 gives 0.0569 to 0.3404
    from hauberk.evaluate.compare import _newcombe

    low, high = _newcombe(36, 12, 2, 0)
    assert (low, high) == (pytest.approx(0.0569, abs=5e-5), pytest.approx(0.3404, abs=5e-5))


def test_only_the_largest_radius_counts() -> None:
    found = compare(run(0.4, "linf:0.1,0.2").run, run(0.5, "linf:0.1,0.2").run)
    at_the_smaller = compare(run(0.4, "linf:0.1").run, run(0.5, "linf:0.1").run)
    assert at_the_smaller["difference"] == 0
    assert found["difference"] > 0


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        ({"threat": "linf:0.1"}, "same threat"),
        ({"data": (X * 0.99, Y)}, "same data"),
        ({"suite": "quick"}, "same suite"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(options: dict[str, Any], needle: str) -> None:
    with pytest.raises(InputError, match=needle):
        compare(run(0.4).run, run(0.5, **options).run)


def test_runs_on_other_numbers_of_examples_are_refused_with_the_cure() -> None:
    whole, half = run(0.4), run(0.4, n=20)
    same = dataclasses.replace(
        half.run, manifest=dataclasses.replace(half.run.manifest, data_fingerprint=whole.run.manifest.data_fingerprint)
    )
    with pytest.raises(InputError, match="same --n"):
        compare(whole.run, same)


def test_a_program_that_makes_the_data_is_refused_for_its_number_not_its_fingerprint() -> None:
    whole, half = run(0.4), run(0.4, n=20)
    other = dataclasses.replace(half.run, manifest=dataclasses.replace(half.run.manifest, data_fingerprint="0" * 64))
    with pytest.raises(InputError, match="same number of examples, got 40 and 20"):
        compare(whole.run, other)


def test_white_box_and_black_box_runs_of_one_suite_are_refused() -> None:
    def scores(x: np.ndarray) -> np.ndarray:
        return np.concatenate((0.5 - x, x - 0.5), axis=1)

    white = run(0.5, suite="quick")
    black = evaluate(scores, (X, Y), "linf:0.1,0.2", suite="quick", audit=False)
    assert white.run.manifest.suite == black.run.manifest.suite
    with pytest.raises(InputError, match=r"same attacks, got fgsm, .* and square, sign_hunter; .*@scores"):
        compare(white, black)
    alike = evaluate(Step(0.5, 0), (X, Y), "linf:0.1,0.2@scores", suite="quick", audit=False)
    same = evaluate(scores, (X, Y), "linf:0.1,0.2@scores", suite="quick", audit=False)
    assert compare(alike, same)["n"] == 40


@pytest.mark.parametrize(
    ("first", "second", "needle"),
    [
        ((PGD(steps=2),), (PGD(steps=3),), "same attacks, got pgd with steps=2 and with steps=3"),
        ((Noise(), PGD()), (PGD(), Noise()), "same attacks, got noise, pgd and pgd, noise"),
        ((Noise(),), (Noise(), Noise()), "same attacks, got noise and noise, noise"),
        ((PGD(), PGD(restarts=2)), (PGD(), PGD(loss="margin")), "pgd with restarts=2 and with restarts=1"),
    ],
)
def test_suites_of_one_name_with_other_attacks_are_refused(
    first: tuple[Any, ...], second: tuple[Any, ...], needle: str
) -> None:
    with pytest.raises(InputError, match=needle):
        compare(run(0.4, suite=Suite("mine", first)), run(0.4, suite=Suite("mine", second)))


def test_seed_batch_size_and_a_whole_number_spelt_as_a_fraction_are_free() -> None:
    first = run(0.4, suite=PGD(steps=2, momentum=1), seed=1, batch_size=7)
    second = run(0.4, suite=PGD(steps=2, momentum=1.0), seed=2, batch_size=40)
    assert compare(first, second)["n"] == 40


def test_a_setting_that_only_one_run_knows_is_a_difference() -> None:
    old = run(0.4).run
    (attack,) = old.manifest.attacks
    grown = [{"name": attack["name"], "settings": dict(attack["settings"]) | {"polish": 3}}]
    new = dataclasses.replace(old, manifest=dataclasses.replace(old.manifest, attacks=grown))
    with pytest.raises(InputError, match="fgsm with no polish and with polish=3"):
        compare(old, new)


def test_a_run_that_was_adapted_or_audited_is_not_compared_with_one_that_was_not() -> None:
    plain, audited = run(0.4, "linf:0.1"), run(0.5, "linf:0.1", audit=True)
    with pytest.raises(InputError, match=r"choice of audit, got no and yes; evaluate both with the audit"):
        compare(plain, audited)
    adapted = run(0.5, "linf:0.1", audit=True, adapt=True)
    with pytest.raises(InputError, match=r"choice of adapt, got no and yes; evaluate both with --adapt"):
        compare(audited, adapted)
    assert compare(adapted, adapted)["difference"] == 0
