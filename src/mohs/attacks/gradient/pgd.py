"""Projected gradient descent and the basic iterative method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mohs.attacks.base import Attack
from mohs.losses import Loss, cross_entropy
from mohs.oracle import Oracle
from mohs.threat import Threat


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Steepest steps along the gradient of the loss, each projected onto the set, from a random point of it.

    step_size: in units of epsilon; 2.5 / steps is a common choice.
    Madry, Makelov, Schmidt, Tsipras, Vladu, ICLR 2018, arXiv:1706.06083; in L1 the step is that of SLIDE, Tramer &
    Boneh, NeurIPS 2019, arXiv:1904.13000. On transformed inputs it steps in their parameters, as in Linf: the first-order
    attack of Engstrom et al., ICML 2019, arXiv:1712.02779.

    When to use: the work horse: in every set, for training, and as the first attack to be trusted. Its step size must suit the
    budget and the steps, and cross-entropy saturates on models that are sure, so that failure is weak evidence; `apgd` sets the
    step itself and `apgd-t` also gets past saturation. Public code often returns the last iterate and loses successes on the
    way: here every iterate counts.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(64)
    >>> one, five = (attacks.PGD(restarts=n)(model, x, y, threat="linf:0.2").broken for n in (1, 5))
    >>> bool((one <= five).all())  # a restart adds successes and loses none
    True
    """

    steps: int = 40
    step_size: float = 0.1
    loss: Loss = cross_entropy
    random_start: bool = True

    paper = "Madry et al., ICLR 2018, arXiv:1706.06083"
    sets = (*Attack.sets, "spatial", "semantic", "flow", "recolor", "wasserstein", "perceptual", "patch", "manifold", "composite")

    def run(self, oracle: Oracle, x0: Tensor, threat: Threat) -> Tensor:
        x = threat.random_point(x0, oracle.stream) if self.random_start else threat.origin(x0)
        for _ in oracle.steps(self.steps):
            gradient = oracle.gradient(x, self.loss).gradient
            x = threat.step(x, gradient, x0, self.step_size)
            x0, x = oracle.compact(x0, x)
        return x


@dataclass(frozen=True, kw_only=True)
class BIM(PGD):
    """Basic iterative method (I-FGSM): PGD from x0 itself.

    Kurakin, Goodfellow, Bengio, ICLR workshop 2017, arXiv:1607.02533, whose steps are one grey level.

    When to use: to repeat older results, and in sets other than norms where a random start is unwanted. Without that start
    every run is the same, which a model that masks its gradients at x0 stops; `pgd` with restarts and `apgd` find more for the
    same passes.

    >>> from mohs import attacks, demo
    >>> model, x, y = demo.example(64)
    >>> once = attacks.FGSM()(model, x, y, threat="linf:0.2").broken.sum()
    >>> bool(attacks.BIM()(model, x, y, threat="linf:0.2").broken.sum() >= once)  # ten steps, each looking again
    True
    """

    steps: int = 10
    random_start: bool = False

    paper = "Kurakin et al., ICLR workshop 2017, arXiv:1607.02533"
    random = False
