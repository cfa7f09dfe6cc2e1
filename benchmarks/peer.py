"""One attack of a peer library on one case, in the peers' own environment: prints seconds and what was broken as JSON.

.peers/bin/python -m benchmarks.peer PEER ATTACK CASE EPSILON N
"""

from __future__ import annotations

import json
import sys
import time
import types
import warnings
from importlib.machinery import ModuleSpec

warnings.filterwarnings("ignore")
for missing in ("torchvision", "torchvision.models", "visdom"):  # imported by peers, not needed for what is timed
    sys.modules[missing] = types.ModuleType(missing)
    sys.modules[missing].__spec__ = ModuleSpec(missing, None)
sys.modules["torchvision"].models = sys.modules["torchvision.models"]
sys.modules["visdom"].Visdom = object

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.cases import case  # noqa: E402


class Counted(nn.Module):
    """Counts forward and backward passes of examples."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x):
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._count)
        return self.model(x)

    def _count(self, gradient):
        self.backwards += len(gradient)


def run(peer: str, attack: str, model: nn.Module, x, y, epsilon: float):
    """x_adv of one attack; PGD takes 40 steps of epsilon / 10 from a random start."""
    step = epsilon / 10
    match peer, attack:
        case "torchattacks", "pgd40":
            import torchattacks

            return torchattacks.PGD(model, eps=epsilon, alpha=step, steps=40)(x, y)
        case "adv-lib", "pgd40":
            import adv_lib.attacks

            return adv_lib.attacks.pgd_linf(
                model, x, y, ε=epsilon, steps=40, absolute_step_size=step, random_init=True, loss_function="ce"
            )
        case "foolbox", "pgd40":
            import foolbox

            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
            return foolbox.attacks.LinfPGD(steps=40, abs_stepsize=step, random_start=True)(wrapped, x, y, epsilons=epsilon)[1]
        case "cleverhans", "pgd40":
            from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent as pgd

            return pgd(model, x, epsilon, step, 40, float("inf"), clip_min=0.0, clip_max=1.0, y=y, sanity_checks=False)
        case "art", "pgd40":
            from art.attacks.evasion import ProjectedGradientDescent
            from art.estimators.classification import PyTorchClassifier

            wrapped = PyTorchClassifier(
                model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1), device_type="cpu"
            )
            made = ProjectedGradientDescent(
                wrapped, eps=epsilon, eps_step=step, max_iter=40, batch_size=128, num_random_init=1, verbose=False
            )
            return torch.tensor(made.generate(x.numpy(), y.numpy()))
        case "foolbox", "cw" | "deepfool":
            import foolbox

            options = {"cw": {"binary_search_steps": 5, "steps": 200}, "deepfool": {"steps": 50}}[attack]
            made = {"cw": foolbox.attacks.L2CarliniWagnerAttack, "deepfool": foolbox.attacks.L2DeepFoolAttack}[attack](**options)
            return made(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=None)[1]
        case "adv-lib", "cw":
            import adv_lib.attacks

            return adv_lib.attacks.carlini_wagner_l2(model, x, y, max_iterations=200, binary_search_steps=5)
        case "adv-lib", "deepfool":
            import adv_lib.attacks

            return adv_lib.attacks.df(model, x, y, steps=50)
        case "torchattacks", "cw" | "deepfool":
            import torchattacks

            made = torchattacks.CW(model, c=1, steps=200) if attack == "cw" else torchattacks.DeepFool(model, steps=50)
            return made(x, y)
        case "cleverhans", "cw":
            from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2

            return carlini_wagner_l2(model, x, 10, y=y, max_iterations=200, binary_search_steps=5)
        case "torchattacks", "square":
            import torchattacks

            return torchattacks.Square(model, eps=epsilon, n_queries=5000)(x, y)
        case "autoattack", "square":
            from pyautoattack.square import SquareAttack

            made = SquareAttack(model, norm="Linf", eps=epsilon, n_queries=5000, resc_schedule=False, device="cpu")
            return made.perturb(x, y)
        case "autoattack", _:
            from pyautoattack import AutoAttack

            only = None if attack == "standard" else [attack]
            made = AutoAttack(model, norm="Linf", eps=epsilon, version="custom" if only else "standard", device="cpu", seed=0)
            if only:
                made.attacks_to_run = only
                made.apgd.n_restarts = 1
            out = made.run_standard_evaluation(x, y, batch_size=500)
            return out[0] if isinstance(out, tuple) else out
    raise SystemExit(f"no such peer and attack: {peer} {attack}")


def main(peer: str, attack: str, name: str, epsilon: str, n: str) -> None:
    torch.manual_seed(0)
    model, x, y = case(name, int(n))
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # as a loaded model comes
    counted = Counted(model.eval())
    started = time.perf_counter()
    adversarial = run(peer, attack, counted, x.clone(), y.clone(), float(epsilon)).detach().float()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        broken = model(adversarial).argmax(1) != y
    facts = {
        "seconds": seconds,
        "broken": int(broken.sum()),
        "n": len(x),
        "forwards": counted.forwards,
        "backwards": counted.backwards,
        "farthest": float((adversarial - x).abs().max()),
        "median_l2": float((adversarial - x).flatten(1).norm(dim=1).masked_fill(~broken, float("inf")).median()),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
