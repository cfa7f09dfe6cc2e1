"""One tree of errors: every refusal mohs makes on purpose is a `MohsError`.

MohsError
├── RequestError          the request was wrong                           exit code 2
│   ├── UnknownName       no such attack, threat, profile, file, class: the nearest names are given
│   ├── ThreatError       a threat, goal or constraint that cannot be
│   ├── DataError         examples that cannot be audited
│   ├── ModelError        a model that cannot be loaded, or breaks its contract
│   │   └── ModelRaised   its own code raised; of a run, rows end in error for it
│   ├── Refused           an attack asked for what the threat or the model does not grant
│   ├── Missing           an optional package is not installed
│   └── RunError          a run folder that cannot be used
├── RunFailed             the run itself failed and can be resumed         exit code 3
└── Contradiction         an example is proved safe and was attacked: a fault of mohs, exit code 3
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MohsError(Exception):
    """The root. `exit_code` is what the command line returns."""

    exit_code = 3


class RequestError(MohsError, ValueError):
    """The request was wrong: the message says what was given, what was expected and what to do."""

    exit_code = 2


class ThreatError(RequestError):
    """A threat, goal or constraint that cannot be."""


class DataError(RequestError):
    """Examples that cannot be audited."""


class ModelError(RequestError):
    """A model that cannot be loaded, or breaks its contract."""


class ModelRaised(ModelError):
    """The model's own code raised at some input; what it raised is the cause."""


class Refused(RequestError):
    """An attack asked for knowledge that the threat or the model does not grant."""


class RunError(RequestError):
    """A run folder that cannot be used: another schema, locked, incomplete or not a run."""


class RunFailed(MohsError):
    """The run failed (disk full, worker lost); what was committed is kept and `mohs resume` goes on."""


class Contradiction(MohsError):
    """An example is proved safe and attacked at once, which cannot be: a bound or a judgement is wrong."""


class UnknownName(RequestError):
    """A name that is not in its table; the message lists the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class Missing(RequestError):
    """An optional package is not installed; the message is the command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}, which is not installed: pip install 'mohs[{extra}]'")
