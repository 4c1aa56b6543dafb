"""The HTML report as a document: whole, self-contained, escaped, accessible, and never upset by what is missing."""

import dataclasses
import importlib.resources
import json
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor

from hauberk.errors import InputError, RunError
from hauberk.evidence.finished import FinishedRun
from hauberk.evidence.table import rows_table
from hauberk.report import write_html
from hauberk.report.outcomes import levels
from hauberk.report.page import page

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Document(HTMLParser):
    """What tests ask of a page; raises where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split()).replace("\N{NO-BREAK SPACE}", " ")

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag in names]


def document(run: FinishedRun, folder: Path) -> Document:
    return Document(write_html(run, folder / "report.html").read_text(encoding="utf-8"))


def with_result(run: FinishedRun, **changes: Any) -> FinishedRun:
    return dataclasses.replace(run, result=run.result | changes)


def test_the_fixture_is_a_result_of_the_contract(digits_run: FinishedRun) -> None:
    schema = importlib.resources.files("hauberk.evaluate") / "evaluation.schema.json"
    jsonschema.validate(digits_run.result, json.loads(schema.read_text()))


def test_the_report_goes_into_the_run_folder_and_is_the_same_for_the_same_run(
    digits_run: FinishedRun, tmp_path: Path
) -> None:
    assert digits_run.path is not None
    first = write_html(digits_run.path)
    assert first == digits_run.path / "report.html"
    assert first.read_bytes() == write_html(str(digits_run.path), tmp_path / "new" / "again.html").read_bytes()


def test_the_report_opens_with_the_sentence_and_holds_every_part(digits_page: Path) -> None:
    seen = Document(digits_page.read_text(encoding="utf-8"))
    assert "keeps at most 54.0 % (46.8 to 61.1) right under any change of at most 0.1 per pixel." in seen.text
    assert len(seen.all("h1")) == 1
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {"outcome", "attacks", "radius", "classes", "gallery", "audit", "threat", "costs", "reproduce"}
    assert wanted <= set(ids)
    links = {attrs["href"] for attrs in seen.all("a")}
    assert {f"#{name}" for name in wanted} <= links
    assert links <= {f"#{name}" for name in ids}
    for part in (
        "514 78",
        "4,626",
        "What to do next:",
        "knows the model and its gradients",
        "17,991",
        "3f" * 32,
        "0123456789abcdef",
    ):
        assert part in seen.text
    assert "hauberk evaluate zoo:digits-ridge --data digits --threat linf:0.025,0.05,0.1 --n 200 --seed 0" in seen.text


def test_the_report_loads_nothing_and_runs_nothing(digits_page: Path) -> None:
    text = digits_page.read_text(encoding="utf-8")
    seen = Document(text)
    assert not seen.all("script", "iframe", "object", "embed", "audio", "video", "base", "form")
    sources = [
        value
        for _, attrs in seen.tags
        for name, value in attrs.items()
        if name in ("src", "srcset", "href", "poster", "data")
    ]
    assert all(source and source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert not any(name.startswith("on") for _, attrs in seen.tags for name in attrs)
    assert not re.search(r"https?://|@import|url\(|//cdn", text)
    policy = [attrs for attrs in seen.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(policy[0]["content"])


def test_the_report_can_be_read_without_seeing_it(digits_page: Path) -> None:
    seen = Document(digits_page.read_text(encoding="utf-8"))
    landmarks = Counter(tag for tag, _ in seen.tags)
    assert all(landmarks[tag] == 1 for tag in ("header", "nav", "main", "footer"))
    assert seen.all("html")[0]["lang"] == "en"
    assert all(attrs.get("alt") for attrs in seen.all("img"))
    assert all(attrs.get("aria-label") for attrs in seen.all("svg"))
    assert all(attrs.get("scope") in ("row", "col") for attrs in seen.all("th"))
    assert all(attrs.get("aria-labelledby") for attrs in seen.all("section"))
    headings = [int(tag[1]) for tag, _ in seen.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(headings))


def luminance(colour: str) -> float:
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_colour_of_text_has_a_contrast_of_four_and_a_half(digits_page: Path, scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", digits_page.read_text(encoding="utf-8"), re.DOTALL)[:2]
    colours = dict(pair for block in blocks[: scheme + 1] for pair in re.findall(r"--([\w-]+): (#\w{3,8});", block))
    colours = {
        name: value if len(value) > 4 else "#" + "".join(2 * c for c in value[1:]) for name, value in colours.items()
    }
    pairs = [(ink, ground) for ink in ("ink", "soft") for ground in ("paper", "panel", "error-panel", "warning-panel")]
    pairs += [(f"on-{status}", status) for status in ("proven", "undecided", "broken", "misclassified")]
    pairs += [(ink, "paper") for ink in ("accent", "broken", "clear")]
    pairs += [("error", "error-panel"), ("warning", "warning-panel")]
    for ink, ground in pairs:
        light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {ground}"


def test_what_users_named_is_text_and_never_markup(digits_run: FinishedRun, tmp_path: Path) -> None:
    attack = "\"><img src=x onerror=alert(1)><script>alert(1)</script>'{{ 111*111 }}</style></title>"

    def nasty(value: Any, kept: tuple[str, ...] = ("threat", "severity", "schema")) -> Any:
        if isinstance(value, dict):
            return {key: val if key in kept else nasty(val) for key, val in value.items()}
        if isinstance(value, list):
            return [nasty(item) for item in value]
        return attack if isinstance(value, str) else value

    changed = nasty(digits_run.result)
    changed["model"]["description"] = {attack: attack, "bounds": [0, 1]}
    changed["attacks"][0]["settings"] = {attack: attack}
    plain = document(digits_run, tmp_path)
    seen = document(dataclasses.replace(digits_run, result=changed), tmp_path)
    assert not seen.all("script")
    assert len(seen.all("img")) == len(plain.all("img"))
    assert not any(name.startswith("on") for _, attrs in seen.tags for name in attrs)
    assert attack in seen.text
    assert "12321" not in seen.text


def test_colour_pictures_tables_and_odd_bounds_each_find_their_form(
    digits_run: FinishedRun, tmp_path: Path, rebuild: Any
) -> None:
    assert "opacity is its size" in document(digits_run, tmp_path).text

    def coloured() -> Iterator[dict[str, Tensor]]:
        for chunk in digits_run.adversarials():
            yield chunk | {part: chunk[part].expand(-1, 3, -1, -1) for part in ("originals", "adversarials")}

    data = digits_run.result["data"] | {"shape": [3, 8, 8]}
    colour = document(dataclasses.replace(with_result(digits_run, data=data), adversarials=coloured), tmp_path)
    assert "drawn around mid-grey" in colour.text
    assert len(colour.all("img")) == 36
    table = document(rebuild(shape=(64,)), tmp_path)
    assert "The features that changed most are listed." in table.text
    assert "per feature." in table.text
    assert not table.all("img")
    for bounds in (None, [0.0, 255.0], [float("-inf"), float("inf")], [1.0, 1.0], "all"):
        model = digits_run.result["model"] | {"description": {"bounds": bounds}}
        assert len(document(with_result(digits_run, model=model), tmp_path).all("img")) == 36


def test_one_radius_many_radii_and_no_radius_are_all_drawn(
    rebuild: Any, digits_run: FinishedRun, tmp_path: Path
) -> None:
    single = document(rebuild(radii=(0.1,)), tmp_path)
    assert len(single.all("circle")) == 2
    assert "breaks add up over all radii" not in single.text
    many = document(rebuild(n=60, radii=tuple(k / 100 for k in range(1, 16))), tmp_path)
    assert "breaks add up over all radii" in many.text
    assert not many.all("circle")
    assert len(many.all("polyline")) == 1
    columns = rebuild(radii=(0.1,)).rows.to_pydict()
    columns["radius"] = [float("inf")] * len(columns["radius"])
    level = digits_run.result["radii"][-1] | {"radius": None}
    sought = with_result(rebuild(radii=(0.1,)), threat="linf", radii=[level])
    shown = page(sought.result, rows_table(columns), [])
    assert shown.curve is not None
    assert "fall to a change of at most 0.1." in shown.curve_words
    assert shown.levels[0].text == "any size"
    assert str(shown.headline).endswith("right under a change of any size.")


def test_proofs_appear_once_there_are_any(digits_run: FinishedRun, tmp_path: Path) -> None:
    assert "Proven" not in document(digits_run, tmp_path).text
    lower = {"value": 0.4, "low": 0.33, "high": 0.47, "count": 200}
    radii = [
        level
        | {
            "proven": 80,
            "undecided": level["undecided"] - 80,
            "robust_accuracy": level["robust_accuracy"] | {"lower": lower},
        }
        for level in digits_run.result["radii"]
    ]
    seen = document(with_result(digits_run, radii=radii, robust_accuracy=radii[-1]["robust_accuracy"]), tmp_path)
    assert "keeps between 40.0 % (proven) and 54.0 % (33.0 to 61.1) right" in seen.text
    assert "Proven, at least 40.0 %" in seen.text
    assert len(seen.all("polyline")) == 2


def test_a_thousand_classes_are_cut_to_the_twenty_lowest(digits_run: FinishedRun, tmp_path: Path) -> None:
    share = {"low": 0.0, "high": 1.0, "count": 4}
    classes = [
        {"class": k, "name": None, "count": 4, "clean_accuracy": share | {"value": 1.0},
         "robust_accuracy": {"upper": share | {"value": (k * 37 % 1000) / 1000}, "lower": None}}
        for k in range(1000)
    ]  # fmt: skip
    shown = page(with_result(digits_run, per_class=classes).result, digits_run.rows, []).classes
    assert len(shown) == 20
    assert shown[0].at == 0.0
    assert [line.at for line in shown] == sorted(line.at or 0.0 for line in shown)
    assert "The 20 lowest of 1000 classes" in document(with_result(digits_run, per_class=classes), tmp_path).text


def test_findings_come_worst_first_and_are_announced_at_the_top(digits_run: FinishedRun, tmp_path: Path) -> None:
    error = {"id": "randomised-output", "severity": "error", "evidence": "Two answers differ.", "next": "Average them."}
    shown = page(with_result(digits_run, audit=[*digits_run.result["audit"], error]).result, digits_run.rows, [])
    assert [finding.severity for finding in shown.findings] == ["error", "warning", "info"]
    assert shown.checks == ("random-output", "loss-still-rising", "one-step-beats-iterated")
    assert shown.alarm.startswith("The audit found 1 error and 1 warning")
    clear = document(with_result(digits_run, audit=[]), tmp_path)
    assert "The audit of this run has no findings." in clear.text
    assert "The audit found" not in clear.text


def test_outcomes_are_counted_in_the_rows_where_the_result_has_no_radii(digits_run: FinishedRun) -> None:
    counted = levels(digits_run.result | {"radii": []}, digits_run.rows)
    told = levels(digits_run.result)
    assert [(level.radius, level.counts) for level in counted] == [(level.radius, level.counts) for level in told]


NULLABLE = [
    "clean_accuracy", "robust_accuracy", "attacks", "cost", "radii", "per_class", "audit", "environment", "threat_statement",
    "suite", "seed", "n", "batch_size", "rows", "model", "data", "hauberk",
]  # fmt: skip


@pytest.mark.parametrize("field", NULLABLE)
def test_a_null_in_any_field_leaves_a_readable_report(digits_run: FinishedRun, tmp_path: Path, field: str) -> None:
    assert "test" in document(with_result(digits_run, **{field: None}), tmp_path).text


def test_nulls_inside_the_fields_leave_a_readable_report(digits_run: FinishedRun, tmp_path: Path) -> None:
    def emptied(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: emptied(val) if isinstance(val, dict | list) else None for key, val in value.items()}
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return [emptied(item) for item in value]
        return None

    hollow = {key: emptied(value) for key, value in digits_run.result.items()}
    seen = document(with_result(digits_run, **hollow), tmp_path)
    assert "keeps an unknown share right" in seen.text
    assert "None" not in seen.text


def test_a_run_that_broke_nothing_or_has_no_row_is_reported(digits_run: FinishedRun, tmp_path: Path) -> None:
    calm = dataclasses.replace(digits_run, adversarials=lambda: iter(()))
    assert not document(calm, tmp_path).all("img")
    empty = dataclasses.replace(calm, rows=digits_run.rows.slice(0, 0))
    assert not document(empty, tmp_path).all("img")


def test_a_call_from_python_is_reproduced_in_python(digits_run: FinishedRun, tmp_path: Path) -> None:
    environment = digits_run.result["environment"] | {"command": None, "git": None}
    text = document(with_result(digits_run, environment=environment), tmp_path).text
    assert "hb.evaluate(model, data, threat='linf:0.025,0.05,0.1', suite='standard', seed=0, n=200)" in text


def test_bad_places_are_refused_in_one_sentence(digits_run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a path for the report of a run that has no folder"):
        write_html(dataclasses.replace(digits_run, path=None))
    with pytest.raises(InputError, match="expected a file to write the report to, got the folder"):
        write_html(digits_run, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write the report"):
        write_html(digits_run, tmp_path / "file" / "report.html")
    with pytest.raises(RunError, match="expected a run folder"):
        write_html(tmp_path / "nowhere")


def test_half_precision_and_double_inputs_are_shown(digits_run: FinishedRun, tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):

        def cast(kind: torch.dtype = dtype) -> Iterator[dict[str, Tensor]]:
            for chunk in digits_run.adversarials():
                yield chunk | {part: chunk[part].to(kind) for part in ("originals", "adversarials")}

        assert len(document(dataclasses.replace(digits_run, adversarials=cast), tmp_path).all("img")) == 36
