"""Train the nets of one table through `hauberk train`, one after the other, and measure each.

    python benchmarks/training/run.py objectives --data-root ../shared/data --work .cache/training [--only pgd_at trades]

Each row is one command; its net and its log stay in `--work`, its figures go to docs/training/TABLE.json at once, so that a run that
was cut off goes on where it stood. `python docs/training/render.py` then writes the page. One torch thread; seconds are CPU time of
the training process, start included.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from tables import TABLES, Row

import hauberk as hb
from hauberk import data
from hauberk.cli.trained import open_training

ROOT = Path(__file__).parents[2]


def trained(row: Row, data_root: Path, work: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the finished training, and what it cost."""
    out = work / row.name.replace(" ", "-").replace(",", "")
    places = {"data": str(data_root), "work": str(work), "nets": str(Path(__file__).parent / "nets.py")}
    options = [word.format(**places) for word in shlex.split(row.options)]
    shutil.rmtree(out, ignore_errors=True)  # what is left of an earlier run would cost nothing
    before = _children()
    done = subprocess.run(
        [sys.executable, "-m", "hauberk", "train", *options, "--out", str(out), "--threads", "1", "--quiet"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{row.name}: {done.stderr.strip() or done.stdout.strip()}")
    epochs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    account = {
        "seconds": round(_children() - before, 1),
        "forwards": round(sum(epoch["forwards"] for epoch in epochs) / len(epochs), 2),
        "backwards": round(sum(epoch["backwards"] for epoch in epochs) / len(epochs), 2),
        "epochs": len(epochs),
        "measures": epochs[-1]["measures"],
        "findings": list(
            {finding.split(":")[0]: finding for epoch in epochs for finding in epoch["findings"]}.values()
        ),
        "curve": [
            {
                key: epoch[key] if key in epoch else epoch["held_out"].get(key)
                for key in ("epoch", "loss", "accuracy", *epoch["held_out"])
            }
            for epoch in epochs
        ],
    }
    return out, account


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Train and measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".cache/training"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs/training")
    parser.add_argument("--only", nargs="*", help="rows of these names")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table, work = TABLES[args.table], args.work / args.table
    work.mkdir(parents=True, exist_ok=True)
    place = args.out / f"{args.table}.json"
    kept: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {"rows": {}}
    source = data.load(args.data_root / table.test, n=table.n)
    for row in table.rows:
        if (args.only and row.name not in args.only) or kept["rows"].get(row.name, {}).get("options") == row.options:
            continue
        folder, account = trained(row, args.data_root, work)
        net, _ = open_training(folder)
        victim = hb.wrap(net, bounds=(0, 1), output="logits", classes=10, name=row.name)
        measured = table.columns(victim, source)
        kept["rows"][row.name] = {"options": row.options, **account, **measured}
        kept |= {"table": args.table, "test": table.test, "n": table.n, "torch": torch.__version__}
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(kept, indent=1) + "\n")
        print(row.name, f"{account['seconds']:.0f} s", json.dumps(measured), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
