"""The threat in plain words, for results and reports."""

from dataclasses import replace

from hauberk.errors import ThreatError, UnknownNameError
from hauberk.threat import Access, Norm, ThreatModel

__all__ = ["seen_through", "threat_statement", "with_a_radius"]

_CHANGE = {
    Norm.LINF: "change every input value by at most {radius}",
    Norm.L2: "change the input by at most {radius} in Euclidean length (L2)",
    Norm.L1: "change the input values by at most {radius} in sum (L1)",
    Norm.L0: "change at most {radius} input values (L0), each to anything",
}
_ACCESS = {
    Access.GRADIENTS: "knows the model and its gradients (white box)",
    Access.SCORES: "sees the model's scores but not its gradients",
    Access.LABELS: "sees the predicted label only",
}
_EXAMPLE = {Norm.LINF: 8 / 255, Norm.L2: 0.5, Norm.L1: 12.0, Norm.L0: 24.0}


def with_a_radius(threat: ThreatModel) -> ThreatModel:
    """A threat that seeks the smallest change with a radius in the place of that, as an example."""
    whole = threat.chart is not None and bool(threat.chart.names)
    return threat.at(threat.chart.box((0.0, 1.0))[1] if whole and threat.chart is not None else _EXAMPLE[threat.norm])


def seen_through(threat: ThreatModel, access: str | Access | None) -> ThreatModel:
    """The threat with this access; unchanged where None.

    Raises:
        UnknownNameError: no such access.
        ThreatError: the threat names another one.
    """
    if access is None:
        return threat
    levels = {str(level): level for level in Access}
    if str(access) not in levels:
        raise UnknownNameError.of("access", str(access), levels)
    wanted = levels[str(access)]
    if threat.access not in (Access.GRADIENTS, wanted):
        raise ThreatError(
            f"the threat {threat} gives {threat.access}, and access asks for {wanted}; say it in one place"
        )
    return replace(threat, access=wanted)


def threat_statement(threat: ThreatModel, bounds: tuple[float, float], access: Access) -> str:
    """What the attacker may do, wants and sees, as a paragraph; `access` is what the model gives of what the threat allows."""
    low, high = bounds
    radii = [f"{radius:g}" for radius in threat.radii]
    radius = radii[-1] if len(radii) == 1 else f"{', '.join(radii[:-1])} or {radii[-1]}"
    change = _CHANGE[threat.norm].format(radius=radius)
    if threat.chart is not None:
        words = [threat.chart.describe(each) for each in threat.radii]
        change = f"{words[-1]} {change}" if not threat.chart.names else ", or ".join(words)
    grid = f" Changed values lie on a grid of {threat.grid} steps, so that they survive saving." if threat.grid else ""
    return (
        f"The attacker may {change}, where inputs lie in [{low:g}, {high:g}], "
        f"and {_ACCESS[access]}. {_wanted(threat.goal)}{grid}"
    )


def _wanted(goal: str) -> str:
    if goal == "untargeted":
        return "Any wrong answer counts."
    if goal == "least-likely":
        return "Only the class that the model held least likely for the clean example counts."
    if goal.startswith("target="):
        return (
            f"Only class {goal.removeprefix('target=')} as the answer counts; examples of that class cannot be broken."
        )
    return f"The true class must fall out of the {goal.removeprefix('top')} most likely."
