"""The perceptual distance, its threat and its attacks, against closed forms and a second reading of LPIPS."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import mohs
from mohs.attacks import LPA, PPGD, FastLPA
from mohs.attacks.perceptual import lpa
from mohs.auditing import carry_out, resume
from mohs.errors import ModelError, RequestError, RunError, ThreatError, UnknownName
from mohs.jobs import describe, make_job
from mohs.models import TorchModel
from mohs.models.perception import CONVOLUTIONS, PLACES, POOLED, Perception, load_lpips
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.store import Run
from mohs.threat import Constraints, Knowledge, PerceptualThreat, Untargeted, parse_threat
from tests.conformance import linear, world
from tests.small import labelled, network

CPU = torch.device("cpu")


class Residual(nn.Module):
    """Activations called as functions and methods, in place too, at two sizes of maps, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 2, 2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        a = F.relu(self.first(x), inplace=True)
        b = torch.relu(a + self.second(a))
        c = self.third(b).tanh()
        if kept is not None:
            kept += [b, c]
        return self.head(c.mean((2, 3)))  # type: ignore[no-any-return]


def made(module: nn.Module, seed: int = 0) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g) * 0.5
    return module.eval()


def images(n: int = 3, channels: int = 1, side: int = 8) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(5))


def normalised(a: Tensor) -> Tensor:
    return (a / a.square().sum(1, keepdim=True).sqrt().clamp(min=1e-9)).flatten(1) / a[0, 0].numel() ** 0.5


class Matrix:
    """phi(x) = A x, whose distances, steps and projections are known. Stands for a Perception."""

    name = "a matrix"

    def __init__(self, a: Tensor) -> None:
        self.a = a

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.a.to(x).T


# what a network sees


def test_the_last_activations_of_each_size_are_seen_whoever_calls_them() -> None:
    module, x = made(Residual()), images()
    kept: list[Tensor] = []
    with torch.no_grad():
        module(x, kept)
        wanted = torch.cat([normalised(a) for a in kept], 1)
    assert torch.allclose(TorchModel(module, classes=3).perception()(x), wanted, atol=1e-6)


def test_named_layers_are_seen_and_others_not() -> None:
    module, x = network(), images()
    with torch.no_grad():
        first, last = module[0](x), module(x)
        wanted = torch.cat([normalised(first), normalised(last)], 1)
    model = TorchModel(module, classes=10)
    assert torch.allclose(model.perception(("0", "5"))(x), wanted, atol=1e-6)
    with pytest.raises(UnknownName, match="unknown layer of Sequential 'conv'"):
        model.perception(("conv",))


def test_a_network_without_maps_is_seen_at_every_activation() -> None:
    module = made(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 2)))
    x = torch.rand(3, 6)
    with torch.no_grad():
        wanted = torch.cat([normalised(module[:2](x)), normalised(module[:4](x))], 1)
    assert torch.allclose(TorchModel(module, classes=2).perception()(x), wanted, atol=1e-6)


def test_networks_that_cannot_be_seen_through_are_refused() -> None:
    plain = made(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(ModelError, match="no activation layers are seen in Sequential"):
        TorchModel(plain, classes=3).perception()(images())
    with pytest.raises(ModelError, match="is random"):
        TorchModel(network(), classes=10, random=True).perception()


def test_float64_is_computed_where_it_can_be() -> None:
    class Casts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.float())

    x = images()
    exact = TorchModel(network(), classes=10).perception()
    assert exact(x.double()).dtype == torch.float64
    assert 0 < float((exact(x.double()) - exact(x)).abs().max()) < 1e-5
    cast = Perception(Casts(), name="casts", example=x)
    assert cast.exact is None
    assert torch.equal(cast(x.double()), cast(x).double())


def test_gradients_pass_through_dead_places() -> None:
    module = made(nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU()))
    module[0].bias.data.fill_(-100.0)
    x = images().requires_grad_()
    (gradient,) = torch.autograd.grad(TorchModel(module, classes=3).perception()(x).sum(), x)
    assert not bool(gradient.any())


# LPIPS


def weights() -> dict[str, Tensor]:
    """A state dict as the package writes it, of random numbers."""
    g = torch.Generator().manual_seed(0)
    state = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    for k, (i, o, size, _, _) in enumerate(CONVOLUTIONS):
        state[f"net.slice{k + 1}.{PLACES[k]}.weight"] = torch.randn(o, i, size, size, generator=g) / (i * size**2) ** 0.5
        state[f"net.slice{k + 1}.{PLACES[k]}.bias"] = torch.randn(o, generator=g) * 0.1
        state[f"lin{k}.model.1.weight"] = torch.rand(1, o, 1, 1, generator=g)
    return state


def lpips(x: Tensor, y: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Zhang et al. 2018, equation 1, read a second time."""
    value = torch.zeros(len(x))
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    a, b = (((2 * v - 1) - shift[:, None, None]) / scale[:, None, None] for v in (x, y))
    for k, (_, _, _, stride, padding) in enumerate(CONVOLUTIONS):
        w, bias = (state[f"net.slice{k + 1}.{PLACES[k]}.{kind}"] for kind in ("weight", "bias"))
        if k in POOLED:
            a, b = F.max_pool2d(a, 3, 2), F.max_pool2d(b, 3, 2)
        a, b = (F.relu(F.conv2d(v, w, bias, stride, padding)) for v in (a, b))
        gap = (F.normalize(a) - F.normalize(b)).square() * state[f"lin{k}.model.1.weight"]
        value += gap.sum(1).mean((1, 2))
    return value


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_the_distance_is_the_root_of_lpips(tmp_path: Path, suffix: str) -> None:
    path, state = tmp_path / f"alex.{suffix}", weights()
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    threat = PerceptualThreat(0.5, network=load_lpips(str(path), (0.0, 1.0), CPU))
    x, y = images(2, 3, 64), images(4, 3, 64)[2:]
    assert torch.allclose(threat.distance(y, x).square().float(), lpips(x, y, state), rtol=1e-4)
    with pytest.raises(ThreatError, match=re.escape("does not take inputs of shape [3, 8, 8]")):
        threat.check(images(1, 3))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({k: v for k, v in weights().items() if k.startswith("lin")}, "lacks net.slice1.0.weight, .* alone, without AlexNet's"),
        ({k: v for k, v in weights().items() if k != "lin3.model.1.weight"}, "lacks lin3.model.1.weight; wanted is a state dict"),
        ({**weights(), "net.slice1.0.bias": torch.zeros(3)}, "another network than LPIPS with AlexNet"),
        ([1, 2], "holds list and no state dict"),
        (nn.ReLU(), "cannot be opened as plain weights"),
    ],
)
def test_other_files_say_what_is_missing(tmp_path: Path, state: object, words: str) -> None:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=words):
        load_lpips(str(tmp_path / "w.pt"), (0.0, 1.0), CPU)


def test_a_missing_file_or_endless_bounds_are_told() -> None:
    with pytest.raises(ModelError, match=r"there is no file nowhere\.pt"):
        load_lpips("nowhere.pt", (0.0, 1.0), CPU)
    with pytest.raises(ModelError, match="black and white"):
        load_lpips("nowhere.pt", (0.0, torch.inf), CPU)


# the threat


def test_the_grammar_goes_round() -> None:
    threat = parse_threat("perceptual:1/2+layers:conv1, conv2+quantise:8bit+knowledge:gradient")
    assert threat == PerceptualThreat(0.5, layers=("conv1", "conv2"), constraints=Constraints(bits=8))
    assert parse_threat(str(threat)) == threat
    with pytest.raises(ThreatError, match="do not go together"):
        parse_threat("perceptual:0.5+flow:0.1")
    with pytest.raises(UnknownName, match="unknown constraint 'layers'"):
        parse_threat("linf:0.1+layers:conv1")
    with pytest.raises(ThreatError, match="epsilon -1"):
        parse_threat("perceptual:-1")


def test_a_threat_is_bound_once_to_what_it_sees_with() -> None:
    threat, own, other = (
        parse_threat("perceptual:0.5"),
        TorchModel(network(), classes=10),
        TorchModel(network(seed=3), classes=10),
    )
    with pytest.raises(ThreatError, match="facing"):
        threat.distance(images(), images())
    assert threat.digest() is None
    bound = threat.facing(own)
    assert bound.facing(other).digest() == bound.digest() != threat.facing(other).digest()
    assert "what Sequential sees of it" in bound.words()


def plane(seed: int = 0) -> tuple[PerceptualThreat, Tensor, Tensor]:
    """A threat of phi(x) = A x in four dimensions, A, and an input in the middle of the box."""
    a = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2 * torch.eye(4).double()
    return PerceptualThreat(0.1, network=Matrix(a)), a, torch.full((2, 4), 0.5)  # type: ignore[arg-type]


def test_the_step_is_the_steepest_within_the_distance() -> None:
    """(A^T A)^-1 g, scaled to the distance: conjugate gradients end in as many steps as there are dimensions."""
    threat, a, x0 = plane()
    g = torch.tensor([[1.0, -2.0, 0.5, 3.0], [1e-9, 0.0, 0.0, 0.0]])
    moved = (threat.step(x0.clone(), g.clone(), x0, 0.5) - x0).double()
    wanted = torch.linalg.solve(a.T @ a, g.double().T).T
    wanted = 0.05 * wanted / (wanted @ a.T).norm(dim=1, keepdim=True)
    assert torch.allclose(moved, wanted, atol=1e-3 * float(wanted.abs().max()))
    assert torch.equal(threat.step(x0.clone(), torch.zeros_like(g), x0, 0.5), x0)


def test_projection_goes_back_along_the_way_it_came() -> None:
    threat, a, x0 = plane()
    p = x0 + torch.tensor([[0.2, 0.1, -0.1, 0.0], [0.001, 0.0, 0.0, 0.0]])
    far = ((p - x0).double() @ a.T).norm(dim=1)
    out = threat.project(p.clone(), x0)
    assert torch.equal(out[1], p[1])  # inside
    share = float((out[0] - x0[0])[0] / 0.2)
    assert 0.1 / float(far[0]) - 2**-10 <= share <= 0.1 / float(far[0])
    assert torch.equal(threat.project(out.clone(), x0), out)
    each = threat.project(p.clone(), x0, torch.tensor([0.02, 10.0]))
    assert float(threat.distance(each, x0)[0]) <= 0.02
    assert torch.equal(each[1], p[1])


def test_random_points_are_small_noise() -> None:
    threat, _, x0 = plane()
    noise = threat.random_point(x0.expand(2, 4), Stream.of(0, torch.arange(2)), torch.inf) - x0
    assert 0.001 < float(noise.abs().mean()) < 0.03
    assert bool(threat.contains(threat.random_point(x0, Stream.of(0, torch.arange(2)), 1e-3), x0).all())


# the attacks


@pytest.mark.parametrize("attack", [PPGD(steps=20, step_size=0.2), LPA(), FastLPA()], ids=lambda a: type(a).__name__)
def test_the_bound_of_a_linear_model_is_met(attack: PPGD) -> None:
    """max <w, v> over ||A v|| <= epsilon is epsilon ||A^-T w||, A diagonal: below it no attack breaks anything."""
    model = linear()
    a = torch.linspace(1.0, 2.0, 36).double().diag()
    nearest = model.gap / float(torch.linalg.solve(a.T, model.w).norm())
    w = model.world

    def broken(share: float) -> Tensor:
        threat = PerceptualThreat(share * nearest, network=Matrix(a))  # type: ignore[arg-type]
        return attack(w.prepared, w.x, w.y, threat=threat).broken

    assert not bool(broken(0.999).any())
    assert bool(broken(1.1 if isinstance(attack, FastLPA) else 1.02).all())


def test_lpa_raises_its_penalty_only_where_the_point_is_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """From search to search, ten times; FastLPA's grows from step to step, from a tenth of the last, and steps shrink."""
    w, asked = world(), []
    threat = PerceptualThreat(0.05).facing(w.prepared.judge.model)
    oracle = Oracle.begin(w.prepared, threat, Untargeted(), w.x, w.y, ids=w.ids)
    outside = torch.arange(len(w.x)) < 4

    def stay(
        oracle: Oracle, threat: PerceptualThreat, x: Tensor, x0: Tensor, weight: Tensor, size: float, *rest: float
    ) -> object:
        asked.append((weight.clone(), size / threat.epsilon))
        return x, torch.where(outside, 0.05, 0.0)

    monkeypatch.setattr(lpa, "descend", stay)
    end = LPA(steps=2, searches=3).run(oracle, oracle.x0, threat)
    assert bool(threat.contains(end, oracle.x0).all())
    for (weight, size), wanted in zip(asked, (0.01, 0.01, 0.1, 0.1, 1.0, 1.0), strict=True):
        assert torch.allclose(weight, torch.where(outside, wanted, 0.01))
        assert size in (1.0, 0.1**0.5)
    asked.clear()
    FastLPA(steps=2).run(oracle, oracle.x0, threat)
    assert [float(weight[0]) for weight, _ in asked] == pytest.approx([1.0, 10**0.5])


# end to end


def job(**more: object) -> tuple[nn.Module, tuple[Tensor, Tensor], dict[str, object]]:
    module = network()
    return module, labelled(module, 24), {"threats": ["perceptual:0.2"], "profile": "quick", "rows": 8, **more}


def test_a_run_resumes_to_the_same_records(tmp_path: Path) -> None:
    module, data, options = job()
    prepared = make_job(module, data, **options)
    whole, cut = (Run.create(tmp_path / name, describe(prepared)) for name in ("whole", "cut"))
    carry_out(whole, prepared, None)

    def stop(seen: object) -> None:
        if getattr(seen, "stage", "") == "lpa":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(cut, prepared, stop)
    result = resume(cut.folder, model=module, data=data)
    (threat,) = result.verdict.threats
    assert threat.boundary > 0
    assert bool((threat.distance[threat.status == "broken"] <= 0.2 * (1 + 1e-6)).all())
    records = [
        run.records().drop_columns(["seconds"]).sort_by([("stage", "ascending"), ("id", "ascending")])
        for run in (whole, result.run)
    ]
    assert records[0].equals(records[1])
    page = result.report(tmp_path / "page.html").read_text()
    assert "change the input as long as what Sequential sees" in page


def test_another_network_to_see_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, data, options = job(perceptual_model="seers:first")
    monkeypatch.chdir(tmp_path)
    seers = "import torch\nfrom tests.small import network\ndef first():\n    return network(seed={})\n"
    (tmp_path / "seers.py").write_text(seers.format(3))
    monkeypatch.syspath_prepend(str(tmp_path))
    prepared = make_job(module, data, **options)
    own = make_job(module, data, **{**options, "perceptual_model": None})
    assert prepared.plan.threats[0].constraints != own.plan.threats[0].constraints
    run = Run.create(tmp_path / "run", describe(prepared))
    assert "--perceptual-model seers:first" in run.spec["request"]["command"]
    import seers as module_of

    monkeypatch.setattr(module_of, "first", lambda: network(seed=4))
    with pytest.raises(RunError, match="arrays or networks"):
        resume(run.folder, model=module, data=data)
    both = make_job(module, data, **{**options, "threats": ["linf:0.1", "perceptual:0.2"]})
    assert both.plan.threats[0].constraints is None
    assert both.plan.threats[1].constraints != own.plan.threats[0].constraints
    with pytest.raises(RequestError, match="is for the threat perceptual"):
        mohs.audit(module, data, threats=["linf:0.1"], perceptual_model="seers:first")


def test_models_without_layers_are_refused() -> None:
    class Remote(mohs.Model):
        classes = 10
        gives = Knowledge.SCORES

        def logits(self, x: Tensor) -> Tensor:
            return network()(x)  # type: ignore[no-any-return]

    _, data, options = job()
    with pytest.raises(ModelError, match="does not tell what it sees inside"):
        mohs.audit(Remote(), data, **options)


def test_success_is_decided_by_the_distance_of_what_is_shown() -> None:
    """Rounded inputs may lie farther than the point: the threat looks at them."""
    w = world()
    threat = replace(PerceptualThreat(0.3, constraints=Constraints(bits=8)).facing(w.prepared.judge.model))
    p = threat.random_point(w.x, Stream.of(0, w.ids))
    assert torch.equal(threat.distance(p, w.x), threat.distance(threat.apply(p, w.x), w.x))
