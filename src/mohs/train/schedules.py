"""Learning rates: schedule(progress 0..1) -> share of the peak rate. Stateless, so that a resumed training goes on exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]

WARM = 0.4  # of a one-cycle training
DROPS = (0.5, 0.75)  # of a stepwise one, by ten each
BEND = 0.25  # of a smooth ramp, which is a line from there on


def one_cycle(progress: float) -> float:
    """Up in a line, and down to 0 in a line. Smith, 2018, arXiv:1803.09820; as in Fast is Better than Free, arXiv:2001.03994."""
    return progress / WARM if progress < WARM else (1 - progress) / (1 - WARM)


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0. Loshchilov & Hutter, ICLR 2017, arXiv:1608.03983."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def step(progress: float) -> float:
    """1, a tenth from the middle on, a hundredth in the last quarter."""
    return 0.1 ** sum(progress >= drop for drop in DROPS)


def constant(progress: float) -> float:
    return 1.0


def smooth_ramp(progress: float) -> float:
    """0 before 0, 1 after 1; between them a quartic that goes on as a line, with one slope where they meet. How budgets grow
    in certified training; Xu et al., NeurIPS 2020, arXiv:2002.12920."""
    progress = min(max(progress, 0.0), 1.0)
    steepest = 4 * BEND**3
    scale = BEND**4 + steepest * (1 - BEND)
    return (progress**4 if progress < BEND else BEND**4 + steepest * (progress - BEND)) / scale


SCHEDULES: dict[str, Schedule] = {"one-cycle": one_cycle, "cosine": cosine, "step": step, "constant": constant}
