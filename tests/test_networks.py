"""The networks by name: published sizes, published weights, and what the rest of mohs asks of a module."""

from __future__ import annotations

import io
from types import ModuleType

import pytest
import torch
from torch import Tensor, fx, nn

from mohs import networks
from mohs.errors import RequestError, UnknownName
from mohs.models import TorchModel, prepare
from mohs.networks.parts import Block, SmoothReLU
from mohs.networks.table import assemble

CIFAR, DIGITS = (3, 32, 32), (1, 8, 8)

# Every class of network once, quick on one core for 8x8 images.
SMALL = ["resnet20", "resnet8-noskip", "wrn-10-1", "wk-cnn", "mlp-32-16", "vit", "convformer"]


def count(name: str, shape: tuple[int, ...] = CIFAR, classes: int = 10) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in assemble(name, shape, classes).parameters())


def grown(name: str, **options: object) -> nn.Module:
    """In evaluation mode, with statistics and affine maps in its normalisations that are not those of the start."""
    options = {"mean": [0.4], "std": [0.3], "shape": DIGITS, **options}
    module = networks.build(name, classes=5, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.running_mean, part.running_var, part.weight.data, part.bias.data):
                assert tensor is not None
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return module.eval()


def images(n: int = 8, shape: tuple[int, ...] = DIGITS) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # as the papers print them
        ("resnet20", 0.27),
        ("resnet32", 0.46),
        ("resnet44", 0.66),
        ("resnet56", 0.85),
        ("resnet110", 1.7),
        ("preact-resnet18", 11.17),
        ("wrn-40-4", 8.9),
        ("wrn-16-8", 11.0),
        ("wrn-28-10", 36.5),
        ("wrn-34-10", 46.2),
    ],
)
def test_sizes_are_the_published_ones(name: str, millions: float):
    digits = len(str(millions).partition(".")[2])
    assert round(count(name) / 1e6, digits) == millions


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet20", 269_722), ("resnet110", 1_727_962), ("wrn-28-10", 36_479_194), ("wrn-34-10", 46_160_474)],
)
def test_sizes_to_the_last_parameter(name: str, parameters: int):
    assert count(name) == parameters
    if name.startswith("resnet"):  # shortcuts have no weights
        assert count(f"{name}-noskip") == parameters


def test_the_tiny_transformer_is_that_of_deit_without_its_class_token_and_places():
    of_deit, token, position = 5_717_416, 192, 197 * 192
    with torch.device("meta"):
        network = assemble("vit-tiny", (3, 32, 32), 1000)
    patches = 3 * 192 * (16**2 - 4**2)  # its patches are of 16, ours here of 4
    assert sum(p.numel() for p in network.parameters()) == of_deit - token - position - patches


def test_attention_and_convolution_are_about_equal_in_size():
    assert 1 < count("convformer") / count("vit") < 1.02
    assert round(count("vit") / 1e6, 1) == 0.8


@pytest.mark.parametrize(("name", "ours"), [("cifar_resnet20", "resnet20"), ("cifar_resnet32", "resnet32")])
def test_published_weights_give_published_answers(cases: ModuleType, name: str, ours: str):
    same_as_published(cases, name, ours, CIFAR)


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist_kw_0.1", (1, 28, 28)), ("cifar_cnn_a_adv", CIFAR), ("mnist_eran_6_100", (1, 28, 28))]
)
def test_published_weights_of_networks_in_a_line(cases: ModuleType, name: str, shape: tuple[int, ...]):
    same_as_published(cases, name, "mlp-100-100-100-100-100" if "eran" in name else "wk-cnn", shape)


def same_as_published(cases: ModuleType, name: str, ours: str, shape: tuple[int, ...]) -> None:
    published, data = cases.load(name)
    norm = published.norm
    about = {} if isinstance(norm, nn.Identity) else {"mean": norm.mean.flatten().tolist(), "std": norm.std.flatten().tolist()}
    module = networks.build(ours, shape=shape, classes=10, **about).eval()
    network = module.get_submodule("network")
    theirs, here = published.net.state_dict(), network.state_dict()
    network.load_state_dict(dict(zip(here, theirs.values(), strict=True)))
    x, y = cases.data(data) if data == "mnist" else cases.data(data, lossless=True)[:2]
    with torch.no_grad():
        logits = module(x[:100])
        torch.testing.assert_close(logits, published(x[:100]), atol=1e-5, rtol=1e-5)
    assert (logits.argmax(1) == y[:100]).float().mean() > 0.5


@pytest.mark.parametrize("name", SMALL)
def test_torch_fx_and_torch_export_give_the_same_logits(name: str):
    module, x = grown(name), images()
    with torch.no_grad():
        logits = module(x)
        assert logits.shape == (8, 5)
        assert torch.equal(fx.symbolic_trace(module)(x), logits)
        torch.testing.assert_close(exported(module, x).module()(x[:3]), logits[:3])


def exported(module: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows", min=2)
    return torch.export.export(module, (x,), dynamic_shapes=((rows, *[None] * (x.ndim - 1)),))


@pytest.mark.parametrize("name", [*SMALL, "preact-resnet18"])
def test_guides_are_prepared_of_every_network(name: str):
    """Each step that has something to do is kept, and the guide's logits are the model's."""
    module, x = grown(name), images()
    prepared = prepare(TorchModel(module, classes=5, example=x[:2]), x, rows=16)
    log = prepared.guide.log
    assert [line for line in log if "dropped" in line and "nothing to fold" not in line] == []
    kept = {line.partition(":")[0] for line in log if ": kept" in line}
    assert "fold normalisation" in kept
    assert ("fold batch norm" in kept) == any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    assert ("narrow gradients" in kept) == any(isinstance(part, nn.Conv2d) for part in module.modules())
    with torch.no_grad():
        torch.testing.assert_close(prepared.guide.scores(x), module(x), atol=1e-4, rtol=1e-4)
    assert prepared.judge.exact is not None


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_is_the_weights(name: str):
    before = torch.random.get_rng_state()
    first, again, other = (networks.build(name, shape=DIGITS, classes=4, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    weights = [(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True) if a.ndim > 1]
    assert weights
    assert not any(torch.equal(a, b) for a, b in weights)


def test_weights_start_with_the_variance_of_he():
    module = networks.build("resnet20", shape=CIFAR, classes=10, seed=1)
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 5000:
            assert float(part.weight.detach().std()) == pytest.approx((2 / part.weight[0].numel()) ** 0.5, rel=0.03)


def test_layers_of_one_shape_start_with_weights_of_their_own():
    blocks = [part for part in networks.build("resnet20", shape=CIFAR, classes=10).modules() if isinstance(part, Block)]
    assert not torch.equal(blocks[1].conv2.weight, blocks[2].conv2.weight)


@pytest.mark.parametrize("name", ["resnet56", "wrn-40-1"])
def test_without_normalisation_a_deep_network_starts_calm_and_learns(name: str):
    module = networks.build(name, shape=DIGITS, classes=4, norm="none")
    x, y = images(16), torch.arange(16) % 4
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(module(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] < 5
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1", "preact-resnet18", "wk-cnn"])
def test_normalisation_is_an_argument(name: str, norm: str):
    module = networks.build(name, shape=DIGITS, classes=4, norm=norm)
    kinds = {type(part) for part in module.modules() if isinstance(part, nn.BatchNorm2d | nn.GroupNorm)}
    assert kinds == {"batch": {nn.BatchNorm2d}, "group": {nn.GroupNorm}, "none": set()}[norm]
    biased = {part.bias is not None for part in module.modules() if isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1)}
    assert biased == {norm == "none"}
    module.train()(images(4)).sum().backward()


@pytest.mark.parametrize(
    ("text", "kind"),
    [("silu", nn.SiLU), ("softplus:10", nn.Softplus), ("smooth-relu", SmoothReLU), ("elu", nn.ELU), ("gelu", nn.GELU)],
)
@pytest.mark.parametrize("name", SMALL)
def test_activation_is_an_argument(name: str, text: str, kind: type[nn.Module]):
    module = networks.build(name, shape=DIGITS, classes=4, activation=text)
    assert not any(isinstance(part, nn.ReLU) for part in module.modules())
    found = [part for part in module.modules() if isinstance(part, kind)]
    assert len(found) == len(set(map(id, found))) >= 2
    assert module.eval()(images(2)).isfinite().all()
    if text == "softplus:10":
        assert {part.beta for part in found} == {10.0}


def test_smooth_relu_is_what_the_paper_writes():
    layer = SmoothReLU(2.0)
    x = torch.tensor([-3.0, -0.1, 0.0, 0.1, 1.0, 50.0], dtype=torch.float64, requires_grad=True)
    y = layer(x)
    above = x.detach()[3:]
    torch.testing.assert_close(y[3:], above - (4 * above + 1).log() / 4)
    assert y[:3].tolist() == [0, 0, 0]
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, torch.where(x > 0, 4 * x / (4 * x + 1), 0.0).detach())
    near = SmoothReLU(1000.0)(x)
    assert float((near - x.relu()).abs().max().detach()) < 1e-4
    layer(x.detach()).sum().backward()
    h = 2.0**-10
    rise = (SmoothReLU(2 + h).double()(x).sum() - SmoothReLU(2 - h).double()(x).sum()) / (2 * h)
    assert layer.root.grad is not None
    assert float(layer.root.grad) == pytest.approx(float(rise.detach()), rel=1e-4)


def test_the_twin_without_skips_is_the_same_network_but_for_them():
    module, twin = (networks.build(name, shape=DIGITS, classes=4, seed=2).eval() for name in ("resnet8", "resnet8-noskip"))
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), twin.state_dict().values(), strict=True))
    x = images(4)
    with torch.no_grad():
        maps = twin.get_submodule("network")
        expected = maps.act1(maps.norm1(maps.conv1(x)))
        for block in (stage[0] for stage in maps.stages):
            inner = block.act1(block.norm1(block.conv1(expected)))
            expected = block.act2(block.norm2(block.conv2(inner)))
        torch.testing.assert_close(twin(x), maps.linear(expected.mean((2, 3))))
        assert not torch.allclose(twin(x), module(x))


def test_attention_is_that_of_torch():
    layer = networks.build("vit", shape=DIGITS, classes=4).get_submodule("network.blocks.0.mixer").double()
    reference = nn.MultiheadAttention(128, 4, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_weight.copy_(layer.qkv.weight)
        reference.in_proj_bias.copy_(layer.qkv.bias)
        reference.out_proj.weight.copy_(layer.out.weight)
        reference.out_proj.bias.copy_(layer.out.bias)
    tokens = torch.randn(2, 9, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(layer(tokens), reference(tokens, tokens, tokens, need_weights=False)[0])


@pytest.mark.parametrize("name", ["vit", "convformer"])
def test_tokens_know_their_places(name: str):
    """The same patches in another order are another image."""
    module = networks.build(name, shape=DIGITS, classes=4).eval()
    x = images(4)
    with torch.no_grad():
        assert not torch.allclose(module(x), module(x.flip(3)), atol=1e-4)


def test_second_derivatives_exist():
    for name in SMALL:
        module = networks.build(name, shape=DIGITS, classes=4, activation="silu").eval()
        x = images(2).requires_grad_()
        (slope,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        assert x.grad is not None
        assert bool(x.grad.any()), name


def test_the_normalisation_of_the_data_is_the_first_layer_and_travels_with_the_weights():
    x = images(64, (3, 8, 8)) * torch.tensor([1.0, 0.5, 0.0])[:, None, None]
    mean, std = networks.statistics(x)
    assert std[2] == 1
    module = networks.build("wk-cnn", shape=(3, 8, 8), classes=4, mean=mean, std=std).eval()
    seen = module[0](x)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[:, :2].std((0, 2, 3), correction=0), torch.ones(2))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = networks.build("wk-cnn", shape=(3, 8, 8), classes=4, mean=[0.0] * 3, std=[1.0] * 3, seed=9).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), module(x))


@pytest.mark.parametrize("name", networks.NAMES)
def test_every_listed_name_is_a_network(name: str):
    assert networks.is_network(name)
    assert count(name) > 0


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet21", {}, "6 n . 2"),
        ("resnet2", {}, "6 n . 2"),
        ("wrn-28-0", {}, "28-10"),
        ("wrn-20-4", {}, "6 n . 4"),
        ("resnet20", {"shape": (30,)}, "takes images"),
        ("resnet20", {"classes": 1}, "2 classes or more"),
        ("resnet20", {"mean": [0.5]}, "give both"),
        ("resnet20", {"mean": [0.5], "std": [0.0]}, "above 0"),
        ("resnet20", {"mean": [0.5, 0.5], "std": [1.0, 1.0]}, "1 channels"),
        ("resnet20", {"activation": "rulu"}, "relu"),
        ("resnet20", {"activation": "relu:3"}, "unknown activation"),
        ("resnet20", {"activation": "softplus:-1"}, "above 0"),
        ("resnet20", {"norm": "layer"}, "unknown normalisation"),
        ("mlp", {"norm": "batch"}, "no normalisation"),
        ("mlp-0", {}, "1 or wider"),
        ("vit", {"norm": "batch"}, "tokens"),
        ("vit", {"shape": (1, 31, 37)}, "31x37"),
        ("wk-cnn", {"shape": (1, 3, 9)}, "too small"),
    ],
)
def test_what_cannot_be_built_is_told(name: str, options: dict[str, object], says: str):
    with pytest.raises(RequestError, match=says):
        networks.build(name, **{"shape": DIGITS, "classes": 4, **options})  # type: ignore[arg-type]


def test_a_name_misspelt_has_neighbours():
    assert not networks.is_network("resnet")
    with pytest.raises(UnknownName, match="wrn-28-10"):
        networks.build("wrn-2810", shape=CIFAR, classes=10)


@pytest.mark.parametrize("name", ["wk-cnn", "resnet20", "mlp"])
def test_the_first_answers_are_near_even(name: str) -> None:
    """Else the first steps of training may switch every unit off."""
    x = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = networks.statistics(x)
    network = networks.build(name, shape=(3, 32, 32), classes=10, mean=mean, std=std).eval()
    with torch.no_grad():
        assert network(x).softmax(1).max() < 0.5
