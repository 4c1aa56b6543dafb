"""Results in plain words: numbers, intervals, threats and the one sentence that every report opens with.

The terminal summary and the HTML report both speak through this file, so that they cannot disagree. Every function
accepts null where the JSON contract allows it and answers with a dash or leaves the clause out.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hauberk.errors import ThreatError
from hauberk.threat import BlindSpot, Norm, Single, ThreatModel

__all__ = [
    "DASH",
    "Headline",
    "amount",
    "bounds_of",
    "duration",
    "headline",
    "in_ascii",
    "interval",
    "is_image",
    "is_seeking",
    "noun",
    "percent",
    "plain",
    "propagations",
    "radius_text",
    "radius_words",
    "size_text",
    "threat_of",
]

DASH = "–"
_SPACE = "\N{NO-BREAK SPACE}"
# Control characters could drive a terminal, and the bidirectional ones could make a name read as another.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAINER = str.maketrans(
    {_SPACE: " ", DASH: "-", "…": ".", "█": "#", "▓": "=", "░": ":", "·": ".", "│": "|", "─": "-", "•": "*"}
)
_SMALLEST_SIDE = 4  # a shape with a shorter side is a table, not a picture


@dataclass(frozen=True)
class Headline:
    """The opening sentence in three parts, so that a page can set the figure apart."""

    before: str
    figure: str
    after: str

    def __str__(self) -> str:
        return f"{self.before} {self.figure} {self.after}"


def plain(text: object) -> str:
    """`text` as one string that is safe to show: control and direction-changing characters are replaced."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", str(text))


def in_ascii(text: str) -> str:
    """`text` for an output that shows ASCII only, as long as before: our own signs have plain ones, other letters become ?."""
    return text.translate(_PLAINER).encode("ascii", "replace").decode("ascii")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def percent(value: float | None, digits: int = 1) -> str:
    """0.865 -> "86.5 %"; a share that is not 0 or 1 is never rounded to look like it."""
    if value is None or not _finite(value):
        return DASH
    return f"{_share(value, digits)}{_SPACE}%"


def _share(value: float, digits: int = 1) -> str:
    step = 10.0**-digits
    shown = round(100 * value, digits)
    if value > 0 and shown <= 0:
        return f"<{_SPACE}{step:g}"
    if value < 1 and shown >= 100:
        return f">{_SPACE}{100 - step:.{digits}f}"
    return f"{shown:.{digits}f}"


def interval(proportion: Mapping[str, Any] | None) -> str:
    """{"low": .832, "high": .894} -> "83.2 to 89.4" (per cent)."""
    if not proportion or not (_finite(proportion.get("low")) and _finite(proportion.get("high"))):
        return DASH
    return f"{round(100 * proportion['low'], 1):.1f} to {round(100 * proportion['high'], 1):.1f}"


def amount(value: float | None) -> str:
    """A count or a mean count: "6,896", "12.5"."""
    if value is None or not _finite(value):
        return DASH
    if value == int(value) or abs(value) >= 1000:
        return f"{round(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.2g}"


def duration(seconds: float | None) -> str:
    """ "0.42 s", "37 s", "4 min 10 s", "2 h 5 min"."""
    if seconds is None or not _finite(seconds):
        return DASH
    if seconds < 10:
        return f"{seconds:.2g}{_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_SPACE}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min" + (f" {rest}{_SPACE}s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{_SPACE}h" + (f" {minutes}{_SPACE}min" if minutes else "")


def propagations(cost: Mapping[str, Any]) -> float | None:
    """Forwards plus backwards per example, the unit in which attacks are compared."""
    parts = cost.get("forwards_per_example"), cost.get("backwards_per_example")
    return None if None in parts else sum(float(part) for part in parts if part is not None)


def size_text(value: float | None) -> str:
    """The size of a change to three digits."""
    if value is None or not _finite(value):
        return DASH
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def threat_of(result: Mapping[str, Any]) -> ThreatModel | None:
    """The threat of a result, or None where its spelling is of another version."""
    try:
        return ThreatModel.parse(str(result.get("threat")))
    except ThreatError:
        return None


def is_seeking(result: Mapping[str, Any]) -> bool:
    """The evaluation sought the smallest change, so it has no radius."""
    threat = threat_of(result)
    return threat is not None and threat.smallest


def radius_text(threat: ThreatModel | None, radius: float | None) -> str:
    """A radius as the threat spells it: "8/255", "0.3"; "any size" without one."""
    if radius is None or not _finite(radius):
        return "any size"
    if threat is None or radius <= 0:
        return f"{radius:g}"
    if isinstance(threat.chart, Single):
        return f"{radius:g}"
    if threat.chart is not None and threat.chart.names:
        return "the limits" if radius == 1 else f"{radius:g} of the limits"
    try:
        return str(ThreatModel(threat.norm, (radius,))).partition(":")[2]
    except ThreatError:
        return f"{radius:g}"


def bounds_of(result: Mapping[str, Any]) -> tuple[float, float] | None:
    """The range of the model's input, or None where it is not told or not finite."""
    bounds = (result.get("model") or {}).get("description", {}).get("bounds")
    if isinstance(bounds, Sequence) and len(bounds) == 2 and all(_finite(b) for b in bounds) and bounds[0] < bounds[1]:
        return float(bounds[0]), float(bounds[1])
    return None


def is_image(shape: Sequence[int] | None) -> bool:
    """(H, W), (1 or 3, H, W) or (H, W, 1 or 3) with sides of at least four."""
    if shape is None or len(shape) not in (2, 3):
        return False
    sides = list(shape)
    if len(sides) == 3:
        if sides[0] in (1, 3):
            del sides[0]
        elif sides[2] in (1, 3):
            del sides[2]
        else:
            return False
    return min(sides) >= _SMALLEST_SIDE


def noun(result: Mapping[str, Any], n: int | None = None) -> str:
    """What an example is called: image(s) or example(s)."""
    word = "image" if is_image((result.get("data") or {}).get("shape")) else "example"
    return word if n == 1 else word + "s"


def radius_words(result: Mapping[str, Any], radius: float | None) -> str:
    """ "any change of at most 0.3 per pixel": the region in plain words."""
    threat = threat_of(result)
    if threat is None:
        return f"the threat {plain(result.get('threat') or DASH)}"
    if radius is None or not _finite(radius):
        return "a change of any size"
    if threat.chart is not None and threat.chart.names:
        return f"any way to {threat.chart.describe(radius)}"
    much = radius_text(threat, radius)
    part = "pixel" if noun(result) == "images" else "feature"
    bounds = bounds_of(result)
    scale = f" on a scale from {bounds[0]:g} to {bounds[1]:g}" if bounds and bounds != (0.0, 1.0) else ""
    if isinstance(threat.chart, BlindSpot):
        scale += f", after all were multiplied by {threat.chart.scale:g} and moved by {threat.chart.shift:g}"
    match threat.norm:
        case Norm.LINF:
            return f"any change of at most {much} per {part}{scale}"
        case Norm.L2:
            return f"any change of Euclidean length at most {much}{scale}"
        case Norm.L1:
            return f"any change that adds up to at most {much} over all {part}s{scale}"
        case Norm.L0:
            return f"any change of at most {much} {'value' if radius == 1 else 'values'}"


def _attacker(threat: ThreatModel | None) -> str:
    """Who is meant when it is not the default attacker, who wants any wrong label and sees everything."""
    if threat is None:
        return ""
    goal = threat.goal
    if goal.startswith("target="):
        wish = f" by an attacker who wants class {goal.removeprefix('target=')}"
    elif goal == "least-likely":
        wish = " by an attacker who wants the least likely class"
    elif goal.startswith("top"):
        wish = f" by an attacker who wants the true class out of the top {goal.removeprefix('top')}"
    else:
        wish = ""
    sight = {"scores": "the scores", "labels": "the labels"}.get(str(threat.access))
    seeing = f" {'and' if wish else 'by an attacker who'} sees only {sight}" if sight else ""
    grid = f", in steps of 1/{threat.grid} of the scale" if threat.grid else ""
    return grid + wish + seeing


def headline(result: Mapping[str, Any]) -> Headline:
    """One sentence in plain words, with its interval: "Of 512 test images the model keeps at most 86.5 % ..."."""
    n = result.get("n")
    robust = result.get("robust_accuracy") or {}
    upper, lower = robust.get("upper") or {}, robust.get("lower")
    threat = threat_of(result)
    levels = result.get("radii") or []
    radius = levels[-1].get("radius") if levels else (threat.radius if threat else None)
    before = f"Of {amount(n)} test {noun(result, n)} the model keeps"
    after = f"right under {radius_words(result, radius)}{_attacker(threat)}."
    if upper.get("value") is None:
        return Headline(before, "an unknown share", after)
    figure, after = f"at most {percent(upper['value'])}", f"({interval(upper).replace(' ', _SPACE)}) {after}"
    if lower and lower.get("value") is not None:
        figure = f"between {percent(lower['value'])} (proven) and {percent(upper['value'])}"
        # Each end of an exact 95 % interval fails with probability 2.5 % at most, so these two together hold with 95 %.
        after = (
            f"({_share(lower['low'])}{_SPACE}to{_SPACE}{_share(upper['high'])}) {after.partition(') ')[2]}"
            if _ranged(lower, upper)
            else after
        )
    return Headline(before, figure.replace(" ", _SPACE), after)


def _ranged(*proportions: Mapping[str, Any]) -> bool:
    return all(_finite(p.get("low")) and _finite(p.get("high")) for p in proportions)
