"""Threats, goals and the grammar that names them."""

from mohs.aim import Aim
from mohs.threat.colour import RecolorThreat, SemanticThreat
from mohs.threat.composite import CompositeThreat
from mohs.threat.constraints import Constraints
from mohs.threat.goal import Confidence, Goal, SourceTarget, Targeted, TopK, Untargeted, parse_goal
from mohs.threat.grammar import parse_knowledge, parse_threat
from mohs.threat.manifold import ManifoldThreat
from mohs.threat.patch import PatchThreat
from mohs.threat.perceptual import PerceptualThreat
from mohs.threat.spatial import FlowThreat, SpatialThreat
from mohs.threat.threat import L0, L1, L2, Knowledge, Linf, NormThreat, Threat
from mohs.threat.transform import TransformThreat
from mohs.threat.wasserstein import WassersteinThreat

__all__ = [
    "L0",
    "L1",
    "L2",
    "Aim",
    "CompositeThreat",
    "Confidence",
    "Constraints",
    "FlowThreat",
    "Goal",
    "Knowledge",
    "Linf",
    "ManifoldThreat",
    "NormThreat",
    "PatchThreat",
    "PerceptualThreat",
    "RecolorThreat",
    "SemanticThreat",
    "SourceTarget",
    "SpatialThreat",
    "Targeted",
    "Threat",
    "TopK",
    "TransformThreat",
    "Untargeted",
    "WassersteinThreat",
    "parse_goal",
    "parse_knowledge",
    "parse_threat",
]
