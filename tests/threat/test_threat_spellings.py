"""Threats of rotations, colours and blind spots: spelled, printed and read back, and what is wrong with the others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hauberk.errors import DataError, ThreatError
from hauberk.threat import Access, BlindSpot, Colour, Norm, Single, Spatial, ThreatModel

BOX = (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "canonical", "chart", "radii"),
    [
        (
            "spatial:rotation=30,translation=.1",
            "spatial:rotation=30,translation=0.1",
            Spatial(rotation=30, translation=0.1),
            (1.0,),
        ),
        (
            " Spatial : translation = 3/28 , rotation = 30 @ scores",
            "spatial:rotation=30,translation=0.10714285714285714@scores",
            Spatial(rotation=30, translation=3 / 28),
            (1.0,),
        ),
        (
            "spatial:shear=10,rotation=0@padding=reflect",
            "spatial:shear=10@padding=reflect",
            Spatial(shear=10, padding="reflect"),
            (1.0,),
        ),
        ("spatial:scale=.5@padding=zeros", "spatial:scale=0.5", Spatial(scale=0.5), (1.0,)),
        (
            "spatial:rotation=30@curve=0.25,.5,1@target=3",
            "spatial:rotation=30@curve=0.25,0.5,1@target=3",
            Spatial(rotation=30),
            (0.25, 0.5, 1.0),
        ),
        ("spatial:rotation=30@smallest", "spatial:rotation=30@smallest", Spatial(rotation=30), ()),
        ("color:hue=.1,contrast=1/5", "colour:hue=0.1,contrast=0.2", Colour(hue=0.1, contrast=0.2), (1.0,)),
        ("rotation:30", "rotation:30", Single(Spatial(rotation=180), "rotation", 180), (30.0,)),
        ("rotation:10,20,30", "rotation:10,20,30", Single(Spatial(rotation=180), "rotation", 180), (10.0, 20.0, 30.0)),
        ("shear", "shear", Single(Spatial(shear=80), "shear", 80), ()),
        (
            "translation:0.1@padding=reflect",
            "translation:0.1@padding=reflect",
            Single(Spatial(translation=1, padding="reflect"), "translation", 1),
            (0.1,),
        ),
        ("hue:0.5@labels", "hue:0.5@labels", Single(Colour(hue=0.5), "hue", 0.5), (0.5,)),
        ("linf:0.3@scale=0.7@shift=0.15", "linf:0.3@scale=0.7@shift=0.15", BlindSpot(0.7, 0.15), (0.3,)),
        ("l2:1,2@shift=-0.1", "l2:1,2@scale=1@shift=-0.1", BlindSpot(1.0, -0.1), (1.0, 2.0)),
        ("l1@scale=0.5", "l1@scale=0.5@shift=0", BlindSpot(0.5, 0.0), ()),
    ],
)
def test_a_threat_beyond_norms_is_read_and_printed(
    text: str, canonical: str, chart: object, radii: tuple[float, ...]
) -> None:
    threat = ThreatModel.parse(text)
    assert str(threat) == canonical
    assert threat.chart == chart
    assert threat.radii == pytest.approx(radii)
    assert ThreatModel.parse(canonical) == threat
    assert hash(ThreatModel.parse(canonical)) == hash(threat)


LIMITS = {name: st.floats(0, most) for name, most in Spatial.widest.items()}


@given(
    limits=st.fixed_dictionaries(LIMITS).filter(lambda limits: any(limits.values())),
    padding=st.sampled_from(["zeros", "reflect"]),
    radii=st.one_of(st.just((1.0,)), st.sets(st.floats(1e-6, 1), max_size=3).map(lambda radii: tuple(sorted(radii)))),
    access=st.sampled_from(list(Access)),
)
def test_every_spatial_threat_reads_back_as_itself(
    limits: dict[str, float], padding: str, radii: tuple[float, ...], access: Access
) -> None:
    threat = ThreatModel(Norm.LINF, radii, access=access, chart=Spatial(**limits, padding=padding))  # type: ignore[arg-type]
    assert ThreatModel.parse(str(threat)) == threat


def test_the_ball_of_a_chart_is_that_of_its_parameters() -> None:
    ball = ThreatModel.parse("spatial:rotation=30").ball((0.0, 255.0))
    assert (ball.norm, ball.radius, ball.box) == (Norm.LINF, 1.0, (-1.0, 1.0))
    ball = ThreatModel.parse("rotation:30").ball(BOX)
    assert (ball.radius, ball.box) == (30.0, (-180.0, 180.0))
    ball = ThreatModel.parse("l2:3@scale=0.5").ball((-1.0, 2.0))
    assert (ball.norm, ball.radius, ball.box) == (Norm.L2, 3.0, (-1.0, 2.0))


def test_a_threat_at_one_radius_keeps_its_chart() -> None:
    threat = ThreatModel.parse("spatial:rotation=30@curve=.5,1@padding=reflect@top3")
    assert str(threat.at(0.5)) == "spatial:rotation=30@padding=reflect@curve=0.5@top3"
    assert str(ThreatModel.parse("rotation:10,20").at(10)) == "rotation:10"


def test_examples_that_a_threat_cannot_render_or_that_leave_the_bounds_are_refused() -> None:
    with pytest.raises(ThreatError, match="height and width"):
        ThreatModel.parse("rotation:3").check(torch.zeros(2, 7), BOX)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        ThreatModel.parse("rotation:3").check(torch.full((2, 1, 4, 4), 1.5), BOX)
    ThreatModel.parse("rotation:3").check(torch.ones(2, 1, 4, 4), BOX)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("spatial", "needs a limit above 0 of one of rotation, translation, scale, shear"),
        ("spatial:rotation=0", "needs a limit above 0"),
        ("spatial:30", "takes limits of rotation, translation, scale, shear, got '30'"),
        ("spatial:angle=30", "takes limits of rotation"),
        ("spatial:rotation=30,rotation=20", "a second rotation"),
        ("spatial:rotation=many", "a number or a fraction"),
        ("spatial:rotation=200", "rotation from 0 to 180"),
        ("spatial:rotation=nan", "rotation from 0 to 180"),
        ("spatial:rotation=-3", "rotation from 0 to 180"),
        ("spatial:rotation=30,hue=0.1", "takes limits of rotation"),
        ("colour:rotation=3", "takes limits of hue, saturation, brightness, contrast"),
        ("colour:hue=0.6", "hue from 0 to 0.5"),
        ("rotation:", "a radius must follow"),
        ("rotation:200", "rotation is at most 180"),
        ("rotation:-3", "a finite number > 0"),
        ("rotation:20,10", "must increase"),
        ("spatial:rotation=30@curve=0.5,2", "share of the limits is at most 1"),
        ("spatial:rotation=30@curve=", "after @ comes|a number"),
        ("rotation:30@curve=0.5", "threats of several limits"),
        ("linf:0.3@smallest", "threats of several limits"),
        ("rotation:30@grid255", "leave it out"),
        ("linf:0.3@grid255@scale=0.7", "leave it out"),
        ("colour:hue=0.1@padding=reflect", "only spatial threats have a padding"),
        ("linf:0.3@padding=reflect", "only spatial threats have a padding"),
        ("spatial:rotation=3@padding=wrap", "zeros or reflect"),
        ("spatial:rotation=3@padding=reflect@padding=zeros", "a second one"),
        ("spatial:rotation=3@scale=0.7", "for balls of a norm"),
        ("linf:0.3@scale=0", "scale > 0"),
        ("linf:0.3@shift=nan", "finite shift"),
        ("linf:0.3@scale=0.7@scale=0.8", "a second one"),
        ("spacial:rotation=3", "or one of spatial, colour, rotation"),
    ],
)
def test_a_bad_spelling_is_refused_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(ThreatError, match=says) as caught:
        ThreatModel.parse(text)
    assert "\n" not in str(caught.value)


def test_a_chart_of_parameters_is_bounded_in_linf() -> None:
    with pytest.raises(ThreatError, match="in linf, got l2"):
        ThreatModel(Norm.L2, (1.0,), chart=Spatial(rotation=3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("spatial:rotation=abc", "the limit of rotation is a number or a fraction such as 1/10, got 'abc'"),
        ("hue:x", "the limit of hue is a number"),
        ("linf:0.3@scale=q", "a scale is a number"),
        ("linf:0.3@shift=q", "a shift is a number"),
        ("colour:hue=0.1@curve=q", "a share of the limits is a number"),
        ("linf:q", "a radius is a number or a fraction such as 8/255"),
        ("linf:0.3@what", "after @ comes gridN, scale=A, shift=B, a goal"),
        ("rotation:3@what", "after @ comes padding=reflect, a goal"),
        ("colour:hue=0.1@what", "after @ comes curve=SHARE,SHARE, smallest, a goal"),
    ],
)
def test_a_refusal_speaks_of_what_was_written(text: str, words: str) -> None:
    with pytest.raises(ThreatError, match=words):
        ThreatModel.parse(text)
