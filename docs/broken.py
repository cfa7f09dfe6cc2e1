"""docs/broken.md: six defences that are known to fall, each shown safe to a naive attack and broken by an adaptive one.

    python -m docs.broken             every defence anew (minutes), then the page
    python -m docs.broken kwta        one of them

What was measured is kept in docs/broken.json. Everything is trained here, in seconds, on the embedded digits.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import mohs
from mohs.attacks import DDN, PGD, DeepFool, RayS
from mohs.attacks.base import Attack
from mohs.data import load_digits
from mohs.defend import Defence, DefenseGAN, ResizePad, Thermometer, feature_squeezing, fit_generator, swap_relus
from mohs.demo import DigitNet
from mohs.losses import cross_entropy
from mohs.models import Model, TorchModel
from mohs.models.cpu import threads
from mohs.rng import Stream

FOLDER = Path(__file__).parent
MEASURED, PAGE = FOLDER / "broken.json", FOLDER / "broken.md"
PLAIN = PGD(steps=40, step_size=0.1, loss=cross_entropy)
LABELS = RayS(queries=500)
Loss = Callable[[Tensor, Tensor], Tensor]  # the rows of the training data, their logits -> a number


@dataclass(frozen=True)
class Share:
    """Accuracy left by an attack."""

    attack: str
    left: float


@dataclass(frozen=True)
class Shown:
    """clean: accuracy behind the defence. naive, adaptive: what attacks leave, of n examples at the threat."""

    clean: float
    n: int
    threat: str
    naive: Share
    adaptive: list[Share]


@dataclass(frozen=True)
class Case:
    """show(n): the defence trained and attacked on n digits."""

    title: str
    paper: str
    show: Callable[[int], Shown]
    why: str
    n: int = 64


def digits(n: int) -> tuple[Tensor, Tensor]:
    x, y = load_digits("test")
    return x[:n], y[:n]


def fit(
    net: nn.Module, *, loss: Loss | None = None, epochs: int = 12, sees: Callable[[Tensor], Tensor] = lambda x: x
) -> nn.Module:
    """The net trained on the digits as it `sees` them; by cross-entropy unless said."""
    x, y = load_digits("train")
    steps = epochs * -(-len(x) // 64)
    with threads(1), torch.random.fork_rng():
        torch.manual_seed(0)
        for part in net.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.reset_parameters()
        adam = torch.optim.Adam(net.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(64):
                adam.zero_grad()
                z = net(sees(x[rows]))
                (functional.cross_entropy(z, y[rows]) if loss is None else loss(rows, z)).backward()
                adam.step()
                schedule.step()
    return net.eval()


class Undeclared(nn.Module):
    """A defence as a naive attack meets it: its code passes no gradient on."""

    def __init__(self, defence: Defence) -> None:
        super().__init__()
        self.defence = defence

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.defence.logits(x.detach())
        return z + 0 * x.flatten(1).sum(1, keepdim=True)


def undeclared(defence: Defence) -> Model:
    return TorchModel(Undeclared(defence).eval(), classes=10, random=defence.random, example=digits(2)[0])


def left(name: str, attack: Attack, model: Model, x: Tensor, y: Tensor, threat: str, draws: int = 1) -> Share:
    outcome = attack(model, x, y, threat=threat, draws=draws)
    return Share(name, 1 - float(outcome.broken.double().mean()))


def audited(model: Model, x: Tensor, y: Tensor, threat: str) -> Share:
    return Share(
        "`mohs audit`, profile quick", mohs.audit(model, (x, y), threats=[threat], profile="quick").robust_accuracy[threat]
    )


@torch.no_grad()
def accuracy(model: Model, x: Tensor, y: Tensor, draws: int = 20) -> float:
    """Over draws of a random model."""
    drawn = [model.drawn(Stream.of(k, torch.arange(len(x)))) for k in range(draws if model.random else 1)]
    return float(torch.stack([(one.logits(x).argmax(1) == y).double().mean() for one in drawn]).mean())


# the defences


def distillation(n: int, temperature: float = 100.0, epochs: int = 20) -> Shown:
    x, y = load_digits("train")
    teacher = fit(DigitNet(), loss=lambda rows, z: functional.cross_entropy(z / temperature, y[rows]), epochs=epochs)
    with torch.no_grad():
        soft = (teacher(x) / temperature).softmax(1)
    student = fit(DigitNet(), loss=lambda rows, z: functional.cross_entropy(z / temperature, soft[rows]), epochs=epochs)
    model, threat, (x, y) = TorchModel(student, classes=10), "linf:0.2", digits(n)
    naive = left("PGD, 40 steps on the cross-entropy", PLAIN, model, x, y, threat)
    return Shown(
        accuracy(model, x, y), n, threat, naive, [audited(model, x, y, threat), left("RayS, labels", LABELS, model, x, y, threat)]
    )


def thermometer(n: int, levels: int = 16) -> Shown:
    net = nn.Sequential(nn.Conv2d(levels, 32, 3, padding=1), *DigitNet().layers[1:])
    model = Thermometer(TorchModel(net, classes=10), levels=levels)
    fit(net, sees=lambda x: model.transform(x, Stream(torch.zeros(len(x), dtype=torch.int64))))
    threat, (x, y) = "linf:0.2", digits(n)
    naive = left("PGD, 40 steps, by the gradient that torch gives", PLAIN, undeclared(model), x, y, threat)
    adaptive = [audited(model, x, y, threat), left("RayS, labels", LABELS, model, x, y, threat)]
    return Shown(accuracy(model, x, y), n, threat, naive, adaptive)


def squeezing(n: int) -> Shown:
    net = DigitNet()
    model = feature_squeezing(TorchModel(net, classes=10), bits=3, window=2)
    inner = model.model
    assert isinstance(inner, Defence)
    none = Stream(torch.zeros(1, dtype=torch.int64))
    fit(net, sees=lambda x: inner.transform(model.transform(x, none), none))
    threat, (x, y) = "linf:0.2", digits(n)
    naive = left("PGD, 40 steps, by the gradient that torch gives", PLAIN, undeclared(model), x, y, threat)
    adaptive = [audited(model, x, y, threat), left("RayS, labels", LABELS, model, x, y, threat)]
    return Shown(accuracy(model, x, y), n, threat, naive, adaptive)


def kwta(n: int, ratio: float = 0.1, epochs: int = 20) -> Shown:
    model = TorchModel(fit(swap_relus(DigitNet(), ratio), epochs=epochs), classes=10)
    threat, (x, y) = "linf:0.2", digits(n)
    naive = left("DeepFool, which follows the slope to the nearest boundary", DeepFool(), model, x, y, threat)
    adaptive = [audited(model, x, y, threat), left("RayS, labels", LABELS, model, x, y, threat)]
    return Shown(accuracy(model, x, y), n, threat, naive, adaptive)


class Roomy(nn.Module):
    """A network for 12 x 12; smaller images stand in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(576, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.layers(functional.pad(x, ((12 - x.shape[-1]) // 2,) * 4))
        return z


def resize(n: int, epochs: int = 30) -> Shown:
    net = Roomy()
    bare = TorchModel(net, classes=10)
    model = ResizePad(bare, smallest=8, size=12)
    fit(net, epochs=epochs, sees=lambda x: model.transform(x, Stream(torch.randint(2**62, (len(x),)))))
    threat, (x, y) = "l2:1", digits(n)
    made = DDN()(bare, x, y, threat="l2:inf").adversarial
    naive = Share("DDN on the network alone, judged behind the defence", accuracy(model, made, y))
    eot = left("PGD, 20 steps, 8 draws averaged (EOT)", PGD(steps=20, step_size=0.15), model, x, y, threat, draws=8)
    return Shown(accuracy(model, x, y), n, threat, naive, [eot])


def defense_gan(n: int, restarts: int = 4, steps: int = 50, training: int = 300) -> Shown:
    generator = fit_generator(load_digits("train")[0], steps=training)
    model = DefenseGAN(TorchModel(fit(DigitNet()), classes=10), generator, restarts=restarts, steps=steps)
    threat, (x, y) = "linf:0.3", digits(n)
    attack = PGD(steps=10, step_size=0.25)
    naive = left("PGD, 10 steps, by the gradient that torch gives", attack, undeclared(model), x, y, threat)
    bpda = left("PGD, 10 steps, through the projection as the identity (BPDA)", attack, model, x, y, threat, draws=2)
    return Shown(accuracy(model, x, y), n, threat, naive, [bpda])


CASES = {
    "distillation": Case(
        "Defensive distillation",
        "Papernot et al., S&P 2016, arXiv:1511.04508; broken by Carlini & Wagner, S&P 2017, arXiv:1608.04644",
        distillation,
        "Trained at temperature 100 and deployed at 1, the network has logits a hundred times as large. Its softmax is 1 "
        "and 0 to the last bit of float32, and the cross-entropy has a gradient of exactly zero: the attack does not "
        "move. A loss of the logits' differences does not know the scale, and the boundary lies where it lay.",
    ),
    "thermometer": Case(
        "Thermometer encoding",
        "Buckman et al., ICLR 2018; broken by Athalye, Carlini, Wagner, ICML 2018, arXiv:1802.00420",
        thermometer,
        "The code is made of steps, which have no slope: torch's gradient is zero. With a ramp in place of the steps in "
        "the backward pass alone (BPDA) the gradient of the network behind reaches the pixels. Labels alone do, too: "
        "nothing was hard, it was only hidden.",
    ),
    "squeezing": Case(
        "Feature squeezing",
        "Xu, Evans, Qi, NDSS 2018, arXiv:1704.01155; broken by He et al., WOOT 2017, arXiv:1706.04701",
        squeezing,
        "Rounding has no slope. It moves an entry by half a level at most, so that its backward pass is well replaced by "
        "the identity; the median's is exact. A larger change than half a level passes the rounding as if it were not "
        "there.",
    ),
    "kwta": Case(
        "k-winners-take-all",
        "Xiao, Zhong, Zheng, ICLR 2020, arXiv:1905.10510; broken by Tramer et al., NeurIPS 2020, arXiv:2002.08347",
        kwta,
        "The gradient is exact and ends a hair's breadth away, where other units win: an attack that trusts the slope as "
        "far as the boundary arrives nowhere. Steps as large as the budget see the trend beneath the jumps, and scores or "
        "labels do not ask for a slope.",
    ),
    "resize": Case(
        "Random resizing and padding",
        "Xie et al., ICLR 2018, arXiv:1711.01991; broken by Athalye, Carlini, Wagner, ICML 2018, arXiv:1802.00420",
        resize,
        "The nearest change that fools the network in one place, at one size, misses in another: what was saved is only "
        "from an adversary who does not know. The average over draws has a slope, and a change that is no larger than the "
        "budget fools most of them. A hit counts where at least half of 100 fresh draws are fooled.",
    ),
    "defense-gan": Case(
        "Defense-GAN",
        "Samangouei, Kabkab, Chellappa, ICLR 2018, arXiv:1805.06605; broken by Athalye et al., ICML 2018, arXiv:1802.00420",
        defense_gan,
        "The projection is a search, which torch cannot look through. An image of the generator is its own projection, so "
        "that the identity stands for it in the backward pass. On digits the generator makes of an attacked image one "
        "that lies near it, and so of another class; the authors of the break report 45% on MNIST: of the six, this one "
        "costs an adversary most.",
        n=32,
    ),
}  # fmt: skip


# the page


def measure(name: str) -> dict[str, Any]:
    case, started = CASES[name], time.process_time()
    shown = case.show(case.n)
    return {
        "clean": shown.clean,
        "n": shown.n,
        "threat": shown.threat,
        "naive": vars(shown.naive),
        "adaptive": [vars(share) for share in shown.adaptive],
        "seconds": round(time.process_time() - started, 1),
    }


def page(measured: dict[str, dict[str, Any]]) -> str:
    lines = [
        "<!-- written by `python -m docs.broken`: edit docs/broken.py -->",
        "# Broken defences, shown broken",
        "",
        "Each of these was published as a defence and fell. A naive attack reports safety, an adaptive one does not. All were",
        "trained on the embedded digits; accuracies are those left on held-out ones. Raw: [broken.json](broken.json).",
        "For a model of your own: `mohs defend MODEL --with jpeg:75 --data DATA --audit --threat linf:8/255`.",
        "",
        "| defence | threat | n | clean | naive | adaptive |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in measured.items():
        least = min(share["left"] for share in found["adaptive"])
        row = (
            f"[{CASES[name].title}](#{name})",
            f"`{found['threat']}`",
            str(found["n"]),
            *map(_percent, (found["clean"], found["naive"]["left"], least)),
        )
        lines.append(f"| {' | '.join(row)} |")
    for name, found in measured.items():
        case = CASES[name]
        lines += [
            "",
            f'<a id="{name}"></a>',
            f"## {case.title}",
            "",
            f"{case.paper}.",
            "",
            case.why,
            "",
            "| attack | accuracy left |",
            "|---|---|",
        ]
        lines += [
            f"| none | {_percent(found['clean'])} |",
            f"| naive: {found['naive']['attack']} | {_percent(found['naive']['left'])} |",
        ]
        lines += [f"| adaptive: {share['attack']} | {_percent(share['left'])} |" for share in found["adaptive"]]
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    for name in names or CASES:
        measured[name] = measure(name)
        print(name, measured[name], flush=True)
        measured = {known: measured[known] for known in CASES if known in measured}
        MEASURED.write_text(json.dumps(measured, indent=1) + "\n")
    PAGE.write_text(page(measured))


if __name__ == "__main__":
    main(sys.argv[1:])
