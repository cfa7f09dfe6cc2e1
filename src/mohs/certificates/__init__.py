"""Certificates: proofs that no input of a threat changes the class."""

from mohs.certificates.certificate import (
    METHODS,
    AlphaCrown,
    BranchAndBound,
    Certificate,
    Crown,
    Found,
    Interval,
    Proof,
    made,
    make,
    spec_of,
)

__all__ = [
    "METHODS",
    "AlphaCrown",
    "BranchAndBound",
    "Certificate",
    "Crown",
    "Found",
    "Interval",
    "Proof",
    "made",
    "make",
    "spec_of",
]
