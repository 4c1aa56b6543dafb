"""Write what docs/suites.md shows of the measurements beside this file: the table and the curves.

python docs/suites/render.py
"""

import json
from pathlib import Path
from typing import Any

__all__ = ["page", "read", "table"]

HERE = Path(__file__).parent
PAGE, PLOT = HERE.parent / "suites.md", HERE / "standard.svg"
BEGIN, END = "<!-- the table is written by docs/suites/render.py -->\n", "<!-- end of the table -->\n"


def read() -> dict[str, Any]:
    """The measurements by model."""
    return json.loads((HERE / "standard.json").read_text(encoding="utf-8"))


def table(measured: dict[str, Any]) -> str:
    """For each model AutoAttack's stages and the suite: images left, propagations an image, their ratio to AutoAttack's last."""
    lines = ["| model, images, threat | attack | left | robust accuracy | propagations an image | of AutoAttack's |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for name, model in measured.items():
        n, full = model["n"], model["autoattack"][-1]["propagations"]
        what = f"`{name}`, {n}, `linf:{_radius(model['eps'])}`"
        rows = [
            (f"AutoAttack up to {stage['name']}", stage["robust"], stage["propagations"])
            for stage in model["autoattack"]
        ]
        for label, left in (
            ("as much as AutoAttack", model["autoattack"][-1]["robust"]),
            ("the best known", model["best_known"]),
        ):
            at = next((spent for spent, robust in model["curve"] if round(robust * n) <= left), None)
            if at is not None:
                rows.append((f"`standard`, where it has broken {label}", left, at))
        rows.append(("`standard`, at its end", model["robust"], model["propagations"]))
        for attack, left, spent in rows:
            share = f"1/{full / spent:.1f}" if spent < full else "1"
            lines.append(f"| {what} | {attack} | {left} | {left / n:.4f} | {spent:,.0f} | {share} |")
            what = ""
    return "\n".join(lines) + "\n"


def seeds(measured: dict[str, Any]) -> str:
    """What each seed leaves, and at what cost, as a sentence for each model."""
    lines = []
    for name, model in measured.items():
        each = ", ".join(
            f"{found['robust']} at {found['propagations']:.0f} (seed {seed})" for seed, found in model["seeds"].items()
        )
        lines.append(f"- `{name}`: {each}.")
    return "\n".join(lines) + "\n"


def page(measured: dict[str, Any], text: str) -> str:
    """The page with its table made anew."""
    head, rest = text.split(BEGIN)
    written = f"\n{table(measured)}\nImages left and propagations an image, by seed:\n\n{seeds(measured)}\n"
    return head + BEGIN + written + END + rest.split(END)[1]


def draw(measured: dict[str, Any]) -> None:
    """Robust accuracy against propagations, the suite as a line, AutoAttack's stages as marks."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "suites", "svg.fonttype": "none", "font.size": 9})
    figure, panels = plt.subplots(
        1, len(measured), figsize=(5 * len(measured), 3.6), layout="constrained", squeeze=False
    )
    for axes, (name, model) in zip(panels[0], measured.items(), strict=True):
        n, stages = model["n"], model["autoattack"]
        axes.step(*zip(*model["curve"], strict=True), where="post", color="#c2412d", label="hauberk, suite standard")
        axes.plot(*model["curve"][-1], "o", color="#c2412d", markersize=5)
        spent, left = [stage["propagations"] for stage in stages], [stage["robust"] / n for stage in stages]
        axes.plot(spent, left, "s", color="#3d5a80", markersize=5, label="AutoAttack, after each stage")
        for stage, at, robust in zip(stages, spent, left, strict=True):
            axes.annotate(stage["name"], (at, robust), (0, 6), textcoords="offset points", ha="center", color="#3d5a80")
        axes.axhline(model["best_known"] / n, color="#8a94a6", linewidth=0.8, linestyle=":", label="best known")
        axes.set_xscale("log")
        axes.set_title(f"{name}, first {n} images, linf:{_radius(model['eps'])}", fontsize=9)
        axes.set_xlabel("propagations an image")
        axes.set_ylabel("robust accuracy")
        axes.grid(color="#e5e8ee")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(PLOT, metadata={"Date": None, "Creator": None})


def _radius(eps: float) -> str:
    return f"{eps:g}" if round(eps * 255, 6) % 1 else f"{round(eps * 255)}/255"


if __name__ == "__main__":
    known = read()
    PAGE.write_text(page(known, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(known)
