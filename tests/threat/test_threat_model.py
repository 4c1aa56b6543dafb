"""Threat models: one spelling each, read back as printed, and every bad spelling one sentence."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hauberk.errors import ThreatError
from hauberk.threat import Access, Norm, ThreatModel

GOALS = st.one_of(
    st.sampled_from(["untargeted", "least-likely"]),
    st.integers(0, 999).map(lambda k: f"target={k}"),
    st.integers(1, 999).map(lambda k: f"top{k}"),
)


@st.composite
def threats(draw: st.DrawFn) -> ThreatModel:
    norm = draw(st.sampled_from(list(Norm)))
    if norm is Norm.L0:
        radius = st.integers(1, 10_000).map(float)
    else:
        fractions = st.tuples(st.integers(1, 510), st.sampled_from([255, 510, 3, 7])).map(lambda v: v[0] / v[1])
        radius = st.one_of(fractions, st.floats(1e-300, 1e300), st.integers(1, 400).map(float))
    radii = tuple(sorted(draw(st.sets(radius, max_size=5))))
    grid = draw(st.one_of(st.none(), st.integers(1, 65_535)))
    return ThreatModel(norm, radii, grid, draw(GOALS), draw(st.sampled_from(list(Access))))


@given(threat=threats())
def test_what_is_printed_reads_back_as_the_same_threat(threat: ThreatModel) -> None:
    text = str(threat)
    assert ThreatModel.parse(text) == threat
    assert str(ThreatModel.parse(text)) == text
    assert repr(threat) == f"ThreatModel({text!r})"
    assert hash(ThreatModel.parse(text)) == hash(threat)


@pytest.mark.parametrize(
    ("text", "canonical", "radii"),
    [
        ("linf:8/255", "linf:8/255", (8 / 255,)),
        ("l2:0.5", "l2:0.5", (0.5,)),
        ("l1:12", "l1:12", (12.0,)),
        ("l0:24", "l0:24", (24.0,)),
        ("linf:0.3@grid255", "linf:0.3@grid255", (0.3,)),
        ("linf:2/255,4/255,8/255", "linf:2/255,4/255,8/255", (2 / 255, 4 / 255, 8 / 255)),
        (" LInf : 2/255 , 4 / 255 ", "linf:2/255,4/255", (2 / 255, 4 / 255)),
        ("l2", "l2", ()),
        ("linf@least_likely", "linf@least-likely", ()),
        ("l2:1e-3@target=03@scores@grid255", "l2:0.001@grid255@target=3@scores", (0.001,)),
        ("linf:0.03137254901960784", "linf:8/255", (8 / 255,)),
        ("linf:2.5/255", "linf:2.5/255", (2.5 / 255,)),
        ("linf:0.2@untargeted@gradients", "linf:0.2", (0.2,)),
        ("linf:51/255", "linf:0.2", (0.2,)),
        ("l1:1e2", "l1:100", (100.0,)),
    ],
)
def test_the_spellings_of_the_documentation_mean_what_they_say(
    text: str, canonical: str, radii: tuple[float, ...]
) -> None:
    threat = ThreatModel.parse(text)
    assert str(threat) == canonical
    assert threat.radii == radii
    assert ThreatModel.parse(threat) is threat


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "starts with one of linf, l2, l1, l0, got ''"),
        ("8/255", "starts with one of linf"),
        ("l3:1", "starts with one of linf"),
        ("inf:0.1", "starts with one of linf"),
        ("linf 8/255", "starts with one of linf"),
        ("linf=8/255", "starts with one of linf"),
        ("linf:", "a radius must follow the colon"),
        ("linf:@grid255", "a radius must follow the colon"),
        ("linf:x", "a number or a fraction such as 8/255, got 'x'"),
        ("linf:8/0", "a number or a fraction"),
        ("linf:8/255/2", "a number or a fraction"),
        ("linf:0.1,", "a number or a fraction"),
        ("linf:0.1:0.2", "a number or a fraction"),
        ("linf:8/", "a number or a fraction"),
        ("linf:0", "finite number > 0, got 0; leave it out"),
        ("linf:-0.1", "finite number > 0, got -0.1"),
        ("linf:nan", "finite number > 0"),
        ("linf:inf", "finite number > 0"),
        ("linf:1e999", "finite number > 0"),
        ("linf:8/-255", "finite number > 0"),
        ("l0:2.5", "whole number, got 2.5"),
        ("l0:inf", "finite number > 0"),
        ("linf:0.2,0.1", "must increase, got 0.2,0.1"),
        ("linf:0.1,0.1", "must increase"),
        ("linf:0.1@", "after @ comes gridN"),
        ("linf:0.1@@grid255", "after @ comes gridN"),
        ("linf:0.1@grid", "@gridN with N >= 1"),
        ("linf:0.1@grid0", "@gridN with N >= 1"),
        ("linf:0.1@grid-5", "@gridN with N >= 1"),
        ("linf:0.1@grid2.5", "@gridN with N >= 1"),
        ("linf:0.1@grid²", "@gridN with N >= 1"),
        ("linf:0.1@grid" + "9" * 5000, "@gridN with N >= 1"),
        ("linf:0.1@target", "after @ comes gridN"),
        ("linf:0.1@target=²", "after @ comes gridN"),
        ("linf:0.1@blackbox", "after @ comes gridN"),
        ("linf:0.1@grid255@grid7", "names one grid, got a second one, @grid7"),
        ("linf:0.1@target=3@top5", "names one goal, got a second one, @top5"),
        ("linf:0.1@scores@labels", "names one access level, got a second one, @labels"),
        (None, "a string such as 'linf:8/255' or a ThreatModel, got NoneType"),
        (0.3, "got float"),
    ],
)
def test_a_bad_spelling_is_refused_in_one_sentence(text: Any, says: str) -> None:
    with pytest.raises(ThreatError) as caught:
        ThreatModel.parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_threat_built_by_hand_is_held_to_the_same_rules() -> None:
    assert ThreatModel(Norm.L2, goal="Least_Likely").goal == "least-likely"
    for options in ({"radii": (-1.0,)}, {"radii": (2.0, 1.0)}, {"goal": "win"}, {"grid": 0}):
        with pytest.raises(ThreatError):
            ThreatModel(Norm.L2, **options)  # pyright: ignore[reportArgumentType]


def test_the_radius_that_headlines_speak_of_is_the_largest() -> None:
    threat = ThreatModel.parse("linf:0.1,0.3@grid255@target=2@scores")
    assert threat.radius == 0.3
    assert not threat.smallest
    assert str(threat.at(0.1)) == "linf:0.1@grid255@target=2@scores"
    assert ThreatModel.parse("l2").smallest
    assert math.isinf(ThreatModel.parse("l2").radius)


def test_the_ball_of_a_threat_is_the_one_it_describes() -> None:
    threat = ThreatModel.parse("linf:0.1,0.3@grid255")
    ball = threat.ball((-1.0, 1.0))
    assert (ball.norm, ball.radius, ball.box, ball.grid) == (Norm.LINF, 0.3, (-1.0, 1.0), 255)
    assert threat.ball((0.0, 1.0), 0.1).radius == 0.1
    assert not ThreatModel.parse("l2").ball((0.0, 1.0)).finite
    assert torch.equal(ball.project(torch.zeros(1, 3), torch.zeros(1, 3)), torch.zeros(1, 3))


def test_no_radius_of_a_curve_may_be_below_a_step_of_the_grid() -> None:
    threat = ThreatModel.parse("linf:0.5/255,8/255@grid255")
    for radius in (None, 8 / 255):
        with pytest.raises(ThreatError, match="use at least 1/255"):
            threat.ball((0.0, 1.0), radius)
    assert ThreatModel.parse("l0:1@grid255").ball((0.0, 1.0)).grid == 255


def test_access_levels_are_ordered_and_spelled_in_lower_case() -> None:
    assert Access.LABELS < Access.SCORES < Access.GRADIENTS
    assert [str(level) for level in Access] == ["labels", "scores", "gradients"]
