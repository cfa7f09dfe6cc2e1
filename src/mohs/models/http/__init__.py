"""Models behind HTTP endpoints: `load_endpoint` reads a description, `HttpModel` asks."""

from mohs.models.http.endpoint import Endpoint, load_endpoint, make_endpoint
from mohs.models.http.model import HttpModel

__all__ = ["Endpoint", "HttpModel", "load_endpoint", "make_endpoint"]
