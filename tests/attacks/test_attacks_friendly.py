"""The edge of the friendly call: goals, targets, masks, ids and numpy's numbers are checked and moved before anything is paid."""

import json
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hauberk._shapes import Labels, Logits, PerExample, Rows
from hauberk.attacks import FGSM, PGD, AutoPGD, Noise, Square, fgsm, noise, pgd, settings_of
from hauberk.errors import DataError, HauberkError, SettingError, ThreatError
from hauberk.evidence import plain
from hauberk.testing.setting import pictures
from hauberk.threat import Goal, Predicate, Targeted, TopK, Untargeted
from hauberk.victims import TorchVictim, wrap

S = pictures()  # 9 pictures (2, 5, 6) of 4 classes
N = len(S)
OTHER = (S.y + 1) % 4


class Plain(nn.Module):
    """Four classes, and no word about how many before it has answered."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4]


class Own:
    """A goal of the caller's own, about one class of each example."""

    sign = -1

    def __init__(self, classes: Labels) -> None:
        self.classes, self._inner = classes, Untargeted(classes)

    def margin(self, logits: Logits) -> PerExample:
        return self._inner.margin(logits)

    def reached(self, labels: Labels) -> Tensor:
        return self._inner.reached(labels)

    def take(self, rows: Rows) -> Goal:
        return Own(self.classes[rows])


def labels_only(classes: int | None) -> Any:
    return wrap(lambda x: x.reshape(len(x), -1)[:, :4].argmax(axis=1), output="labels", classes=classes)


def refused(call: Callable[[], object], kind: type[HauberkError], needle: str) -> None:
    with pytest.raises(kind, match=needle) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_target_that_the_model_does_not_have_is_refused_for_scores_and_for_labels() -> None:
    refused(lambda: pgd(S.victim, S.x, S.y, "linf:0.1@target=17"), ThreatError, "class 17, but .* has classes 0 to 3")
    fresh = wrap(Plain())
    assert fresh.classes is None
    refused(lambda: pgd(fresh, S.x, S.y, "linf:0.1@target=4"), ThreatError, "classes 0 to 3")
    refused(lambda: noise(labels_only(4), S.x, S.y, "linf:0.1@target=4"), ThreatError, "classes 0 to 3")
    assert len(noise(labels_only(4), S.x, S.y, "linf:0.1@target=3").broken) == N
    assert len(noise(labels_only(None), S.x, S.y, "linf:0.1@target=17").broken) == N  # nobody knows how many there are


@pytest.mark.parametrize(
    ("goal", "needle"),
    [
        (Targeted(OTHER[:2]), "one entry for each of the 9 examples, got 2"),
        (Targeted(torch.cat((OTHER, OTHER[:1]))), "one entry for each of the 9 examples, got 10"),
        (Targeted(3), "got a single number"),  # type: ignore[arg-type]
        (Targeted(OTHER[:, None]), r"one class for each example .* got shape \(9, 1\)"),
        (Targeted(torch.full((N,), 17)), "names class 17, but .* has classes 0 to 3"),
        (Targeted(torch.full((N,), -1)), "names class -1"),
        (Targeted(OTHER.double()), "whole numbers, got float64"),
        (Targeted(OTHER > 1), "whole numbers, got bool"),
        (Targeted(["cat"] * N), "numeric array or tensor, got list"),  # type: ignore[arg-type]
        (Untargeted(S.y[:1]), "got 1"),
        (TopK(S.y, 2.5), "expected k of the goal to be a whole number >= 1"),  # type: ignore[arg-type]
        (TopK(S.y, 0), "expected k of the goal to be a whole number >= 1"),
        (TopK(S.y, 4), "1 <= k < the number of classes"),
        (
            Predicate(lambda logits, context: logits[:, 0] - context, torch.zeros(4)),
            "context .* each of the 9 examples",
        ),
        (Predicate(lambda logits, context: logits[:, 0], torch.tensor(1.0)), "got a single number"),
        (Own(S.y[:4]), "one entry for each of the 9 examples, got 4"),
        ("target=3", "linf:8/255@target=3"),
        (3, "expected a goal such as"),
        (OTHER, "expected a goal such as"),
        (Targeted, "expected a goal such as"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_goal_that_does_not_fit_the_batch_is_refused(goal: Any, needle: str) -> None:
    refused(lambda: pgd(S.victim, S.x, S.y, "linf:0.1", steps=2, goal=goal), SettingError, needle)


def test_targets_of_numpy_lists_and_small_integers_are_the_same_targets() -> None:
    def found(goal: Any) -> Tensor:
        return fgsm(S.victim, S.x, S.y, "linf:0.4", goal=goal, batch_size=4).adversarials

    expected = found(Targeted(OTHER))
    assert not torch.equal(expected, found(Untargeted(S.y)))
    targets: list[Any] = [OTHER.numpy(), OTHER.numpy().astype(np.uint16), OTHER.tolist(), OTHER.to(torch.uint8)]
    for given in targets:
        assert torch.equal(found(Targeted(given)), expected)
    assert torch.equal(found(Own(S.y)), found(Untargeted(S.y)))
    assert torch.equal(found(TopK(S.y, np.int64(1))), found(Untargeted(S.y)))  # type: ignore[arg-type]


def test_goals_masks_and_ids_are_moved_to_the_device_of_the_examples() -> None:
    # where there is no second device, the one without storage shows what is moved where
    from hauberk.attacks._friendly import _checked_goal, _checked_ids, _checked_mask, _numbers

    meta = torch.device("meta")
    assert _numbers("targets", OTHER.numpy(), meta).device == meta
    assert _checked_mask(np.ones((1, 2, 5, 6)), S.x.to(meta)).device == meta
    context = Predicate(lambda logits, context: logits[:, 0], np.zeros(N))  # type: ignore[arg-type]
    victim = wrap(nn.Flatten())
    assert isinstance(victim, TorchVictim)
    moved = _checked_goal(context, victim, N)
    assert isinstance(moved, Predicate)
    assert moved.context.device == victim.device
    assert _checked_ids(list(range(N)), S.x).dtype == torch.int64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cpu_targets_serve_a_victim_on_cuda() -> None:
    victim = wrap(Plain(), device="cuda")
    found = pgd(victim, S.x, S.y, "linf:0.4", steps=2, goal=Targeted(OTHER), mask=np.ones((1, 2, 5, 6), bool))
    assert found.labels.device.type == "cuda"


def test_a_mask_may_be_an_array_of_numbers_for_all_or_for_each() -> None:
    wanted = torch.zeros(N, 2, 5, 6, dtype=torch.bool)
    wanted[..., :3] = True
    expected = pgd(S.victim, S.x, S.y, "linf:0.1", steps=3, mask=wanted, batch_size=4).adversarials
    assert torch.equal(expected[..., 3:], S.x[..., 3:])
    assert not torch.equal(expected, S.x)
    masks: list[Any] = [
        wanted.numpy(),
        wanted.double(),
        wanted[:1],
        wanted[:1].numpy().astype(np.uint8),
        wanted.tolist(),
    ]
    for mask in masks:
        assert torch.equal(pgd(S.victim, S.x, S.y, "linf:0.1", steps=3, mask=mask, batch_size=4).adversarials, expected)
    each = wanted.clone()
    each[5:] = False
    assert torch.equal(pgd(S.victim, S.x, S.y, "linf:0.1", steps=3, mask=each, batch_size=4).adversarials[5:], S.x[5:])


@pytest.mark.parametrize(
    ("shape", "needle"),
    [
        ((2, 5, 6), r"\(9, 2, 5, 6\), or \(1, 2, 5, 6\) for all examples, got \(2, 5, 6\); pass mask\[None\]"),
        ((5, 6), "broadcast_to"),
        ((1, 1, 5, 6), "broadcast_to"),
        ((4, 2, 5, 6), r"got \(4, 2, 5, 6\)"),
        ((0, 2, 5, 6), r"got \(0, 2, 5, 6\)"),
        ((), r"got \(\)"),
    ],
)
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...], needle: str) -> None:
    refused(lambda: pgd(S.victim, S.x, S.y, "linf:0.1", mask=np.ones(shape, bool)), SettingError, needle)


def test_a_mask_that_holds_no_numbers_is_refused() -> None:
    refused(lambda: pgd(S.victim, S.x, S.y, "linf:0.1", mask="left half"), SettingError, "numeric array or tensor")


def test_ids_are_whole_numbers_from_zero_and_may_repeat() -> None:
    for ids, needle in (
        ([-1, *range(N - 1)], "expected ids that are whole numbers >= 0, got -1"),
        (np.arange(N) + 0.5, "whole numbers, got float64"),
        ([[number] for number in range(N)], "one id for each"),
        (["a"] * N, "numeric array"),
    ):
        refused(lambda ids=ids: noise(S.victim, S.x, S.y, "linf:0.1", ids=ids), SettingError, needle)
    same = noise(S.victim, S.x[:1].repeat(3, 1, 1, 1), S.y[:1].repeat(3), "linf:0.01", ids=np.array([7, 7, 8]), tries=1)
    first, second, third = same.adversarials
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_numbers_of_numpy_are_as_good_as_pythons_and_leave_no_trace() -> None:
    counted: Any = np.int64(5)
    attacks = (
        (PGD(steps=counted, step_size=np.float64(0.01), early_stop=np.bool_(False)), PGD(5, 0.01, early_stop=False)),  # type: ignore[arg-type]
        (AutoPGD(steps=np.uint8(20), targets=np.int32(2), loss="dlr"), AutoPGD(steps=20, targets=2, loss="dlr")),  # type: ignore[arg-type]
        (Square(steps=counted, p_init=np.float64(0.3)), Square(steps=5, p_init=0.3)),
        (Noise(tries=counted), Noise(tries=5)),
    )
    for given, expected in attacks:
        assert repr(given) == repr(expected)
        assert [type(value) for value in settings_of(given).values()] == [
            type(value) for value in settings_of(expected).values()
        ]
        assert json.dumps(settings_of(given)) == json.dumps(plain(settings_of(expected)))
    assert PGD(step_size=np.float32(0.25)) == PGD(step_size=0.25)  # type: ignore[arg-type]


def test_the_friendly_call_makes_settings_and_options_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    seen: dict[str, Any] = {}

    def look(attack: Any, *args: Any, **options: Any) -> None:
        seen["attack"] = attack

    a = pgd(S.victim, S.x, S.y, "linf:0.06", steps=np.int64(3), seed=np.int32(2), batch_size=np.int64(4))
    b = pgd(S.victim, S.x, S.y, "linf:0.06", steps=3, seed=2, batch_size=4, max_queries=np.int64(100))
    assert torch.equal(a.adversarials, b.adversarials)
    monkeypatch.setattr(sys.modules["hauberk.attacks._friendly"], "run_attack", look)
    fgsm(S.victim, S.x, S.y, "linf:0.1", loss=np.str_("margin"))
    assert repr(seen["attack"]) == repr(FGSM(loss="margin"))


@pytest.mark.parametrize(
    ("make", "needle"),
    [
        (lambda: PGD(steps=np.int64(0)), r"needs steps > 0, got steps=0$"),  # type: ignore[arg-type]
        (lambda: PGD(steps=np.float64(5)), "whole number of steps"),  # type: ignore[arg-type]
        (lambda: PGD(steps=np.True_), "steps > 0, got steps=True"),  # type: ignore[arg-type]
        (lambda: PGD(steps="5"), "steps > 0, got steps='5'"),  # type: ignore[arg-type]
        (lambda: PGD(step_size=np.float64("nan")), "step_size > 0, got step_size=nan"),
        (lambda: PGD(momentum=np.float32(-1)), r"momentum >= 0, got momentum=-1.0"),  # type: ignore[arg-type]
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1", seed=1.0), "expected seed to be a whole number, got seed=1.0"),
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1", seed="a"), "expected seed to be a whole number"),
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1", seed=True), "expected seed to be a whole number"),
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1", batch_size=2.5), "expected batch_size to be a whole number"),
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1", batch_size=0), "at least one example"),
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1", max_queries=1.5), "expected max_queries to be a whole number"),
        (lambda: pgd(S.victim, S.x, S.y, "linf:0.1", max_queries=np.int64(0)), "at least one query"),
    ],
)
def test_settings_out_of_range_are_refused_whoever_made_the_number(make: Callable[[], object], needle: str) -> None:
    refused(make, SettingError, needle)


def test_nothing_is_asked_of_the_attack_before_all_is_checked() -> None:
    def never(logits: Logits, context: Tensor) -> NoReturn:
        raise AssertionError("the goal was asked")

    goal = Predicate(never, S.y)
    x = S.x.clone()
    x[-1, 0, 0, 0] = 0.5001 / 255  # off the grid, in the last batch
    refused(lambda: pgd(S.victim, x, S.y, "linf:0.1@grid255", goal=goal, batch_size=2), DataError, "grid of 255")


def test_no_examples_are_refused_so_that_every_result_has_some() -> None:
    refused(lambda: pgd(S.victim, S.x[:0], S.y[:0], "linf:0.1"), DataError, "at least one example")
