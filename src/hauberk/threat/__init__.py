"""What is allowed and wanted: norms, regions, goals, access levels, and the `ThreatModel` that names them. Pure values."""

from hauberk.threat.access import Access, Differentiable, Labelled, Scored
from hauberk.threat.goal import (
    Classed,
    Goal,
    Predicate,
    Rival,
    Targeted,
    TopK,
    Untargeted,
    goal_from,
    least_likely,
    parse_goal,
)
from hauberk.threat.model import ThreatModel
from hauberk.threat.norm import Norm
from hauberk.threat.region import Ball, Region

__all__ = [
    "Access",
    "Ball",
    "Classed",
    "Differentiable",
    "Goal",
    "Labelled",
    "Norm",
    "Predicate",
    "Region",
    "Rival",
    "Scored",
    "Targeted",
    "ThreatModel",
    "TopK",
    "Untargeted",
    "goal_from",
    "least_likely",
    "parse_goal",
]
