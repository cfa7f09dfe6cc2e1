"""Threats, goals and the grammar that names them."""

from mohs.aim import Aim
from mohs.threat.constraints import Constraints
from mohs.threat.goal import Confidence, Goal, SourceTarget, Targeted, TopK, Untargeted, parse_goal
from mohs.threat.grammar import parse_knowledge, parse_threat
from mohs.threat.threat import L0, L1, L2, Knowledge, Linf, NormThreat, Threat

__all__ = [
    "L0",
    "L1",
    "L2",
    "Aim",
    "Confidence",
    "Constraints",
    "Goal",
    "Knowledge",
    "Linf",
    "NormThreat",
    "SourceTarget",
    "Targeted",
    "Threat",
    "TopK",
    "Untargeted",
    "parse_goal",
    "parse_knowledge",
    "parse_threat",
]
