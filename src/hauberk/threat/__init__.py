"""What is allowed and wanted: norms, regions, goals, access levels, and the `ThreatModel` that names them. Pure values."""

from hauberk.threat.access import Access, Differentiable, Labelled, Scored
from hauberk.threat.blind_spot import BlindSpot
from hauberk.threat.chart import Chart, Single
from hauberk.threat.colour import Colour
from hauberk.threat.feature_ball import FeatureBall
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
from hauberk.threat.spatial import Spatial

__all__ = [
    "Access",
    "Ball",
    "BlindSpot",
    "Chart",
    "Classed",
    "Colour",
    "Differentiable",
    "FeatureBall",
    "Goal",
    "Labelled",
    "Norm",
    "Predicate",
    "Region",
    "Rival",
    "Scored",
    "Single",
    "Spatial",
    "Targeted",
    "ThreatModel",
    "TopK",
    "Untargeted",
    "goal_from",
    "least_likely",
    "parse_goal",
]
