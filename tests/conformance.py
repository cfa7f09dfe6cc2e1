"""One row an attack: its small settings and where it is tried. `test_conformance.py` puts every row to every check.

A new attack is one row in ROWS. What the rows share is made here: a convolution of fixed weights on 3 x 8 x 8 images, a
linear model whose nearest adversarial points are known, and one cached run of every (attack, threat).
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from mohs.aim import Aim
from mohs.attacks import find
from mohs.attacks.base import Attack
from mohs.ledger import Outcome
from mohs.models import Guide, Judge, Prepared, TorchModel, prepare
from mohs.models.autoencoder import Autoencoder, fit_autoencoder
from mohs.models.ensemble import surrogate
from mohs.oracle import Oracle
from mohs.threat import Goal, ManifoldThreat, Threat, Untargeted, parse_goal, parse_threat

CLASSES = 6

UNTARGETED = ("untargeted", "confidence:0.3", "topk:2")
TARGETED = ("targeted:2", "targeted:least-likely", "source-target:3->1")
GOALS = UNTARGETED + TARGETED

BUDGETS = {
    "linf": "linf:0.03",
    "l2": "l2:0.25",
    "l1": "l1:2",
    "l0": "l0:6",
    "spatial": "rotation:30deg+translation:2px",
    "semantic": "hue:0.1+saturation:0.5+brightness:0.2+contrast:0.5",
    "flow": "flow:0.2",
    "recolor": "recolor:0.1",
    "wasserstein": "wasserstein:0.05",
    "perceptual": "perceptual:0.4",
    "manifold": "manifold:1.5",
    "patch": "patch:2x2+turn:20deg+scale:0.75-1.25",
    "composite": "hue:0.05+flow:0.05+linf:0.01",
}
FREE = {kind: f"{kind}:inf" for kind in ("linf", "l2", "l1", "l0", "flow", "recolor", "wasserstein", "perceptual", "manifold")}
WIDE = {  # every goal is within reach
    "linf": "linf:0.15",
    "l2": "l2:1.5",
    "l1": "l1:12",
    "l0": "l0:30",
    "spatial": "rotation:180deg+translation:6px",
    "semantic": "hue:0.5+saturation:3+brightness:1+contrast:3",
    "flow": "flow:1",
    "recolor": "recolor:0.5",
    "wasserstein": "wasserstein:0.5",
    "perceptual": "perceptual:1.5",
    "patch": "patch:8x8",
    "manifold": "manifold:6",
    "composite": "rotation:180deg+translation:6px+linf:0.1",
}
REACH: dict[str, Tensor] = {  # of the parameters of the transformations in BUDGETS, at epsilon 1
    "spatial": torch.tensor([30.0, 2.0, 2.0]),
    "semantic": torch.tensor([0.1, 0.5, 0.2, 0.5]),
    "flow": torch.tensor([4.0]).expand(2, 8, 8),
    "manifold": torch.ones(10),
    "recolor": torch.tensor([1.0]).expand(3, 16, 32, 32),
}


@dataclass(frozen=True)
class Row:
    """options: small settings. threats: where it runs. optimum: how many times the closed-form distance of a linear model it
    needs, by norm, with the settings `enough` besides; transformations have closed forms of their own in test_transforms.py.
    refuses: goals it declines by Refused. after: the attack whose successes it starts from. later: it draws in tries after the
    first alone. copies: its gradients are those of copies of the model, one forward pass each. traced: rows that go through the
    model while it is read, which no ledger counts."""

    options: dict[str, object]
    threats: tuple[str, ...]
    optimum: dict[str, float]
    refuses: tuple[str, ...] = ()
    after: tuple[str, dict[str, object]] | None = None
    enough: dict[str, object] = field(default_factory=dict)
    later: bool = False
    copies: bool = False
    traced: int = 0


def budgets(*norms: str) -> tuple[str, ...]:
    return tuple(BUDGETS[norm] for norm in norms)


def free(*norms: str) -> tuple[str, ...]:
    return tuple(FREE[norm] for norm in norms)


EXACT = 1 + 1e-4
ALL = ("linf", "l2", "l1", "l0")
OTHERS = ("spatial", "semantic", "flow", "recolor", "wasserstein", "perceptual", "patch", "manifold", "composite")

ROWS: dict[str, Row] = {
    "fgsm": Row({}, budgets(*ALL), dict.fromkeys(ALL, EXACT)),
    "bim": Row({"steps": 10}, budgets(*ALL, *OTHERS), dict.fromkeys(ALL, EXACT)),
    "pgd": Row(
        {"steps": 20},
        budgets(*ALL, *OTHERS),
        {"linf": EXACT, "l2": 1.1, "l1": 1.05, "l0": 4.0},
    ),
    "apgd": Row({"steps": 20}, budgets("linf", "l2", "l1"), {"linf": EXACT, "l2": 1.01, "l1": 1.3}),
    "apgd-t": Row({"steps": 20, "targets": 3}, budgets("linf", "l2", "l1"), {"linf": EXACT, "l2": 1.01, "l1": 1.3}),
    "fab": Row({"steps": 20}, (*free("linf", "l2", "l1"), "l2:0.25"), {"linf": 1.01, "l2": 1.01, "l1": 1.01}, later=True),
    "fab-t": Row(
        {"steps": 20, "targets": 3}, (*free("linf", "l2", "l1"), "l2:0.25"), {"linf": 1.01, "l2": 1.01, "l1": 1.01}, later=True
    ),
    "square": Row({"queries": 150, "rescale_schedule": True}, budgets("linf", "l2", "l1"), {"linf": 1.5, "l2": 2.5, "l1": 3.0}),
    "deepfool": Row({}, (*free("linf", "l2"), "l2:0.25"), {"linf": 1.02 * EXACT, "l2": 1.02 * EXACT}),
    "mi-fgsm": Row({}, budgets("linf", "l2"), dict.fromkeys(("linf", "l2"), EXACT)),
    "ni-fgsm": Row({}, budgets("linf"), {"linf": EXACT}),
    "acg": Row({"steps": 20}, budgets("linf", "l2"), {"linf": EXACT, "l2": 1.05}),
    "pgd-optimizer": Row({"steps": 20}, budgets("linf", "l2", "l1"), {"linf": EXACT, "l2": 1.3, "l1": 3.0}),
    "jitter": Row({"steps": 20, "scale": 3.0}, budgets("linf", "l2"), {"linf": EXACT, "l2": 1.1}),
    "gama": Row({"steps": 20}, budgets("linf"), {"linf": EXACT}),
    "anneal-flip": Row(
        {"steps": 15, "starts": 3, "targets": 2, "rounds": 2, "entries": 40, "together": 4},
        budgets("linf"),
        {"linf": EXACT},
    ),
    "slide": Row({"steps": 30}, budgets("l1"), {"l1": 1.05}),
    "pgd-l0": Row({"steps": 30}, budgets("l0"), {"l0": 3.0}),
    "sparse-rs": Row({"queries": 200}, budgets("l0"), {"l0": 4.0}),
    "di-fgsm": Row({}, budgets("linf", "l2"), {"linf": 4.0, "l2": 4.0}),
    "ti-fgsm": Row({"kernel": 3}, budgets("linf", "l2"), {"linf": 4.0, "l2": 4.0}),
    "si-fgsm": Row({"scales": 3}, budgets("linf"), {"linf": EXACT}),
    "vmi-fgsm": Row({"neighbours": 4}, budgets("linf", "l2"), dict.fromkeys(("linf", "l2"), EXACT)),
    "vni-fgsm": Row({"neighbours": 4}, budgets("linf"), {"linf": EXACT}),
    "from-bound": Row({"steps": 25, "targets": 2}, budgets("linf", "l2", "l1"), {"linf": EXACT, "l2": 1.1, "l1": 1.1}, traced=4),
    "noisy-copies": Row(
        {"steps": 25, "copies": 2}, budgets("linf", "l2", "l1"), {"linf": EXACT, "l2": 1.1, "l1": 1.1}, copies=True
    ),
    "cw": Row({"search_steps": 5, "steps": 60, "initial_const": 0.1}, (*free("l2"), "l2:0.25"), {"l2": 1.03}),
    "cw-linf": Row({"steps": 40, "initial_const": 0.01, "iterations": 250}, (*free("linf"), "linf:0.03"), {"linf": 1.15}),
    "cw-l0": Row({"steps": 20, "initial_const": 0.1, "iterations": 250}, (*free("l0"), "l0:20"), {"l0": 2.0}),
    "ead": Row(
        {"search_steps": 4, "steps": 40, "initial_const": 0.1, "beta": 0.02},
        (*free("l1"), "l1:2"),
        {"l1": 1.1},
        enough={"search_steps": 5, "steps": 60},
    ),
    "lbfgs": Row(
        {"search_steps": 3, "steps": 8, "initial_const": 1.0},
        (*free("l2"), "l2:0.4"),
        {"l2": 1.5},
        enough={"search_steps": 6, "steps": 12},
    ),
    "jsma": Row({"gamma": 0.5}, (*free("l0"), "l0:20"), {"l0": 2.0}),
    "superdeepfool": Row({}, (*free("l2"), "l2:0.25"), {"l2": 1.001}),
    "ddn": Row({"steps": 60}, (*free("l2"), "l2:0.25"), {"l2": 1.01}),
    "fmn": Row({"steps": 60}, (*free(*ALL), "l2:0.25"), {"linf": 1.01, "l2": 1.01, "l1": 1.05, "l0": 2.0}),
    "alma": Row({"steps": 100, "alpha": 0.5}, (*free("l2", "l1"), "l2:0.25"), {"l2": 1.1, "l1": 1.5}, enough={"steps": 200}),
    "squeeze": Row(
        {"rounds": 3, "steps": 6, "targets": 2, "gap": 0.5},
        free("linf", "l2"),
        {"linf": 1.03, "l2": 1.1},
        after=("bim", {"steps": 10, "step_size": 0.3}),
        enough={"rounds": 10, "steps": 12},
    ),
    "sigma-zero": Row({"steps": 60}, (*free("l0"), "l0:6"), {"l0": 2.0}),
    "pdpgd": Row({"steps": 40}, free(*ALL), {"linf": 1.1, "l2": 1.1, "l1": 1.1, "l0": 14.0}, enough={"steps": 200}),
    "brendel-bethge": Row(
        {"steps": 20, "decays": 6, "radius": 0.1, "ascents": 0, "starts": 3},
        (*free(*ALL), "l2:0.25"),
        {"linf": 1.01, "l2": 1.01, "l1": 1.01, "l0": 2.0},
        enough={"steps": 40},
    ),
    "bisection": Row(
        {"steps": 12},
        (
            *free(*ALL, "flow", "recolor", "wasserstein", "perceptual", "manifold"),
            *budgets("spatial", "semantic", "patch", "composite"),
        ),
        {"linf": 1.001, "l2": 1.001, "l1": 1.001, "l0": 2.0},
        after=("bim", {"steps": 10, "step_size": 0.3}),
    ),
    "spatial-grid": Row({"angles": 7, "shifts": 3}, budgets("spatial"), {}),
    "worst-of-k": Row({"k": 15}, budgets("spatial", "semantic"), {}),
    "stadv": Row({"steps": 15}, (*free("flow"), "flow:0.2"), {}),
    "adversarial-patch": Row({"steps": 25, "places": 5}, budgets("patch"), {}),
    "on-manifold": Row({"restarts": 1, "rate": 0.1}, budgets("manifold"), {}),
    "ppgd": Row({}, budgets("perceptual"), {}),
    "lpa": Row({"steps": 8, "searches": 3}, budgets("perceptual"), {}),
    "fast-lpa": Row({}, budgets("perceptual"), {}),
    "recoloradv": Row({"steps": 30, "rate": 0.01, "smooth": 0.001}, budgets("recolor"), {}),
    "wasserstein-sinkhorn": Row({"steps": 6, "inner": 20}, budgets("wasserstein"), {}),
    "wasserstein-dual": Row({"steps": 20}, budgets("wasserstein"), {}),
    "wasserstein-frank-wolfe": Row({"steps": 20}, budgets("wasserstein"), {}),
    "nes": Row({"steps": 12, "samples": 20, "sigma": 0.01}, budgets("linf", "l2"), {"linf": 1.5, "l2": 2.0}),
    "spsa": Row({"steps": 20, "samples": 20}, budgets("linf", "l2"), {"linf": 1.5, "l2": 2.0}),
    "simba": Row({"queries": 150}, budgets("l2", "linf"), {"l2": 2.0, "linf": 1.1}),
    "simba-dct": Row({"queries": 150}, budgets("l2", "linf"), {"l2": 2.0, "linf": 2.5}),
    "parsimonious": Row({"queries": 200, "batch": 16}, budgets("linf"), {"linf": 1.1}),
    "bandits": Row({"steps": 80, "tile": 1}, budgets("linf", "l2"), {"linf": 2.0, "l2": 3.0}),
    "zoo": Row(
        {"search_steps": 3, "steps": 20, "coordinates": 24, "learning_rate": 0.03, "initial_const": 0.5},
        (*free("l2"), "l2:0.25"),
        {"l2": 1.6},
    ),
    "one-pixel": Row({"population": 20, "generations": 15}, budgets("l0"), {"l0": 4.0}),
    "gen-attack": Row({"steps": 40, "patience": 5}, budgets("linf"), {"linf": 4.0}),
    "hybrid": Row({"queries": 150, "steps": 10}, budgets("linf", "l2"), {"linf": 1.5, "l2": 2.5}),
    "hybrid-label": Row({"queries": 300, "steps": 10}, (BUDGETS["linf"], "l2:0.4"), {"linf": 1.5, "l2": 1.5}),
    "hop-skip-jump": Row({"queries": 300, "probes": 30}, (*free("l2", "linf"), "l2:0.25"), {"l2": 1.3, "linf": 1.5}),
    "qeba": Row({"queries": 400, "probes": 30, "reduction": 1.0}, (*free("l2", "linf"), "l2:0.25"), {"l2": 1.3, "linf": 1.5}),
    "geoda": Row({"queries": 300, "part": 1.0}, (*free("l2", "linf"), "l2:0.25"), {"l2": 1.2, "linf": 1.2}),
    "surfree": Row({"queries": 150, "orthogonal": 20, "part": 1.0}, (*free("l2"), "l2:1"), {"l2": 3.0}, enough={"queries": 300}),
    "boundary": Row({"queries": 250, "spherical": 0.1, "source": 0.05}, (*free("l2"), "l2:0.6"), {"l2": 2.5}),
    "opt": Row({"queries": 200, "probes": 4}, (*free("l2"), "l2:3"), {"l2": 3.0}, enough={"queries": 400}),
    "sign-opt": Row({"queries": 150, "probes": 30}, (*free("l2"), "l2:0.6"), {"l2": 1.5}, enough={"queries": 300}),
    "rays": Row({"queries": 200}, (*free("linf"), "linf:0.1"), {"linf": 1.5}),
    "pointwise": Row({"queries": 150, "starts": 10}, (*free("l0"), "l0:20"), {"l0": 2.0}),
}


def row(name: str) -> Row:
    assert name in ROWS, f"the attack {name} has no row in tests/conformance.py: add one"
    return ROWS[name]


def attack(name: str, **options: object) -> Attack:
    return find(name)(**{**row(name).options, **options})  # type: ignore[arg-type]


# models and examples


def frozen_module(seed: int = 1) -> nn.Module:
    """Convolutions with batch norm, 3 x 8 x 8 to 6 classes; the weights are drawn from `seed`, and torch's own generator is
    left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, CLASSES),
        ).eval()
    last = module[-1]
    with torch.no_grad():
        z = module(_images(64))
        last.bias.sub_(z.mean(0))
        last.weight.mul_(3 / (z - z.mean(0)).std())
        last.bias.mul_(3 / (z - z.mean(0)).std())
    return module


def _images(n: int) -> Tensor:
    """Smooth images on the grid of 8 bits."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return (nn.functional.interpolate(coarse, size=8, mode="bilinear") * 255).round() / 255


@functools.cache
def manifold() -> Autoencoder:
    return fit_autoencoder(_images(64), (0.0, 1.0), steps=300)


@dataclass(frozen=True)
class World:
    """A model and examples that it classifies as y, but for the last, whose label is wrong."""

    module: nn.Module
    prepared: Prepared
    x: Tensor
    y: Tensor
    ids: Tensor = field(default_factory=lambda: torch.tensor([5, 17, 2, 900, 31, 8, 77, 41, 3, 12, 60, 25]))

    @property
    def reference(self) -> Tensor:
        """Clean logits."""
        with torch.no_grad():
            return self.module(self.x)  # type: ignore[no-any-return]

    @property
    def aim(self) -> Aim:
        return Aim(self.y, reference=self.reference)

    @property
    def clean(self) -> Tensor:
        """[rows] bool: classified rightly."""
        return torch.arange(len(self.y)) < len(self.y) - 1

    def take(self, rows: Tensor) -> World:
        return replace(self, x=self.x[rows], y=self.y[rows], ids=self.ids[rows])


@functools.cache
def world() -> World:
    module = frozen_module()
    x = _images(12)
    with torch.no_grad():
        y = module(x).argmax(1)
    y[-1] = (y[-1] + 1) % CLASSES
    prepared = prepare(TorchModel(module, classes=CLASSES), x, rows=16)
    return World(module, surrogate(prepared, [TorchModel(near(module), classes=CLASSES)], x), x, y)


def near(module: nn.Module) -> nn.Module:
    """A copy with other weights, by a few percent: the surrogate of attacks that start on one."""
    other = copy.deepcopy(module)
    draw = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * parameter.abs().mean() * torch.randn(parameter.shape, generator=draw))
    return other


@dataclass(frozen=True)
class Linear:
    """z_0 - z_1 = <w, x> + b is `gap` at every example; the other classes are out of reach."""

    world: World
    w: Tensor
    gap: float

    def distance(self, norm: str) -> float:
        """The least change in a norm that makes class 1 likelier than class 0, in the middle of the box."""
        size = self.w.abs()
        match norm:
            case "linf":
                return self.gap / float(size.sum())
            case "l2":
                return self.gap / float(size.square().sum().sqrt())
            case "l1":
                return self.gap / float(size.max())
        return 1.0  # l0: one entry has the room


@functools.cache
def linear() -> Linear:
    g = torch.Generator().manual_seed(3)
    weight = torch.randn(4, 36, generator=g, dtype=torch.float64) * torch.tensor([[1.0], [1.0], [0.1], [0.1]])
    w = weight[0] - weight[1]
    gap = 0.25 * float(w.abs().max())
    x = 0.5 + 0.1 * (torch.rand(6, 36, generator=g, dtype=torch.float64) - 0.5)
    bias = torch.tensor([gap - float(w.sum()) / 2, 0.0, -40.0, -40.0], dtype=torch.float64)
    x = x + ((gap - bias[0] - x @ w) / (w @ w))[:, None] * w
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).eval()
    with torch.no_grad():
        module[1].weight.copy_(weight)
        module[1].bias.copy_(bias)
    images = x.float().view(6, 1, 6, 6)
    prepared = prepare(TorchModel(module, classes=4), images, rows=16)
    prepared = surrogate(prepared, [TorchModel(near(module), classes=4)], images)
    y = torch.zeros(6, dtype=torch.long)
    return Linear(World(module, prepared, images, y, torch.arange(6)), w, gap)


class Counter(nn.Module):
    """Counts the rows that go through a module, forwards and backwards, from the moment at which `go` starts an attack."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._back)
        return self.module(x)  # type: ignore[no-any-return]

    def _back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def counted() -> tuple[World, Counter]:
    """The world around a counted module, guide and judge in one, at a quantum of one row; float64 is not counted."""
    counter = Counter(frozen_module())
    model = TorchModel(counter, classes=CLASSES)
    judge = Judge(model, 16, 1, exact=TorchModel(frozen_module().double(), classes=CLASSES))
    return replace(world(), module=counter, prepared=Prepared(judge, Guide(model, 16, 1), world().prepared.surrogate)), counter


# runs


@dataclass(frozen=True)
class Run:
    outcome: Outcome
    threat: Threat
    minimal: bool
    queries: Tensor  # the attack's own, without the look at the clean input before it


def go(
    name: str,
    w: World,
    threat: Threat | str,
    *,
    goal: Goal | str | None = None,
    seed: int = 0,
    made: Attack | None = None,
    stop: bool | None = None,
) -> Run:
    """An attack on examples of given ids; minimal ones look on after a success."""
    made = attack(name) if made is None else made
    goal = parse_goal(goal) if isinstance(goal, str) else goal or Untargeted()
    threat = (parse_threat(threat) if isinstance(threat, str) else threat).facing(w.prepared.judge.model)
    if isinstance(threat, ManifoldThreat):
        threat = threat.given(manifold())
    model = w.prepared.judge.model
    threat.check(w.x[:1])
    goal.check(model.classes)
    made.check(threat, goal, model)
    stop = not made.minimal if stop is None else stop
    oracle = Oracle.begin(w.prepared, threat, goal, w.x, w.y, ids=w.ids, seed=seed, stop=stop)
    oracle.settle_origin()
    before = row(name).after
    if before is not None:
        earlier = find(before[0])(**before[1])  # type: ignore[arg-type]
        budget = min(threat.epsilon, parse_threat(WIDE[threat.name]).epsilon)
        known = replace(threat, epsilon=budget, knowledge=earlier.knowledge)
        start = go(before[0], w, known, goal=goal, seed=seed, made=earlier).outcome
        oracle.recall(start.broken.nonzero()[:, 0], start.point[start.broken])
    if isinstance(w.module, Counter):
        w.module.forwards = w.module.backwards = 0
    asked = oracle.ledger.queries.clone()
    outcome = made.on(oracle)
    return Run(outcome, oracle.threat, made.minimal, outcome.queries - asked)


@functools.cache
def cached(name: str, threat: str) -> Run:
    """The one run of an (attack, threat) that most checks look at."""
    return go(name, world(), threat)


CASES = [(name, threat) for name, r in ROWS.items() for threat in r.threats]


# what is checked without mohs


def distance(norm: str, x: Tensor, x0: Tensor) -> Tensor:
    """[rows] float64."""
    delta = (x.double() - x0.double()).flatten(1).abs()
    match norm:
        case "linf":
            return delta.amax(1)
        case "l2":
            return delta.square().sum(1).sqrt()
        case "l1":
            return delta.sum(1)
    return (delta > 0).sum(1).double()


def spent(run: Run, x0: Tensor) -> Tensor:
    """[rows] float64: the distance of what a run ended with, in its threat's units."""
    out = run.outcome
    if run.threat.name in ALL:
        return distance(run.threat.name, out.adversarial, x0)
    if run.threat.name == "composite":
        hue = out.point[:, :4].double() / torch.tensor([0.05, *[torch.inf] * 3]).double()
        flow, change = out.point[:, 4:132].double() / (4 * 0.05), (out.point[:, 132:].double() - x0.flatten(1).double()) / 0.01
        return torch.cat([hue, flow, change], 1).abs().amax(1)
    if run.threat.name == "patch":
        turned = (out.point[:, 3].abs() <= 20) & (out.point[:, 4] >= 0.75) & (out.point[:, 4] <= 1.25)
        changed = (out.adversarial != x0).any(1).sum((1, 2))
        return torch.where(turned & (changed <= (1.25 * 2 + 1) ** 2), out.point[:, 0].double(), torch.inf)
    if run.threat.name == "perceptual":
        return (seen(out.adversarial) - seen(x0)).norm(dim=1)
    if run.threat.name == "wasserstein":
        at = torch.cartesian_prod(torch.arange(-2.0, 3), torch.arange(-2.0, 3)).double()
        costs = out.point.double().sum((2, 3, 4)) * at.square().sum(1).sqrt()
        return costs.sum(1) / x0.double().sum((1, 2, 3))
    return (out.point.double() / REACH[run.threat.name].double()).abs().flatten(1).amax(1)


@torch.no_grad()
def seen(x: Tensor) -> Tensor:
    """What the frozen module sees of inputs, at its two activations, in float64."""
    module, parts = frozen_module().double(), []
    a = x.double()
    for k, layer in enumerate(module):  # type: ignore[arg-type]
        a = layer(a)
        if k in (2, 4):
            parts.append((a / (a.norm(dim=1, keepdim=True) + 1e-10)).flatten(1) / a[0, 0].numel() ** 0.5)
    return torch.cat(parts, 1)


def reaches(goal: str, logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """[rows] bool: whether logits reach a goal, strictly, read off its definition. clean: logits of the clean inputs."""
    kind, _, value = goal.partition(":")
    own = logits.gather(1, y[:, None])
    match kind:
        case "untargeted":
            return (logits > own).any(1)
        case "confidence":
            return logits.double().softmax(1).gather(1, y[:, None])[:, 0] < float(value)
        case "topk":
            return (logits > own).sum(1) >= int(value)
    if value == "least-likely":
        target = clean.scatter(1, y[:, None], math.inf).argmin(1)
    else:
        target = torch.full_like(y, int(value.rpartition("->")[2]))
    wanted = logits.gather(1, target[:, None])
    return (logits < wanted).sum(1) == logits.shape[1] - 1


def applies(goal: str, y: Tensor) -> Tensor:
    """[rows] bool: the examples a goal exists for."""
    kind, _, value = goal.partition(":")
    if kind == "source-target":
        source, target = value.split("->")
        return (y == int(source)) & (y != int(target))
    return y != int(value) if value.isdigit() and kind == "targeted" else torch.ones_like(y, dtype=torch.bool)
