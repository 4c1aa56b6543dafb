"""What `hauberk verify` decides, and how fast: ACAS Xu and mnistfc of VNN-COMP 2021, against published answers.

    python benchmarks/verify.py --data-root ../shared [--only acasxu] [--rows 20] [--timeout 60] [--assert]

One torch thread; every property in this process, reading of its files apart. The answers are in `verify/truth.csv`; rows that only one
tool has decided are run and not scored. `docs/verify/FAMILY.json` is written after each row, and rows that it holds for the same limit
are not run again; --again forgets them.
"""

import argparse
import csv
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hauberk.certify.vnnlib import Instance
from hauberk.cli.deciding import decided
from hauberk.errors import HauberkError

HOME = Path(__file__).parents[1] / "docs" / "verify"


@dataclass(frozen=True)
class Row:
    """One property: what is known of it, and what was found."""

    net: str
    prop: str
    limit: float
    truth: str
    scored: bool
    result: str
    method: str
    seconds: float

    @property
    def decided(self) -> bool:
        return self.result in ("sat", "unsat")

    @property
    def wrong(self) -> bool:
        return self.scored and self.decided and self.result != self.truth


def family(benchmark: str, net: str) -> str:
    """The nets of mnistfc are families of their own."""
    return benchmark if benchmark == "acasxu" else f"{benchmark} {net.rsplit('_', 1)[-1].removesuffix('.onnx')}"


def is_scored(known: dict[str, str]) -> bool:
    """The answer is certain: a witness was checked, or several tools agree."""
    return known["truth"] in ("sat", "unsat") and known["confidence"] in ("witness", "tools")


def run(folder: Path, known: dict[str, str], limit: float) -> Row:
    """Decide one line of truth.csv."""
    net, prop, truth = known["onnx"], known["vnnlib"], known["truth"]
    scored = is_scored(known)
    try:
        answer = decided(Instance(folder / net, folder / prop, limit), 0)
        found = (answer.word, answer.verdict.method, round(answer.verdict.seconds, 3))
    except HauberkError as error:
        print(f"{net} {prop}: {error}", file=sys.stderr)
        found = ("error", "", 0.0)
    return Row(net, prop, limit, truth, scored, *found)


def summary(rows: list[Row]) -> dict[str, float]:
    """The counts and seconds of a family."""
    done = [row.seconds for row in rows if row.decided]
    return {
        "properties": len(rows),
        "decided": len(done),
        "right": sum(row.scored and row.decided and not row.wrong for row in rows),
        "wrong": sum(row.wrong for row in rows),
        "undecided": len(rows) - len(done),
        "scored": sum(row.scored for row in rows),
        "decided of the scored": sum(row.scored and row.decided for row in rows),
        "seconds of the decided": round(sum(done), 1),
        "median seconds": round(statistics.median(done), 3) if done else 0.0,
        "longest seconds": round(max(done, default=0.0), 1),
    }


def bars(found: dict[str, dict[str, float]]) -> dict[str, bool]:
    """What --assert holds, of the families that were run."""
    held = {f"{name}: none wrong": counts["wrong"] == 0 for name, counts in found.items()}
    if "acasxu" in found:
        held["acasxu: >= 184 decided"] = found["acasxu"]["decided"] >= 184
    if "mnistfc 256x2" in found:
        held["mnistfc 256x2: all 30 decided"] = found["mnistfc 256x2"]["decided"] == 30
    for name in ("mnistfc 256x4", "mnistfc 256x6"):
        if name in found:
            counts = found[name]
            held[f"{name}: >= 80 % of the scored decided"] = counts["decided of the scored"] >= 0.8 * counts["scored"]
    return held


def load(path: Path) -> dict[tuple[str, str, float], Row]:
    """The rows that are there already."""
    if not path.exists():
        return {}
    rows = [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    return {(row.net, row.prop, row.limit): row for row in rows}


def main() -> None:
    """Measure, print, and with --assert hold the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared"))
    parser.add_argument("--only", choices=("acasxu", "mnistfc"))
    parser.add_argument("--rows", type=int, help="of each family, only so many; their bars are then not held")
    parser.add_argument("--timeout", type=float, help="seconds; those of truth.csv if not given")
    parser.add_argument("--out", type=Path, default=HOME, help="folder of the JSON files")
    parser.add_argument("--scored", action="store_true", help="only the properties whose answer is known")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--assert", dest="held", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with (options.data_root / "verify" / "truth.csv").open(encoding="utf-8", newline="") as file:
        known = [row for row in csv.DictReader(file) if options.only in (None, row["benchmark"])]
    if options.scored:
        known = [row for row in known if is_scored(row)]
    groups: dict[str, list[dict[str, str]]] = {}
    for row in known:
        groups.setdefault(family(row["benchmark"], row["onnx"]), []).append(row)
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, float]] = {}
    for name, group in groups.items():
        path = options.out / f"{name.replace(' ', '_')}.json"
        kept = {} if options.again else load(path)
        rows: list[Row] = []
        for number, row in enumerate(group[: options.rows], 1):
            limit = float(row["timeout_s"]) if options.timeout is None else options.timeout
            key = (row["onnx"], row["vnnlib"], limit)
            if key not in kept:
                kept[key] = run(options.data_root / "verify" / row["benchmark"], row, limit)
                whole = {"summary": summary(list(kept.values())), "rows": [asdict(each) for each in kept.values()]}
                path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
            rows.append(kept[key])
            told = f"{rows[-1].result} ({rows[-1].truth}{'' if rows[-1].scored else ', not scored'})"
            print(
                f"{name} {number}/{len(group)}: {told} {rows[-1].seconds:.2f} s {'WRONG' * rows[-1].wrong}", flush=True
            )
        found[name] = summary(rows)
        print(name, found[name], flush=True)
    if options.held:
        held = bars(found)
        for text, good in held.items():
            print("held  " if good else "MISSED", text)
        sys.exit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
