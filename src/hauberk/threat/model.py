"""A `ThreatModel` says what is allowed and wanted, and has one spelling: `linf:8/255`, `l2:0.5@grid255@target=3`.

    NORM[:RADIUS[,RADIUS...]][@MODIFIER...]

NORM is linf, l2, l1 or l0; a RADIUS is a number or a fraction, in the units of the victim's input; none seeks the
smallest change, several make a curve. A MODIFIER is `gridN` (values on a grid of N steps, as 8-bit files have 255), a goal
(`untargeted`, `least-likely`, `target=K`, `topK`) or an access level (`gradients`, `scores`, `labels`).

    spatial:LIMIT=NUMBER[,...]     colour:LIMIT=NUMBER[,...]     LIMIT[:NUMBER[,NUMBER...]]      in the place of NORM[:RADIUS]

change pictures in other ways, see `hauberk.threat.charts`; their modifiers are `padding=reflect` and, with several limits,
`curve=SHARE[,SHARE...]` and `smallest`. `scale=A` and `shift=B` after a norm put its ball around A * x + B (`BlindSpot`).
"""

import math
from dataclasses import dataclass, replace

from hauberk._shapes import Batch
from hauberk.errors import ThreatError
from hauberk.threat.access import Access
from hauberk.threat.blind_spot import BlindSpot
from hauberk.threat.chart import Chart, Single
from hauberk.threat.charts import CHARTS, LIMITS, chart_named, head_of, padded
from hauberk.threat.colour import Colour
from hauberk.threat.goal import parse_goal
from hauberk.threat.norm import Norm
from hauberk.threat.region import Ball
from hauberk.threat.spatial import Spatial

__all__ = ["ThreatModel"]


@dataclass(frozen=True)
class ThreatModel:
    """What the attacker may change, wants, and may ask.

    Args:
        norm: how a change is measured.
        radii: increasing radii; empty seeks the smallest change.
        grid: the number of steps of the grid that adversarials must lie on, or None.
        goal: canonical spelling of the goal, see `hauberk.threat.parse_goal`.
        access: the most that the attacker may ask of the victim.
        chart: where the points are not within the norm of the example: what draws them from parameters, which the norm and the
            radii then speak of.

    >>> ThreatModel.parse("linf:2/255, 8/255")
    ThreatModel('linf:2/255,8/255')
    >>> ThreatModel.parse("l2").smallest
    True
    >>> ThreatModel.parse("spatial: rotation=30, translation=1/10")
    ThreatModel('spatial:rotation=30,translation=0.1')
    """

    norm: Norm
    radii: tuple[float, ...] = ()
    grid: int | None = None
    goal: str = "untargeted"
    access: Access = Access.GRADIENTS
    chart: Chart | None = None

    def __post_init__(self) -> None:
        if self.chart is not None:
            self._check_chart(self.chart)
        for radius in self.radii:
            if not (math.isfinite(radius) and radius > 0):
                raise ThreatError(
                    f"a radius is a finite number > 0, got {radius:g}; leave it out to seek the smallest change"
                )
            if self.norm is Norm.L0 and radius != int(radius):
                raise ThreatError(f"an l0 radius counts changed values, so it is a whole number, got {radius:g}")
        if list(self.radii) != sorted(set(self.radii)):
            raise ThreatError(f"the radii of a curve must increase, got {','.join(map(_number, self.radii))}")
        if self.grid is not None and self.grid < 1:
            raise ThreatError(f"a grid needs at least one step, got {self.grid}")
        object.__setattr__(self, "goal", parse_goal(self.goal))

    @classmethod
    def parse(cls, text: "str | ThreatModel") -> "ThreatModel":
        """Read the spelling above; a ThreatModel is given back as it is.

        Raises:
            ThreatError: it cannot be read; the message says which part.
        """
        if isinstance(text, ThreatModel):
            return text
        if not isinstance(text, str):
            raise ThreatError(f"a threat is a string such as 'linf:8/255' or a ThreatModel, got {type(text).__name__}")
        head, *modifiers = text.replace(" ", "").lower().split("@")
        name, colon, numbers = head.partition(":")
        if colon and not numbers:
            raise ThreatError(f"a radius must follow the colon in {text!r}, for example linf:8/255")
        drawn = chart_named(name, numbers, lambda part, what: _parse_number(part, text, what))
        if drawn is not None:
            norm, (chart, radii) = Norm.LINF, drawn
        else:
            try:
                norm, chart = Norm(name), None
            except ValueError:
                raise ThreatError(
                    f"a threat starts with one of linf, l2, l1, l0, got {text!r}; write for example linf:8/255, or one of "
                    f"{', '.join([*CHARTS, *LIMITS])}"
                ) from None
            radii = tuple(_parse_number(part, text) for part in numbers.split(",")) if colon else ()
        grid: int | None = None
        goal, access = "untargeted", Access.GRADIENTS
        seen: set[str] = set()
        for word in modifiers:
            key, equals, value = word.partition("=")
            if word.startswith("grid"):
                if not (word[4:].isdecimal() and len(word) <= 13 and int(word[4:]) >= 1):
                    raise ThreatError(f"a grid is written @gridN with N >= 1, for example @grid255, got @{word}")
                kind, grid = "grid", int(word[4:])
            elif word in {str(level) for level in Access}:
                kind, access = "access level", Access[word.upper()]
            elif key == "padding" and equals:
                kind, chart = "padding", padded(chart, value)
            elif word == "smallest" or (key == "curve" and equals):
                if not isinstance(chart, Spatial | Colour):
                    raise ThreatError(
                        f"@{word} is for threats of several limits, such as spatial:rotation=30,translation=0.1; write the radii "
                        f"after the colon, or none for the smallest, got {text!r}"
                    )
                shares = value.split(",") if equals else ()
                radii = tuple(_parse_number(part, text, "a share of the limits") for part in shares)
                kind = "curve"
            elif key in {"scale", "shift"} and equals:
                if chart is not None and not isinstance(chart, BlindSpot):
                    raise ThreatError(
                        f"@scale and @shift are for balls of a norm, such as linf:0.3@scale=0.7, got {text!r}"
                    )
                old = chart or BlindSpot()
                number = _parse_number(value, text, f"a {key}")
                kind, chart = key, BlindSpot(number, old.shift) if key == "scale" else BlindSpot(old.scale, number)
            else:
                try:
                    kind, goal = "goal", parse_goal(word)
                except ThreatError:
                    raise ThreatError(
                        f"after @ comes {_modifiers(chart)}a goal (least-likely, target=K, topK) or an access level "
                        f"(gradients, scores, labels), got @{word}"
                    ) from None
            if kind in seen:
                raise ThreatError(f"a threat names one {kind}, got a second one, @{word}, in {text!r}")
            seen.add(kind)
        return cls(norm, radii, grid, goal, access, chart)

    @property
    def smallest(self) -> bool:
        """The threat has no radius: the smallest change is sought."""
        return not self.radii

    @property
    def radius(self) -> float:
        """The largest radius, the one that headlines speak of; inf where the smallest change is sought."""
        return self.radii[-1] if self.radii else math.inf

    def ball(self, box: tuple[float, float], radius: float | None = None) -> Ball:
        """The region of this threat for a victim with inputs in `box`, at its largest or at another radius; of a chart, that of
        its parameters.

        Raises:
            ThreatError: a radius, of whichever, is smaller than a step of the grid.
        """
        box = box if self.chart is None else self.chart.box(box)
        for each in self.radii:
            Ball(self.norm, each, box, grid=self.grid)
        return Ball(self.norm, self.radius if radius is None else radius, box, grid=self.grid)

    def check(self, x: Batch, box: tuple[float, float]) -> None:
        """Refuse examples that the region cannot be drawn around.

        Raises:
            DataError: a value outside the box, or off the grid.
            ThreatError: examples that the chart cannot render.
        """
        if self.chart is None:
            self.ball(box).check(x)
        else:
            Ball(Norm.LINF, box=box).check(x)
            self.chart.check(x)

    def at(self, radius: float) -> "ThreatModel":
        """The same threat at one radius."""
        return replace(self, radii=(radius,))

    def _check_chart(self, chart: Chart) -> None:
        if self.grid is not None:
            raise ThreatError(f"@grid{self.grid} is for changes within a norm of the example; leave it out")
        if not chart.names:
            return
        if self.norm is not Norm.LINF:
            raise ThreatError(f"the parameters of a chart are bounded one by one, in linf, got {self.norm}")
        widest = chart.box((0.0, 1.0))[1]
        if self.radius > widest and self.radii:
            raise ThreatError(
                f"{chart.name if isinstance(chart, Single) else 'a share of the limits'} is at most {widest:g}, got {self.radius:g}"
            )

    def __str__(self) -> str:
        radii = ",".join(map(_number, self.radii))
        if self.chart is None or isinstance(self.chart, BlindSpot):
            head, tail = self.norm.value, ""
            if isinstance(self.chart, BlindSpot):
                tail = f"@scale={_number(self.chart.scale)}@shift={_number(self.chart.shift)}"
        else:
            head, tail = head_of(self.chart, _number)
        if isinstance(self.chart, Spatial | Colour):
            if self.radii != (1.0,):
                tail += f"@curve={radii}" if radii else "@smallest"
        elif radii:
            head += f":{radii}"
        text = head + tail
        if self.grid is not None:
            text += f"@grid{self.grid}"
        if self.goal != "untargeted":
            text += f"@{self.goal}"
        if self.access is not Access.GRADIENTS:
            text += f"@{self.access}"
        return text

    def __repr__(self) -> str:
        return f"ThreatModel({str(self)!r})"


def _modifiers(chart: Chart | None) -> str:
    """What else a threat of this kind takes after an @."""
    if chart is None or not chart.names:
        return "gridN, scale=A, shift=B, " if chart is None else "scale=A, shift=B, "
    inner = chart.chart if isinstance(chart, Single) else chart
    padding = "padding=reflect, " if isinstance(inner, Spatial) else ""
    return padding + ("" if isinstance(chart, Single) else "curve=SHARE,SHARE, smallest, ")


def _parse_number(text: str, whole: str, what: str = "a radius") -> float:
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        example = "8/255" if what == "a radius" else "1/10"
        raise ThreatError(f"{what} is a number or a fraction such as {example}, got {text!r} in {whole!r}") from None


def _number(value: float) -> str:
    """The shortest spelling that reads back as the same number, preferring whole and half 255ths."""
    if value == int(value):
        return str(int(value))
    plain = repr(value)
    steps = value * 255
    for candidate in (round(steps), round(steps * 2) / 2):
        if candidate and candidate / 255 == value and len(plain) > 6:
            return f"{candidate:g}/255"
    return plain
