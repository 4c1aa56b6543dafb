"""The findings of an audit in a terminal: one page, errors first."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hauberk.report.adaptation import indicator_lines, step_lines
from hauberk.report.terminal import findings, shown
from hauberk.report.words import DASH, amount, duration, interval, percent, plain

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["audit_page"]


_CLIMBED = {"one-step-beats-iterated", "black-box-beats-gradients", "unbounded-attack-fails", "loss-still-rising"}
"""The checks that attack."""


def audit_page(result: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Print what an audit found.

    Args:
        result: schema `hauberk.audit/1`, from `hauberk.evaluate.audit`.
        console: where to; a new one on standard output if None.
    """
    shown(lambda here: _page(result, here), console)


def _page(result: Mapping[str, Any], console: "Console") -> None:
    from rich.panel import Panel
    from rich.text import Text

    found = result.get("findings") or []
    console.print(
        Panel(
            Text(_verdict(result)),
            title=Text(plain((result.get("model") or {}).get("name") or "model"), style="bold"),
            subtitle=Text(
                f"{plain((result.get('data') or {}).get('name') or 'data')}, {plain(result.get('threat') or DASH)}",
                style="dim",
            ),
            padding=(1, 2),
        )
    )
    findings(found, console)
    lines = indicator_lines(result.get("indicators"))
    if lines:
        console.print()
        console.print(
            Text.assemble(
                ("Indicators of attack failure: ", "bold"),
                "; ".join(f"{number} {name} {value}" for number, name, value in lines),
            )
        )
    _adapted(result, console)
    cost, checks = result.get("cost") or {}, result.get("checks") or []
    examples = max(result.get("examples") or 0, 1)
    each = ((cost.get("forwards") or 0) + (cost.get("backwards") or 0)) / examples
    console.print()
    console.print(
        Text(
            f"{len(checks)} checks on {amount(result.get('examples'))} examples, {amount(each)} propagations each, "
            f"{duration(cost.get('seconds'))} in all: {', '.join(map(plain, checks))}.",
            style="dim",
        )
    )


def _verdict(result: Mapping[str, Any]) -> str:
    found = result.get("findings") or []
    counts = [
        (count, severity)
        for severity in ("error", "warning")
        if (count := sum(f["severity"] == severity for f in found))
    ]
    if not counts and not _CLIMBED & set(result.get("checks") or []):
        return (
            "Nothing was found that speaks against the attacks, by the few checks that fit this model and threat: those that climb "
            "need gradients and a norm."
        )
    if not counts:
        return "Nothing was found that speaks against the attacks: their numbers mean what they say."
    said = " and ".join(f"{count} {severity}{'s' if count > 1 else ''}" for count, severity in counts)
    if counts[0][1] == "error":
        return f"{said}: attacks on this model are being fooled, and what they leave standing is no robustness."
    return f"{said}: what attacks leave standing may be too high."


def _adapted(result: Mapping[str, Any], console: "Console") -> None:
    from rich.text import Text

    adapted = result.get("adapted")
    if not adapted:
        return
    first, last = (part["robust_accuracy"]["upper"] for part in (adapted["first"], adapted))
    console.print()
    console.print(
        Text.assemble(
            f"The suite {plain(adapted.get('suite'))} left {percent(first['value'])} of {amount(first['count'])} examples; adapted, ",
            (f"at most {percent(last['value'])}", "bold"),
            f" ({interval(last)}) withstand.",
        )
    )
    steps = step_lines(result)
    if not steps:
        why = "there was nothing to apply the steps to" if adapted.get("not_applied") else "no finding asked for a step"
        console.print(Text(f"Nothing was adapted, as {why}.", style="dim"))
    for step, what, asked in steps:
        console.print(Text.assemble(("  " + step, "bold"), f": {what}", (f"  ({asked})" if asked else "", "dim")))
