"""Data: sources of examples with labels and stable ids."""

from mohs.data.base import Examples, Source
from mohs.data.digits import load_digits
from mohs.data.load import load_data

__all__ = ["Examples", "Source", "load_data", "load_digits"]
