"""The result of a run, and of a comparison, in a terminal.

Names that came from a user are shown as plain text: no markup of rich is read in them and no control character
reaches the terminal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hauberk.report.adaptation import adaptation_sentence
from hauberk.report.outcomes import STATUSES, Level, levels
from hauberk.report.proofs import proofs_sentence
from hauberk.report.queries import queries_sentence
from hauberk.report.words import (
    DASH,
    amount,
    duration,
    headline,
    in_ascii,
    interval,
    noun,
    percent,
    plain,
    propagations,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["comparison", "findings", "shown", "summary"]

_COLOURS = {"proven": "blue", "undecided": "cyan", "broken": "yellow", "misclassified": "bright_black"}
# Told apart without colour too: in a log file, or by a reader who sees few colours.
_CELLS = {"proven": "█", "undecided": "▓", "broken": "░", "misclassified": "·"}
_SEVERITIES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def summary(result: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Print what a result says: the headline, the outcome at each radius, the attacks, the cost and the audit.

    Args:
        result: the JSON contract, schema `hauberk.evaluation/1`.
        console: where to; a new one on standard output if None.
    """
    shown(lambda here: _summary(result, here), console)


def shown(draw: Callable[["Console"], None], console: "Console | None") -> None:
    """Draw on a console, with plain characters on one that has no others."""
    from rich.console import Console

    console = console or Console()
    if not console.options.ascii_only:
        draw(console)
        return
    with console.capture() as caught:
        draw(console)
    console.file.write(in_ascii(caught.get()))
    console.file.flush()


def _summary(result: Mapping[str, Any], console: "Console") -> None:
    from rich.panel import Panel
    from rich.text import Text

    model, data, cost = result.get("model") or {}, result.get("data") or {}, result.get("cost") or {}
    sentence = headline(result)
    console.print(
        Panel(
            Text.assemble(sentence.before, " ", (sentence.figure, "bold"), " ", sentence.after),
            title=Text(plain(model.get("name") or "model"), style="bold"),
            subtitle=Text(f"{plain(data.get('name') or 'data')}, {plain(result.get('threat') or DASH)}", style="dim"),
            padding=(1, 2),
        )
    )
    clean = result.get("clean_accuracy") or {}
    if clean.get("value") is not None:
        console.print(Text(f"Unattacked, {percent(clean['value'])} ({interval(clean)}) are right.", style="dim"))
    if sentence := adaptation_sentence(result):
        console.print(Text(sentence))
    reached = levels(result)
    if reached:
        console.print()
        _outcome(reached, console)
    if result.get("attacks"):
        console.print()
        console.print(_attacks(result["attacks"]))
    if said := proofs_sentence(result):
        by = (result["certified"].get("by") or [{}])[-1].get("proven") or {}
        methods = ", ".join(f"{amount(count)} by {plain(name)}" for name, count in by.items())
        console.print(Text(f"Proven at the largest radius: {methods or 'none'}. {said}"))
    if said := queries_sentence(result):
        console.print(Text(said))
    total = propagations(cost)
    if total is not None:
        line = f"{amount(total)} propagations per {noun(result, 1)} ({amount(cost['forwards_per_example'])} forwards"
        line += (
            f" + {amount(cost['backwards_per_example'])} backwards), {amount(cost.get('queries_per_example'))} queries"
        )
        console.print(Text(f"{line}, {duration(cost.get('seconds'))} in all.", style="dim"))
    _audit(result, console)


def _audit(result: Mapping[str, Any], console: "Console") -> None:
    from rich.text import Text

    found, checks = result.get("audit") or [], result.get("audit_checks")
    if not found and checks is not None:
        count = "1 check" if len(checks) == 1 else f"{len(checks)} checks"
        console.print()
        console.print(Text(f"Audit: {count}, no findings." if checks else "Audit: left out.", style="dim"))
    findings(found, console)


def findings(entries: Sequence[Mapping[str, Any]], console: "Console") -> None:
    """Print the findings of an audit: severity, name, evidence and what to do next."""
    from rich.text import Text

    for entry in entries:
        severity = str(entry.get("severity"))
        severity = severity if severity in _SEVERITIES else "warning"
        console.print()
        console.print(
            Text.assemble(
                (severity, _SEVERITIES[severity]),
                "  ",
                (plain(entry.get("id")), "bold"),
                ": ",
                plain(entry.get("evidence") or ""),
            )
        )
        if entry.get("next"):
            console.print(Text.assemble(("next: ", "bold"), plain(entry["next"])))


def _outcome(shown: Sequence[Level], console: "Console") -> None:
    from rich.text import Text

    statuses = [s for s in STATUSES if s != "proven" or any(level.count("proven") for level in shown)]
    width = max(10, min(40, console.width - 14 - 15 * len(statuses)))
    table = _table("radius", "", *(f"{_CELLS[status]} {status}" for status in statuses), plain_columns=1)
    for level in shown:
        bar = Text()
        filled = 0.0
        for status, _, share, _ in level.counts:
            cells = round((filled + share) * width) - round(filled * width)
            bar.append(_CELLS[status] * cells, style=_COLOURS[status])
            filled += share
        table.add_row(Text(level.text), bar, *(str(level.count(status)) for status in statuses))
    console.print(table)


def _attacks(entries: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.text import Text

    table = _table("attack", "attempted", "broken", "forwards", "backwards", "queries", "time")
    for entry in entries:
        numbers = [amount(entry.get(key)) for key in ("attempted", "broken", "forwards", "backwards", "queries")]
        table.add_row(Text(plain(entry.get("name") or DASH)), *numbers, duration(entry.get("seconds")))
    return table


def _table(*columns: str, plain_columns: int = 0) -> "Table":
    """A table without frames; the first column is words, then perhaps `plain_columns` of them, the others numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 1))
    for place, column in enumerate(columns):
        table.add_column(
            column, justify="left" if place <= plain_columns else "right", no_wrap=place > 0, overflow="fold"
        )
    return table


def comparison(result: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Print the paired comparison of two runs.

    Args:
        result: schema `hauberk.comparison/1`, from `hauberk.evaluate`.
        console: where to; a new one on standard output if None.
    """
    shown(lambda here: _comparison(result, here), console)


def _comparison(result: Mapping[str, Any], console: "Console") -> None:
    from rich.panel import Panel
    from rich.text import Text

    n = result.get("n") or 0
    names = [plain((result.get(side) or {}).get("name") or side) for side in ("a", "b")]
    if names[0] == names[1]:
        names = [f"{name} ({side})" for name, side in zip(names, "AB", strict=True)]
    console.print(
        Panel(
            Text(plain(result.get("sentence") or "").replace(" %", percent(0)[-2:])),
            title=Text(" and ".join(names), style="bold"),
            padding=(1, 2),
        )
    )

    def share(key: str) -> str:
        count = result.get(key)
        return percent(count / n) if n and count is not None else DASH

    table = _table(f"Of {amount(n)} examples", "count", "share")
    for words, key in (
        ("both stay right", "both_robust"),
        (f"only {names[0]}", "only_a"),
        (f"only {names[1]}", "only_b"),
        ("neither", "neither"),
    ):
        table.add_row(Text(words), amount(result.get(key)), share(key))
    console.print(table)
    facts = _table("", "")
    facts.show_header = False
    p = result.get("p_value")
    for words, value in (
        (f"{names[0]} minus {names[1]}", _difference(result)),
        ("exact McNemar p", DASH if p is None else ("<0.0001" if p < 1e-4 else f"{p:.4f}")),
        (
            "smallest difference these examples would show",
            _points(result.get("smallest_detectable_difference"), signed=False),
        ),
    ):
        facts.add_row(Text(words), Text(value))
    console.print(facts)


def _points(value: float | None, *, signed: bool = True) -> str:
    """A difference of shares in percentage points."""
    if value is None:
        return DASH
    return f"{_signed(value) if signed else f'{100 * value:.1f}'} points"


def _signed(share: float) -> str:
    """100 times the share, with a sign unless it rounds to nothing."""
    shown = round(100 * share, 1)
    return f"{shown:+.1f}" if shown else "0.0"


def _difference(result: Mapping[str, Any]) -> str:
    text = _points(result.get("difference"))
    low, high = result.get("low"), result.get("high")
    return text if low is None or high is None else f"{text} ({_signed(low)} to {_signed(high)})"
