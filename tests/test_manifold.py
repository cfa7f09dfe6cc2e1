"""The manifold threat and its attack, against an autoencoder and a model that are both linear."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mohs.attacks import PGD, OnManifold
from mohs.auditing import carry_out, resume
from mohs.errors import ModelError, RequestError, RunError, ThreatError
from mohs.jobs import describe, make_job
from mohs.models import TorchModel
from mohs.models.autoencoder import Autoencoder, fit_autoencoder
from mohs.store import Run
from mohs.threat import Constraints, ManifoldThreat, parse_threat
from tests.conformance import linear
from tests.small import labelled, network


class Plane(nn.Module):
    """enc(x) = V^T x and dec(z) = V z + 1/10, V [36, 3] of orthonormal columns."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.linalg.qr(torch.randn(36, 3, generator=torch.Generator().manual_seed(0)))[0])

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.v

    def decode(self, z: Tensor) -> Tensor:
        return (z @ self.v.T + 0.1).view(-1, 1, 6, 6)


def test_points_move_along_the_plane_and_keep_the_rest_of_the_input() -> None:
    module = Plane()
    threat = ManifoldThreat(epsilon=0.1).given(Autoencoder(module, "a plane"))
    x0 = linear().world.x
    assert torch.equal(threat.apply(threat.origin(x0), x0), x0)
    p = 0.1 * torch.tensor([[1.0, -1.0, 0.5]]).expand(6, 3)
    moved = threat.apply(p, x0) - x0
    assert torch.allclose(moved.flatten(1), p @ module.v.T, atol=1e-6)
    assert torch.allclose(threat.distance(p, x0), torch.tensor(0.1, dtype=torch.float64), rtol=1e-6)
    assert not bool(threat.contains(p * 1.001, x0).any())
    assert torch.equal(threat.project(p * 3, x0), (p * 3).clamp(-0.1, 0.1))


@pytest.mark.parametrize("attack", [OnManifold(rate=0.05, restarts=1), PGD()], ids=lambda a: type(a).__name__)
def test_the_bound_of_a_linear_model_is_met(attack: OnManifold) -> None:
    """max <w, V p> over |p|_inf <= epsilon is epsilon ||V^T w||_1."""
    model, module = linear(), Plane()
    nearest = model.gap / float((model.w @ module.v.detach().double()).abs().sum())
    w = model.world
    autoencoder = Autoencoder(module, "a plane")

    def broken(share: float) -> Tensor:
        return attack(w.prepared, w.x, w.y, threat=ManifoldThreat(epsilon=share * nearest).given(autoencoder)).broken

    assert bool(broken(1.001).all())
    assert not bool(broken(0.999).any())


def test_the_fitted_one_gives_back_what_lies_on_a_plane_and_is_the_same_again() -> None:
    z = torch.rand(200, 3, generator=torch.Generator().manual_seed(1))
    x = (z @ torch.rand(3, 64, generator=torch.Generator().manual_seed(2)) / 3).view(-1, 1, 8, 8)
    state = torch.random.get_rng_state()
    one, two = (fit_autoencoder(x, (0.0, 1.0), steps=400) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.fingerprint() == two.fingerprint() != fit_autoencoder(x[:100], (0.0, 1.0), steps=400).fingerprint()
    assert float((one.decode(one.encode(x)) - x).square().mean().sqrt()) < 0.3 * float(x.std())
    latent = one.encode(x)
    assert latent.shape == (200, 10)
    assert torch.allclose(latent.std(0, correction=0), torch.ones(10), atol=1e-4)
    wide = fit_autoencoder(4 * x - 2, (-torch.inf, torch.inf), steps=400)
    assert float(wide.decode(wide.encode(4 * x - 2)).min()) < -0.5


def test_the_grammar_goes_round_and_the_set_stands_alone() -> None:
    threat = parse_threat("manifold:0.3+quantise:8bit")
    assert threat == ManifoldThreat(epsilon=0.3, constraints=Constraints(bits=8))
    assert parse_threat(str(threat)) == threat
    assert "move each latent of the input by up to 0.3" in threat.words()
    for text, words in (("manifold:0.3+linf:0.1", "do not go together"), ("manifold:-1", "epsilon -1")):
        with pytest.raises(ThreatError, match=words):
            parse_threat(text)


def test_a_threat_without_an_autoencoder_says_how_to_give_one() -> None:
    module = network()
    with pytest.raises(ThreatError, match="has no autoencoder: give it one"):
        OnManifold()(module, *labelled(module, 4), threat="manifold:0.3")


class Narrow(nn.Module):
    """What it decodes is of another shape."""

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4]

    def decode(self, z: Tensor) -> Tensor:
        return z.view(-1, 1, 2, 2)


class Noisy(Narrow):
    def decode(self, z: Tensor) -> Tensor:
        return torch.rand(len(z), 1, 8, 8, dtype=z.dtype)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Plane(), "does not take inputs [1, 8, 8] in float64: mat1 and mat2"),
        (Narrow(), "makes [1, 2, 2] of inputs of shape [1, 8, 8]"),
        (Noisy(), "answers at random"),
        (nn.Linear(3, 3), "has no encode: an autoencoder is a torch module with encode(x)"),
    ],
    ids=["other input", "other output", "random", "none"],
)
def test_autoencoders_that_do_not_fit_are_refused(module: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=re.escape(words)):
        ManifoldThreat(epsilon=0.3).given(Autoencoder(module, "it")).check(torch.rand(2, 1, 8, 8))


# end to end


def job(**more: object) -> tuple[nn.Module, tuple[Tensor, Tensor], dict[str, object]]:
    module = network()
    return module, labelled(module, 24), {"threats": ["manifold:2"], "profile": "quick", "rows": 8, **more}


def test_a_run_fits_its_autoencoder_and_resumes_to_the_same_records(tmp_path: Path) -> None:
    module, data, options = job()
    made = make_job(module, data, **options)
    whole, cut = (Run.create(tmp_path / name, describe(made)) for name in ("whole", "cut"))
    carry_out(whole, made, None)

    def stop(seen: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(cut, made, stop)
    result = resume(cut.folder, model=module, data=data)
    assert result.verdict.threats[0].boundary > 0
    order = [("stage", "ascending"), ("id", "ascending")]
    records = [run.records().drop_columns(["seconds"]).sort_by(order) for run in (whole, result.run)]
    assert records[0].equals(records[1])


def test_the_users_autoencoder_is_used_and_must_stay_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from mohs.models.autoencoder import Small\nimport torch\ndef ae():\n    torch.manual_seed(0)\n"
    (tmp_path / "coders.py").write_text(source + "    return Small((1, 8, 8), (0.0, 1.0))\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with torch.random.fork_rng():
        module, data, options = job(autoencoder="coders:ae")
        made = make_job(module, data, **options)
        run = Run.create(tmp_path / "run", describe(made))
        assert "--autoencoder coders:ae" in run.spec["request"]["command"]
        import coders

        other = coders.ae()
        other.mean += 1
        monkeypatch.setattr(coders, "ae", lambda: other)
        with pytest.raises(RunError, match="arrays or networks"):
            resume(run.folder, model=module, data=data)
    with pytest.raises(RequestError, match="an autoencoder is for the threat manifold, and the threat is linf"):
        make_job(module, data, **{**options, "threats": ["linf:0.1"]})
    with pytest.raises(ModelError, match=r"net\.pt2' is no autoencoder"):
        make_job(module, data, **{**options, "autoencoder": "net.pt2"})


def test_the_model_is_never_asked_by_the_set() -> None:
    class Shy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    threat = ManifoldThreat(epsilon=0.1).given(Autoencoder(Plane(), "a plane")).facing(TorchModel(Shy(), classes=2))
    assert threat.check(linear().world.x) is None
