"""Suites for threats of a few parameters, such as `spatial` and `colour`: a few draws, a lattice, then gradients from many starts.

The lattice runs before the gradients: in a few dimensions it is the stronger (Engstrom et al. 2019, arXiv:1712.02779), and climbing
then looks between its points.
"""

from hauberk.attacks import PGD, Attack, AutoPGD, Grid, Noise
from hauberk.errors import ThreatError
from hauberk.threat import Access, ThreatModel

__all__ = ["chart_suite"]

_POINTS = {"quick": 125, "standard": 729, "exhaustive": 6561}
"""Suite -> the points of its lattice."""


def chart_suite(name: str, threat: ThreatModel, access: Access) -> tuple[Attack, ...]:
    """The attacks of the suite of this name under a threat of a few parameters.

    Raises:
        ThreatError: the suite is for balls of a norm alone.
    """
    if name not in _POINTS:
        raise ThreatError(
            f"the suite {name} is for changes within a norm, got {threat}; use {', '.join(_POINTS)} or attacks of your own"
        )
    count = 0 if threat.chart is None else len(threat.chart.names)
    points = max(_POINTS[name], 3**count)
    if access < Access.GRADIENTS:
        return Noise(tries=10), Grid(points=points), Noise(tries=points)
    restarts = {"quick": 2, "standard": 5, "exhaustive": 20}[name]
    if count == 1:  # there Auto-PGD has but two starts, the ends
        return Noise(tries=10), Grid(points=points), PGD(steps=10, restarts=restarts, loss="margin", schedule="linear")
    return Noise(tries=10), Grid(points=points), AutoPGD(steps=20, loss="margin", restarts=restarts)
