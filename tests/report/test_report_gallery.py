"""The gallery and its pictures: which examples are shown, and that a picture shows what was in the tensors."""

import base64
import io
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

from hauberk.evidence.finished import FinishedRun
from hauberk.evidence.table import rows_table
from hauberk.report.gallery import cases, chosen
from hauberk.report.pictures import LARGEST_SIDE, as_pixels, change_uri, image_uri, magnification


def decoded(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def one(*changes: list[float], radii: tuple[float, ...] = (0.1,), **more: Any) -> list[Any]:
    """The gallery of one example with four features, broken at 0.1, with a change stored at each of the radii."""
    columns: dict[str, Any] = {
        "example": [7], "label": [0], "predicted": [0], "status": ["broken"], "method": [None], "radius": [0.1],
        "linf": [None], "l2": [None], "l1": [None], "l0": [None], "adversarial_label": [None], "confidence": [None],
        "clean_confidence": [None], "forwards": [1], "backwards": [0], "queries": [1],
    }  # fmt: skip
    chunk = {
        "example": torch.full((len(radii),), 7),
        "radius": torch.tensor(radii, dtype=torch.float64),
        "originals": torch.zeros(len(radii), 4),
        "adversarials": torch.tensor(changes),
    }
    return cases(rows_table(columns | more), [chunk], None, str)


def test_a_grey_picture_shows_the_values_on_the_scale_of_the_bounds() -> None:
    pixels = as_pixels(np.array([[[-1.0, 0.0], [1.0, 5.0]]]), (1, 2, 2))
    assert decoded(image_uri(pixels, (-1.0, 1.0))).tolist() == [[0, 128], [255, 255]]


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5, 3)])
def test_colour_is_found_at_either_end_of_the_shape(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random(shape)
    shown = decoded(image_uri(as_pixels(x, shape), (0.0, 1.0)))
    upright = x if shape[-1] == 3 else x.transpose(1, 2, 0)
    assert np.array_equal(shown, np.rint(255 * upright))


def test_a_grey_change_is_orange_up_blue_down_and_clear_where_nothing_changed() -> None:
    shown = decoded(change_uri(np.array([[0.1, -0.05], [0.0, -0.1]]), (0.0, 1.0), 10.0))
    assert shown[0, 0].tolist() == [226, 112, 24, 255]
    assert shown[0, 1].tolist() == [47, 127, 196, 128]
    assert shown[1, 0, 3] == 0
    assert shown[1, 1, 3] == 255


def test_a_change_in_colour_is_drawn_around_mid_grey() -> None:
    shown = decoded(change_uri(np.array([[[0.1, -0.1, 0.0]]]), (0.0, 1.0), 5.0))
    assert shown[0, 0].tolist() == [255, 0, 128]


@pytest.mark.parametrize(
    ("peak", "bounds", "grey", "colour"),
    [(0.1, (0.0, 1.0), 10.0, 5.0), (0.3, (0.0, 1.0), 3.3, 1.6), (8 / 255, (0.0, 1.0), 31.0, 15.0), (8.0, (0.0, 255.0), 31.0, 15.0),
     (1.0, (0.0, 1.0), 1.0, 0.5), (0.0, (0.0, 1.0), 1.0, 1.0), (float("nan"), (0.0, 1.0), 1.0, 1.0)],
)  # fmt: skip
def test_the_magnification_fills_the_scale_without_clipping(
    peak: float, bounds: tuple[float, float], grey: float, colour: float
) -> None:
    assert magnification(np.array([[peak, 0.0]], dtype=np.float32).astype(float), bounds) == grey
    assert magnification(np.full((1, 1, 3), peak), bounds) == colour


def test_a_photograph_is_reduced_so_that_the_report_stays_small() -> None:
    assert decoded(image_uri(np.zeros((600, 900)), (0.0, 1.0))).shape == (171, LARGEST_SIDE)


def test_every_class_has_its_turn_before_one_has_a_second(digits_run: FinishedRun) -> None:
    shown = chosen(digits_run.rows)
    labels = [row["label"] for row in shown]
    assert len(shown) == 12
    assert {row["status"] for row in shown} == {"broken"}
    assert {row["radius"] for row in shown} == {0.1}
    assert set(labels) == set(range(10))
    assert max(labels.count(label) for label in labels) == 2
    assert labels == sorted(labels)


def test_a_case_tells_what_the_row_and_the_tensors_tell(digits_run: FinishedRun) -> None:
    shown = cases(digits_run.rows, digits_run.adversarials(), (0.0, 1.0), str)
    assert len(shown) == 12
    rows = {row["example"]: row for row in chosen(digits_run.rows)}
    tensors = {
        int(example): (original, adversarial)
        for chunk in digits_run.adversarials()
        for example, original, adversarial in zip(
            chunk["example"], chunk["originals"], chunk["adversarials"], strict=True
        )
    }
    for case in shown:
        row, (original, adversarial) = rows[case.example], tensors[case.example]
        assert (case.label, case.adversarial_label, case.method) == (
            str(row["label"]),
            str(row["adversarial_label"]),
            row["method"],
        )
        assert dict(case.sizes)["L0"] == str(int((original != adversarial).sum()))
        assert case.clean is not None
        assert case.adversarial is not None
        assert np.array_equal(decoded(case.clean), np.rint(255 * original[0].double().numpy()))
        assert np.array_equal(decoded(case.adversarial), np.rint(255 * adversarial[0].double().numpy()))


def test_no_more_chunks_are_read_than_needed(digits_run: FinishedRun) -> None:
    read: list[int] = []
    first = min(chosen(digits_run.rows, 12), key=lambda row: row["example"])
    rows = digits_run.rows.filter(pc.field("example") == first["example"])

    def chunks() -> Any:
        for number, chunk in enumerate(digits_run.adversarials()):
            read.append(number)
            yield chunk

    assert len(cases(rows, chunks(), (0.0, 1.0), str)) == 1
    assert read == [0]


def test_the_point_shown_is_the_one_of_the_largest_radius_that_is_not_beyond_the_row() -> None:
    (case,) = one([0.01, 0, 0, 0], [0.02, 0, 0, 0], [0.5, 0, 0, 0], radii=(0.01, 0.05, 0.2))
    assert case.at == "0.05"
    assert [m.after for m in case.moved] == ["0.02"]
    assert one([0.5, 0, 0, 0], radii=(0.2,)) == []


def test_a_case_without_a_picture_lists_the_features_that_changed_most() -> None:
    (case,) = one([0.1, 0.0, -0.25, 0.05])
    assert case.clean is case.change is case.adversarial is None
    assert [(m.feature, m.before, m.after, m.change) for m in case.moved] == [
        ("2", "0", "-0.25", "\N{MINUS SIGN}0.25"),
        ("0", "0", "0.1", "+0.1"),
        ("3", "0", "0.05", "+0.05"),
    ]
    assert case.unmoved == 0


def test_missing_confidences_methods_and_labels_become_dashes() -> None:
    (case,) = one([0.1, 0.0, 0.0, 0.0])
    assert (case.method, case.confidence, case.label_confidence, case.adversarial_label) == ("–", "–", "–", "None")
    assert {size for _, size in case.sizes} == {"–"}


def test_a_run_without_broken_examples_has_no_gallery() -> None:
    assert one([0.1, 0.0, 0.0, 0.0], status=["undecided"]) == []
