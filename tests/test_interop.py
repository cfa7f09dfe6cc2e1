"""Attacks of other libraries: what they are told, what they may ask, how it is counted. Stand-ins of the three libraries, of the
same interface, are enough for that; the last tests run the libraries themselves where they are installed."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mohs import attacks, auditing, demo
from mohs.attacks import interop
from mohs.attacks.interop.base import Victim
from mohs.errors import Missing, Refused, RequestError, UnknownName
from mohs.ledger import Outcome
from mohs.models import Prepared, prepare
from mohs.models.torch_model import TorchModel
from mohs.oracle import Oracle
from mohs.threat import Untargeted, parse_threat
from tests.small import Linear, labelled, network
from tests.test_cli import Mohs, cache, command_line  # noqa: F401

SEEN: list[Any] = []  # what the stand-ins were given and answered


def module(name: str, **held: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(held)
    return made


class Model:
    def __init__(self, victim: nn.Module, bounds: tuple[float, float], device: Any) -> None:
        SEEN.append(bounds)
        self.victim = victim

    def __call__(self, x: Tensor) -> Any:
        with torch.set_grad_enabled(x.requires_grad):
            return self.victim(x)


class Fooling:
    """Of Foolbox: attack(model, inputs, criterion, epsilons=)."""

    def __call__(self, model: Any, x: Tensor, criterion: Any, *, epsilons: float | None) -> tuple[Tensor, Tensor, None]:
        print("libraries print")
        last = self.run(model, x, criterion, epsilons)
        return last, last, None

    def run(self, model: Any, x: Tensor, criterion: Any, epsilon: float | None) -> Tensor:
        raise NotImplementedError


class Minimization(Fooling):
    pass


class FixedEpsilon(Fooling):
    distance = SimpleNamespace(p=math.inf)


class NoiseAttack(FixedEpsilon):
    """Labels at random points, from three generators, a batch of two a step: by its name it asks for labels."""

    def __init__(self, steps: int = 5, scale: float | None = None, verbose: bool = True) -> None:
        SEEN.append({"steps": steps, "scale": scale, "verbose": verbose})
        self.steps = steps

    def run(self, model: Any, x: Tensor, criterion: Any, epsilon: float | None) -> Tensor:
        assert len(x) == 1
        for _ in range(self.steps):
            u = torch.rand(2, *x.shape[1:]) + np.random.rand() + random.random() - 1.5
            p = (x + epsilon * u).clamp(0, 1)
            SEEN.append(model(p))
        return x + epsilon * u[:1].clamp(-1, 1)


class FastPGD(FixedEpsilon):
    """One step of the gradient."""

    def run(self, model: Any, x: Tensor, criterion: Any, epsilon: float | None) -> Tensor:
        x = x.clone().requires_grad_()
        z = model(x)
        SEEN.append(z)
        (g,) = torch.autograd.grad(nn.functional.cross_entropy(z, criterion.y), x)
        SEEN.append(g)
        return (x + epsilon * g.sign()).detach().clamp(0, 1)


class SneakyNoiseAttack(FastPGD):
    """Says by its name that it asks for labels, and asks for more."""


class CrashingAttack(FixedEpsilon):
    def run(self, model: Any, x: Tensor, criterion: Any, epsilon: float | None) -> Tensor:
        model(x)
        raise IndexError("list index out of range")


class NearestNoiseAttack(Minimization):
    """Along one entry, as far as `reach`."""

    def __init__(self, reach: float = 0.5, constraint: str = "l2") -> None:
        SEEN.append(constraint)
        self.reach = reach

    def run(self, model: Any, x: Tensor, criterion: Any, epsilon: float | None) -> Tensor:
        assert epsilon is None
        p = x.clone()
        p.view(-1)[0] += self.reach
        model(p)
        return p


def foolbox() -> dict[str, ModuleType]:
    base = module("foolbox.attacks.base", MinimizationAttack=Minimization, FixedEpsilonAttack=FixedEpsilon)
    kinds = {kind.__name__: kind for kind in (NoiseAttack, FastPGD, SneakyNoiseAttack, CrashingAttack, NearestNoiseAttack)}
    listed = module("foolbox.attacks", base=base, **kinds)
    distances = module("foolbox.distances", **{name: name for name in ("l0", "l1", "l2", "linf")})
    told = {
        "Misclassification": lambda y: SimpleNamespace(y=y),
        "TargetedMisclassification": lambda target: SimpleNamespace(y=target),
    }
    whole = module("foolbox", attacks=listed, distances=distances, PyTorchModel=Model, **told)
    return {"foolbox": whole, "foolbox.attacks": listed}


class Toolbox:
    """Of ART: attack(estimator, ...).generate(x, y)."""

    _estimator_requirements: tuple[type, ...] = (object,)

    def __init__(self, estimator: Any, norm: Any = 2, eps: float = 0.3, targeted: bool = False) -> None:
        if norm == 1:
            raise ValueError("Norm order must be either 2 or inf.\nmore")
        self.estimator, self.told = estimator, (norm, eps, targeted)

    def generate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        SEEN.append((self.told, x.dtype, y.argmax(1).tolist(), self.estimator.told))
        with torch.no_grad():
            SEEN.append(self.estimator.victim(torch.from_numpy(x)))
        return x + np.float32(0.01)


class BoundaryAttack(Toolbox):
    def __init__(self, estimator: Any, attack: str = "dct") -> None:
        SEEN.append(attack)
        super().__init__(estimator)


class Speech(Toolbox):
    _estimator_requirements = (int,)


def art() -> dict[str, ModuleType]:
    class PyTorchClassifier:
        def __init__(self, victim: nn.Module, loss: Any, shape: Any, classes: int, clip_values: Any, device_type: str) -> None:
            self.victim, self.told = victim, (shape, classes, clip_values, device_type)

    evasion = module("art.attacks.evasion", Toolbox=Toolbox, BoundaryAttack=BoundaryAttack, Speech=Speech, other=3)
    return {
        "art": module("art"),
        "art.attacks": module("art.attacks"),
        "art.attacks.evasion": evasion,
        "art.attacks.attack": module("art.attacks.attack", EvasionAttack=Toolbox),
        "art.estimators": module("art.estimators"),
        "art.estimators.classification": module("art.estimators.classification", PyTorchClassifier=PyTorchClassifier),
    }


class TorchAttack:
    """Of torchattacks: attack(inputs, labels) on inputs in [0, 1]."""

    def __init__(self, name: str, model: nn.Module) -> None:
        next(model.parameters())
        self.model, self.supported_mode, self.mode = model, ["default", "targeted"], "default"

    def set_mode_targeted_by_label(self, quiet: bool = False) -> None:
        self.mode = "by label"

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        assert 0 <= float(x.min()) <= float(x.max()) <= 1
        SEEN.append((self.mode, y.tolist(), self.told))  # type: ignore[attr-defined]
        self.model(x)
        return (x + 0.25).clamp(0, 1)


class Square(TorchAttack):
    r"""Distance Measure : Linf, L2"""

    def __init__(self, model: nn.Module, norm: str = "Linf", eps: float = 8 / 255, n_queries: int = 5000) -> None:
        super().__init__("Square", model)
        self.told = (norm, eps, n_queries)


class CW(TorchAttack):
    r"""Distance Measure : L2"""

    def __init__(self, model: nn.Module, c: float = 1) -> None:
        super().__init__("CW", model)
        self.told, self.supported_mode = (c,), ["default"]


def torchattacks() -> dict[str, ModuleType]:
    base = module("torchattacks.attack", Attack=TorchAttack)
    return {"torchattacks": module("torchattacks", attack=base, Square=Square, CW=CW), "torchattacks.attack": base}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What is known of a library is remembered."""
    SEEN.clear()
    interop.find.cache_clear()
    yield
    interop.find.cache_clear()


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for made in (foolbox(), art(), torchattacks()):
        for name, held in made.items():
            monkeypatch.setitem(sys.modules, name, held)


@pytest.fixture
def mohs_(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    monkeypatch.chdir(tmp_path)
    return command_line(monkeypatch, capsys)


class Counting(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        out: Tensor = self.inner(x)
        return out


def plain(inner: nn.Module, classes: int = 10, **said: Any) -> Prepared:
    """The model itself as guide and judge, one row a call as it comes."""
    from mohs.models import Guide, Judge

    model = TorchModel(inner, classes=classes, **said)
    return Prepared(Judge(model, 64, 1), Guide(model, 64, 1))


def flat() -> nn.Module:
    """Class 0, wherever it is asked."""
    return Linear(torch.zeros(10, 64), torch.eye(10)[0]).eval().requires_grad_(False)


@pytest.mark.usefixtures("libraries")
class TestQuestions:
    """Through the Oracle, at what they cost."""

    def test_counts_are_exact(self) -> None:
        model, y = Counting(flat()), torch.zeros(3, dtype=torch.int64)
        attack = attacks.make({"attack": "foolbox:NoiseAttack", "steps": "4"})
        outcome = attack(plain(model), torch.rand(3, 1, 8, 8), y, threat="linf:0.1+knowledge:label")
        assert outcome.queries.tolist() == [2 * 4 + 1] * 3  # the last point is always judged
        assert model.rows == 3 + int(outcome.queries.sum())  # the clean ones beside
        assert outcome.backwards.tolist() == [0] * 3
        assert outcome.status == ["survived"] * 3

    def test_labels_are_one_hot(self) -> None:
        attack = attacks.make({"attack": "foolbox:NoiseAttack"})
        x, y = labelled(network(), 2)
        attack(plain(network()), x[1:], y[1:], threat="linf:0.001+knowledge:label")
        answers = [seen for seen in SEEN if isinstance(seen, Tensor)]
        assert len(answers) == 5
        for z in answers:
            assert torch.equal(z, nn.functional.one_hot(y[1:].expand(2), 10).float())

    def test_scores_are_the_model_s(self) -> None:
        attack = attacks.make({"attack": "foolbox:NoiseAttack"})
        x, y = labelled(network(), 2)
        attack(plain(network()), x[1:], y[1:], threat="linf:1e-9+knowledge:scores")
        with torch.no_grad():
            wanted = network()(x[1:])
        assert all(torch.allclose(z, wanted.expand(2, -1)) and not z.requires_grad for z in SEEN if isinstance(z, Tensor))

    def test_a_gradient_is_the_model_s_and_costs_one_pass_each_way(self) -> None:
        x, y = labelled(network(), 4)
        outcome = attacks.make({"attack": "foolbox:FastPGD"})(plain(network()), x[1:], y[1:], threat="linf:0.0001")
        p = x[1:].clone().requires_grad_()
        nn.functional.cross_entropy(network()(p), y[1:], reduction="sum").backward()
        assert p.grad is not None
        gradients = torch.cat([s for s in SEEN if isinstance(s, Tensor) and s.shape == (1, 1, 8, 8)])
        assert torch.allclose(gradients, p.grad, atol=1e-6)
        assert outcome.forwards.tolist() == outcome.backwards.tolist() == [1, 1, 1]

    def test_every_pass_backward_counts(self) -> None:
        x, y = labelled(network(), 2)
        prepared = plain(network())
        oracle = Oracle.begin(prepared, parse_threat("l2:inf"), Untargeted(), x[1:], y[1:], ids=torch.arange(1), stop=False)
        p = x[1:].expand(3, -1, -1, -1).clone().requires_grad_()
        victim = Victim(oracle)
        z = victim(p)
        for column in z.sum(0)[:4]:
            torch.autograd.grad(column, p, retain_graph=True)
        assert oracle.ledger.forwards.tolist() == [3]
        assert oracle.ledger.backwards.tolist() == [3 * 4]
        torch.autograd.grad(victim(p).sum(), p)  # nor twice, where the same tensor is asked about again
        assert (oracle.ledger.forwards.tolist(), oracle.ledger.backwards.tolist()) == ([6], [15])

    @pytest.mark.parametrize("known", ["scores", "label"])
    def test_a_gradient_that_is_not_granted(self, known: str) -> None:
        x, y = labelled(network(), 2)
        threat = f"linf:0.1+knowledge:{known}"
        with pytest.raises(Refused, match="needs gradient"):
            attacks.make({"attack": "foolbox:FastPGD"})(plain(network()), x[1:], y[1:], threat=threat)
        with pytest.raises(Refused, match=f"asks for gradient, and it is granted {known}"):
            attacks.make({"attack": "foolbox:SneakyNoiseAttack"})(plain(network()), x[1:], y[1:], threat=threat)

    def test_a_budget_holds(self) -> None:
        threat, y = parse_threat("linf:0.1+knowledge:label"), torch.zeros(2, dtype=torch.int64)
        x = torch.rand(2, 1, 8, 8)
        oracle = Oracle.begin(plain(flat()), threat, Untargeted(), x, y, ids=torch.arange(2), budget=7)
        outcome = attacks.make({"attack": "foolbox:NoiseAttack", "steps": 50}).on(oracle)
        assert outcome.queries.tolist() == [7, 7]
        assert outcome.status == ["undecided"] * 2
        assert outcome.reason == ["the budget of 7 queries is spent"] * 2

    def test_a_success_ends_it(self) -> None:
        """On the way, and wherever in the set: class 1 is reached above 0.5."""
        step = Linear(torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.0])).eval()
        x, y = torch.full((2, 1, 1, 1), 0.49), torch.zeros(2, dtype=torch.int64)
        outcome = attacks.make({"attack": "foolbox:NoiseAttack", "steps": 99})(
            plain(step, classes=2), x, y, threat="linf:0.2+knowledge:label"
        )
        assert outcome.broken.all()
        assert bool((outcome.queries < 30).all())
        assert bool((outcome.distance <= 0.2 + 1e-6).all())

    def test_what_lies_outside_the_set_is_no_success(self) -> None:
        step = Linear(torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.0])).eval()
        x, y = torch.full((1, 1, 1, 1), 0.4), torch.zeros(1, dtype=torch.int64)

        def run(threat: str, reach: float) -> Outcome:
            return attacks.make({"attack": "foolbox:NearestNoiseAttack", "reach": reach})(
                plain(step, classes=2), x, y, threat=threat
            )

        assert run("l2:inf", 0.3).distance.tolist() == [pytest.approx(0.3)]
        assert run("l2:0.2", 0.3).status == ["survived"]
        assert run("l2:0.2", 0.15).status == ["broken"]

    def test_a_crash_is_no_robustness(self) -> None:
        x, y = labelled(network(), 3)
        outcome = attacks.make({"attack": "foolbox:CrashingAttack"})(plain(network()), x[1:], y[1:], threat="linf:0.001")
        assert outcome.status == ["error"] * 2
        assert outcome.reason == ["foolbox:CrashingAttack: IndexError: list index out of range"] * 2

    def test_company_does_not_matter_and_generators_are_put_back(self) -> None:
        x, y = labelled(network(), 6)
        attack, threat = attacks.make({"attack": "foolbox:NoiseAttack"}), "linf:0.2+knowledge:scores"
        prepared = prepare(TorchModel(network(), classes=10), x)
        together = attack(prepared, x, y, threat=threat)
        seen = [s for s in SEEN if isinstance(s, Tensor)]
        SEEN.clear()
        torch.rand(1), np.random.rand(), random.random()  # the caller's draws are none of its business
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
        again = attack(prepared, x, y, threat=threat)
        assert all(torch.equal(a, b) for a, b in zip(seen, (s for s in SEEN if isinstance(s, Tensor)), strict=True))
        assert torch.equal(together.adversarial, again.adversarial)
        SEEN.clear()
        attack(prepared, x[:2], y[:2], threat=threat)
        few = [s for s in SEEN if isinstance(s, Tensor)]
        assert few
        assert all(torch.equal(a, b) for a, b in zip(few, seen, strict=False))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]
        assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[union-attr]

    def test_a_surrogate_is_asked_for_anything_and_the_model_once(self) -> None:
        x, y = labelled(network(), 3)
        model, other = Counting(network()), network(seed=1)
        prepared = replace(plain(model), surrogate=plain(other).guide)
        outcome = attacks.make({"attack": "foolbox:FastPGD"})(prepared, x[1:], y[1:], threat="linf:0.1+knowledge:transfer")
        assert outcome.backwards.tolist() == [1, 1]
        assert model.rows <= 2 + 2 + 2  # of the origin, and of the last point with its confirmation


@pytest.mark.usefixtures("libraries")
class TestWords:
    """What the threat and the goal say, in each library's words."""

    def test_of_foolbox(self) -> None:
        x, y = labelled(network(), 2)
        attacks.make({"attack": "foolbox:NearestNoiseAttack"})(plain(network()), x[1:], y[1:], threat="linf:inf+knowledge:label")
        assert SEEN[:3] == ["linf", "linf", (0.0, 1.0)]  # once to look at it, once to run it
        assert attacks.find("foolbox:NearestNoiseAttack").sets == ("linf", "l2")
        assert attacks.find("foolbox:NoiseAttack").sets == ("linf",)
        SEEN.clear()
        attacks.make({"attack": "foolbox:NoiseAttack", "scale": "0.5"})(plain(network()), x[1:], y[1:], threat="linf:0.1")
        assert SEEN[0] == {"steps": 5, "scale": 0.5, "verbose": False}

    def test_of_art(self) -> None:
        x, y = labelled(network(), 2)
        attacks.make({"attack": "art:Toolbox"})(plain(network()), x[1:], y[1:], threat="linf:0.002")
        told, dtype, labels, estimator = SEEN[0]
        assert told == (math.inf, 0.002, False)
        assert (dtype, labels) == (np.float32, y[1:].tolist())
        assert estimator == ((1, 8, 8), 10, (0.0, 1.0), "cpu")
        SEEN.clear()
        target = (int(y[1]) + 1) % 10
        attacks.make({"attack": "art:Toolbox"})(plain(network()), x[1:], y[1:], threat="l2:0.002", goal=f"targeted:{target}")
        assert SEEN[0][0] == (2, 0.002, True)
        assert SEEN[0][2] == [target]
        made = attacks.make({"attack": "art:BoundaryAttack", "attack_": "px"})  # which has a parameter of that name
        assert made.spec() == {"attack_": "px"}
        SEEN.clear()
        made(plain(network()), x[1:], y[1:], threat="l2:inf+knowledge:label")
        assert SEEN[0] == "px"
        assert attacks.find("art:BoundaryAttack").sets == ("l2",)
        assert attacks.find("art:BoundaryAttack").minimal
        assert not attacks.find("art:Toolbox").minimal
        with pytest.raises(UnknownName):
            attacks.find("art:Speech")  # which attacks no classifier
        with pytest.raises(Refused, match="no targeted mode"):
            attacks.make({"attack": "art:BoundaryAttack"})(plain(network()), x, y, threat="l2:inf", goal="targeted:1")
        with pytest.raises(RequestError, match="cannot be made with these options: ValueError: Norm order must be"):
            attacks.make({"attack": "art:Toolbox"})(plain(network()), x, y, threat="l1:1")

    def test_of_torchattacks(self) -> None:
        """Inputs in [-1, 1] are half as wide there."""
        x, y = labelled(network(), 2)
        model = plain(network(), bounds=(-1.0, 1.0))
        target = (int(y[1]) + 1) % 10
        attack = attacks.make({"attack": "torchattacks:Square", "n_queries": "7"})
        attack(model, 2 * x[1:] - 1, y[1:], threat="linf:0.5+knowledge:scores", goal=f"targeted:{target}")
        assert SEEN[-1] == ("by label", [target], ("Linf", 0.25, 7))
        with pytest.raises(Refused, match="no targeted mode"):
            attacks.make({"attack": "torchattacks:CW"})(plain(network()), x, y, threat="l2:inf", goal="targeted:1")
        assert attacks.find("torchattacks:CW").minimal
        assert not attacks.find("torchattacks:Square").minimal
        assert attacks.find("torchattacks:CW").sets == ("l2",)

    def test_a_spec_round_trips(self) -> None:
        attack = attacks.make({"attack": "foolbox:NoiseAttack", "steps": "9"})
        assert attacks.name_of(attack) == "foolbox:NoiseAttack"
        assert attack.spec() == {"steps": 9, "scale": None}
        again = attacks.make(json.loads(json.dumps({"attack": "foolbox:NoiseAttack", **attack.spec()})))
        assert again.spec() == attack.spec()
        assert attacks.parse("foolbox:NoiseAttack steps=9").spec() == attack.spec()
        assert attacks.parse("pgd steps=9") == attacks.PGD(steps=9)

    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            ({"attack": "foolbox:NoiseAtack"}, "did you mean 'NoiseAttack'"),
            ({"attack": "foolbox:"}, "known: CrashingAttack, FastPGD"),
            ({"attack": "foolbox:NoiseAttack", "step": 3}, "did you mean 'steps'"),
            ({"attack": "foolbox:NearestNoiseAttack", "constraint": "l2"}, "follows from the threat"),
            ({"attack": "foolbocks:NoiseAttack"}, "unknown attack 'foolbocks:NoiseAttack'"),
        ],
    )
    def test_mistakes(self, spec: dict[str, object], said: str) -> None:
        with pytest.raises(RequestError, match=said):
            attacks.make(spec)

    def test_goals_it_cannot_have(self) -> None:
        x, y = labelled(network(), 2)
        with pytest.raises(Refused, match="it has no goal topk:2"):
            attacks.make({"attack": "foolbox:NoiseAttack"})(plain(network()), x, y, threat="linf:0.1", goal="topk:2")


@pytest.mark.parametrize(("name", "package"), [("foolbox:X", "foolbox"), ("art:X", "art"), ("torchattacks:X", "torchattacks")])
def test_a_library_that_is_not_installed(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Missing, match=r"which is not installed: pip install 'mohs\[interop\]'"):
        attacks.find(name)


@pytest.mark.usefixtures("libraries")
class TestCommands:
    def test_attack(self, mohs_: Mohs) -> None:
        words = ["attack", "foolbox:NoiseAttack", "demo", "--data", "digits", "--limit", "4", "--threat", "linf:0.02"]
        done = mohs_(*words, "--knowledge", "label", "--steps", "3", "--json")
        assert done.code == 0
        assert done.json["queries"] <= 4 * 7  # and nothing else was printed
        assert "libraries print" in done.err
        assert "4 error: foolbox:CrashingAttack: IndexError" in mohs_("attack", "foolbox:CrashingAttack", *words[2:]).out
        assert "did you mean 'steps'" in mohs_(*words, "--step", "3").said

    def test_attacks(self, mohs_: Mohs) -> None:
        done = mohs_("attacks", "foolbox:NoiseAttack")
        assert done.code == 0
        assert "--steps" in done.out
        assert "not known beforehand" in done.out

    def test_audit(self, mohs_: Mohs, tmp_path: Any) -> None:
        words = ["audit", "demo", "--data", "digits", "--threat", "linf:0.05", "--profile", "quick", "--limit", "8"]
        more = ["--attack", "foolbox:NoiseAttack steps=3", "--attack", "pgd steps=5", "--attack", "art:BoundaryAttack"]
        assert "not known beforehand" in mohs_(*words, *more, "--dry-run").out
        done = mohs_(*words, *more, "--json", "--out", "run")
        assert done.code == 0
        assert done.json["profile"] == "quick+foolbox:NoiseAttack+pgd+art:BoundaryAttack 2"
        stages = {stage["name"]: stage for stage in done.json["threats"][0]["stages"]}
        assert list(stages) == ["apgd-ce", "apgd-t", "foolbox:NoiseAttack", "pgd", "art:BoundaryAttack", "curve"]
        assert stages["foolbox:NoiseAttack"]["tried"] > 0
        assert stages["foolbox:NoiseAttack"]["queries"] <= 7 * stages["foolbox:NoiseAttack"]["tried"]
        assert "moves in l2" in stages["art:BoundaryAttack"]["inapplicable"]
        command = json.loads((tmp_path / "run/run.json").read_text())["request"]["command"]
        assert "--attack 'foolbox:NoiseAttack steps=3' --attack 'pgd steps=5' --attack art:BoundaryAttack" in command

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--attack", "pgd 5"], "should read NAME option=value"),
            (["--attack", "pgdd"], "did you mean 'pgd'"),
            (["--attack", "pgd", "--surrogate", "demo:robust"], "an attack on surrogates is one battery, fixed"),
        ],
    )
    def test_mistakes(self, mohs_: Mohs, more: list[str], said: str, tmp_path: Any) -> None:
        done = mohs_("audit", "demo", "--data", "digits", "--threat", "linf:0.05", "--limit", "8", *more)
        assert done.code == 2
        assert said in done.said
        assert list(tmp_path.iterdir()) == []


def test_a_probe_has_no_other_attacks() -> None:
    from mohs.errors import MohsError

    with pytest.raises(MohsError, match="the profile curve is one battery, fixed"):
        auditing.audit(network(), labelled(network(), 4), threats=["l2:inf"], profile="curve", attacks=["pgd"])


REAL = [  # on a linear model whose boundary is 1/5 away in l2 and 1/7 in linf: how far the nearest success may be
    ("foolbox:HopSkipJumpAttack", {"steps": 8}, "l2:inf+knowledge:label", 0.21),
    ("foolbox:LinfPGD", {"steps": 40}, "linf:0.3", 0.3),
    ("art:HopSkipJump", {"max_iter": 5}, "l2:inf+knowledge:label", 0.21),
    ("art:ProjectedGradientDescent", {"eps_step": 0.02}, "linf:0.3", 0.17),
    ("art:SimBA", {"attack_": "px"}, "l2:inf+knowledge:scores", 1.0),
    ("torchattacks:Square", {"n_queries": 50}, "linf:0.3+knowledge:scores", 0.3),
    ("torchattacks:DeepFool", {}, "l2:inf", 0.21),
]


@pytest.mark.parametrize(("name", "options", "threat", "far"), REAL, ids=[row[0] for row in REAL])
def test_the_libraries_themselves(name: str, options: dict[str, object], threat: str, far: float) -> None:
    library = name.partition(":")[0]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    module, x, y = demo.linear_example()
    model = Counting(module)
    outcome = attacks.make({"attack": name, **options})(plain(model, classes=4), x, y, threat=threat)
    assert outcome.reason == [""]
    nearest = 0.2 if threat.startswith("l2") else 1 / 7
    assert nearest <= float(outcome.distance) <= far + 1e-6
    assert outcome.backwards.any() == ("knowledge" not in threat)
    assert model.rows == 1 + int(outcome.queries) > 2  # the clean input, and not a row that is not counted
