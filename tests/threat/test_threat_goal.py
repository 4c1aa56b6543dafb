"""Goals: the margin is positive exactly where the predicted class reaches the goal, ties included."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hauberk.errors import SettingError, ThreatError
from hauberk.threat import Classed, Goal, Predicate, Targeted, TopK, Untargeted, goal_from, least_likely, parse_goal

# Few distinct values, so that ties are the rule.
TIED = st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.0, 1.0, 2.5]), min_size=4, max_size=4), min_size=1, max_size=6)
LOOSE = st.lists(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=4, max_size=4), min_size=1, max_size=6)


def labels_for(logits: Tensor, data: st.DataObject) -> Tensor:
    return torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(logits), max_size=len(logits))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(rows=st.one_of(TIED, LOOSE), data=st.data())
def test_the_margin_is_positive_exactly_where_the_predicted_class_reaches_the_goal(
    dtype: torch.dtype, rows: list[list[float]], data: st.DataObject
) -> None:
    logits = torch.tensor(rows, dtype=dtype)
    classes = labels_for(logits, data)
    predicted = logits.argmax(dim=1)
    for goal, reached in (
        (Untargeted(classes), predicted != classes),
        (Targeted(classes), predicted == classes),
        (TopK(classes, 1), predicted != classes),
        (least_likely(logits), predicted == logits.argmin(dim=1)),
    ):
        assert torch.equal(goal.margin(logits) > 0, reached)
        assert torch.equal(goal.reached(predicted), reached)
        assert isinstance(goal, Goal)
        assert isinstance(goal, Classed)


@given(rows=TIED, data=st.data(), k=st.integers(2, 3))
def test_top_k_is_reached_where_k_other_classes_are_strictly_larger(
    rows: list[list[float]], data: st.DataObject, k: int
) -> None:
    logits = torch.tensor(rows)
    classes = labels_for(logits, data)
    own = logits.gather(1, classes[:, None])
    assert torch.equal(TopK(classes, k).margin(logits) > 0, (logits > own).sum(dim=1) >= k)


def test_margins_are_differences_of_logits_and_rise_towards_the_goal() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]], requires_grad=True)
    own = torch.tensor([0, 1])
    for goal, margins, gradients in (
        (Untargeted(own), [-1.0, 2.0], [[-1, 0, 1], [1, -1, 0]]),
        (Targeted(own), [1.0, -2.0], [[1, 0, -1], [-1, 1, 0]]),
        (TopK(own, 2), [-2.0, 1.0], [[-1, 1, 0], [0, -1, 1]]),
    ):
        margin = goal.margin(logits)
        assert margin.tolist() == margins
        (gradient,) = torch.autograd.grad(margin.sum(), logits)
        assert gradient.tolist() == gradients


def test_a_tie_that_is_not_yet_won_still_has_a_gradient() -> None:
    logits = torch.tensor([[1.0, 1.0]], requires_grad=True)
    margin = Untargeted(torch.tensor([0])).margin(logits)
    assert margin.tolist() == [0.0]
    assert torch.autograd.grad(margin.sum(), logits)[0].tolist() == [[-1, 1]]


def test_a_margin_of_nan_logits_is_never_positive() -> None:
    logits = torch.tensor([[torch.nan, 1.0, 0.0]] * 3)
    for classes in (torch.tensor([0, 1, 2]), torch.tensor([2, 2, 2])):
        for goal in (Untargeted(classes), Targeted(classes), TopK(classes, 2)):
            margin = goal.margin(logits)
            reached = margin > 0
            assert not bool(reached[margin.isnan()].any())


def test_infinitely_unlikely_classes_are_compared() -> None:
    logits = torch.tensor([[0.0, -torch.inf, -1.0]])
    assert Untargeted(torch.tensor([1])).margin(logits).tolist() == [torch.inf]
    assert Targeted(torch.tensor([1])).margin(logits).tolist() == [-torch.inf]
    assert Untargeted(torch.tensor([0])).margin(logits).tolist() == [-1]


def test_a_predicate_follows_its_own_function_and_context() -> None:
    goal = Predicate(lambda logits, wanted: logits[:, 0] - wanted, torch.tensor([1.0, 5.0, 2.0]))
    logits = torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
    assert goal.margin(logits).tolist() == [2, -2, 1]
    assert goal.take(torch.tensor([2, 1])).margin(logits[:2]).tolist() == [1, -2]
    assert isinstance(goal, Goal)
    assert not isinstance(goal, Classed)
    with pytest.raises(SettingError, match="victim with scores"):
        goal.reached(torch.tensor([0]))


def test_goals_follow_the_rows_taken() -> None:
    classes = torch.tensor([4, 5, 6])
    rows = torch.tensor([2, 0, 0])
    for goal in (Untargeted(classes), Targeted(classes), TopK(classes, 3)):
        taken = goal.take(rows)
        assert type(taken) is type(goal)
        assert taken.classes.tolist() == [6, 4, 4]
        assert taken.sign == goal.sign
    taken = TopK(classes, 3).take(rows)
    assert taken.k == 3


def test_top_k_refuses_what_it_cannot_answer() -> None:
    goal = TopK(torch.tensor([0]), 3)
    with pytest.raises(SettingError, match="got k=3 with 3 classes"):
        goal.margin(torch.zeros(1, 3))
    with pytest.raises(SettingError, match="cannot be judged from one label"):
        goal.reached(torch.tensor([0]))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("untargeted", "untargeted"),
        (" Untargeted ", "untargeted"),
        ("least_likely", "least-likely"),
        ("LEAST-LIKELY", "least-likely"),
        ("target=3", "target=3"),
        ("target=003", "target=3"),
        ("top5", "top5"),
        ("TOP1", "top1"),
    ],
)
def test_goals_have_one_spelling(text: str, canonical: str) -> None:
    assert parse_goal(text) == canonical
    assert parse_goal(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "targeted",
        "target",
        "target=",
        "target=-1",
        "target=x",
        "target=²",
        "target=" + "9" * 5000,
        "top",
        "top0",
        "top-1",
        "top²",
        "top1.5",
    ],
)
def test_what_is_no_goal_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ThreatError, match="a goal is one of untargeted, least-likely, target=K, topK; got") as caught:
        parse_goal(text)
    assert "\n" not in str(caught.value)


def test_a_spelling_becomes_the_goal_it_names() -> None:
    labels, logits = torch.tensor([0, 2]), torch.tensor([[0.0, 1.0, -1.0], [-5.0, 1.0, 2.0]])
    untargeted = goal_from("untargeted", labels)
    assert isinstance(untargeted, Untargeted)
    assert torch.equal(untargeted.classes, labels)
    least = goal_from("least-likely", labels, logits)
    assert isinstance(least, Targeted)
    assert least.classes.tolist() == [2, 0]
    targeted = goal_from("target=1", labels, logits)
    assert isinstance(targeted, Targeted)
    assert targeted.classes.tolist() == [1, 1]
    top = goal_from("top2", labels)
    assert isinstance(top, TopK)
    assert top.k == 2
    with pytest.raises(SettingError, match="scores of the clean examples"):
        goal_from("least-likely", labels)
    with pytest.raises(ThreatError, match="names class 3, but the model has classes 0 to 2"):
        goal_from("target=3", labels, logits)
