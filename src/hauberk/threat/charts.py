"""The charts that threats can name, and how they are spelled: `spatial:rotation=30,translation=0.1`, `rotation:30`.

    spatial:LIMIT=NUMBER[,...]     colour:LIMIT=NUMBER[,...]     all limits at once; @curve=SHARE,SHARE for shares of them
    rotation[:DEGREES,...]         any limit alone, in its own unit; without a number the smallest is sought

`ThreatModel` reads what follows an @.
"""

from collections.abc import Callable
from dataclasses import replace

from hauberk.errors import ThreatError
from hauberk.threat.chart import Chart, Single
from hauberk.threat.colour import Colour
from hauberk.threat.spatial import PADDINGS, Spatial

__all__ = ["CHARTS", "EXAMPLES", "LIMITS", "chart_named", "head_of", "padded"]

CHARTS: dict[str, type[Spatial] | type[Colour]] = {"spatial": Spatial, "colour": Colour}
"""Charts of several limits, by name."""
LIMITS: dict[str, str] = {key: name for name, kind in CHARTS.items() for key in kind.widest}
"""Each limit -> the chart it belongs to."""
EXAMPLES = {
    "spatial": "spatial:rotation=30,translation=0.1",
    "colour": "colour:hue=0.1,saturation=0.3,brightness=0.2",
}
"""Chart -> how a threat with it is written."""


def chart_named(name: str, numbers: str, number: Callable[[str, str], float]) -> tuple[Chart, tuple[float, ...]] | None:
    """The chart of this name and its radii; None where no chart has it.

    Args:
        numbers: what follows the colon, empty where there is none.
        number: reads one number, or raises ThreatError; its second argument says what the number is.

    Raises:
        ThreatError: limits that cannot be read.
    """
    name = {"color": "colour"}.get(name, name)
    if name in LIMITS:
        kind = CHARTS[LIMITS[name]]
        chart = Single(_built(kind, {name: kind.widest[name]}), name, kind.widest[name])
        return chart, tuple(number(part, f"the limit of {name}") for part in numbers.split(",")) if numbers else ()
    if name not in CHARTS:
        return None
    kind = CHARTS[name]
    limits: dict[str, float] = {}
    for part in numbers.split(",") if numbers else ():
        key, equals, value = part.partition("=")
        if key not in kind.widest or not equals:
            raise ThreatError(
                f"{name} takes limits of {', '.join(kind.widest)}, got {part!r}; write for example {EXAMPLES[name]}"
            )
        if key in limits:
            raise ThreatError(f"{name} takes each limit once, got a second {key}")
        limits[key] = number(value, f"the limit of {key}")
    if not any(limits.values()):
        raise ThreatError(
            f"{name} needs a limit above 0 of one of {', '.join(kind.widest)}; write for example {EXAMPLES[name]}"
        )
    return _built(kind, limits), (1.0,)


def _built(kind: Callable[..., Chart], limits: dict[str, float]) -> Chart:
    return kind(**limits)


def padded(chart: Chart | None, padding: str) -> Chart:
    """The chart with another padding.

    Raises:
        ThreatError: there is none, or it knows none.
    """
    if isinstance(chart, Single) and isinstance(chart.chart, Spatial):
        return replace(chart, chart=padded(chart.chart, padding))
    if not isinstance(chart, Spatial):
        raise ThreatError(f"only spatial threats have a padding, got @padding={padding}; leave it out")
    return replace(chart, padding=padding)


def head_of(chart: Chart, spell: Callable[[float], str]) -> tuple[str, str]:
    """How a named chart is spelled before and after its radii."""
    inner = chart.chart if isinstance(chart, Single) else chart
    tail = f"@padding={inner.padding}" if isinstance(inner, Spatial) and inner.padding != next(iter(PADDINGS)) else ""
    if isinstance(chart, Single):
        return chart.name, tail
    if not isinstance(inner, Spatial | Colour):
        return type(chart).__name__, tail
    limits = ",".join(f"{key}={spell(value)}" for key, value in inner.limits.items() if value)
    return f"{next(name for name, kind in CHARTS.items() if isinstance(inner, kind))}:{limits}", tail
