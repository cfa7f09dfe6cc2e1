"""Networks to start from, small and plain, by name: `build("resnet20", shape=(3, 32, 32), classes=10)`."""

from mohs.networks.parts import Normalise, SmoothReLU, activation, statistics
from mohs.networks.table import NAMES, build, is_network

__all__ = ["NAMES", "Normalise", "SmoothReLU", "activation", "build", "is_network", "statistics"]
