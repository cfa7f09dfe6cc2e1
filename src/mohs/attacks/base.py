"""Attack: hyper-parameters and one loop. Everything else is the Oracle's."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mohs.aim import Aim
from mohs.attacks.settings import Settings
from mohs.data.arrays import tensor_of
from mohs.errors import Refused
from mohs.ledger import Outcome
from mohs.models import Model, Prepared, TorchModel, as_model, prepare
from mohs.models.contract import check_data, check_outputs
from mohs.models.prepared import Guide
from mohs.oracle import Oracle
from mohs.threat import Goal, Knowledge, Threat, Untargeted, parse_goal, parse_threat

HOW = "give one by --surrogate MODEL (surrogates=[...]; `mohs.models.ensemble.surrogate` for an attack that is called)"


@dataclass(frozen=True, kw_only=True)
class Attack(Settings, ABC):
    """A frozen dataclass of hyper-parameters with `run`, which reads like the paper's algorithm box.

    restarts: independent tries, each on the rows the earlier ones left open.
    """

    restarts: int = 1

    paper: ClassVar[str]  # authors, venue, year, arXiv id
    knowledge: ClassVar[Knowledge] = Knowledge.GRADIENT  # the least it needs
    sets: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1", "l0")  # the threats it moves in
    random: ClassVar[bool] = True  # draws; else a restart would repeat the first try
    minimal: ClassVar[bool] = False  # looks for the nearest success, not for any within the budget
    aided: ClassVar[bool] = False  # starts on surrogates, which it must be given
    opens: ClassVar[bool] = False  # reads or copies the weights of the attacked module, which a gradient alone does not show
    roams: ClassVar[bool] = False  # asks about points outside the set; a minimal attack always may

    @abstractmethod
    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        """One trajectory from x0; returns its last point, a row each of `oracle.ids`."""

    def tries(self, oracle: Oracle) -> Iterator[Aim]:
        """The aim of each try, over the rows of `oracle`."""
        return (oracle.aim for _ in range(self.restarts))

    def width(self, threat: Threat) -> int:
        """The most candidates a row has in one call, by which cohorts are sized."""
        return 1

    def passes(self, classes: int) -> tuple[int, int]:
        """Forward and backward passes of an example that survives, for plans and the table; at most these."""
        steps = int(getattr(self, "steps", 1)) * self.restarts
        return steps, steps

    def check(self, threat: Threat, goal: Goal, model: Model) -> None:
        """Raise Refused where the attack cannot serve."""
        name = type(self).__name__
        if threat.name not in self.sets:
            raise Refused(f"{name} moves in {', '.join(self.sets)}, and the threat is {threat}")
        if self.restarts > 1 and not (self.random or model.random):
            raise Refused(
                f"{name} draws nothing, so that each of {self.restarts} tries would be the first again: leave restarts out"
            )
        if threat.knowledge != Knowledge.TRANSFER and self.knowledge > threat.knowledge:
            raise Refused(f"{name} needs {self.knowledge}, and the threat {threat} grants {threat.knowledge}")
        if threat.knowledge != Knowledge.TRANSFER and self.knowledge > model.gives:  # else the surrogate is asked
            raise Refused(f"{name} needs {self.knowledge}, and the model {model.name} gives {model.gives}")
        if self.opens and threat.knowledge == Knowledge.TRANSFER:
            raise Refused(f"{name} opens the attacked model, and the threat {threat} shows surrogates alone")
        if self.opens and (not isinstance(model, TorchModel) or isinstance(model.module, torch.jit.ScriptModule)):
            raise Refused(f"{name} opens a torch module, and the model {model.name} is none")
        if min(threat.knowledge, model.gives) == Knowledge.LABEL and not goal.by_label:
            raise Refused(f"{name} sees labels alone, which do not show whether {goal} is reached")
        if not self.minimal and threat.epsilon == torch.inf:
            raise Refused(f"{name} spends a budget, and the threat {threat} has none; give it an epsilon")
        if threat.epsilon == 0:
            raise Refused(f"the threat {threat} lets nothing change, which everything withstands: give it a budget above 0")

    def admit(self, threat: Threat, goal: Goal, prepared: Prepared) -> None:
        """Raise Refused where the attack cannot serve against these models."""
        self.check(threat, goal, prepared.judge.model)
        carried = threat.knowledge == Knowledge.TRANSFER and self.knowledge > Knowledge.TRANSFER
        if (carried or self.aided) and prepared.surrogate is None:
            why = f"the threat {threat} grants transfer" if carried else f"{type(self).__name__} starts on a surrogate"
            raise Refused(f"{why}, and no surrogate was given: {HOW}")

    def demanded(self, goal: Goal) -> Goal:
        """The goal, exceeded by the attack's `confidence` where it has one."""
        return replace(goal, surplus=max(goal.surplus, float(getattr(self, "confidence", 0.0))))

    def on(self, oracle: Oracle) -> Outcome:
        """Run every try on one cohort; the last point of each is judged. Survivors that came within the guide's slack
        of success are run again on the untouched model, so that a fast guide never hides one."""
        started = time.perf_counter()
        oracle = replace(oracle, goal=self.demanded(oracle.goal))
        oracle.roams = (self.minimal or self.roams) and oracle.threat.epsilon < torch.inf
        self._run_tries(oracle)
        if oracle.guide.model is not oracle.judge.model and oracle.threat.knowledge > Knowledge.TRANSFER:
            close = oracle.ledger.closest_margin[oracle.ids] > -oracle.guide.slack
            again = oracle.open & close & ~oracle.ledger.broken[oracle.ids]
            if again.any():
                judge = oracle.judge
                plain = oracle.guided_by(Guide(judge.model, judge.rows, judge.quantum, slack=oracle.guide.slack))
                plain.keep(again.nonzero()[:, 0])
                self._run_tries(plain)
        return oracle.outcome(time.perf_counter() - started)

    def _run_tries(self, oracle: Oracle) -> None:
        for number, aim in enumerate(self.tries(oracle)):
            part = oracle.attempt(aim, number)
            if len(part.ids):
                part.settle(self.run(part, part.x0, part.threat))

    def __call__(
        self,
        model: Model | nn.Module | Prepared,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray,
        *,
        threat: Threat | str,
        goal: Goal | str | None = None,
        seed: int = 0,
        stop: bool | None = None,
        draws: int = 1,
    ) -> Outcome:
        """Attack examples x [n, *input] in the model's bounds, with labels y [n]; clean errors count as broken at distance 0.

        model: a module in evaluation mode, a Model, or `mohs.prepare(...)` of one. stop: leave a row at its first
        success; by default where the threat has a budget: without one the nearest is sought. draws: forward passes
        averaged at each query, for random models (EOT). Raises RequestError where the request is wrong.
        """
        x, y = (v if isinstance(v, Tensor) else tensor_of(v, name) for v, name in ((x, "x"), (y, "y")))
        threat = parse_threat(threat) if isinstance(threat, str) else threat
        goal = parse_goal(goal) if isinstance(goal, str) else goal or Untargeted()
        subject = model.judge.model if isinstance(model, Prepared) else as_model(model, x, threat.bounds)
        check_data(subject, x, y)
        if isinstance(model, nn.Module):
            check_outputs(subject, x)
        prepared = model if isinstance(model, Prepared) else prepare(subject, x)
        judge = prepared.judge
        threat = threat.facing(judge.model)
        threat.check(x)
        goal = goal.facing(judge.model)
        goal.check(judge.model.classes)
        self.admit(threat, goal, prepared)
        goal = self.demanded(goal)
        stop = threat.epsilon < torch.inf if stop is None else stop
        cohort = max(1, 2 * judge.rows // self.width(threat))
        outcomes = []
        for start in range(0, len(x), cohort):
            part = slice(start, start + cohort)
            oracle = Oracle.begin(
                prepared,
                threat,
                goal,
                x[part].float(),
                y[part],
                ids=torch.arange(len(x))[part],
                seed=seed,
                stop=stop,
                draws=draws,
            )
            oracle.settle_origin()
            outcomes.append(self.on(oracle))
        return Outcome.cat(outcomes)
