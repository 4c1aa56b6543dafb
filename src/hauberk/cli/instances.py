"""`hauberk verify --instances`: a list of properties, one after the other, into a table that survives interruptions."""

import csv
import re
import sys
import time
from collections import Counter
from pathlib import Path

from hauberk.certify.foreign import Foreign
from hauberk.certify.vnnlib import Instance, read_instances
from hauberk.cli.deciding import decided
from hauberk.cli.guard import Stop, one_line, say
from hauberk.errors import HauberkError, RunError, SettingError

__all__ = ["COLUMNS", "chosen", "work_through"]

COLUMNS = ("category", "net", "property", "prepare", "result", "seconds", "timeout", "verifier", "method", "parts")
COLUMNS += ("note",)
"""Of the table; the first six are those of VNN-COMP's results.csv, and as there no row names them."""

_STATUS = {"unsat": "holds", "sat": "violated", "timeout": "unknown", "unknown": "unknown", "error": "error"}
_OURS = "hauberk"


def chosen(text: str | None, count: int) -> range:
    """The rows of `--only`, N or N-M, counted from 1.

    Raises:
        SettingError: it is not that, or there are no such rows.
    """
    if text is None:
        return range(1, count + 1)
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if match is None:
        raise SettingError(f"--only takes rows counted from 1, such as 3 or 10-20, got {text!r}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= count:
        raise SettingError(f"--only {text} is not within the list, which has {count} rows")
    return range(first, last + 1)


def work_through(
    path: Path, timeout: float | None, out: Path | None, seed: int, only: str | None, foreign: Foreign | None
) -> None:
    """Every chosen instance of a list, printed and kept at once; one that fails is a row and no end.

    Raises:
        DataError: the list cannot be read.
        SettingError: `only` is not within it.
        RunError: the table is another one, or cannot be written.
    """
    instances = read_instances(path)
    rows = chosen(only, len(instances))
    category = path.resolve().parent.name
    verifier = _OURS if foreign is None else foreign.name
    done = _known(out)
    todo: list[tuple[int, Instance, tuple[str, ...]]] = []
    counts: Counter[str] = Counter()
    for number in rows:
        given = instances[number - 1]
        instance = Instance(given.net, given.property, given.timeout if timeout is None else timeout)
        key = (_named(given.net, path), _named(given.property, path), f"{instance.timeout:.10g}", verifier)
        if key in done:
            counts[_STATUS[done[key]]] += 1
        else:
            todo.append((number, instance, key))
    if len(todo) < len(rows):
        say(f"note: {len(rows) - len(todo)} of {len(rows)} rows are in {out} already and are not done again")
    began, spent = time.perf_counter(), 0.0
    for number, instance, (net, prop, limit, _) in todo:
        try:
            result, seconds, text, cells = _row(instance, seed, foreign)
        except KeyboardInterrupt:
            kept = "finished rows are kept; the same command goes on from there" if out else "with --out, rows are kept"
            raise Stop.interrupted(kept) from None
        counts[_STATUS[result]] += 1
        spent += seconds
        print(f"{text}  [{number}/{len(instances)}] {net} {prop}", flush=True)
        if out is not None:
            prepared, *rest = cells
            _append(out, [category, net, prop, prepared, result, f"{seconds:.3f}", limit, verifier, *rest])
    told = ", ".join(f"{counts[word]} {word}" for word in ("holds", "violated", "unknown", "error") if counts[word])
    print(
        f"{sum(counts.values())} properties: {told}; {spent:.1f} s of proofs, {time.perf_counter() - began:.1f} s in all",
        file=sys.stderr,
    )


def _row(instance: Instance, seed: int, foreign: Foreign | None) -> tuple[str, float, str, list[str]]:
    """VNN-COMP's word, seconds, what is printed, and the cells prepare, method, parts and note."""
    began = time.perf_counter()
    try:
        answer = decided(instance, seed, foreign)
    except Exception as error:  # whatever it is, the other rows are still worth doing
        sentence = one_line(error)
        if not isinstance(error, HauberkError):
            sentence = f"hauberk failed with {type(error).__name__}: {sentence}; this is a defect, please report it"
        return "error", time.perf_counter() - began, f"error: {sentence}", ["0", "", "", sentence]
    verdict = answer.verdict
    cells = [f"{answer.prepared:.3f}", verdict.method, str(verdict.domains), one_line(verdict.reason)]
    return answer.word, verdict.seconds, answer.line, cells


def _named(file: Path, listed: Path) -> str:
    """The file as the list calls it."""
    base = listed.parent
    return file.relative_to(base).as_posix() if file.is_relative_to(base) else file.as_posix()


def _known(out: Path | None) -> dict[tuple[str, ...], str]:
    """The results that the table holds already, errors apart: what was wrong may have been mended."""
    if out is None or not out.exists():
        return {}
    try:
        text = out.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # a run was killed while it wrote
            text = text[: text.rfind("\n") + 1]
            whole = out.with_name(out.name + ".part")
            whole.write_text(text, encoding="utf-8")
            whole.replace(out)
        found: dict[tuple[str, ...], str] = {}
        for cells in csv.reader(text.splitlines()):
            row = dict(zip(COLUMNS, cells, strict=True))
            if _STATUS[row["result"]] != "error":
                found[row["net"], row["property"], row["timeout"], row["verifier"]] = row["result"]
    except (OSError, KeyError, ValueError) as error:
        raise RunError(
            f"{out} is no table of this command (columns {', '.join(COLUMNS)}, without a heading); choose another --out"
        ) from error
    return found


def _append(out: Path, cells: list[str]) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror or error}; choose another place with --out"
        ) from error
