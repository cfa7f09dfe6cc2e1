"""How much an adversary can do to a model of which they have nothing but an HTTP endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mohs.auditing import Result, Watcher, audit
from mohs.data import Examples
from mohs.engine.probes import NAME
from mohs.errors import RequestError
from mohs.jobs import QUERIES
from mohs.models.http import Endpoint, load_endpoint
from mohs.threat import parse_threat


def probe(
    url: str,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    describe: str | Path,
    threats: Sequence[str],
    queries: int = QUERIES,
    out: str | Path | None = None,
    watch: Watcher | None = None,
    **options: Any,
) -> Result:
    """Attack the model behind an endpoint, with what it gives.

    url, describe: its address and the TOML file that says how it is asked. threats: texts; `+knowledge` and, where the endpoint
    rounds, `+quantise` are added. queries: of an example. options: `total`, `spend` (money), `rate` (a second),
    `i_am_authorised`, and the fields of `mohs.auditing.Request`. data, out, watch: as of `mohs.audit`. Examples without an answer
    are undecided. Raises RequestError, and RunFailed where the endpoint is gone: `resume` then asks nothing twice.
    """
    texts = against(load_endpoint(describe, url), threats)
    chosen = {"profile": NAME, "describe": str(describe), "queries": queries, **options}
    return audit(url, data, threats=texts, out=out, watch=watch, **chosen)


def against(endpoint: Endpoint, threats: Sequence[str]) -> list[str]:
    """Threats as ones against an endpoint: of the knowledge it gives, on the grid of what it is sent."""
    if not threats:
        raise RequestError("a probe needs a threat, such as linf:8/255")
    found = []
    for text in threats:
        bits = parse_threat(text).constraints.bits
        if bits is None and endpoint.bits is not None:
            text += f"+quantise:{endpoint.bits}bit"
        found.append(text if "+knowledge:" in text else f"{text}+knowledge:{endpoint.gives}")
    return found
