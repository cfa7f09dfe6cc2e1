"""Universal perturbations: crafts against closed forms, the replay of what they made, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import mohs
from mohs.attacks.universal.craft import Craft, find
from mohs.attacks.universal.gradient import UniversalPGD
from mohs.attacks.universal.replay import Replay
from mohs.attacks.universal.singular import SingularVectors
from mohs.attacks.universal.uap import UAP
from mohs.crafting import judge, universal
from mohs.errors import DataError, Refused, RequestError, ThreatError, UnknownName
from mohs.losses import cross_entropy
from mohs.models import TorchModel, prepare
from mohs.models.hidden import Hidden, layers
from mohs.threat import L1, L2, Constraints, Knowledge, Linf, Targeted, Untargeted, parse_threat
from tests.conformance import distance, frozen_module, linear, world
from tests.small import labelled, network

CRAFTS: dict[str, Craft] = {
    "gradient": UniversalPGD(epochs=5, batch=4),
    "uap": UAP(epochs=2),
    "singular": SingularVectors(batch=8, iterations=10),
}


# crafts on a linear model: every example has the same nearest boundary


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_gradient_craft_finds_the_best_change_of_a_linear_model(norm: str) -> None:
    """epsilon times the steepest direction; in l1 the steepest of the top hundredth, here one entry."""
    model = linear()
    nearest, toward = model.distance(norm), -model.w.view(1, 6, 6)
    best = {
        "linf": toward.sign(),
        "l2": toward / toward.norm(),
        "l1": toward.sign() * (toward.abs() == toward.abs().max()),
    }[norm]
    craft = UniversalPGD(epochs=20, batch=2)
    short = craft(model.world.prepared, model.world.x, threat=parse_threat(f"{norm}:{0.99 * nearest}"), rate=1.0)
    assert torch.allclose(short.change.double(), 0.99 * nearest * best, atol=1e-3 * nearest)
    assert short.share == 0.0
    enough = craft(model.world.prepared, model.world.x, threat=parse_threat(f"{norm}:{1.01 * nearest}"), rate=1.0)
    assert enough.share == 1.0
    assert enough.backwards < short.backwards


def test_deepfool_of_one_example_fools_all_of_a_linear_model_at_once() -> None:
    model = linear()
    w, norm = -model.w.view(1, 6, 6), float(model.w.norm())
    nearest = model.distance("l2")
    made = UAP(epochs=1)(model.world.prepared, model.world.x, threat=L2(2 * nearest), rate=1.0)
    assert torch.allclose(made.change.double(), 1.02 * nearest * w / norm, atol=1e-5)
    assert made.share == 1.0
    n = len(model.world.x)
    # one example is told apart, walked (looked at, then linearised, then looked at again) and all are looked at once more
    assert made.backwards == 4  # of one step, to four classes
    assert made.forwards <= 4 * n + 2  # all are counted before the end, and once more after it
    together = UAP(epochs=1, batch=4)(model.world.prepared, model.world.x, threat=L2(2 * nearest), rate=1.0)
    assert math.isclose(float(together.change.norm()), 2 * nearest, rel_tol=1e-5)  # four walks, in the ball
    assert together.share == 1.0
    small = UAP(epochs=3)(model.world.prepared, model.world.x, threat=L2(0.9 * nearest), rate=1.0)
    assert small.share == 0.0
    assert math.isclose(float(small.change.norm()), 0.9 * nearest, rel_tol=1e-5)  # projected onto the ball


def test_the_singular_vector_is_that_of_the_layer() -> None:
    """A linear layer's Jacobian is its weight: the (2, 2)-vector is the first right singular vector."""
    g = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 4)).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
        module[1].weight[0] *= 3
    x = 0.4 + 0.2 * torch.rand(10, 1, 6, 6, generator=g)
    prepared = prepare(TorchModel(module, classes=4), x, rows=16)
    craft = SingularVectors(layer="1", q=2.0, iterations=60)
    made = craft(prepared, x, threat=L2(0.5))
    expected = torch.linalg.svd(module[1].weight.detach().double()).Vh[0]
    assert math.isclose(float(made.change.norm()), 0.5, rel_tol=1e-5)
    assert abs(float(made.change.double().flatten() @ expected)) / 0.5 > 0.9999
    # in linf it is a fixed point of the power method
    made = SingularVectors(layer="1", q=2.0, iterations=60)(prepared, x, threat=Linf(0.1))
    weight, v = module[1].weight.detach(), made.change.flatten() / 0.1
    assert torch.equal((weight.T @ (weight @ v)).sign(), v.round())


def test_singular_vectors_of_a_high_power_are_those_of_the_largest_output() -> None:
    """As q grows, ||A v||_q is the largest |<a_i, v>|, whose best v of length 1 is a_i / ||a_i||."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        module[1].weight.copy_(torch.eye(5, 8) * torch.tensor([1.0, 2.0, 30.0, 4.0, 5.0])[:, None])
    x = 0.4 + 0.2 * torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    prepared = prepare(TorchModel(module, classes=3), x, rows=16)
    made = SingularVectors(layer="1", q=10.0, iterations=60)(prepared, x, threat=L2(0.5))
    assert made.change.abs().argmax() == 2
    assert math.isclose(float(made.change[2].abs()), 0.5, rel_tol=1e-3)


# crafts on a network


def trained() -> tuple[nn.Module, Tensor, Tensor]:
    module = network()
    x, y = labelled(module, 48)
    return module, x, y


@pytest.mark.parametrize("name", CRAFTS)
def test_changes_lie_in_the_ball_and_fool_what_is_said(name: str) -> None:
    module, x, _ = trained()
    prepared = prepare(TorchModel(module, classes=10), x)
    for threat in (Linf(0.1), L2(0.8)):
        made = CRAFTS[name](prepared, x, threat=threat, rate=0.9)
        far = float(distance(threat.name, made.change[None], torch.zeros_like(made.change)[None]))
        assert 0 < far <= threat.epsilon * (1 + 1e-6)
        moved = (x + made.change).clamp(0, 1)
        with torch.no_grad():
            share = float((module(moved).argmax(1) != module(x).argmax(1)).double().mean())
        assert abs(share - made.share) <= 1 / 48
        assert share > 0
        again = CRAFTS[name](prepared, x, threat=threat, rate=0.9)
        assert torch.equal(made.change, again.change)
        assert made.forwards > 0
        assert made.backwards > 0


def test_a_rate_that_is_reached_ends_the_search() -> None:
    module, x, _ = trained()
    prepared = prepare(TorchModel(module, classes=10), x)
    soon, long = (UniversalPGD(epochs=8, batch=16)(prepared, x, threat=Linf(0.3), rate=rate) for rate in (0.05, 1.0))
    assert soon.share >= 0.05
    assert soon.backwards < long.backwards
    assert long.backwards <= 8 * 48


@pytest.mark.parametrize("name", CRAFTS)
def test_what_may_not_change_does_not(name: str) -> None:
    module, x, _ = trained()
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 2:6, 2:6] = True
    made = CRAFTS[name](prepare(TorchModel(module, classes=10), x), x, threat=Linf(0.3, constraints=Constraints(mask=mask)))
    assert made.change.any()
    assert not made.change[~mask].any()


@pytest.mark.parametrize("name", CRAFTS)
def test_a_goal_that_names_a_class_is_served(name: str) -> None:
    module, x, _ = trained()
    made = CRAFTS[name](prepare(TorchModel(module, classes=10), x), x, threat=Linf(0.5), rate=1.0, goal=Targeted(to=3))
    with torch.no_grad():
        before = module(x).argmax(1)
        after = module((x + made.change).clamp(0, 1)).argmax(1)
    assert math.isclose(made.share, float((after == 3)[before != 3].double().mean()), abs_tol=1 / 40)


def test_wrong_settings_are_refused() -> None:
    w = world()
    made = UniversalPGD()
    for rate in (0.0, -0.1, 1.01, math.nan):
        with pytest.raises(RequestError, match="fooling rate"):
            made(w.prepared, w.x, threat=Linf(0.1), rate=rate)
    for epsilon in (0.0, math.inf):
        with pytest.raises(ThreatError, match="a budget above 0"):
            made(w.prepared, w.x, threat=Linf(epsilon))
    with pytest.raises(Refused, match="needs gradient"):
        made(w.prepared, w.x, threat=Linf(0.1, knowledge=Knowledge.SCORES))
    with pytest.raises(Refused, match="linf, l2"):
        UAP()(w.prepared, w.x, threat=L1(1.0))
    with pytest.raises(ThreatError, match="applies to none"):
        made(w.prepared, w.x, torch.full((12,), 2), threat=Linf(0.1), goal=Targeted(to=2))
    with pytest.raises(UnknownName, match="did you mean 'gradient'"):
        find("gradeint")
    with pytest.raises(UnknownName, match="layer"):
        SingularVectors(layer="nowhere")(w.prepared, w.x, threat=Linf(0.1))
    wrong: list[tuple[type[Craft], dict[str, object]]] = [
        (UniversalPGD, {"epochs": 0}),
        (UAP, {"candidates": 1}),
        (UAP, {"batch": 17}),
        (SingularVectors, {"q": 1.0}),
    ]
    for craft, settings in wrong:
        with pytest.raises(RequestError):
            craft(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CRAFTS)
def test_settings_round_trip(name: str) -> None:
    spec = json.loads(json.dumps(CRAFTS[name].spec()))
    assert find(name).from_spec(spec) == CRAFTS[name]


# layers


def test_layers_are_named_and_cut_out() -> None:
    module = frozen_module()
    model = TorchModel(module, classes=6)
    assert layers(model) == ["_0", "_3"]
    hidden = Hidden(model, "3")
    x = world().x
    with torch.no_grad():
        expected = module[3](module[2](module[1](module[0](x)))).flatten(1)
        assert torch.allclose(hidden.logits(x), expected, atol=1e-6)
    assert not any("Linear" in type(part).__name__ for part in hidden.module.children())


def test_layers_of_an_exported_graph(tmp_path: Path) -> None:
    from mohs.models import load_model

    w = world()
    program = torch.export.export(w.module, (w.x[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, tmp_path / "model.pt2")
    model = load_model(str(tmp_path / "model.pt2"), x=w.x)
    assert isinstance(model, TorchModel)
    names = layers(model)
    assert len(names) == 2
    with torch.no_grad():
        expected = w.module[0](w.x).flatten(1)
        assert torch.allclose(Hidden(model, names[0]).logits(w.x), expected, atol=1e-6)


# replay


def test_replay_asks_the_judge_alone_and_once() -> None:
    w = world()
    change = 0.1 * torch.sign(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)))
    for knowledge in Knowledge:
        out = Replay(point=change)(w.prepared, w.x, w.y, threat=Linf(0.1, knowledge=knowledge))
        moved = (w.x + change).clamp(0, 1)
        with torch.no_grad():
            found = w.module(moved).argmax(1)
        assert torch.equal(out.broken[:-1], (found != w.y)[:-1])
        assert int(out.broken[:-1].sum()) > 0
        assert torch.allclose(out.adversarial[:-1][out.broken[:-1]], moved[:-1][out.broken[:-1]], atol=1e-6)
        assert not out.forwards.any()
        assert not out.backwards.any()


def test_replay_depends_on_no_batch_mate() -> None:
    w = world()
    made = Replay(point=0.1 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1)))
    whole = made(w.prepared, w.x, w.y, threat=L2(0.6))
    for i in (0, 5, 11):
        alone = made(w.prepared, w.x[i : i + 1], w.y[i : i + 1], threat=L2(0.6))
        assert torch.equal(alone.adversarial[0], whole.adversarial[i])
        assert alone.status[0] == whole.status[i]


def test_replay_stays_in_a_smaller_set() -> None:
    """A change of a larger budget is projected; nothing outside the set is a success."""
    w = world()
    made = Replay(point=torch.full((3, 8, 8), 0.5))
    assert made(w.prepared, w.x, w.y, threat=Linf(0.5)).broken[:-1].any()
    out = made(w.prepared, w.x, w.y, threat=Linf(0.001))
    assert bool((distance("linf", out.adversarial, w.x) <= 0.001 * (1 + 1e-6) + 2**-23).all())


def test_replay_reads_what_a_craft_wrote(tmp_path: Path) -> None:
    w, file = world(), tmp_path / "made.safetensors"
    point = 0.1 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    save_file({"point": point}, file)
    there, here = (Replay(point=p)(w.prepared, w.x, w.y, threat=L2(1.0)) for p in (str(file), point))
    assert there.status == here.status
    assert torch.equal(there.adversarial, here.adversarial)
    save_file({"x": point}, file)
    with pytest.raises(RequestError, match="holds x; expected a tensor named point"):
        Replay(point=str(file)).load()
    save_file({"point": point * math.nan}, file)
    with pytest.raises(RequestError, match="NaN"):
        Replay(point=str(file)).load()
    with pytest.raises(RequestError, match="shape"):
        Replay(point=point[:1])(w.prepared, w.x, w.y, threat=L2(1.0))
    with pytest.raises(RequestError, match="has none"):
        Replay(point=point)(w.prepared, w.x, w.y, threat=L2(math.inf))


# judged on other data


def test_the_fooling_rate_is_against_the_prediction_and_on_held_out_examples() -> None:
    module, x, y = trained()
    made = mohs.universal(module, (x, y), threat="linf:0.3", held_out=0.5, settings={"epochs": 4})
    assert made.made_from == 24
    assert made.fooling.n == made.accuracy.n == made.clean.n == 24
    # labels play no part in it, but for the accuracy
    other = mohs.universal(module, (x, (y + 1) % 10), threat="linf:0.3", held_out=0.5, settings={"epochs": 4})
    assert torch.equal(made.point, other.point)
    assert made.fooling == other.fooling
    assert made.clean != other.clean
    # what is held out plays no part in making it
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    held = order[:24].sort().values
    changed = x.clone()
    changed[held] = 1 - changed[held]
    again = mohs.universal(module, (changed, y), threat="linf:0.3", held_out=0.5, settings={"epochs": 4})
    assert torch.equal(made.point, again.point)
    with torch.no_grad():
        before, after = module(x[held]).argmax(1), module((x[held] + made.point).clamp(0, 1)).argmax(1)
    assert made.fooling.robust == int((before != after).sum())
    assert made.clean.robust == int((before == y[held]).sum())
    assert made.accuracy.robust == int((after == y[held]).sum())
    low, high = made.fooling.interval
    assert low <= made.fooling.low <= high


def test_other_data_to_judge_on() -> None:
    module, x, y = trained()
    made = mohs.universal(module, (x[:24], y[:24]), test=(x[24:], y[24:]), threat="l2:1", method="uap")
    assert made.made_from == 24
    assert made.fooling.n == 24
    fooling, _, _ = judge(prepare(TorchModel(module, classes=10), x), made.point, x[24:], y[24:], L2(1.0), Untargeted())
    assert fooling == made.fooling
    with pytest.raises(DataError, match="shape"):
        mohs.universal(module, (x, y), test=(x[:, :, :4], y), threat="linf:0.1")
    with pytest.raises(RequestError, match="between 0 and 1"):
        mohs.universal(module, (x, y), threat="linf:0.1", held_out=1.0)
    with pytest.raises(DataError, match="cannot be parted"):
        mohs.universal(module, (x[:1], y[:1]), threat="linf:0.1")


def test_a_picture_and_the_change_beside_it(tmp_path: Path) -> None:
    module, x, y = trained()
    made = universal(module, (x, y), threat="linf:0.2", settings={"epochs": 2}, out=tmp_path / "new" / "uap.png")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["uap.png", "uap.safetensors"]
    assert torch.equal(load_file(tmp_path / "new" / "uap.safetensors")["point"], made.point)
    with safe_open(tmp_path / "new" / "uap.safetensors", "pt") as file:
        assert json.loads(file.metadata()["mohs"])["threat"] == "linf:0.2"
    with Image.open(tmp_path / "new" / "uap.png") as picture:
        shown = torch.from_numpy(np.array(picture))
    assert shown.shape == (256, 256)
    shown = shown[16::32, 16::32]
    scale = float(made.point.abs().max())
    assert torch.allclose(shown / 255, 0.5 + made.point[0] / (2 * scale), atol=1 / 255)
    table, labels = torch.rand(20, 5), torch.randint(0, 3, (20,))
    net = nn.Sequential(nn.Linear(5, 3)).eval()
    with pytest.raises(RequestError, match="no picture"):
        universal(net, (table, labels), threat="linf:0.2", out=tmp_path / "table.png")
    universal(net, (table, labels), threat="linf:0.2", out=tmp_path / "table.safetensors")
    assert (tmp_path / "table.safetensors").exists()
    with pytest.raises(RequestError, match=r"\.png"):
        universal(net, (table, labels), threat="linf:0.2", out=tmp_path / "table.npz")


def test_the_loss_is_bounded() -> None:
    from mohs.aim import Aim
    from mohs.attacks.universal.gradient import clipped

    logits = torch.tensor([[0.0, 50.0], [0.0, 1.0]], requires_grad=True)
    loss = clipped(cross_entropy, 9.0)(logits, Aim(torch.tensor([0, 0])))
    loss.sum().backward()
    assert float(loss[0].detach()) == 9.0
    assert logits.grad is not None
    assert not logits.grad[0].any()
    assert logits.grad[1].any()
