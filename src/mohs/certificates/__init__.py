"""Certificates: proofs that no input of a threat changes the class."""

from mohs.certificates.certificate import METHODS, AlphaCrown, Certificate, Crown, Interval, made, make, spec_of

__all__ = ["METHODS", "AlphaCrown", "Certificate", "Crown", "Interval", "made", "make", "spec_of"]
