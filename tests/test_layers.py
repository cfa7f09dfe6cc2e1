"""Layer sustainability: the measure against sums done by hand, hooks that go away, the command and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs import attacks, networks
from mohs.diagnosis.layers import sustainability
from mohs.errors import ModelError, RequestError, UnknownName
from mohs.models.sustainability import activations, layer_regularised, most_vulnerable, relative_errors
from mohs.report.layers import render
from tests.small import labelled, network
from tests.test_cli import Mohs, command_line, nothing

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture
def mohs_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    monkeypatch.chdir(tmp_path)
    return command_line(monkeypatch, capsys)


class Functional(nn.Module):
    """Activations as functions, one of them twice, a shared module, and writes over what was returned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 5)
        self.shared = nn.ReLU(inplace=True)
        self.inner = nn.Sequential(nn.Linear(5, 5), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        a = functional.relu(self.first(x))
        a += 1  # after it was looked at
        a = torch.relu(self.second(a))
        a = self.shared(self.inner(a) - 0.1)
        a = self.shared(a - 0.2)
        out: Tensor = a.tanh()
        return out


def some(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_every_activation_is_a_layer_with_a_name_of_its_own():
    torch.manual_seed(0)
    module, x = Functional(), some(4, 6)
    out, seen = activations(module, x)
    assert list(seen) == ["relu", "relu_1", "inner.1", "shared", "shared_1", "tanh"]
    torch.testing.assert_close(seen["relu"], module.first(x).relu())
    torch.testing.assert_close(seen["relu_1"], module.second(seen["relu"] + 1).relu())
    torch.testing.assert_close(seen["inner.1"], module.inner(seen["relu_1"]))
    torch.testing.assert_close(seen["shared"], (seen["inner.1"] - 0.1).relu())
    torch.testing.assert_close(seen["shared_1"], (seen["shared"] - 0.2).relu())
    assert torch.equal(seen["tanh"], out)


def test_functions_inside_a_layer_of_ones_own_are_that_layer():
    module = networks.build("resnet8", shape=(1, 8, 8), classes=3, activation="smooth-relu").eval()
    _, seen = activations(module, some(2, 1, 8, 8))
    assert len(seen) == 7
    assert list(seen)[:2] == ["network.act1", "network.stages.0.0.act1"]
    act = module.get_submodule("network.act1")
    before = module.get_submodule("network.norm1")(module.get_submodule("network.conv1")(some(2, 1, 8, 8)))
    torch.testing.assert_close(seen["network.act1"], act(before))


def test_hooks_are_taken_away_again_also_after_an_error():
    module = network()
    for _ in range(2):
        assert list(activations(module, some(2, 1, 8, 8))[1]) == ["1", "4"]
        assert hooks(module) == 0
    with pytest.raises(RuntimeError):
        activations(module, some(2, 3, 3, 3))
    assert hooks(module) == 0


def test_the_error_is_relative_and_of_each_example_by_itself():
    clean = {"a": torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])}
    moved = {"a": torch.tensor([[3.0, 5.0], [0.0, 2.0], [0.0, 0.0]])}
    assert relative_errors(clean, moved)["a"].tolist() == pytest.approx([0.2, 0, 0])
    one_norm_for_all = (moved["a"] - clean["a"]).norm() / clean["a"].norm()
    assert float(relative_errors(clean, moved)["a"].mean()) != pytest.approx(float(one_norm_for_all))


def test_a_linear_network_by_hand():
    """phi is linear where every unit is on: CM is ||W d|| / ||W x + b||."""
    module = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]))
        module[0].bias.copy_(torch.tensor([1.0, 0.0]))
    x, d = torch.tensor([[1.0, 1.0, 2.0]]), torch.tensor([[0.0, 3.0, 1.0]])  # phi(x) = (4, 3), W d = (6, 4)
    errors = relative_errors(activations(module, x)[1], activations(module, x + d)[1])
    assert float(errors["1"].detach()) == pytest.approx((6**2 + 4**2) ** 0.5 / 5)


def test_the_most_vulnerable_lie_a_deviation_above_the_mean():
    errors = {"a": 0.1, "b": 0.9, "c": 0.2, "d": 0.1, "e": 0.8}
    mean, std = np.mean(list(errors.values())), np.std(list(errors.values()))
    assert most_vulnerable(errors) == [name for name, value in errors.items() if value >= mean + std] == ["b", "e"]
    assert most_vulnerable(errors, deviations=0) == ["b", "e"]
    assert most_vulnerable(errors, deviations=9) == ["b"]
    assert most_vulnerable({"a": 0.3}) == ["a"]


def test_the_regularised_loss_is_cross_entropy_and_weighted_errors():
    module = network(classes=4)
    x, y = labelled(module, 8)
    attacked = (x + 0.1).clamp(max=1)
    plain = functional.cross_entropy(module(attacked), y)
    assert torch.equal(layer_regularised(module, x, attacked, y, {}), plain)
    with torch.no_grad():
        phi, moved = module[:2](x), module[:2](attacked)
        expected = ((moved - phi).flatten(1).norm(dim=1) / phi.flatten(1).norm(dim=1)).mean()
        assert float(layer_regularised(module, x, attacked, y, {"1": 0.5})) == pytest.approx(float(plain + 0.5 * expected))
        both = float(layer_regularised(module, x, attacked, y, {"1": 0.5, "4": 2.0}))
    assert both > float((plain + 0.5 * expected).detach())
    with pytest.raises(UnknownName, match="activation layer"):
        layer_regularised(module, x, attacked, y, {"7": 1.0})


def test_its_gradient_is_the_slope_and_is_a_number_where_nothing_moves():
    module = network(classes=4).double()
    x, y = labelled(network(classes=4), 4)
    x, attacked = x.double(), (x + 0.1).clamp(max=1).double()
    weight = module[0].weight
    layer_regularised(module, x, attacked, y, {"1": 0.5, "4": 1.0}).backward()
    slope, direction = weight.grad.clone(), torch.sign(weight.grad)
    with torch.no_grad():
        h, values = 1e-6, []
        for way in (1, -2):
            weight += way * h * direction
            values.append(float(layer_regularised(module, x, attacked, y, {"1": 0.5, "4": 1.0})))
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(float((slope * direction).sum()), rel=1e-4)
    module.zero_grad()
    layer_regularised(module, x, x, y, {"1": 0.5}).backward()
    assert bool(weight.grad.isfinite().all())


def test_training_with_it_steadies_the_layers_it_names():
    """The same few steps on the same attacked inputs, with and without."""
    moved = {}
    for gamma in ({}, {"1": 5.0}):
        module = network(classes=4)
        x, y = labelled(module, 32)
        attacked = (x + 0.15 * torch.sign(some(32, 1, 8, 8, seed=3) - 0.5)).clamp(0, 1)
        optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
        for _ in range(20):
            optimiser.zero_grad()
            layer_regularised(module, x, attacked, y, gamma).backward()
            optimiser.step()
        with torch.no_grad():
            moved[len(gamma)] = float(relative_errors(activations(module, x)[1], activations(module, attacked)[1])["1"].mean())
    assert moved[1] < 0.9 * moved[0]


# the analysis


def test_an_attack_moves_layers_more_than_chance_does():
    module = network(classes=4)
    x, y = labelled(module, 24)
    found = sustainability(module, (x, y), threat="linf:0.8")
    assert found.n == 21  # one in eight is wrong
    assert 0 < found.broken < found.n
    assert [layer.name for layer in found.layers] == ["1", "4"]
    assert [layer.features for layer in found.layers] == [128, 32]
    assert all(layer.error > layer.random > 0 for layer in found.layers)
    assert found.vulnerable == most_vulnerable({layer.name: layer.error for layer in found.layers})


def test_it_is_the_measure_of_the_attacks_own_points_whatever_the_batches():
    module = network(classes=4)
    x, y = labelled(module, 24)
    found = sustainability(module, (x, y), threat="linf:0.1", attack=attacks.PGD(steps=5), rows=7)
    right = module(x).argmax(1) == y
    outcome = attacks.PGD(steps=5)(module, x[right], y[right], threat="linf:0.1")
    with torch.no_grad():
        errors = relative_errors(activations(module, x[right])[1], activations(module, outcome.adversarial)[1])
    assert [layer.error for layer in found.layers] == pytest.approx([float(e.mean()) for e in errors.values()], rel=1e-5)


def test_an_exported_graph_of_one_batch_size(tmp_path: Path):
    module = network(classes=4)
    x, y = labelled(module, 24)
    torch.export.save(torch.export.export(module, (x[:5],)), tmp_path / "model.pt2")
    found = sustainability(str(tmp_path / "model.pt2"), (x, y), threat="linf:0.1", attack=attacks.PGD(steps=3))
    plain = sustainability(module, (x, y), threat="linf:0.1", attack=attacks.PGD(steps=3), rows=5)
    assert [layer.name for layer in found.layers] == ["relu", "relu_1"]
    assert [layer.error for layer in found.layers] == pytest.approx([layer.error for layer in plain.layers], rel=1e-3)


def test_what_cannot_be_analysed_is_told():
    module = network(classes=4)
    x, y = labelled(module, 8)
    with pytest.raises(RequestError, match="none of the"):
        sustainability(module, (x, (module(x).argmax(1) + 1) % 4), threat="linf:0.1")
    with pytest.raises(RequestError, match="from inside"):
        sustainability(module, (x, y), threat="linf:0.1+knowledge:label")
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
    with pytest.raises(ModelError, match="no activation layer"):
        sustainability(linear, (x, linear(x).argmax(1)), threat="linf:0.1")


# the command


def test_the_command_prints_the_layers_and_writes_the_page(mohs_: Mohs, tmp_path: Path):
    asked = ("layers", "demo", "--data", "digits", "--threat", "linf:0.1", "--limit", 16, "--steps", 3)
    done = mohs_(*asked, "--out", "layers.html")
    assert done.code == 0, done.err
    assert "most vulnerable: layers." in done.out
    page = (tmp_path / "layers.html").read_text()
    for name in ("layers.1", "layers.3", "layers.6"):
        assert name in done.out
        assert name in page
    facts = mohs_(*asked, "--json").json
    assert facts["attack"]["steps"] == 3
    assert [layer["features"] for layer in facts["layers"]] == [2048, 1024, 128]
    assert facts["most_vulnerable"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--threat", "linf:0.1", "--out", "layers.png"), ".html"),
        (("--threat", "linf:0.1", "--attack", "pdg"), "pgd"),
        (("--threat", "linf:0.1", "--stepz", 3), "steps"),
        (("--threat", "linf:inf"), "spends a budget"),
    ],
)
def test_a_wrong_request_ends_with_2_and_writes_nothing(mohs_: Mohs, tmp_path: Path, words: tuple[object, ...], says: str):
    done = mohs_("layers", "demo", "--data", "digits", "--limit", 8, *words)
    assert done.code == 2
    assert says in done.said
    assert nothing(tmp_path)


FACTS = {
    "model": "<script>alert(1)</script>",
    "data": "digits",
    "threat": "linf:0.1",
    "attack": {"attack": "pgd", "steps": 40},
    "n": 12,
    "broken": 6,
    "layers": [
        {"name": "<b>1</b>", "features": 8, "error": 0.5, "random": 0.1, "vulnerable": True},
        {"name": "2", "features": 4, "error": 0.25, "random": 0.0, "vulnerable": False},
    ],
    "most_vulnerable": ["<b>1</b>"],
}


def test_the_page_escapes_what_the_model_is_called():
    page = render(json.loads(json.dumps(FACTS)))
    assert "<script>" not in page
    assert "<b>1" not in page
    assert "width:50.00%" in page


def test_the_page_opens_in_a_browser(browser: Chrome, tmp_path: Path):
    (tmp_path / "layers.html").write_text(render(FACTS))
    browser.get_log("browser")
    browser.get((tmp_path / "layers.html").as_uri())
    assert browser.get_log("browser") == []
    widths = browser.execute_script("return [...document.querySelectorAll('.gauge i')].map(i => i.getBoundingClientRect().width)")
    assert widths[0] > 50
    assert widths[1] == pytest.approx(widths[0] / 5, abs=1)
    assert widths[2] == pytest.approx(widths[0] / 2, abs=1)
