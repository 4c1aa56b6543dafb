"""Write the tables of docs/defenses.md from the statuses in the source.

python docs/defenses/render.py
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from hauberk.train import Standing, standings
from hauberk.train._status import KINDS

__all__ = ["page", "tables"]

PAGE = Path(__file__).parents[1] / "defenses.md"
BEGIN, END = "<!-- the tables are written by docs/defenses/render.py -->\n", "<!-- end of the tables -->\n"


def tables(rows: Sequence[Standing]) -> str:
    """A heading and a table for each kind of status that some defense has."""
    parts: list[str] = []
    for kind, group in groupby(rows, key=lambda row: row.status.kind):
        parts.append(f"## {kind}\n\n{KINDS[kind].capitalize()}.\n\n")
        parts.append("| name | is | what it does | from | tested or broken by |\n|---|---|---|---|---|\n")
        parts += [
            f"| `{row.name}` | {row.part} | {row.what} | {_link(row.source)} | {_link(row.status.by)} |\n"
            for row in group
        ]
        parts.append("\n")
    return "".join(parts)


def page(text: str, rows: Sequence[Standing]) -> str:
    """The page with its tables written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(rows)}{END}{after}"


def _link(text: str) -> str:
    """An arXiv id at the end of a text, as a link."""
    name, arrow, number = text.rpartition("arXiv:")
    return f"{name}[arXiv:{number}](https://arxiv.org/abs/{number})" if arrow else text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), standings()), encoding="utf-8")
