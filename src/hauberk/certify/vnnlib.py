"""Properties of networks in VNN-LIB, the format of the VNN-COMP competitions: read, judged and written.

A file describes what would violate the property: boxes of inputs, and half-spaces of outputs, under `and` and `or`. It is read into
cases, whose union is the violation (disjunctive normal form). Strict comparisons are read as their closures, so that a proof is
never too weak by it. Read: `declare-const X_i` and `Y_j`, `assert`, `and`, `or`, `<=`, `>=`, `<`, `>`, `=`, sums, differences,
products and quotients with constants. Not read: terms over inputs and outputs at once, half-spaces of several inputs, VNN-LIB 2.

Source: Demarchi, Guidotti, Pulina, Tacchella (2023), "Supporting Standardization of Neural Networks Verification with VNNLIB and
CoCoNet"; Bak, Liu, Johnson (2021), arXiv 2109.00498, whose tools set the subset.
"""

import csv
import gzip
import itertools
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hauberk.certify._property import BOX_TOLERANCE, Case, Property
from hauberk.errors import DataError

__all__ = ["BOX_TOLERANCE", "Case", "Instance", "Property", "read_instances", "read_property", "to_vnnlib"]

Numbers: TypeAlias = NDArray[np.float64]
Expression: TypeAlias = "tuple[int, str] | tuple[int, list[Expression]]"  # where it stands, and a word or a list
Linear: TypeAlias = tuple[dict[str, float], float]
Conjunction: TypeAlias = list[tuple[int, Linear]]  # each term <= 0, and where it stands

_TOKEN = re.compile(r";[^\n]*|[()]|[^\s();]+")
_VARIABLE = re.compile(r"([XY])_(\d+)")
_DEEPEST, _MOST = 200, 100_000


@dataclass(frozen=True)
class Instance:
    """A line of a list of instances: a net, a property, and the seconds that its proof may take."""

    net: Path
    property: Path
    timeout: float


def read_property(path: str | Path) -> Property:
    """The property in a VNN-LIB file, which may be compressed (`.gz`).

    Raises:
        DataError: the file cannot be read, or says what is not covered; the message has the line.
    """
    return _Reader(Path(path)).read()


def read_instances(path: str | Path) -> list[Instance]:
    """The instances of a CSV file of net, property and seconds; paths are relative to the file.

    Raises:
        DataError: the file cannot be read, or a line is not of this kind.
    """
    path = Path(path)
    found: list[Instance] = []
    for number, row in enumerate(csv.reader(_text(path).splitlines()), start=1):
        if not any(cell.strip() for cell in row):
            continue
        cells = [cell.strip() for cell in row]
        try:
            net, prop, seconds = cells
            instance = Instance(path.parent / net, path.parent / prop, float(seconds))
        except ValueError as error:
            shown = ",".join(row)[:60]
            raise DataError(f"{path.name}, line {number}: expected NET,PROPERTY,SECONDS, got {shown!r}") from error
        if not 0 < instance.timeout < float("inf"):
            raise DataError(f"{path.name}, line {number}: the seconds must be positive, got {seconds}")
        found.append(instance)
    return found


def to_vnnlib(property: Property, path: str | Path) -> None:  # noqa: A002 - the format's own word
    """Write the property as VNN-LIB; reading it again gives the same cases, bit by bit.

    Raises:
        DataError: the file cannot be written.
    """
    first = property.cases[0]
    shared = all(
        np.array_equal(case.lower, first.lower) and np.array_equal(case.upper, first.upper) for case in property.cases
    )
    lines = [f"(declare-const X_{i} Real)" for i in range(property.inputs)]
    lines += [f"(declare-const Y_{j} Real)" for j in range(property.outputs)]
    if shared:
        lines += [f"(assert {atom})" for atom in _box(first)]
    wholes = [([] if shared else _box(case)) + _rows(case) for case in property.cases]
    if len(wholes) == 1:
        lines += [f"(assert {atom})" for atom in wholes[0]]
    elif all(wholes):  # a case that asks nothing of the outputs makes the others of its box say nothing
        lines += ["(assert (or", *(f"    (and {' '.join(atoms)})" for atoms in wholes), "))"]
    try:
        with gzip.open(path, "wt") if Path(path).suffix == ".gz" else Path(path).open("w") as file:
            file.write("\n".join(lines) + "\n")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}); choose another path") from error


def _box(case: Case) -> list[str]:
    bounds = zip(case.lower, case.upper, strict=True)
    return [f"({sign} X_{i} {_number(b)})" for i, pair in enumerate(bounds) for sign, b in zip((">=", "<="), pair)]


def _rows(case: Case) -> list[str]:
    return [_row(row, shift) for row, shift in zip(case.C, case.d, strict=True)]


def _row(row: Numbers, shift: float) -> str:
    used = {int(j): float(row[j]) for j in np.flatnonzero(row)}
    plus, minus = [j for j in used if used[j] == 1], [j for j in used if used[j] == -1]
    if len(used) == len(plus) == 1:
        return f"(<= Y_{plus[0]} {_number(-shift)})"
    if len(used) == len(minus) == 1:
        return f"(>= Y_{minus[0]} {_number(shift)})"
    if len(used) == 2 and len(plus) == len(minus) == 1 and shift == 0:
        return f"(<= Y_{plus[0]} Y_{minus[0]})"
    terms = [f"(* {_number(weight)} Y_{j})" for j, weight in used.items()] or ["0.0"]
    whole = terms[0] if len(terms) == 1 else f"(+ {' '.join(terms)})"
    return f"(<= {whole} {_number(-shift)})"


def _number(value: float) -> str:
    return np.format_float_positional(value + 0.0, unique=True, trim="0")


def _text(path: Path) -> str:
    try:
        if path.suffix == ".gz" or (not path.exists() and path.with_name(path.name + ".gz").exists()):
            with gzip.open(path if path.suffix == ".gz" else path.with_name(path.name + ".gz"), "rt") as file:
                return file.read()
        return path.read_text()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read ({why}); check the path and that it is text") from error


class _Reader:
    """Reads one file. Places are offsets in the text, turned into lines when an error needs one."""

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, _text(path)
        self.counts: dict[str, set[int]] = {"X": set(), "Y": set()}
        self.box: tuple[Numbers, Numbers] | None = None  # of the cases that add nothing to the shared one

    def fail(self, place: int, what: str) -> NoReturn:
        line = self.text.count("\n", 0, place) + 1
        raise DataError(f"{self.path.name}, line {line}: {what}")

    def read(self) -> Property:
        asserted: list[list[Conjunction]] = []
        for place, command in self.expressions():
            if isinstance(command, str) or not command or not isinstance(command[0][1], str):
                self.fail(place, "expected a command such as (assert ...), got something else")
            word = command[0][1]
            if word in ("declare-const", "declare-fun"):
                self.declare(place, command)
            elif word == "assert" and len(command) == 2:
                asserted.append(self.formula(command[1]))
            elif word not in ("set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"):
                self.fail(place, f"expected declare-const or (assert FORMULA), got {word!r}")
        for letter, seen in self.counts.items():
            if not seen or len(seen) != max(seen) + 1:
                raise DataError(f"{self.path.name} must declare {letter}_0, {letter}_1, ..., got {len(seen)} of them")
        # what every case shares is worked out once: files of images have thousands of bounds, and nine cases
        shared = [atom for found in asserted if len(found) == 1 for atom in found[0]]
        box, rows = self.half_spaces(shared)
        cases = [
            self.case(box, rows, parts) for parts in self.product(0, [found for found in asserted if len(found) > 1])
        ]
        kept = tuple(case for case in cases if np.all(case.lower <= case.upper))
        if not kept:
            raise DataError(f"{self.path.name} allows no input at all: a lower bound is above its upper bound")
        return Property(kept)

    def expressions(self) -> list[Expression]:
        stack: list[tuple[int, list[Expression]]] = [(0, [])]
        for match in _TOKEN.finditer(self.text):
            token, place = match.group(), match.start()
            if token == "(":  # noqa: S105 - not a secret
                if len(stack) > _DEEPEST:
                    self.fail(place, f"parentheses are nested more than {_DEEPEST} deep")
                stack.append((place, []))
            elif token == ")":  # noqa: S105 - not a secret
                if len(stack) == 1:
                    self.fail(place, "a parenthesis is closed that was not opened")
                done = stack.pop()
                stack[-1][1].append(done)
            elif token[0] != ";":
                stack[-1][1].append((place, token))
        if len(stack) > 1:
            self.fail(stack[-1][0], "a parenthesis is opened and never closed")
        return stack[0][1]

    def declare(self, place: int, command: list[Expression]) -> None:
        name, last = command[1][1] if len(command) > 1 else "", command[-1][1]
        match = _VARIABLE.fullmatch(name) if isinstance(name, str) else None
        if match is None or last != "Real":
            self.fail(place, "expected (declare-const X_i Real) or Y_j")
        self.counts[match[1]].add(int(match[2]))

    def formula(self, expression: Expression) -> list[Conjunction]:
        """Its disjuncts."""
        place, body = expression
        if isinstance(body, str) or not body or not isinstance(body[0][1], str):
            self.fail(place, "expected a comparison, (and ...) or (or ...)")
        word, rest = body[0][1], body[1:]
        if word == "or":
            found = [part for inner in rest for part in self.formula(inner)]
            if not found:
                self.fail(place, "(or) without parts is never true")
            return found
        if word == "and":
            return self.product(place, [self.formula(inner) for inner in rest])
        if word not in ("<=", ">=", "<", ">", "=") or len(rest) != 2:
            self.fail(place, f"expected a comparison of two terms, and, or or, got {word!r} of {len(rest)}")
        left, right = (self.linear(inner) for inner in rest)
        less, more = (place, _sum(left, right, -1.0)), (place, _sum(right, left, -1.0))
        return [[less, more] if word == "=" else [less] if word in ("<=", "<") else [more]]

    def product(self, place: int, factors: list[list[Conjunction]]) -> list[Conjunction]:
        """The disjuncts of a conjunction of disjunctions."""
        base = [atom for factor in factors if len(factor) == 1 for atom in factor[0]]
        several = [factor for factor in factors if len(factor) > 1]
        count = 1
        for factor in several:
            count *= len(factor)
            if count > _MOST:
                self.fail(place, f"the property has more than {_MOST} cases; split it into several files")
        return [base + [atom for part in chosen for atom in part] for chosen in itertools.product(*several)]

    def linear(self, expression: Expression) -> Linear:
        """Its coefficients and its constant."""
        place, body = expression
        if isinstance(body, str):
            match = _VARIABLE.fullmatch(body)
            if match:
                if int(match[2]) not in self.counts[match[1]]:
                    self.fail(place, f"{body} is not declared")
                return {body: 1.0}, 0.0
            try:
                value = float(body)
            except ValueError:
                self.fail(place, f"expected a number, X_i or Y_j, got {body!r}")
            if not np.isfinite(value):
                self.fail(place, f"expected a finite number, got {body!r}")
            return {}, value
        word: Any = body[0][1] if body else ""
        terms = [self.linear(inner) for inner in body[1:]]
        if word == "+" and terms:
            return _total(terms, [1.0] * len(terms))
        if word == "-" and terms:
            return _total(terms, [-1.0] if len(terms) == 1 else [1.0] + [-1.0] * (len(terms) - 1))
        if word == "*" and terms and sum(bool(weights) for weights, _ in terms) <= 1:
            whole = next((term for term in terms if term[0]), ({}, 1.0))
            factor = float(np.prod([shift for weights, shift in terms if not weights]))
            return _total([whole], [factor])
        if word == "/" and len(terms) == 2 and not terms[1][0] and terms[1][1] != 0:
            weights, shift = terms[0]
            return {name: weight / terms[1][1] for name, weight in weights.items()}, shift / terms[1][1]
        return self.fail(place, "expected a linear term: +, -, or * with constants")

    def half_spaces(self, parts: Conjunction) -> tuple[dict[tuple[int, bool], float], list[Numbers]]:
        """Bounds by input and by whether they are upper ones, and rows of C with d at their end."""
        bounds: dict[tuple[int, bool], float] = {}
        rows: list[Numbers] = []
        for place, (weights, shift) in parts:
            used = {name: weight for name, weight in weights.items() if weight}
            letters = {name[0] for name in used}
            if letters == {"X"} and len(used) == 1:
                ((name, weight),) = used.items()
                key, bound = (int(name[2:]), weight > 0), -shift / weight + 0.0
                tighter = min if weight > 0 else max
                bounds[key] = tighter(bounds.get(key, bound), bound)
            elif "X" in letters:
                self.fail(place, "inputs may only be bounded one by one, got a term over several variables")
            else:
                row = np.zeros(len(self.counts["Y"]) + 1)
                for name, weight in used.items():
                    row[int(name[2:])] = weight
                row[-1] = shift
                rows.append(row)
        return bounds, rows

    def case(self, box: dict[tuple[int, bool], float], rows: list[Numbers], parts: Conjunction) -> Case:
        """The case of what is shared and of these parts."""
        bounds, own = self.half_spaces(parts)
        if not bounds and self.box is not None:
            lower, upper = self.box
        else:
            n = len(self.counts["X"])
            lower, upper = np.full(n, -np.inf), np.full(n, np.inf)
            for held in (box, bounds):
                for (at, above), bound in held.items():
                    side, tighter = (upper, min) if above else (lower, max)
                    side[at] = tighter(side[at], bound)
            unbounded = np.flatnonzero(~(np.isfinite(lower) & np.isfinite(upper)))
            if len(unbounded):
                at = unbounded[0]
                raise DataError(f"{self.path.name} does not bound X_{at} from both sides; add (assert (<= X_{at} ...))")
            if not bounds:
                self.box = lower, upper
        whole = np.array([*rows, *own], dtype=np.float64).reshape(-1, len(self.counts["Y"]) + 1)
        return Case(lower, upper, whole[:, :-1].copy(), whole[:, -1].copy())


def _sum(first: Linear, second: Linear, factor: float) -> Linear:
    return _total((first, second), (1.0, factor))


def _total(terms: Iterable[Linear], factors: Iterable[float]) -> Linear:
    weights: dict[str, float] = {}
    total = 0.0
    for (names, shift), factor in zip(terms, factors, strict=True):
        for name, weight in names.items():
            weights[name] = weights.get(name, 0.0) + factor * weight
        total += factor * shift
    return weights, total + 0.0
