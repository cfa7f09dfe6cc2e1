"""Defences: Models around a Model that change its input, and declare how attacks go through them."""

from mohs.defend.base import Defence, Transformed, straight_through
from mohs.defend.bit_depth import BitDepth
from mohs.defend.bpda import bpda
from mohs.defend.jpeg import JPEG
from mohs.defend.noise import GaussianNoise
from mohs.defend.resize import ResizePad
from mohs.defend.smooth import SmoothedModel

__all__ = [
    "JPEG",
    "BitDepth",
    "Defence",
    "GaussianNoise",
    "ResizePad",
    "SmoothedModel",
    "Transformed",
    "bpda",
    "straight_through",
]
