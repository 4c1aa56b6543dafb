"""Write what docs/claims.md shows: the table and the plot of the registry beside this file.

python docs/claims/render.py
"""

import json
from pathlib import Path
from typing import Any

__all__ = ["page", "read", "table"]

HERE = Path(__file__).parent
PAGE, PLOT = HERE.parent / "claims.md", HERE / "claims.svg"
BEGIN, END = "<!-- the table is written by docs/claims/render.py -->\n", "<!-- end of the table -->\n"


def read() -> dict[str, Any]:
    """The registry: `sources` by name, and `claims`, those that lost most first within each data set."""
    registry = json.loads((HERE / "registry.json").read_text(encoding="utf-8"))
    registry["claims"].sort(key=lambda claim: (claim["data"], claim["later"] - claim["claimed"]))
    return registry


def table(registry: dict[str, Any]) -> str:
    """The claims as Markdown, one line each."""
    lines = ["| defense | data, threat | claimed | later | lost | later by |", "|---|---|---:|---:|---:|---|"]
    for claim in registry["claims"]:
        source = registry["sources"][claim["by"]]
        model = "" if claim["model"] == "available" else f" (model: {claim['model']})"
        lines.append(
            f"| [{claim['defense']}]({claim['url']}): {claim['idea']}{model} | {claim['data']}, `{claim['threat']}` | "
            f"{claim['claimed']:.1f} | {claim['later']:.1f} | {claim['claimed'] - claim['later']:.1f} | "
            f"[{claim['by']}]({source['url']}) |"
        )
    return "\n".join(lines) + "\n"


def page(registry: dict[str, Any], text: str) -> str:
    """The page with its table made anew."""
    head, rest = text.split(BEGIN)
    return head + BEGIN + "\n" + table(registry) + "\n" + END + rest.split(END)[1]


def draw(registry: dict[str, Any]) -> None:
    """One line a claim, from what was claimed to what was left."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "claims", "svg.fonttype": "none", "font.size": 8})
    claims = registry["claims"]
    figure, axes = plt.subplots(figsize=(8, 0.2 * len(claims) + 1.2), layout="constrained")
    for place, claim in enumerate(reversed(claims)):
        axes.plot([claim["later"], claim["claimed"]], [place, place], color="#b8c0cc", linewidth=3, zorder=1)
    places = range(len(claims))
    later, claimed = ([claim[key] for claim in reversed(claims)] for key in ("later", "claimed"))
    axes.scatter(claimed, places, color="#6b7a90", s=22, zorder=2, label="claimed by the paper")
    axes.scatter(later, places, color="#c2412d", s=22, zorder=2, label="left by the later attack")
    axes.set_yticks(list(places), [f"{claim['defense']}, {claim['data']}" for claim in reversed(claims)])
    axes.set_xlim(-2, 100)
    axes.set_xlabel("robust accuracy, %")
    axes.grid(axis="x", color="#e5e8ee")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="lower left", frameon=False)
    figure.savefig(PLOT, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    known = read()
    PAGE.write_text(page(known, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(known)
