"""What the report says of proofs: the table of methods, both ends one by one and as curves, and words that agree with the rows."""

import math
import re
from pathlib import Path

import pyarrow as pa
import pytest

from hauberk import data, zoo
from hauberk.attacks import FGSM, PGD
from hauberk.evaluate import Evaluation, evaluate
from hauberk.report import write_html
from hauberk.report.charts import Span, round_ticks, spans
from hauberk.report.proofs import ends_sentence, proofs_sentence, proven
from hauberk.report.words import headline


@pytest.fixture(scope="module")
def run() -> Evaluation:
    source = data.load("digits", n=30)
    suite = [FGSM(loss="margin"), PGD(steps=5, loss="margin")]
    return evaluate(zoo.load("digits-trades"), source, "linf:0.05,0.1", suite=suite, certify="auto", sandwich=12)


def test_the_page_shows_each_method_and_a_bar_for_each_example(run: Evaluation, tmp_path: Path) -> None:
    shown = proven(run.result, run.run.rows)
    assert shown is not None
    assert shown.radii == ("0.05", "0.1")
    for place, entry in enumerate(run.result["certified"]["by"]):
        assert {name: counts[place] for name, _, counts in shown.lines if counts[place] != "0"} == {
            name: str(count) for name, count in entry["proven"].items()
        }
    assert shown.spans is not None
    assert len(shown.spans.spans) == 12
    tops = [math.inf if span.upper is None else -span.upper for span in shown.spans.spans]
    assert tops == sorted(tops)
    for span in shown.spans.spans:
        assert span.upper is None or span.upper <= span.lower  # down the picture, the larger radius stands higher
        assert shown.spans.top <= span.lower <= shown.spans.bottom
    assert shown.curve is not None
    assert [series.kind for series in shown.curve.series] == ["upper", "estimate", "lower"]
    page = write_html(run.run, tmp_path / "page.html").read_text("utf-8")
    assert page.count('class="span') == 12
    assert "Proven at 0.05" in page
    assert page.count("Proven, at least") == 3  # the tile, and a column in two tables


def test_the_curve_of_proofs_never_passes_that_of_attacks(run: Evaluation) -> None:
    shown = proven(run.result, run.run.rows)
    assert shown is not None
    assert shown.curve is not None
    lines = {
        series.kind: [float(point.split(",")[1]) for point in series.line.split()] for series in shown.curve.series
    }
    assert all(low >= high for low, high in zip(lines["lower"], lines["upper"], strict=True))
    assert lines["upper"] == sorted(lines["upper"])


def test_the_words_are_those_of_the_numbers(run: Evaluation) -> None:
    said = proofs_sentence(run.result)
    assert f"spared {run.result['certified']['spared']['examples']} images the attacks" in said
    assert re.search(r"Of the first 12 images, .* in the median", ends_sentence(run.result, run.run.rows))
    assert "(proven)" in str(headline(run.result))


def test_a_run_without_proofs_shows_none(run: Evaluation, tmp_path: Path) -> None:
    plain = run.result | {"certified": None}
    assert proven(plain, run.run.rows) is None
    assert proofs_sentence(plain) == ""
    empty = evaluate(zoo.load("digits-mlp"), data.load("digits", n=8), "linf:0.05", suite=[FGSM()], audit=False)
    assert ends_sentence(empty.result, empty.run.rows) == ""
    page = write_html(empty.run, tmp_path / "page.html").read_text("utf-8")
    assert "What is proven" not in page
    assert "Proven, at least" not in page


def test_proofs_without_a_look_at_both_ends_show_the_table_alone() -> None:
    found = evaluate(
        zoo.load("digits-trades"), data.load("digits", n=8), "linf:0.05", suite=[FGSM()], certify="crown", sandwich=0
    )
    shown = proven(found.result, found.run.rows)
    assert shown is not None
    assert shown.lines
    assert shown.spans is None
    assert shown.curve is None


def test_a_run_of_older_rows_without_the_columns_is_shown(run: Evaluation) -> None:
    older: pa.Table = run.run.rows.drop_columns(["lower", "estimate", "upper"])
    shown = proven(run.result, older)
    assert shown is not None
    assert shown.spans is None


@pytest.mark.parametrize(
    ("far", "labels"),
    [
        (0.21, ["0", "0.05", "0.1", "0.15", "0.2"]),
        (1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (0.003, ["0", "0.001", "0.002", "0.003"]),
        (70.0, ["0", "20", "40", "60"]),
    ],
)
def test_ticks_are_round(far: float, labels: list[str]) -> None:
    assert [label for _, label in round_ticks(far)] == labels


def test_spans_are_laid_out_by_hand_worked_places() -> None:
    drawn = spans([Span(0.0, None, None, "open"), Span(0.1, 0.2, 0.15, "one")], [(0.2, "0.2")])
    assert drawn is not None
    first, second = drawn.spans
    assert (first.text, second.text, second.upper) == ("one", "open", None)
    height = drawn.bottom - drawn.top
    far = 0.2 * 1.05
    assert first.upper == pytest.approx(drawn.bottom - height * 0.2 / far, abs=0.01)
    assert first.lower == pytest.approx(drawn.bottom - height * 0.1 / far, abs=0.01)
    assert second.lower == drawn.bottom
    assert drawn.threats[0].at == first.upper
    assert spans([], [(0.1, "0.1")]) is None
    assert spans([Span(0.0, None, None, "x")], [(0.1, "0.1")]) is None
