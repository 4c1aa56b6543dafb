"""Write the tables of docs/training_tables.md from the measurements beside this file.

python benchmarks/training/run.py objectives     # and the other tables
python docs/training/render.py
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

__all__ = ["TABLES", "page", "read"]

HERE = Path(__file__).parent
PAGE = HERE.parent / "training_tables.md"

Rows = dict[str, dict[str, Any]]


def read(name: str) -> Rows:
    """The rows that `benchmarks/training/run.py` measured; none where it has not run."""
    place = HERE / f"{name}.json"
    return json.loads(place.read_text(encoding="utf-8"))["rows"] if place.exists() else {}


def share(found: dict[str, float] | None) -> str:
    """In percent."""
    return "" if found is None else f"{100 * found['value']:.1f}"


def interval(found: dict[str, float]) -> str:
    """In percent, with the 95 % interval."""
    return f"{share(found)} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all but the first column flush right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *body))


def objectives(rows: Rows) -> str:
    """Every objective: how well it stands, and what it cost."""
    head = [
        "objective",
        "clean",
        "FGSM",
        "PGD-10",
        "PGD-20",
        "C&W",
        "transfer",
        "standard suite",
        "CPU min",
        "fwd",
        "bwd",
        "found",
    ]
    body = [
        [
            name,
            *(share(row[column]) for column in ("clean", "fgsm", "pgd10", "pgd20", "cw", "transfer")),
            interval(row["suite"]),
            f"{row['seconds'] / 60:.1f}",
            f"{row['forwards']:.1f}",
            f"{row['backwards']:.1f}",
            ", ".join(sorted({re.split(" since|:", text)[0] for text in row["findings"]} | set(row["doubts"]))),
        ]
        for name, row in rows.items()
    ]
    return lines(head, body)


def least_likely(rows: Rows) -> str:
    """Kurakin's table, top-1 / top-5."""

    def cell(found: dict[str, Any]) -> str:
        return f"{share(found['top1'])} / {share(found['top5'])}"

    columns = ["clean", "step2", "step4", "step8", "step16", "pgd2", "pgd4", "pgd8", "pgd16"]
    head = ["trained by", "clean", *(f"step, {e}" for e in (2, 4, 8, 16)), *(f"PGD, {e}" for e in (2, 4, 8, 16))]
    return lines(head, [[name, *(cell(row[column]) for column in columns)] for name, row in rows.items()])


def adv_prop(rows: Rows) -> str:
    """Clean accuracy beside what adversarial training costs."""
    head = ["trained by", "clean, 10,000 images", "PGD-20 at 4/255", "CPU min"]
    return lines(
        head,
        [
            [name, interval(row["clean"]), share(row["pgd20"]), f"{row['seconds'] / 60:.1f}"]
            for name, row in rows.items()
        ],
    )


def label_smoothing(rows: Rows) -> str:
    """Against alpha, the mean over seeds with the least and the largest."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, row in rows.items():
        groups.setdefault(name.split(",")[0].removeprefix("alpha "), []).append(row)
    head = ["alpha", "clean", "FGSM", "PGD-20", "C&W", "transfer", "standard suite", "seeds"]
    columns = ("clean", "fgsm", "pgd20", "cw", "transfer", "suite")
    return lines(
        head,
        [[alpha, *(_over(found, column) for column in columns), str(len(found))] for alpha, found in groups.items()],
    )


def _over(found: Sequence[dict[str, Any]], column: str) -> str:
    values = [100 * row[column]["value"] for row in found]
    return f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def overfitting(rows: Rows) -> str:
    """Accuracy under PGD of what is learnt from and of what is not, as the epochs go by."""
    at = (5, 10, 20, 30, 40, 50, 60)
    head = ["trained by", "under PGD of", *(f"epoch {epoch}" for epoch in at), "standard suite, last weights"]
    body: list[list[str]] = []
    for name, row in rows.items():
        curve = {point["epoch"]: point for point in row["curve"]}
        for what, key in (("training examples", "accuracy"), ("held-out examples", "pgd")):
            values = [f"{100 * curve[epoch][key]:.1f}" if epoch in curve else "" for epoch in at]
            first = key == "accuracy"
            body.append([name if first else "", what, *values, interval(row["suite"]) if first else ""])
    return lines(head, body)


def size(rows: Rows) -> str:
    """Width and number of examples."""
    head = ["net and data", "clean", "PGD-20", "standard suite", "CPU min"]
    return lines(
        head,
        [
            [
                name,
                share(row["clean"]),
                share(row["pgd20"]),
                interval(row["suite"]),
                f"{row['seconds'] / 60:.1f}",
            ]
            for name, row in rows.items()
        ],
    )


TABLES: dict[str, Callable[[Rows], str]] = {
    "objectives": objectives,
    "one_step": objectives,
    "least_likely": least_likely,
    "adv_prop": adv_prop,
    "label_smoothing": label_smoothing,
    "overfitting": overfitting,
    "size": size,
}


def page(text: str) -> str:
    """The page with each table written anew between its marks."""
    for name, table in TABLES.items():
        begin, end = f"<!-- table {name}, written by docs/training/render.py -->\n", f"<!-- end of table {name} -->\n"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        rows = read(name)
        text = f"{before}{begin}\n{table(rows)}\n{end}{after}" if rows else text
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
