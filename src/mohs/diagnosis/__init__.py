"""Diagnosis: the signs that an evaluation is not to be believed, each with its evidence and what to do."""

from mohs.diagnosis.diagnosing import Diagnosis, diagnose
from mohs.diagnosis.remedies import Remedy
from mohs.diagnosis.sign import Evidence, Found, Grade, Plot, Sign

__all__ = ["Diagnosis", "Evidence", "Found", "Grade", "Plot", "Remedy", "Sign", "diagnose"]
