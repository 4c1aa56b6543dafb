"""The plain words: what the opening sentence says of every kind of threat, and how numbers are spelled."""

import math
from typing import Any

import pytest

from hauberk.report.words import (
    amount,
    duration,
    headline,
    in_ascii,
    interval,
    is_image,
    percent,
    plain,
    radius_text,
    radius_words,
    size_text,
)
from hauberk.threat import ThreatModel

NBSP = "\N{NO-BREAK SPACE}"


def result(
    threat: str, *, shape: tuple[int, ...] = (1, 28, 28), bounds: tuple[float, float] = (0, 1), **more: Any
) -> dict[str, Any]:
    """As much of a result as the words need."""
    parsed = ThreatModel.parse(threat)
    upper = {"value": 443 / 512, "low": 0.832, "high": 0.894, "count": 512}
    radii = [{"radius": radius} for radius in parsed.radii] or [{"radius": None}]
    return {
        "threat": threat,
        "n": 512,
        "radii": radii,
        "data": {"shape": list(shape)},
        "model": {"description": {"bounds": list(bounds)}},
        "robust_accuracy": {"upper": upper, "lower": None},
    } | more


def said(outcome: dict[str, Any]) -> str:
    return str(headline(outcome)).replace(NBSP, " ")


def test_the_opening_sentence_is_the_one_that_was_promised() -> None:
    assert said(result("linf:0.3")) == (
        "Of 512 test images the model keeps at most 86.5 % (83.2 to 89.4) right under any change of at most 0.3 per pixel."
    )


@pytest.mark.parametrize(
    ("threat", "options", "words"),
    [
        ("linf:2/255,8/255", {}, "any change of at most 8/255 per pixel."),
        ("linf:8", {"bounds": (0, 255)}, "at most 8 per pixel on a scale from 0 to 255."),
        ("l2:0.5", {}, "any change of Euclidean length at most 0.5."),
        ("l1:12", {}, "any change that adds up to at most 12 over all pixels."),
        ("l0:24", {}, "any change of at most 24 values."),
        ("l0:1", {}, "any change of at most 1 value."),
        ("linf", {}, "a change of any size."),
        ("linf:0.1", {"shape": (30,)}, "any change of at most 0.1 per feature."),
        ("linf:0.1@target=3", {}, "per pixel by an attacker who wants class 3."),
        ("linf:0.1@least-likely", {}, "by an attacker who wants the least likely class."),
        ("linf:0.1@top5@labels", {}, "who wants the true class out of the top 5 and sees only the labels."),
        ("linf:0.1@scores", {}, "per pixel by an attacker who sees only the scores."),
        ("linf:0.1@grid255", {}, "per pixel, in steps of 1/255 of the scale."),
    ],
)
def test_every_kind_of_threat_is_said_in_plain_words(threat: str, options: dict[str, Any], words: str) -> None:
    assert said(result(threat, **options)).endswith(words)


def test_with_a_proof_the_sentence_gives_both_bounds() -> None:
    outcome = result("linf:0.1")
    outcome["robust_accuracy"]["lower"] = {"value": 0.4, "low": 0.357, "high": 0.444, "count": 512}
    assert "keeps between 40.0 % (proven) and 86.5 % (35.7 to 89.4) right" in said(outcome)


def test_an_example_of_one_is_no_plural_and_a_table_no_image() -> None:
    assert said(result("linf:0.1", n=1)).startswith("Of 1 test image the")
    assert said(result("linf:0.1", shape=(64,))).startswith("Of 512 test examples the")


def test_a_result_full_of_nulls_still_makes_a_sentence() -> None:
    assert "an unknown share right" in said(result("linf:0.1", robust_accuracy={"upper": None, "lower": None}, n=None))
    assert radius_words({"threat": "patch:5x5"}, 0.1) == "the threat patch:5x5"


def test_a_share_short_of_all_or_none_is_never_rounded_to_it() -> None:
    spelled = [percent(value).replace(NBSP, " ") for value in (0.0, 1e-5, 0.86525, 0.99999, 1.0, None, math.nan)]
    assert spelled == ["0.0 %", "< 0.1 %", "86.5 %", "> 99.9 %", "100.0 %", "–", "–"]
    assert percent(0.9999, 0).replace(NBSP, " ") == "> 99 %"


def test_numbers_are_short_and_never_misleading() -> None:
    assert [amount(v) for v in (0, 6896, 12.5, 1234.6, 0.25, None, math.inf)] == [
        "0",
        "6,896",
        "12.5",
        "1,235",
        "0.25",
        "–",
        "–",
    ]
    seconds = [duration(v).replace(NBSP, " ") for v in (0.0421, 59.6, 250, 3600, 7500, None)]
    assert seconds == ["0.042 s", "1 min", "4 min 10 s", "1 h", "2 h 5 min", "–"]
    assert [size_text(v) for v in (0.03137, 55, 12345.6, None)] == ["0.0314", "55", "12,346", "–"]
    assert interval({"low": 0.0, "high": 0.0721}) == "0.0 to 7.2"
    assert interval(None) == interval({"low": None, "high": 1.0}) == "–"


def test_a_radius_is_spelled_as_the_threat_spells_it() -> None:
    assert radius_text(ThreatModel.parse("linf:8/255"), 8 / 255) == "8/255"
    assert radius_text(ThreatModel.parse("l0:24"), 24.0) == "24"
    assert radius_text(None, 0.25) == "0.25"
    assert radius_text(None, None) == radius_text(None, math.inf) == "any size"


def test_plain_characters_take_as_much_room() -> None:
    text = f"86.5{NBSP}% \u2013 \u2588\u2593\u2591\u00b7 na\u00efve \u732b"
    assert in_ascii(text) == "86.5 % - #=:. na?ve ?"
    assert len(in_ascii(text)) == len(text)


def test_characters_that_drive_terminals_or_turn_text_around_are_replaced() -> None:
    assert plain("a\x1b[2Jb\u202ec\x00\ud800") == "a\ufffd[2Jb\ufffdc\ufffd\ufffd"
    assert plain("naïve 猫 0 ∞") == "naïve 猫 0 ∞"


@pytest.mark.parametrize(
    ("shape", "answer"),
    [
        ((1, 28, 28), True), ((3, 32, 32), True), ((28, 28), True), ((32, 32, 3), True), ((64,), False),
        ((2, 28, 28), False), ((1, 1, 40), False), ((3, 5), False), ((1, 3, 32, 32), False), (None, False),
    ],
)  # fmt: skip
def test_only_what_can_be_looked_at_is_an_image(shape: tuple[int, ...] | None, answer: bool) -> None:
    assert is_image(shape) is answer
