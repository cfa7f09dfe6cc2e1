"""Saliency: maps known in closed form, what an audit keeps of them, and what its report draws."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mohs import auditing
from mohs.errors import Missing, Refused, RequestError
from mohs.models import TorchModel
from mohs.models import saliency as maps
from mohs.models.saliency import check_saliency, saliency
from mohs.report import pictures, write_report
from mohs.store import Run
from mohs.store.verdict import verdict_of
from mohs.threat import Knowledge
from tests.small import Linear, labelled, network
from tests.test_cli import Mohs, command_line, nothing

CAPTUM = "captum" if maps.find_spec("captum") else None
with_captum = pytest.mark.skipif(CAPTUM is None, reason="captum is not installed: pip install 'mohs[interpret]'")


@pytest.fixture(scope="module")
def module() -> nn.Module:
    """Breaks easily: its classes differ by little, and the labels are its own answers."""
    torch.manual_seed(0)
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    return Linear(weight, torch.zeros(4))


@pytest.fixture(scope="module")
def run(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("saliency") / "run"
    return audited(module, folder, saliency="gradient")


def audited(module: nn.Module, folder: Path, **options: object) -> Run:
    threats = ["linf:0.2", "l2:1"]
    return auditing.audit(module, labelled(module, 16), threats=threats, profile="quick", out=folder, **options).run


def linear(bounds: tuple[float, float] = (0.0, 1.0)) -> TorchModel:
    weight = torch.tensor([[1.0, -2.0, 0.0, 3.0], [0.5, 0.0, -4.0, 1.0]])
    return TorchModel(Linear(weight, torch.ones(2)), classes=2, bounds=bounds)


X = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 0.5, 0.0, 0.25]]).view(2, 1, 2, 2)
LABEL = torch.tensor([1, 0])


def test_the_gradient_of_a_linear_score_is_its_weights():
    found = saliency(linear(), X, LABEL, "gradient")
    assert found.flatten(1).tolist() == [[0.5, 0.0, 4.0, 1.0], [1.0, 2.0, 0.0, 3.0]]


@with_captum
@pytest.mark.parametrize(("low", "start"), [(0.0, 0.0), (-1.0, -1.0), (-torch.inf, 0.0)])
def test_integrated_gradients_of_a_linear_score_are_weights_times_the_way(low: float, start: float):
    found = saliency(linear((low, 1.0)), X, LABEL, "integrated-gradients")
    weight = linear().module.weight[LABEL].detach()
    torch.testing.assert_close(found.flatten(1), (weight * (X.flatten(1) - start)).abs())


@with_captum
def test_integrated_gradients_sum_to_the_rise_of_the_score():
    """Their completeness, on a network that is not linear; signs are lost in the map, so of one that only rises."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 2)).eval()
    for part in module.parameters():
        part.data.abs_()
    with torch.no_grad():
        rise = (module(X) - module(torch.zeros_like(X))).gather(1, LABEL[:, None])[:, 0]
    found = saliency(TorchModel(module, classes=2), X, LABEL, "integrated-gradients")
    torch.testing.assert_close(found.sum((1, 2, 3)), rise, rtol=1e-3, atol=1e-4)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.randn_like(x)).square().flatten(1)[:, :2]


def test_maps_of_a_random_model_are_a_mean_that_comes_again():
    model = TorchModel(Noisy(), classes=2, random=True)
    before = torch.random.get_rng_state()
    found = saliency(model, X, LABEL, "gradient")
    assert torch.equal(saliency(model, X, LABEL, "gradient"), found)
    assert torch.equal(torch.random.get_rng_state(), before)
    single = TorchModel(Noisy(), classes=2)
    assert not torch.equal(saliency(single, X, LABEL, "gradient"), found)


# what an audit keeps


def test_an_audit_keeps_the_maps_of_what_its_report_pictures(module: nn.Module, run: Run):
    kept = run.saliency()
    assert kept is not None
    method, arrays = kept
    assert method == "gradient"
    chosen = pictures.choose(run, verdict_of(run).threats)
    hits = [(number, hit) for number, hits in enumerate(chosen) for hit in hits]
    assert {number for number, _ in hits} == {0, 1}
    assert list(zip(arrays["threat"].tolist(), arrays["ids"].tolist(), strict=True)) == [(t, hit.id) for t, hit in hits]
    clean = run.gallery()
    for row, (_, hit) in enumerate(hits):
        before = int(clean["label"][hit.row])
        assert before != hit.label
        for name, label in (("clean", before), ("adversarial", hit.label)):
            np.testing.assert_allclose(arrays[name][row].ravel(), np.abs(module.weight[label].detach().numpy()), rtol=1e-6)


def test_the_report_draws_them_with_their_cosine(module: nn.Module, run: Run, tmp_path: Path):
    page = write_report(run, tmp_path / "report.html").read_text()
    shown = pictures.gallery(run, verdict_of(run).threats)[0][0]
    assert shown.saliency is not None
    one, two = (module.weight[label].detach().abs().double() for label in (shown.before, shown.after))
    assert shown.saliency.cosine == pytest.approx(float(torch.cosine_similarity(one, two, dim=0)))
    assert f"<b>{shown.saliency.cosine:.2f}</b>cosine" in page
    assert shown.saliency.clean in page
    assert shown.saliency.adversarial in page
    assert "Simonyan, Vedaldi, Zisserman, 2014" in page
    drawn = pixels(shown.saliency.clean).astype(float)
    expected = (one / one.quantile(0.99)).clamp(max=1).view(8, 8).numpy() * 255
    np.testing.assert_allclose(drawn, expected, atol=0.6)


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_of_colours_the_brightest_is_drawn():
    x = np.zeros((3, 8, 8))
    x[0, 0, 0], x[2, 0, 0], x[1, 7, 7] = 0.25, 0.5, 1.0
    drawn = pictures._maps("gradient", {"threat": np.array([0]), "ids": np.array([5]), "clean": x[None], "adversarial": x[None]})
    shown = drawn[0, 5]
    assert shown.cosine == pytest.approx(1)
    assert pixels(shown.clean)[0, 0] > pixels(shown.clean)[1, 1] == 0
    assert pixels(shown.clean)[7, 7] == 255


def test_a_map_of_zeros_has_no_cosine_and_is_drawn_black():
    zero = np.zeros((1, 1, 8, 8))
    shown = pictures._maps("gradient", {"threat": np.array([0]), "ids": np.array([5]), "clean": zero, "adversarial": zero})[0, 5]
    assert np.isnan(shown.cosine)
    assert not pixels(shown.clean).any()


def test_without_the_question_there_is_no_map(module: nn.Module, tmp_path: Path):
    run = audited(module, tmp_path / "run")
    assert run.saliency() is None
    assert "cosine</div>" not in write_report(run, tmp_path / "report.html").read_text()


def test_maps_that_a_killed_run_lacks_are_made_by_resume(module: nn.Module, run: Run, tmp_path: Path):
    """Killed after the last unit, before the maps."""
    again = run.copy(tmp_path / "run")
    file = again.folder / "examples" / "saliency.safetensors"
    bytes_before = file.read_bytes()
    file.unlink()
    x, y = labelled(module, 16)
    resumed = auditing.resume(again.folder, model=module, data=(x, y))
    assert file.read_bytes() == bytes_before
    assert sum(event["event"] == "complete" for event in resumed.run.events()) == 1


def test_a_run_in_which_nothing_broke_keeps_none(tmp_path: Path):
    module = network(classes=4)
    x = labelled(module, 8)[0]
    y = module(x).argmax(1)
    run = auditing.audit(module, (x, y), threats=["linf:1e-6"], profile="quick", out=tmp_path / "run", saliency="gradient").run
    kept = run.saliency()
    assert kept is not None
    assert len(kept[1]["ids"]) == 0
    write_report(run, tmp_path / "report.html")


# what is refused


def test_what_cannot_be_drawn_is_told_before_anything_is_written(tmp_path: Path):
    module = Linear(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(3))
    x = torch.rand(8, 5, generator=torch.Generator().manual_seed(1))
    with pytest.raises(RequestError, match="no images"):
        auditing.audit(module, (x, module(x).argmax(1)), threats=["linf:0.1"], out=tmp_path / "run", saliency="gradient")
    with pytest.raises(RequestError, match="'gradient' or 'integrated-gradients'"):
        auditing.audit(module, (x, module(x).argmax(1)), threats=["linf:0.1"], out=tmp_path / "run", saliency="grad")
    model = linear()
    model.gives = Knowledge.SCORES
    with pytest.raises(Refused, match="gives scores"):
        check_saliency(model, "gradient")
    assert nothing(tmp_path)


def test_without_captum_its_method_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(maps, "find_spec", lambda name: None)
    with pytest.raises(Missing, match=r"mohs\[interpret\]"):
        check_saliency(linear(), "integrated-gradients")
    check_saliency(linear(), "gradient")


def test_the_command_draws_and_tells_how_to_do_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    mohs_: Mohs = command_line(monkeypatch, capsys)
    asked = ["--data", "digits", "--threat", "linf:0.3", "--profile", "quick", "--limit", 16, "--out", "run"]
    done = mohs_("audit", "demo", *asked, "--saliency", "gradient")
    assert done.code == 0, done.err
    run = Run.open("run")
    assert "--saliency gradient" in run.spec["request"]["command"]
    assert run.saliency() is not None
    assert "cosine</div>" in Path("run/report.html").read_text()
