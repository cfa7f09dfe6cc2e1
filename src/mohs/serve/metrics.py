"""What a server tells Prometheus of itself."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """One registry a server. waiting: examples before the model, now."""

    def __init__(self, waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("mohs_requests", "Requests to /predict by status", ["status"], registry=self.registry)
        self.declined = Counter("mohs_declined", "Requests declined by reason", ["reason"], registry=self.registry)
        self.examples = Counter("mohs_examples", "Examples answered", registry=self.registry)
        self.suspects = Counter("mohs_suspects", "Requests a detector spoke up at", registry=self.registry)
        self.seconds = Histogram("mohs_request_seconds", "From the request to its answer", registry=self.registry)
        sizes = [2**k for k in range(11)]
        self.rows = Histogram("mohs_batch_examples", "Examples in one call of the model", registry=self.registry, buckets=sizes)
        Gauge("mohs_waiting_examples", "Examples before the model", registry=self.registry).set_function(waiting)

    def text(self) -> bytes:
        return generate_latest(self.registry)
