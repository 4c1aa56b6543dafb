"""Write what docs/minimum_norm.md shows of the referee's measurements beside this file.

python benchmarks/referee.py --data-root ../shared --n 200 --out docs/minimum_norm/referee.json
python docs/minimum_norm/render.py
"""

import json
from pathlib import Path
from typing import Any

__all__ = ["page", "read", "table"]

HERE = Path(__file__).parent
PAGE = HERE.parent / "minimum_norm.md"
BEGIN, END = "<!-- the table is written by docs/minimum_norm/render.py -->\n", "<!-- end of the table -->\n"


def read() -> dict[str, Any]:
    """What `benchmarks/referee.py` wrote."""
    return json.loads((HERE / "referee.json").read_text(encoding="utf-8"))


def table(measured: dict[str, Any]) -> str:
    """For each net and norm every attack, the best optimality first."""
    lines = ["| net, norm | attack | optimality | success | median | smallest of all | forwards | backwards | CPU s |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    before = ""
    for row in sorted(measured["rows"], key=lambda row: (row["model"], row["norm"], -row["optimality"])):
        what = f"`{row['model']}`, {row['norm']}"
        name = row["attack"].replace("hauberk ", "**hauberk** ")
        failed = f" ({row['failed_batches']} batches failed)" if row["failed_batches"] else ""
        lines.append(
            f"| {what if what != before else ''} | {name}{failed} | {row['optimality']:.4f} | {100 * row['success']:.1f} % | "
            f"{row['median']:.4g} | {100 * row['smallest_of_all']:.0f} % | {row['forwards']:.0f} | {row['backwards']:.0f} | "
            f"{row['seconds']:.1f} |"
        )
        before = what
    return "\n".join(lines) + "\n"


def page(measured: dict[str, Any], text: str) -> str:
    """The page with the table of these measurements in the place of the old one."""
    head, rest = text.split(BEGIN)
    return head + BEGIN + "\n" + table(measured) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(read(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
