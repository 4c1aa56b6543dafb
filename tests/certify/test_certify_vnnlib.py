"""VNN-LIB properties: hand-worked files, what is refused, and writing."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hauberk.certify.vnnlib import Case, Instance, Property, read_instances, read_property, to_vnnlib
from hauberk.errors import DataError

HEAD = "; two inputs, three outputs\n" + "".join(
    f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "Y_0", "Y_1", "Y_2")
)
BOX = "(assert (>= X_0 -1)) (assert (<= X_0 0.5))\n(assert (and (<= 0.25 X_1) (< X_1 1e0)))\n"


def read(tmp_path: Path, text: str) -> Property:
    (tmp_path / "p.vnnlib").write_text(text)
    return read_property(tmp_path / "p.vnnlib")


def same(first: Property, second: Property) -> bool:
    return len(first.cases) == len(second.cases) and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(first.cases, second.cases)
        for name in ("lower", "upper", "C", "d")
    )


def test_a_box_and_a_half_space(tmp_path: Path) -> None:
    found = read(tmp_path, HEAD + BOX + "(assert (>= Y_0 3.5))")
    (case,) = found.cases
    assert (found.inputs, found.outputs) == (2, 3)
    assert (case.lower.tolist(), case.upper.tolist()) == ([-1, 0.25], [0.5, 1])
    assert (case.C.tolist(), case.d.tolist()) == ([[-1, 0, 0]], [3.5])
    assert all(part.dtype == np.float64 for part in (case.lower, case.upper, case.C, case.d))


@pytest.mark.parametrize(
    ("term", "row", "shift"),
    [
        ("(<= Y_0 Y_1)", [1, -1, 0], 0),
        ("(< Y_0 Y_1)", [1, -1, 0], 0),
        ("(>= Y_0 Y_1)", [-1, 1, 0], 0),
        ("(<= (+ Y_0 (* 2 Y_1) 1) (- Y_2))", [1, 2, 1], 1),
        ("(<= (- Y_0 Y_1 Y_2 0.5) 4)", [1, -1, -1], -4.5),
        ("(>= (* (* 2 3) Y_1 0.5) (/ Y_2 4))", [0, -3, 0.25], 0),
        ("(<= (* (+ Y_0 1) 2) (/ 1 2))", [2, 0, 0], 1.5),
        ("(<= (- Y_0 Y_0) -1)", [0, 0, 0], 1),
    ],
)
def test_linear_terms_are_rows(tmp_path: Path, term: str, row: list[float], shift: float) -> None:
    (case,) = read(tmp_path, HEAD + BOX + f"(assert {term})").cases
    assert (case.C.tolist(), case.d.tolist()) == ([row], [shift])


def test_an_equation_is_two_rows(tmp_path: Path) -> None:
    (case,) = read(tmp_path, HEAD + BOX + "(assert (= Y_0 Y_2))").cases
    assert case.C.tolist() == [[1, 0, -1], [-1, 0, 1]]


def test_disjunctions_multiply(tmp_path: Path) -> None:
    boxes = "(or (and (<= X_0 1) (>= X_0 0) (<= X_1 1) (>= X_1 0)) (and (<= X_0 3) (>= X_0 2) (<= X_1 1) (>= X_1 0)))"
    outs = "(or (<= Y_0 Y_1) (and (<= Y_0 Y_2) (or (<= Y_1 0) (<= Y_2 0))))"
    found = read(tmp_path, HEAD + f"(assert {boxes})(assert {outs})")
    assert [case.lower[0] for case in found.cases] == [0, 0, 0, 2, 2, 2]
    assert [len(case.C) for case in found.cases] == [1, 2, 2, 1, 2, 2]
    assert found.violated([2.5, 0.5], [1, 2, 0])
    assert not found.violated([1.5, 0.5], [1, 2, 0])
    assert found.violated([1, 1], [1, -5, 1])
    assert not found.violated([1, 1], [1, 0.5, 1])


def test_bounds_tighten_and_empty_cases_go(tmp_path: Path) -> None:
    extra = "(assert (<= (* 2 X_0) 0.5))(assert (or (>= X_0 0.4) (<= Y_0 0)))"
    (case,) = read(tmp_path, HEAD + BOX + extra).cases
    assert case.upper.tolist() == [0.25, 1]


def test_only_the_box_has_a_tolerance() -> None:
    case = Case(np.zeros(1), np.ones(1), np.array([[1.0]]), np.array([-1.0]))
    found = Property((case,))
    assert found.violated([1 + 1e-7], [1.0])
    assert not found.violated([1 + 1e-5], [1.0])
    assert not found.violated([1.0], [1 + 1e-12])
    assert found.violated(np.zeros((1, 1, 1)), np.zeros((1, 1)))
    with pytest.raises(DataError, match="about 1 inputs, got 2; give one example"):
        found.violated([1, 2], [1])


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("(assert (<= Y_0 Y_1)", 9, "opened and never closed"),
        (")", 9, "closed that was not opened"),
        ("hello", 9, "expected a command"),
        ("(check it)", 9, "expected declare-const or"),
        ("(assert (<= Y_0 Y_7))", 9, "Y_7 is not declared"),
        ("(assert (<= Y_0 abc))", 9, "expected a number, X_i or Y_j, got 'abc'"),
        ("(assert (<= Y_0 nan))", 9, "expected a finite number"),
        ("(assert (<= (* Y_0 Y_1) 0))", 9, "expected a linear term"),
        ("(assert (<= (/ Y_0 0) 0))", 9, "expected a linear term"),
        ("\n(assert (<= X_0 Y_0))", 10, "one by one"),
        ("\n\n(assert (<= (+ X_0 X_1) 0))", 11, "one by one"),
        ("(assert (not (<= Y_0 0)))", 9, "got 'not' of 1"),
        ("(assert (<= Y_0 Y_1 Y_2))", 9, "got '<=' of 3"),
        ("(assert (or))", 9, "never true"),
        ("(declare-const Z_0 Real)", 9, r"expected \(declare-const X_i Real\)"),
        ("(declare-const X_2 Int)", 9, r"expected \(declare-const X_i Real\)"),
        ("(" * 300, 9, "nested more than 200 deep"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    with pytest.raises(DataError, match=rf"^p.vnnlib, line {line}: .*{what}"):
        read(tmp_path, HEAD + BOX + text)


def test_boxes_must_be_closed_and_not_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not bound X_0 from both sides"):
        read(tmp_path, HEAD + "(assert (<= X_0 1))")
    with pytest.raises(DataError, match="no input at all"):
        read(tmp_path, HEAD + BOX + "(assert (<= X_0 -2))")
    with pytest.raises(DataError, match=r"must declare X_0, X_1, ..., got 0"):
        read(tmp_path, "")
    with pytest.raises(DataError, match="must declare Y_0"):
        read(tmp_path, "(declare-const X_0 Real)(declare-const Y_1 Real)")


def test_too_many_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than 100000 cases; split it"):
        read(tmp_path, HEAD + BOX + "(assert (or (<= Y_0 0) (<= Y_1 0)))\n" * 20)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.vnnlib.gz").write_bytes(b"no gzip")
    (tmp_path / "cut.vnnlib.gz").write_bytes(gzip.compress(HEAD.encode())[:-9])
    (tmp_path / "bytes.vnnlib").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.vnnlib", "bad.vnnlib.gz", "cut.vnnlib.gz", "bytes.vnnlib"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            read_property(tmp_path / name)


def test_compressed_files_are_read_also_under_the_plain_name(tmp_path: Path) -> None:
    (tmp_path / "q.vnnlib.gz").write_bytes(gzip.compress((HEAD + BOX + "(assert (<= Y_0 0))").encode()))
    assert same(read_property(tmp_path / "q.vnnlib.gz"), read_property(str(tmp_path / "q.vnnlib")))


NUMBERS = st.floats(-1e6, 1e6)


@st.composite
def properties(draw: st.DrawFn) -> Property:
    n, m = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def case() -> Case:
        sides = np.sort(np.array(draw(st.lists(NUMBERS, min_size=2 * n, max_size=2 * n))).reshape(2, n), axis=0) + 0.0
        k = draw(st.integers(1, 3))
        values = draw(st.lists(NUMBERS | st.sampled_from([-1.0, 0.0, 1.0]), min_size=k * (m + 1), max_size=k * (m + 1)))
        rows = np.array(values).reshape(k, m + 1)
        return Case(sides[0], sides[1], rows[:, :m], rows[:, m])

    first = case()
    others = [case() for _ in range(draw(st.integers(0, 2)))]
    if draw(st.booleans()):
        others = [Case(first.lower, first.upper, other.C, other.d) for other in others]
    return Property((first, *others))


@given(properties())
@pytest.mark.parametrize("name", ["p.vnnlib", "p.vnnlib.gz"])
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, name: str, property: Property) -> None:  # noqa: A002
    path = tmp_path_factory.getbasetemp() / name
    to_vnnlib(property, path)
    assert same(read_property(path), property)


def test_a_path_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        to_vnnlib(Property((Case(np.zeros(1), np.ones(1), np.eye(1), np.zeros(1)),)), tmp_path / "no" / "p.vnnlib")


def test_instances_are_relative_to_their_list(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("nets/a.onnx, p.vnnlib ,116\n\n./b.onnx,q.vnnlib.gz,0.5\n")
    assert read_instances(tmp_path / "list.csv") == [
        Instance(tmp_path / "nets/a.onnx", tmp_path / "p.vnnlib", 116.0),
        Instance(tmp_path / "b.onnx", tmp_path / "q.vnnlib.gz", 0.5),
    ]


@pytest.mark.parametrize("line", ["a.onnx,p.vnnlib", "a,b,soon", "a,b,c,4"])
def test_lines_that_are_no_instances_are_told(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.csv").write_text(f"a.onnx,p.vnnlib,1\n{line}\n")
    with pytest.raises(DataError, match=r"list\.csv, line 2: expected NET,PROPERTY,SECONDS"):
        read_instances(tmp_path / "list.csv")


def test_seconds_are_positive(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a.onnx,p.vnnlib,-1\n")
    with pytest.raises(DataError, match="line 1: the seconds must be positive, got -1"):
        read_instances(tmp_path / "list.csv")


def test_a_large_file_is_read_quickly(tmp_path: Path) -> None:
    n = 784
    lines = [f"(declare-const X_{i} Real)" for i in range(n)] + [f"(declare-const Y_{j} Real)" for j in range(10)]
    lines += [f"(assert (<= X_{i} 0.5))\n(assert (>= X_{i} 0.25))" for i in range(n)]
    lines += ["(assert (or", *(f"(and (>= Y_{j} Y_0))" for j in range(1, 10)), "))"]
    found = read(tmp_path, "\n".join(lines))
    assert (len(found.cases), found.inputs, found.outputs) == (9, n, 10)
    assert found.cases[0].lower is found.cases[1].lower  # a box that cases share is made once
