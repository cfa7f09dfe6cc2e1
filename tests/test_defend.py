"""Defences, attacks through them, and what tells of those that were not declared."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from mohs.attacks import PGD
from mohs.data import load_digits
from mohs.defend import (
    JPEG,
    BitDepth,
    Defence,
    GaussianNoise,
    Median,
    ResizePad,
    TotalVariation,
    Transformed,
    bpda,
    straight_through,
)
from mohs.errors import ModelError, UnknownName
from mohs.ledger import Outcome
from mohs.models import Model, TorchModel, as_model, prepare
from mohs.models.contract import check_contract
from mohs.models.cpu import threads
from mohs.models.findings import Finding
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import Knowledge, Untargeted, parse_threat
from tests.small import network

DEFENCES: dict[str, Callable[[Model], Defence]] = {
    "bits": lambda model: BitDepth(model, bits=2),
    "jpeg": lambda model: JPEG(model, quality=75),
    "noise": lambda model: GaussianNoise(model, sigma=0.2),
    "resize": lambda model: ResizePad(model, smallest=7, size=9),
}


@pytest.fixture(scope="module")
def x() -> Tensor:
    return load_digits("test")[0][:32]


@pytest.fixture(scope="module")
def small(x: Tensor) -> Model:
    return as_model(network(), x)


def stream(n: int, word: int = 0) -> Stream:
    return Stream.of(word, torch.arange(n))


class Pooled(nn.Module):
    """Images of any size, for ResizePad."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:, :, :8, :8])  # type: ignore[no-any-return]


# what they do


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 3.0)])
def test_bit_depth_is_the_nearest_level(bounds: tuple[float, float]) -> None:
    low, high = bounds
    defence = BitDepth(TorchModel(network(), classes=10, bounds=bounds), bits=2)
    u = torch.tensor([0.0, 0.16, 0.17, 0.49, 0.51, 0.84, 1.0])
    shown = defence.transform((low + u * (high - low))[:, None], stream(7))[:, 0]
    assert torch.allclose((shown - low) / (high - low), torch.tensor([0, 0, 1, 1, 2, 3, 3]) / 3, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_pillow_reads_back(channels: int) -> None:
    images = torch.rand(3, channels, 16, 24, generator=torch.Generator().manual_seed(0))
    defence = JPEG(TorchModel(network(channels=channels), classes=10), quality=60)
    shown = defence.transform(images, stream(3))
    for image, got in zip(images, shown, strict=True):
        grey = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(grey.squeeze()).save(file, "jpeg", quality=60)
        want = torch.from_numpy(np.array(Image.open(file))).reshape(16, 24, channels).permute(2, 0, 1) / 255
        assert torch.equal(got, want)
    assert 0.01 < float((shown - images).abs().mean()) < 0.3


def test_noise_is_of_its_size_and_of_its_stream(small: Model, x: Tensor) -> None:
    defence = GaussianNoise(small, sigma=0.3)
    noise = defence.transform(x, stream(32)) - x
    assert float(noise.std()) == pytest.approx(0.3, rel=0.05)
    assert abs(float(noise.mean())) < 0.03
    assert torch.equal(defence.transform(x, stream(32)), x + noise) or torch.allclose(defence.transform(x, stream(32)), x + noise)
    assert not torch.equal(defence.transform(x, stream(32, 1)), defence.transform(x, stream(32)))


def test_resizing_is_that_of_torch_somewhere_in_zeros(x: Tensor) -> None:
    defence = ResizePad(TorchModel(Pooled(), classes=10), smallest=8, size=12)
    images = x.add(0.1)
    sides, places = set(), set()
    for image, got in zip(images, defence.transform(images, stream(32)), strict=True):
        rows, columns = (got[0] > 0).any(1).nonzero()[:, 0], (got[0] > 0).any(0).nonzero()[:, 0]
        side, top, left = len(rows), int(rows[0]), int(columns[0])
        sides.add(side)
        places |= {(12 - side, top), (12 - side, left)}
        small = functional.interpolate(image[None], size=side, mode="bilinear", align_corners=False)[0]
        want = functional.pad(small, (left, 12 - side - left, top, 12 - side - top))
        assert torch.allclose(got, want, atol=1e-5)
    assert sides == {8, 9, 10, 11}
    assert {place for room, place in places if room == 2} == {0, 1, 2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: BitDepth(m, bits=0), "from 1 to 16"),
        (lambda m: JPEG(m, quality=0), "from 1 to 95"),
        (lambda m: GaussianNoise(m, sigma=-1.0), "0 or more"),
        (lambda m: GaussianNoise(m, sigma=math.inf), "finite"),
        (lambda m: Median(m, window=9).logits(torch.zeros(2, 3, 8, 12)), "wider than images of 8 x 12: at most 8"),
        (lambda m: Median(m).logits(torch.zeros(2, 64)), "takes images"),
        (lambda m: TotalVariation(m, weight=math.inf), "finite"),
        (lambda m: ResizePad(m, smallest=8, size=8), "smallest < size"),
        (lambda m: JPEG(m).logits(torch.zeros(2, 2, 8, 8)), "1 or 3"),
        (lambda m: ResizePad(m, smallest=4, size=8).logits(torch.zeros(2, 64)), "side, side"),
    ],
)
def test_what_cannot_be_is_said(make: Callable[[Model], object], message: str, small: Model) -> None:
    with pytest.raises(ModelError, match=message):
        make(small)


# how attacks go through them


@pytest.mark.parametrize("name", ["bits", "jpeg"])
def test_backward_is_the_identity_and_forward_is_exact(name: str, small: Model, x: Tensor) -> None:
    defence = DEFENCES[name](small)
    at = x.clone().requires_grad_()
    shown = defence.transform(x, stream(32)).requires_grad_()
    through = torch.autograd.grad(defence.logits(at)[:, 3].sum(), at)[0]
    assert torch.equal(defence.logits(x), small.logits(shown))
    assert torch.equal(through, torch.autograd.grad(small.logits(shown)[:, 3].sum(), shown)[0])
    assert (defence.differentiable, defence.random) == (False, False)


def test_a_declared_substitute_is_the_backward_pass(small: Model, x: Tensor) -> None:
    defence = Transformed(small, lambda x: (3 * x).round(), substitute=lambda x: 3 * x, name="levels")
    at = x.clone().requires_grad_()
    through = torch.autograd.grad(defence.logits(at)[:, 3].sum(), at)[0]
    shown = (3 * x).round().requires_grad_()
    assert torch.allclose(through, 3 * torch.autograd.grad(small.logits(shown)[:, 3].sum(), shown)[0])
    with pytest.raises(ModelError, match="same shape"):
        straight_through(torch.zeros(2, 3), torch.zeros(2, 4))


def test_defences_stack_and_keep_the_contract(small: Model, x: Tensor) -> None:
    stack = BitDepth(GaussianNoise(small, sigma=0.2), bits=3)
    assert (stack.differentiable, stack.random, stack.classes, stack.gives) == (False, True, 10, Knowledge.GRADIENT)
    assert stack.name == "bit depth 3 before Gaussian noise 0.2 before Sequential"
    assert stack.fingerprint() != BitDepth(GaussianNoise(small, sigma=0.1), bits=3).fingerprint()
    drawn = stack.drawn(stream(32))
    assert torch.equal(drawn.logits(x), drawn.logits(x))
    assert not torch.equal(stack.logits(x), stack.logits(x))
    inner = BitDepth(GaussianNoise(small, sigma=0.2), bits=3).double()
    assert inner is not None
    assert inner.logits(x.double()).dtype == torch.float64


@pytest.mark.parametrize("name", ["noise", "resize"])
def test_draws_are_each_rows_own(name: str, x: Tensor) -> None:
    """A row's draw depends on its key alone; without keys it is the same for all rows of a call."""
    defence = DEFENCES[name](TorchModel(Pooled(), classes=10))
    together = defence.drawn(stream(32)).logits(x)
    assert torch.allclose(defence.drawn(stream(32).take(torch.tensor([5]))).logits(x[5:6]), together[5:6], atol=1e-5)
    assert not torch.allclose(defence.drawn(stream(32)).logits(x[:1].expand(32, -1, -1, -1))[1:], together[:1], atol=1e-3)
    same = defence.logits(x[:1].expand(4, -1, -1, -1))
    assert torch.allclose(same, same[:1].expand(4, -1), atol=1e-5)
    padded = defence.drawn(stream(3)).logits(x[:8])
    assert torch.allclose(padded[:3], together[:3], atol=1e-5)


@pytest.mark.parametrize("name", sorted(DEFENCES))
def test_outcomes_do_not_depend_on_batch_mates(name: str, x: Tensor) -> None:
    defence = DEFENCES[name](TorchModel(Pooled(), classes=10))
    with torch.no_grad():
        y = defence.model.logits(x).argmax(1)
    prepared, attack = prepare(defence, x[:8]).pinned(128, 16, 0.0, 0.0), PGD(steps=3, step_size=0.4)

    def start(rows: Tensor) -> Outcome:
        goal = Untargeted()
        threat = parse_threat("linf:0.05").within((0.0, 1.0))
        oracle = Oracle.begin(prepared, threat, goal, x[rows], y[rows], ids=rows, draws=3 if defence.random else 1)
        oracle.settle_origin()
        return attack.on(oracle)

    together = start(torch.arange(12))
    for rows in (torch.arange(5, 9), torch.tensor([11, 2])):
        some = start(rows)
        for name_ in ("point", "queries", "hits", "margin"):
            assert torch.equal(getattr(some, name_), getattr(together, name_)[rows]), name_


class Gate(nn.Module):
    """x, rounded: a layer without a derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 7).round() / 7


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Shattered(nn.Module):
    """Nearly x, with slopes from -99 to 101 everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        phase = torch.arange(x[0].numel()).view(x.shape[1:])
        return x + 0.002 * (50_000 * x + phase).sin()


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


def behind(layer: nn.Module, deep: bool = False) -> nn.Module:
    inner = network()
    return nn.Sequential(nn.Sequential(inner[0], layer), *inner[1:]) if deep else nn.Sequential(layer, inner)


def findings(module: nn.Module, x: Tensor) -> tuple[list[Finding], TorchModel]:
    model = as_model(module.eval(), x)
    assert isinstance(model, TorchModel)
    with torch.no_grad():
        y = model.logits(x).argmax(1)
    return check_contract(model, x, y), model


def test_bpda_passes_the_layers_that_are_named(x: Tensor) -> None:
    module = behind(Gate(), deep=True)
    model = as_model(module, x)
    assert isinstance(model, TorchModel)
    twin = bpda(model, ["0.1"])
    at = x.clone().requires_grad_()
    assert torch.equal(twin.logits(x), model.logits(x))
    assert not bool(torch.autograd.grad(model.logits(at).sum(), at)[0].any())
    got = torch.autograd.grad(twin.logits(at).sum(), at)[0]
    assert bool(got.any())
    doubled = bpda(model, {"0.1": lambda x: 2 * x})
    assert torch.allclose(torch.autograd.grad(doubled.logits(at).sum(), at)[0], 2 * got)
    assert (twin.differentiable, model.differentiable) == (False, True)
    assert isinstance(module.get_submodule("0.1"), Gate)
    with pytest.raises(UnknownName, match=r"0\.1"):
        bpda(model, ["0.11"])


# what tells of them


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("layer", "code", "told", "gives"),
    [
        (Gate(), "gradient", "it is zero", Knowledge.SCORES),
        (Cut(), "gradient", "detached", Knowledge.SCORES),
        (Shattered(), "gradient", "not its slope", Knowledge.GRADIENT),
        (Noisy(), "random", "5 passes", Knowledge.GRADIENT),
    ],
)
def test_the_layer_and_the_remedy_are_named(
    layer: nn.Module, code: str, told: str, gives: Knowledge, deep: bool, x: Tensor
) -> None:
    found, model = findings(behind(layer, deep), x)
    (finding,) = found
    assert (finding.code, finding.severity, model.gives) == (code, "warning", gives)
    assert told in finding.message
    assert f"in the layer {'0.1' if deep else '0'} ({type(layer).__name__})" in finding.message
    assert ("EOT" if code == "random" else "mohs.defend.bpda") in finding.message
    assert model.random == (code == "random")
    assert not any(part._forward_hooks for part in model.module.modules())


def test_code_between_layers_is_named_by_its_module(x: Tensor) -> None:
    class Inline(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner((x * 7).round() / 7)  # type: ignore[no-any-return]

    (finding,) = findings(Inline(), x)[0]
    assert "in the forward of the model (Inline), outside its layers" in finding.message


def test_nothing_is_told_of_what_is_well_or_declared(x: Tensor) -> None:
    assert findings(network(), x)[0] == []
    model = as_model(behind(Gate()).eval(), x)
    assert isinstance(model, TorchModel)
    with torch.no_grad():
        y = model.logits(x).argmax(1)
    twin = bpda(model, ["0"])
    assert check_contract(twin, x, y) == []
    assert twin.gives == Knowledge.GRADIENT
    assert check_contract(BitDepth(as_model(network(), x), bits=8), x, network()(x).argmax(1)) == []


# the whole kit, on digits


class Stored(Defence):
    """A change followed by the 8 bits of an image file, as code outside of torch does it; the change stands in for it."""

    def __init__(self, inner: Defence) -> None:
        super().__init__(inner.model, f"8 bits after {inner.name}", differentiable=False, random=inner.random)
        self.inner = inner

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        return (self.inner.transform(x, stream).clamp(0, 1) * 255).round() / 255

    def substitute(self, x: Tensor, stream: Stream) -> Tensor:
        return self.inner.transform(x, stream)


class Undeclared(nn.Module):
    """A defence as it comes in a module: its code passes no gradient on."""

    def __init__(self, defence: Defence, net: nn.Module) -> None:
        super().__init__()
        self.defence, self.net = [defence], net

    def forward(self, x: Tensor) -> Tensor:
        shown = self.defence[0].transform(x.detach(), self.defence[0]._draw(x))
        return self.net(shown + 0 * x.sum((1, 2, 3), keepdim=True))  # type: ignore[no-any-return]


class Padded(nn.Module):
    """A small network for 12 x 12; smaller images stand in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        edge = (12 - x.shape[-1]) // 2
        return self.layers(functional.pad(x, (edge,) * 4))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """On digits of 8 to 11 pixels anywhere in 12 x 12."""
    x, y = load_digits("train")
    with threads(1), torch.random.fork_rng():
        torch.manual_seed(0)
        net = Padded()
        adam = torch.optim.Adam(net.parameters(), 4e-3)
        moved = ResizePad(TorchModel(net, classes=10), smallest=8, size=12)
        for epoch in range(24):
            for rows in torch.randperm(len(x)).split(64):
                shown = moved.transform(x[rows], Stream.of(epoch, rows)) if epoch % 4 else x[rows]
                adam.zero_grad()
                functional.cross_entropy(net(shown), y[rows]).backward()
                adam.step()
    return net.eval()


@pytest.mark.parametrize(
    "make",
    [
        lambda model: BitDepth(model, bits=4),
        lambda model: JPEG(model, quality=75),
        lambda model: Stored(GaussianNoise(model, sigma=0.1)),
        lambda model: Stored(ResizePad(model, smallest=8, size=12)),
    ],
    ids=["bit depth", "jpeg", "noise", "resize"],
)
def test_what_plain_pgd_cannot_break_the_kit_does(make: Callable[[Model], Defence], trained: nn.Module) -> None:
    """Without a gradient more than half stand; declared, hardly more than without the defence."""
    x, y = (part[:64] for part in load_digits("test"))
    model, threat, pgd = as_model(trained, x), "linf:0.2", PGD(steps=20, step_size=0.15)
    defence = make(model)
    naive = as_model(Undeclared(defence, trained).eval(), x)
    naive.random = defence.random
    stands = {
        "naive": ~pgd(naive, x, y, threat=threat).broken,
        "kit": ~pgd(defence, x, y, threat=threat, draws=8 if defence.random else 1).broken,
        "undefended": ~pgd(model, x, y, threat=threat).broken,
    }
    share = {name: float(rows.float().mean()) for name, rows in stands.items()}
    assert share["naive"] > 0.5, share
    assert share["kit"] <= share["undefended"] + 0.03, share
    assert share["undefended"] < 0.2, share
