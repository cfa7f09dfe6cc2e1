"""Defences: Models around a Model that change its input, and declare how attacks go through them; changes of the network,
and losses that train one to be hard to attack. `table` has them by name."""

from mohs.defend.base import Defence, Transformed, straight_through
from mohs.defend.bit_depth import BitDepth
from mohs.defend.bpda import bpda
from mohs.defend.diversity import MeanProbability, diversity_loss
from mohs.defend.gan import DefenseGAN, Generator, fit_generator, load_generator, save_generator
from mohs.defend.gradient_penalty import gradient_regularised
from mohs.defend.jpeg import JPEG
from mohs.defend.kwta import KWTA, swap_relus, with_kwta
from mohs.defend.median import Median
from mohs.defend.noise import GaussianNoise
from mohs.defend.resize import ResizePad
from mohs.defend.smooth import SmoothedModel
from mohs.defend.squeezing import feature_squeezing
from mohs.defend.table import defended, parse_defence
from mohs.defend.thermometer import Thermometer
from mohs.defend.total_variation import TotalVariation

__all__ = [
    "JPEG",
    "KWTA",
    "BitDepth",
    "Defence",
    "DefenseGAN",
    "GaussianNoise",
    "Generator",
    "MeanProbability",
    "Median",
    "ResizePad",
    "SmoothedModel",
    "Thermometer",
    "TotalVariation",
    "Transformed",
    "bpda",
    "defended",
    "diversity_loss",
    "feature_squeezing",
    "fit_generator",
    "gradient_regularised",
    "load_generator",
    "parse_defence",
    "save_generator",
    "straight_through",
    "swap_relus",
    "with_kwta",
]
