"""Patches: what is shown of one, what the best one does to a linear model, and the universal one end to end."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import mohs.cli
from mohs.attacks import AdversarialPatch
from mohs.attacks.universal.craft import Craft
from mohs.attacks.universal.patch import UniversalPatch
from mohs.attacks.universal.replay import Replay
from mohs.crafting import judge, universal
from mohs.errors import Refused, RequestError, ThreatError
from mohs.models import TorchModel, prepare
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Constraints, PatchThreat, Targeted, Untargeted, parse_threat
from tests.small import Linear, labelled, network

IMAGE = torch.rand(1, 2, 7, 9, generator=torch.Generator().manual_seed(0))


def patched(threat: PatchThreat, where: list[float], pixels: Tensor, x0: Tensor = IMAGE) -> Tensor:
    return threat.apply(threat.point(torch.tensor([where]), pixels[None]), x0)[0]


def numbered(height: int, width: int) -> Tensor:
    return torch.arange(1.0, 2 * height * width + 1).view(2, height, width) / (2 * height * width + 1)


# what is shown


def test_an_upright_patch_is_shown_to_the_bit_and_nothing_else_changes() -> None:
    pixels = numbered(3, 2)
    for down, right, top, left in ((0.0, 0.0, 0, 0), (1.0, 1.0, 4, 7), (0.39, 0.13, 1, 1), (0.41, 0.12, 2, 0)):
        x = patched(PatchThreat(size=(3, 2)), [1.0, down, right, 0.0, 1.0], pixels)
        wanted = IMAGE[0].clone()
        wanted[:, top : top + 3, left : left + 2] = pixels
        assert torch.equal(x, wanted), (down, right)
    placed = patched(PatchThreat(size=(3, 2), place=(4, 0)), [1.0, 0.7, 0.7, 0.0, 1.0], pixels)
    assert torch.equal(placed[:, 4:, :2], pixels)


def test_the_origin_is_the_input_and_half_an_opacity_half_of_it() -> None:
    threat, pixels = PatchThreat(size=(3, 3)), numbered(3, 3)
    assert torch.equal(threat.apply(threat.origin(IMAGE), IMAGE), IMAGE)
    assert float(threat.distance(threat.origin(IMAGE), IMAGE)) == 0.0
    half = patched(threat, [0.5, 0.0, 0.0, 0.0, 1.0], pixels)
    assert torch.allclose(half[:, :3, :3], (pixels + IMAGE[0, :, :3, :3]) / 2)


def test_it_turns_counter_clockwise_and_grows_about_its_middle() -> None:
    pixels = numbered(3, 3)
    threat = PatchThreat(size=(3, 3), turn=180, scale=(1, 2))
    quarter = patched(threat, [1.0, 0.5, 0.5, 90.0, 1.0], pixels)
    assert torch.allclose(quarter[:, 2:5, 3:6], torch.rot90(pixels, 1, (1, 2)), atol=1e-6)
    double = patched(threat, [1.0, 0.0, 0.0, 0.0, 2.0], pixels)
    changed = (double != IMAGE[0]).any(0)
    assert changed.nonzero().tolist() == [[i, j] for i in range(6) for j in range(6)]
    assert torch.allclose(double[:, 0, 0], pixels[:, 0, 0])  # the rim is held
    assert torch.allclose(double[:, 2, 0], pixels[:, 0, 0] * 0.25 + pixels[:, 1, 0] * 0.75, atol=1e-6)


def test_every_whole_place_is_as_likely_as_the_others() -> None:
    threat, x0 = PatchThreat(size=(6, 7)), torch.zeros(3000, 1, 7, 9)
    p = threat.random_point(x0, Stream.of(0, torch.arange(3000)))
    shown = threat.apply(torch.cat([p[:, :5], torch.ones_like(p[:, 5:])], 1), x0)[:, 0]
    places = 2 * 0 + shown.amax(2).argmax(1) * 3 + shown.amax(1).argmax(1)
    assert bool(((places.bincount(minlength=6) / 3000 - 1 / 6).abs() < 0.03).all())
    assert bool(threat.contains(p, x0).all())
    assert not bool(threat.contains(p + 0.6, x0).any())


def test_constraints_bind_what_is_shown() -> None:
    mask = torch.zeros(2, 7, 9, dtype=torch.bool)
    mask[:, :, :1] = True
    x = patched(PatchThreat(size=(3, 3), constraints=Constraints(mask=mask)), [1.0, 0.0, 0.0, 0.0, 1.0], numbered(3, 3))
    assert (x != IMAGE[0]).any(0).nonzero().tolist() == [[0, 0], [1, 0], [2, 0]]


# the grammar


@pytest.mark.parametrize(
    ("text", "threat"),
    [
        ("patch:5x3", PatchThreat(size=(5, 3))),
        ("patch:10%", PatchThreat(share=0.1)),
        ("patch:5x5+turn:22.5deg+scale:0.5-1", PatchThreat(size=(5, 5), turn=22.5, scale=(0.5, 1.0))),
        ("patch:2x2+place:0,3+opacity:0.5", PatchThreat(size=(2, 2), place=(0, 3), epsilon=0.5)),
        ("patch:2x2+quantise:8bit", PatchThreat(size=(2, 2), constraints=Constraints(bits=8))),
    ],
)
def test_the_grammar_goes_round(text: str, threat: PatchThreat) -> None:
    assert parse_threat(text) == threat
    assert str(threat) == text
    assert threat.words().startswith("An adversary who knows the model and its gradients may put a patch of ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("patch:5", "two whole numbers"),
        ("patch:0x3", "has no area"),
        ("patch:0%", "has no area"),
        ("patch:5x5+turn:200deg", "a turn from 0 to 180"),
        ("patch:5x5+scale:2-1", "the lower first"),
        ("patch:5x5+scale:2", "not a number"),
        ("patch:5x5+linf:0.1", "do not go together"),
        ("linf:0.1+turn:3deg", "unknown constraint 'turn'"),
    ],
)
def test_bad_patches_say_what_was_meant(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=re.escape(words)):
        parse_threat(text)


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        ("patch:5x5", (10,), "images [channels, height, width], and the inputs have shape [10]"),
        ("patch:9x2", (1, 8, 8), "a patch of 9 x 2 pixels"),
        ("patch:5x5+scale:1-2", (1, 8, 8), "magnified 2 times"),
        ("patch:5x5+place:0,4", (1, 8, 8), "at row 0, column 4"),
    ],
)
def test_patches_that_do_not_fit_are_refused(text: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ThreatError, match=re.escape(words)):
        parse_threat(text).check(torch.rand(2, *shape))


def test_a_share_is_the_nearest_square() -> None:
    assert PatchThreat(share=0.1).sides(torch.zeros(1, 1, 20, 30)) == (8, 8)


# the best patch of a linear model


def plane() -> tuple[TorchModel, Tensor, Tensor]:
    """z_1 - z_0 = <w, x - 1/2> on 6 x 6 images, and w; most of it lies at rows and columns 3 to 4."""
    w = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    w[3:5, 3:5] = torch.tensor([[4.0, -4.0], [4.0, -4.0]])
    weight = torch.stack([torch.zeros(36), w.flatten()])
    bias = torch.stack([torch.zeros(()), -w.sum() / 2])
    return TorchModel(nn.Sequential(nn.Flatten(), Linear(weight, bias)).eval(), classes=2), w, torch.full((6, 1, 6, 6), 0.5)


def gain(w: Tensor, top: int, left: int) -> float:
    """What the best patch of 2 x 2 adds to the difference at grey images."""
    return float(w[top : top + 2, left : left + 2].abs().sum()) / 2


def broken(share: float, text: str, most: float, attack: AdversarialPatch) -> Tensor:
    """Which of six grey images an attack breaks where `share` of the most a patch can do is needed."""
    model, _, x = plane()
    model.module[1].bias.data[1] -= share * most
    return attack(model, x, torch.zeros(6, dtype=torch.long), threat=text).broken


def test_the_content_is_the_best_there_is_at_a_given_place() -> None:
    _, w, _ = plane()
    attack = AdversarialPatch(steps=40, places=1)
    assert bool(broken(0.999, "patch:2x2+place:1,2", gain(w, 1, 2), attack).all())
    assert not bool(broken(1.001, "patch:2x2+place:1,2", gain(w, 1, 2), attack).any())
    assert not bool(broken(0.999, "patch:2x2+place:1,2+opacity:0.9", gain(w, 1, 2), attack).any())


def test_the_place_is_looked_for() -> None:
    _, w, _ = plane()
    best = max(gain(w, i, j) for i in range(5) for j in range(5))
    assert best == gain(w, 3, 3)
    assert bool(broken(0.999, "patch:2x2", best, AdversarialPatch(steps=40, places=200)).all())
    assert not bool(broken(0.999, "patch:2x2", best, AdversarialPatch(steps=40, places=1)).all())
    assert not bool(broken(1.001, "patch:2x2", best, AdversarialPatch(steps=40, places=200)).any())


def test_the_universal_patch_of_a_linear_model() -> None:
    """White where w is above 0 and black where it is below, if it must be; else no more than it takes."""
    model, w, x = plane()
    model.module[1].bias.data[1] -= 0.1
    prepared = prepare(model, x, rows=16)
    craft: Craft = UniversalPatch(epochs=40, batch=4)
    made = craft(prepared, x, threat=parse_threat("patch:2x2+place:3,3"), rate=1.0, goal=Targeted(to=1))
    assert made.share == 1.0
    assert made.backwards <= 2 * len(x)
    model.module[1].bias.data[1] -= 100  # out of reach, so that it goes on to the end
    full = craft(prepare(model, x, rows=16), x, threat=parse_threat("patch:2x2+place:1,2"), rate=1.0, goal=Targeted(to=1))
    assert torch.equal(full.change[0], (w[1:3, 2:4] > 0).float())


# the universal patch


def test_it_fools_held_out_images_wherever_it_lies_and_noise_does_not() -> None:
    module = network(channels=3)
    x, y = labelled(module, 96, channels=3)
    y = module(x).argmax(1)
    found = universal(module, (x, y), threat="patch:6x6+turn:22.5deg", seed=3)
    assert found.method == "patch"
    noise = torch.rand(found.point.shape, generator=torch.Generator().manual_seed(0))
    prepared = prepare(TorchModel(module, classes=10), x[:8])
    threat = parse_threat("patch:6x6+turn:22.5deg")
    rates = [judge(prepared, point, x, y, threat, Untargeted(), seed=9)[0].low for point in (found.point, noise)]
    assert found.fooling.n == 24
    assert rates[0] > rates[1] + 0.2
    again = universal(module, (x, y), threat="patch:6x6+turn:22.5deg", seed=3)
    assert torch.equal(again.point, found.point)


def test_every_epoch_puts_the_patch_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    module = network()
    x, _ = labelled(module, 8)
    seen: list[Tensor] = []
    plain = Oracle.gradient

    def watched(self: Oracle, p: Tensor, loss: object, rows: Tensor) -> object:
        seen.append(p[rows.argsort(), 1:5])
        return plain(self, p, loss, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(Oracle, "gradient", watched)
    craft = UniversalPatch(epochs=3, batch=8)
    craft(prepare(TorchModel(module, classes=10), x), x, threat=parse_threat("patch:3x3+turn:30deg+scale:0.5-1"), rate=1.0)
    one, two, three = seen
    assert not bool(((one == two) | (two == three)).any())
    assert bool((one.std(0) > 0).all())


def test_replay_draws_a_place_for_every_row() -> None:
    module = network()
    x, y = labelled(module, 12)
    patch = torch.ones(1, 3, 3)
    threat = parse_threat("patch:3x3")
    one, two = (Replay(point=patch)(module.eval(), x, y, threat=threat, seed=seed, stop=False) for seed in (0, 1))
    put = one.point[:, 0] == 1  # elsewhere the clean input came closer to the goal
    assert len(one.point[put][:, 1:3].unique(dim=0)) > 1
    assert not torch.equal(one.adversarial, two.adversarial)
    with pytest.raises(
        RequestError, match=re.escape("has shape [1, 3, 3], and what patch:4x4 changes of an example has [1, 4, 4]")
    ):
        Replay(point=patch)(module, x, y, threat="patch:4x4")


def test_methods_and_threats_that_do_not_go_together_are_refused() -> None:
    module = network()
    with pytest.raises(Refused, match="UniversalPGD makes changes in"):
        universal(module, labelled(module, 16), threat="patch:3x3", method="gradient")
    with pytest.raises(Refused, match="UniversalPatch makes changes in patch"):
        universal(module, labelled(module, 16), threat="linf:0.1", method="patch")
    with pytest.raises(RequestError, match="is no picture"):
        universal(module, labelled(module, 16), threat="patch:3x3", out="p.png")


# as a user types it


def typed(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["mohs", *map(str, words)])
    monkeypatch.setattr(mohs.cli.app, "registered_commands", [])
    with pytest.raises(SystemExit) as end:
        mohs.cli.main()
    return int(end.value.code or 0)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = network()
    x, y = labelled(module, 24)
    np.savez(tmp_path / "d.npz", x=x.numpy(), y=y.numpy())
    np.savez(tmp_path / "t.npz", x=x.flatten(1).numpy(), y=y.numpy())
    source = "from torch import nn\nfrom tests.small import network\n"
    source += "def net():\n    return network()\ndef flat():\n"
    source += "    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), network()).eval()\n"
    (tmp_path / "patched_models.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    model = ["patched_models:net", "--data", "d.npz"]
    assert typed(monkeypatch, "attack", "adversarial-patch", *model, "--threat", "patch:4x4", "--out", "a.safetensors") == 0
    kept = load_file(tmp_path / "a.safetensors")
    changed = (kept["adversarial"] != kept["x"])[:, 0].sum((1, 2))
    assert 0 < int(changed.max()) <= 16
    assert typed(monkeypatch, "universal", *model, "--threat", "patch:4x4", "--out", "u.png", "--epochs", "3") == 0
    assert load_file(tmp_path / "u.safetensors")["point"].shape == (1, 4, 4)
    assert typed(monkeypatch, "attack", "replay", *model, "--threat", "patch:4x4", "--point", "u.safetensors") == 0
    assert typed(monkeypatch, "audit", *model, "--threat", "patch:3x3", "--profile", "quick", "--out", "run") == 0
    capsys.readouterr()
    assert typed(monkeypatch, "attack", "adversarial-patch", *model, "--threat", "patch:9x9") == 2
    assert "does not fit" in capsys.readouterr().err
    table = ["patched_models:flat", "--data", "t.npz"]
    assert typed(monkeypatch, "attack", "adversarial-patch", *table, "--threat", "patch:3x3") == 2
    assert "lies over images" in capsys.readouterr().err


def test_epsilon_is_opacity_and_may_not_exceed_one() -> None:
    threat = replace(PatchThreat(size=(2, 2)), epsilon=3.0)
    assert float(threat.random_point(IMAGE, Stream.of(0, torch.zeros(1, dtype=torch.long)))[0, 0]) == 1.0
