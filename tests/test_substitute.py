"""Substitutes: trained on a model's answers, and attacked in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mohs
from mohs.errors import ModelError, Refused, RequestError, RunFailed
from mohs.models import TorchModel
from mohs.substituting import small_network, substitute
from mohs.threat import Knowledge
from tests.stub import DESCRIPTION, Stub, examples, running, serve_labels, weights
from tests.test_cli import Mohs, command_line


class Victim(TorchModel):
    """The stub's linear model at hand; notes what it is asked, and answers with labels where told to."""

    def __init__(self, gives: Knowledge = Knowledge.GRADIENT) -> None:
        linear = nn.Linear(16, 4)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weights()))
            linear.bias.zero_()
        super().__init__(nn.Sequential(nn.Flatten(), linear).eval(), classes=4)
        self.gives, self.seen = gives, list[Tensor]()

    def logits(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        z = super().logits(x)
        return nn.functional.one_hot(z.argmax(1), 4).float() if self.gives == Knowledge.LABEL else z


def test_the_copy_agrees_and_the_budget_is_kept() -> None:
    x, _ = examples(80)
    victim = Victim(Knowledge.LABEL)
    found = mohs.substitute(victim, x, queries=500, rounds=3)
    assert found.agreement > 0.9 > 2 * found.chance
    assert found.queries == sum(map(len, victim.seen)) == 500
    assert found.held_out == 20
    assert found.sizes == (60, 120, 240, 480)
    before = [value.clone() for value in found.module.parameters()]
    again = mohs.substitute(Victim(Knowledge.LABEL), x, queries=500, rounds=3)
    assert all(torch.equal(a, b) for a, b in zip(before, again.module.parameters(), strict=True))
    other = mohs.substitute(Victim(Knowledge.LABEL), x, queries=500, rounds=3, seed=1)
    assert not torch.equal(before[0], next(other.module.parameters()))


def test_a_round_steps_along_the_gradient_of_the_answered_class() -> None:
    """Every new input is an old one moved by lambda in each entry, clipped; on the victim's own network, by the sign of the
    weights of the answered class."""
    x, _ = examples(80)
    victim = Victim()
    generator = torch.random.get_rng_state()
    found = substitute(victim, x, queries=140, rounds=1, lambda_=0.05, architecture=victim.module, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), generator)
    asked = torch.cat(victim.seen)
    known, moved = asked[20:80], asked[80:]
    assert len(moved) == 60 == found.sizes[1] - found.sizes[0]
    step = moved[:, None] - known[None]
    pairs = (((step.abs() - 0.05).abs() < 1e-6) | (moved[:, None] == 1)).flatten(2).all(2)
    assert bool((pairs.sum(1) == 1).all())
    assert bool((pairs.sum(0) == 1).all())
    own = known[pairs.int().argmax(1)]
    rises = torch.from_numpy(weights())[found_label(own)].view_as(own) > 0  # one epoch has hardly moved these weights
    assert bool((moved - own > 0)[rises].all())


def found_label(x: Tensor) -> Tensor:
    return (x.flatten(1) @ torch.from_numpy(weights()).float().T).argmax(1)


def test_the_budget_ends_the_doubling_in_even_shares() -> None:
    x, _ = examples(80)
    found = substitute(Victim(), x, queries=200, rounds=3, epochs=1)
    assert found.sizes == (60, 100, 140, 180)
    assert substitute(Victim(), x, queries=200, rounds=0, epochs=1).sizes == (60,)


def test_scores_are_learnt_only_where_they_are_given() -> None:
    x, _ = examples(80)
    with pytest.raises(Refused, match="gives label"):
        substitute(Victim(Knowledge.LABEL), x, knowledge="scores")
    soft = substitute(Victim(), x, queries=200, rounds=1, knowledge="scores")
    hard = substitute(Victim(), x, queries=200, rounds=1)
    labels = substitute(Victim(Knowledge.LABEL), x, queries=200, rounds=1)
    one, two, three = (next(found.module.parameters()) for found in (soft, hard, labels))
    assert torch.equal(two, three)  # by labels, nothing else of an answer is looked at
    assert not torch.equal(one, two)


def test_bad_requests(tmp_path: Path) -> None:
    x, _ = examples(80)
    with pytest.raises(ModelError, match="4 classes"):
        substitute(Victim(), x, architecture=nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    with pytest.raises(ModelError, match="does not take"):
        substitute(Victim(), x, architecture=nn.Linear(3, 4))
    with pytest.raises(RunFailed, match="too few"):
        substitute(Victim(), x[:12])
    with pytest.raises(RequestError, match="label` or `scores"):
        substitute(Victim(), x, knowledge="gradient")


@pytest.mark.parametrize("shape", [(7,), (1, 8, 8), (3, 32, 32), (3, 17, 40), (4, 5)])
def test_networks_for_inputs_of_any_shape(shape: tuple[int, ...]) -> None:
    module = small_network(shape, 5, (-1.0, 3.0))
    assert module(torch.rand(2, *shape)).shape == (2, 5)
    assert sum(p.numel() for p in module.parameters()) < 1_000_000


@pytest.fixture
def mohs_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    monkeypatch.chdir(tmp_path)
    x, y = examples(80)
    np.savez("seed.npz", x=x.numpy(), y=y.numpy())
    Path("endpoint.toml").write_text(DESCRIPTION)
    return command_line(monkeypatch, capsys)


def test_what_a_user_types(mohs_: Mohs) -> None:
    """From an endpoint to a surrogate of an audit; typed again, nothing is asked twice, and the budget binds what is sent."""
    words = ["--data", "seed.npz", "--describe", "endpoint.toml", "--queries", 300, "--rounds", 2, "--out", "copy.pt2"]
    with running(Stub()) as stub:
        done = mohs_("substitute", stub.url, *words, "--json")
        assert done.code == 0
        assert stub.received == done.json["account"]["sent"] <= 300
        first = done.json
        again = mohs_("substitute", stub.url, *words)
        assert stub.received == first["account"]["sent"]
        assert f"{first['agreement']:.1%}" in again.out
        assert "260 asked" in again.out
    assert first["agreement"] > 0.8
    audit = ["audit", "tests.test_substitute:Victim", "--data", "seed.npz", "--threat", "linf:0.2", "--profile", "quick"]
    carried = mohs_(*audit, "--surrogate", "copy.pt2", "--limit", 40, "--json")
    assert carried.code == 0
    (threat,) = carried.json["threats"]
    assert threat["text"] == "linf:0.2+knowledge:transfer"
    assert threat["robust_accuracy"]["low"] < 0.5


def test_requests_that_are_wrong_ask_nothing(mohs_: Mohs) -> None:
    words = ["--data", "seed.npz", "--describe", "endpoint.toml"]
    with running(Stub()) as stub:
        for more, said in (
            (["--out", "copy.onnx"], "written as a .pt2"),
            (["--out", "nowhere/copy.pt2"], "no folder"),
            (["--out", "copy.pt2", "--rate", "soon"], "--rate should read"),
        ):
            done = mohs_("substitute", stub.url, *words, *more)
            assert done.code == 2
            assert said in done.said
        done = mohs_("substitute", "http://192.0.2.1/predict", *words, "--out", "copy.pt2")
        assert done.code == 2
        assert "--i-am-authorised" in done.said
        assert stub.received == 0


def test_a_label_only_endpoint(mohs_: Mohs) -> None:
    text = Path("endpoint.toml").read_text()
    lines = [line for line in text.splitlines() if "scores" not in line]
    assert lines
    with running(Stub(answer=serve_labels)) as stub:
        Path("labels.toml").write_text(text.replace("scores", "labels"))
        words = ["substitute", stub.url, "--data", "seed.npz", "--describe", "labels.toml", "--queries", 300, "--out", "copy.pt2"]
        done = mohs_(*words, "--rounds", 1, "--json")
        refused = mohs_(*words, "--knowledge", "scores")
    assert done.json["agreement"] > 0.8
    assert refused.code == 2
    assert "gives label" in refused.said
