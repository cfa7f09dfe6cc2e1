"""The minimal-norm attacks of the peer libraries on one case, in the peers' own environment: prints their distances and passes.

.peers/bin/python -m benchmarks.peer_minimal CASE NORM PASSES N

Attacks are told to take so many steps that PASSES forward and backward passes an image are not exceeded; what they took is
counted.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.cases import case
from benchmarks.peer import Counted

P = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}
Run = Callable[[Counted, Tensor, Tensor], Tensor]


def advlib(name: str, **options) -> Run:
    import adv_lib.attacks

    return lambda model, x, y: getattr(adv_lib.attacks, name)(model, x, y, **options)


def foolbox(name: str, **options) -> Run:
    import foolbox as library

    def run(model: Counted, x: Tensor, y: Tensor) -> Tensor:
        wrapped = library.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return getattr(library.attacks, name)(**options)(wrapped, x, y, epsilons=None)[1]

    return run


def secml(norm: str, steps: int) -> Run:
    from secmlt.adv.evasion.fmn import FMN
    from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
    from torch.utils.data import DataLoader, TensorDataset

    def run(model: Counted, x: Tensor, y: Tensor) -> Tensor:
        made = FMN(perturbation_model=norm, num_steps=steps, step_size=1.0)
        loader = made(BasePyTorchClassifier(model), DataLoader(TensorDataset(x, y), batch_size=len(x)))
        return torch.cat([part for part, _ in loader])

    return run


def attacks(norm: str, passes: int) -> dict[str, Callable[[], Run]]:
    """The peers' attacks of a norm, within so many passes. Foolbox's Brendel-Bethge is not among them: its start alone takes
    over a thousand."""
    p, steps = P[norm], passes // 2
    classes = 9  # FAB takes a gradient of every other class, and two forward passes, a step
    made: dict[str, Callable[[], Run]] = {
        "adv-lib-fmn": lambda: advlib("fmn", norm=p, steps=steps),
        "adv-lib-pdpgd": lambda: advlib("pdpgd", norm=p, num_steps=steps),
        "foolbox-fmn": lambda: foolbox({"linf": "LInf", "l2": "L2", "l1": "L1", "l0": "L0"}[norm] + "FMNAttack", steps=steps),
        "secml-fmn": lambda: secml(norm, steps),
    }
    if norm != "l0":
        made["adv-lib-fab"] = lambda: advlib("fab", norm=p, n_iter=max(1, passes // (classes + 2)))
    if norm in ("l2", "l1"):
        made["adv-lib-alma"] = lambda: advlib("alma", distance=norm, num_steps=steps)
    if norm == "l2":
        made |= {
            "adv-lib-ddn": lambda: advlib("ddn", steps=steps),
            "adv-lib-pdgd": lambda: advlib("pdgd", num_steps=steps),
            "adv-lib-sdf": lambda: advlib("sdf", steps=100),
            "adv-lib-df": lambda: advlib("df", norm=2, steps=50),
            "foolbox-ddn": lambda: foolbox("DDNAttack", steps=steps),
            "foolbox-cw": lambda: foolbox("L2CarliniWagnerAttack", binary_search_steps=5, steps=max(1, steps // 5)),
        }
    if norm == "linf":
        made["adv-lib-df"] = lambda: advlib("df", norm=math.inf, steps=50)
        made["foolbox-deepfool"] = lambda: foolbox("LinfDeepFoolAttack", steps=50)
    if norm == "l1":
        made["foolbox-ead"] = lambda: foolbox("EADAttack", binary_search_steps=5, steps=max(1, steps // 5))
    if norm == "l0":
        made["adv-lib-sigma-zero"] = lambda: advlib("sigma_zero", num_steps=steps)
        made["adv-lib-vfga"] = lambda: advlib("vfga", targeted=False, max_iter=max(1, passes // 22))  # 20 samples a step
    return made


def distances(norm: str, model, x: Tensor, adversarial: Tensor, y: Tensor) -> list[float]:
    """Of the points that the model itself gets wrong, inside the box; inf elsewhere."""
    with torch.no_grad():
        wrong = model(adversarial).argmax(1) != y
    inside = ((adversarial >= 0) & (adversarial <= 1)).flatten(1).all(1)
    delta = (adversarial.double() - x.double()).flatten(1)
    size = (delta != 0).sum(1).double() if norm == "l0" else delta.norm(P[norm], dim=1)
    return torch.where(wrong & inside, size, math.inf).tolist()


def main(name: str, norm: str, passes: str, n: str) -> None:
    model, x, y = case(name, int(n))
    found: dict[str, dict] = {}
    for who, make in attacks(norm, int(passes)).items():
        torch.manual_seed(0)
        counted = Counted(model.eval())
        started = time.process_time()
        try:
            adversarial = make()(counted, x.clone(), y.clone()).detach().float()
        except Exception as error:  # a peer's failure is a result
            found[who] = {"failed": f"{type(error).__name__}: {error}"[:200]}
            continue
        found[who] = {
            "distances": [round(d, 6) for d in distances(norm, model, x, adversarial, y)],
            "passes": (counted.forwards + counted.backwards) / len(x),
            "processor_seconds": round(time.process_time() - started, 2),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
