"""`mohs serve`: a Model as an HTTP API, with a guard before it. The detectors and their measure need no extra."""

from mohs.serve.blacklight import Blacklight
from mohs.serve.guard import Guard, GuardSpec, load_guard
from mohs.serve.limits import Limits
from mohs.serve.prada import Prada
from mohs.serve.server import make_app, serve
from mohs.serve.wire import Answers, Gives

__all__ = ["Answers", "Blacklight", "Gives", "Guard", "GuardSpec", "Limits", "Prada", "load_guard", "make_app", "serve"]
