"""Studies that train: networks over seeds, claims decided by an interval; the table of kinds of attack."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mohs.data import load_data
from mohs.errors import RequestError
from mohs.networks import build
from mohs.study import find
from mohs.study.base import Claim, Findings, Study, Subject, Table
from mohs.study.capacity import Capacity
from mohs.study.holistic import Holistic
from mohs.study.seeds import over_seeds, studied
from mohs.study.training import trained
from mohs.study.ways import Materials, Trains, Way, decided, materials, mean, minus
from mohs.training_jobs import Job, make_job
from tests.test_cli import Mohs, command_line
from tests.test_study import subject

SMALL = {"seeds": 2, "epochs": 1, "examples": 12}


@pytest.fixture(scope="module")
def given() -> Materials:
    return materials(None, None, limit=160)


def test_claims_are_decided_by_the_interval_over_seeds() -> None:
    assert decided("c", (0.10, 0.11, 0.12), 200).held is True
    assert decided("c", (-0.10, -0.11, -0.12), 200).held is False
    assert decided("c", (0.10, 0.30, -0.02), 200).held is None
    assert decided("c", (0.10,), 200).held is None
    assert decided("c", (0.04, 0.05, 0.06), 200, 0.1).held is False
    assert decided("c", (-0.001, 0.0, 0.001), 1000, -0.01).held is True
    # by hand: mean 2, s 1, t(0.975, 2) = 4.3027, half = 4.3027 / sqrt(3) = 2.4842
    assert decided("c", (0.01, 0.02, 0.03), 100).measured == "+2.0 points [-0.5, +4.5] over 3 seeds"
    # one example of 200 under every seed is no zero spread: 0.5 points, half = 4.3027 * 0.5 / sqrt(3) = 1.24
    assert decided("c", [0.005] * 3, 200) == Claim("c", "+0.5 points [-0.7, +1.7] over 3 seeds", None)
    assert decided("c", [0.005] * 2, 200).held is None
    assert decided("c", [0.05] * 3, 200).held is True
    assert minus((0.5, 0.75), (0.25, 0.25)) == (0.25, 0.5)
    assert mean([(0.0, 1.0), (1.0, 1.0)]) == (0.5, 1.0)


def test_a_claim_under_several_seeds() -> None:
    def claims(*held: bool | None, effects: tuple[float | None, ...] = (None, None, None)) -> list[Claim]:
        return [Claim("c", f"{i}", one, effect) for i, (one, effect) in enumerate(zip(held, effects, strict=True))]

    assert over_seeds(claims(True, True, True)).held is True
    assert over_seeds(claims(False, False, False)).held is False
    assert over_seeds(claims(True, True, None)).held is None
    assert over_seeds(claims(True, True, None)).measured == "held under 2, undecided under 1 of 3 seeds; the first: 0"
    # an effect counts in the place of the networks' own tests: by hand, mean 2, s 1, half 2.4842
    found = over_seeds(claims(True, True, True, effects=(1.0, 2.0, 3.0)))
    assert (found.held, found.measured) == (None, "+2 [-0.484, +4.48] over 3 seeds")
    assert over_seeds(claims(None, None, None, effects=(1.0, 1.1, 1.2))).held is True
    assert over_seeds(claims(None, None, True, effects=(-1.0, -1.1, -1.2))).held is False
    for wild in ((math.inf, 1.0, 1.0), (math.inf, -math.inf, 1.0), (math.nan, math.inf, 1.0)):
        found = over_seeds(claims(True, True, True, effects=wild))
        assert found.held is None
        assert found.measured.startswith(f"not a finite number under {sum(not math.isfinite(w) for w in wild)} of 3 seeds")


class Drawn(Study):
    """What its seed is."""

    def check(self) -> None:
        if self.seeds > 5:
            raise RequestError("too many")

    def run(self, subject: Subject) -> Findings:
        seed = subject.seed
        return Findings("w.", Table(("model", "seed drawn"), (("m", str(seed)), ("n", "-"))), (), (Claim("c", "", seed < 9),))


def test_a_study_is_run_under_every_seed() -> None:
    asked: list[int] = []

    def of(seed: int) -> Subject:
        asked.append(seed)
        return Subject(None, None, options={"seed": seed})  # type: ignore[arg-type]

    found = studied(Drawn(seeds=3), of, 7)
    assert asked == [7, 8, 9]
    assert found.table.columns == ("model", "seed", "seed drawn")
    assert found.table.rows[:3] == (("m", "7", "7"), ("m", "8", "8"), ("m", "9", "9"))
    assert found.claims[0].held is None
    assert studied(Drawn(), of, 7) == Drawn().on(of(7))
    asked.clear()
    with pytest.raises(RequestError):
        studied(Drawn(seeds=6), of)
    assert not asked  # refused before anything is loaded or trained


def test_trained_networks_are_kept_and_stopped_trainings_go_on(tmp_path: Path) -> None:
    def job(seed: int = 0) -> Job:
        return make_job("mlp-8", load_data("digits:train", limit=100), recipe="standard", epochs=3, batch=32, seed=seed)

    def stop(epoch: object) -> None:
        raise KeyboardInterrupt

    epochs: list[int] = []
    whole, _ = trained(job(), None)
    with pytest.raises(KeyboardInterrupt):
        trained(job(), tmp_path, stop)
    again, _ = trained(job(), tmp_path, lambda epoch: epochs.append(epoch.number))
    assert epochs == [2, 3]
    third, _ = trained(job(), tmp_path, lambda epoch: epochs.append(epoch.number))
    assert epochs == [2, 3]
    for name, weights in whole.network.state_dict().items():
        assert torch.equal(weights, again.network.state_dict()[name])
        assert torch.equal(weights, third.network.state_dict()[name])
    trained(job(1), tmp_path)
    assert len([path for path in tmp_path.iterdir() if (path / "checkpoint.pt").exists()]) == 2


def test_a_training_that_collapses_is_told_and_the_study_goes_on(given: Materials, monkeypatch: pytest.MonkeyPatch) -> None:
    def collapsed(job: Job, keep: Path | None) -> None:
        for parameter in job.task.network.parameters():
            parameter.data.fill_(float("nan"))
        raise RequestError("training collapsed")

    monkeypatch.setattr("mohs.study.ways.trained", collapsed)
    shares, notes = Capacity(**SMALL).measured(given, {"one": Way("mlp-8")}, ["linf:0.3"])  # type: ignore[arg-type]
    assert "training failed" in notes[0]
    assert len(notes) == 2
    assert shares["one"]["linf:0.3"] == shares["one"]["clean"]


def test_shares_are_those_of_the_networks() -> None:
    """The same seed gives the same shares; no budget at all gives clean accuracy; more training gives more."""
    study = Capacity(seeds=2, epochs=8, batch=16, examples=40)
    given = materials(None, None, limit=400)
    ways = {"one": Way("mlp-16"), "again": Way("mlp-16"), "hard": Way("mlp-16", "pgd", "linf:0.05")}
    shares, notes = study.measured(given, ways, ["linf:1e-6", "linf:0.3"])
    assert shares["one"] == shares["again"]
    assert shares["one"] != shares["hard"]
    assert not notes
    for by in shares.values():
        assert len(by["clean"]) == 2
        assert by["linf:1e-6"] == by["clean"]
        assert all(low <= high for low, high in zip(by["linf:0.3"], by["clean"], strict=True))
    assert max(shares["one"]["clean"]) > 0.3
    assert max(shares["one"]["linf:0.3"]) < 0.1


def test_a_network_that_learned_nothing_is_told_and_not_attacked(given: Materials, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(study: Trains, materials: Materials, way: Way, seed: int) -> torch.nn.Module:
        network = build(way.network, shape=(1, 8, 8), classes=10).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        return network

    monkeypatch.setattr(Trains, "_trained", dead)
    shares, notes = Capacity(**SMALL).measured(given, {"one": Way("mlp-8")}, ["linf:0.3"])  # type: ignore[arg-type]
    assert len(notes) == 2
    assert "training failed" in notes[0]
    assert shares["one"]["linf:0.3"] == shares["one"]["clean"]


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("capacity", {"widths": (8, 16), "depths": (1,)}, 2),
        ("attention", {"attention": "vit-1-16", "convolution": "convformer-1-16", "seeds": 1}, 2),
        ("activations", {"network": "mlp-16", "activations": ("silu",)}, 2),
        ("transfer", {"network": "mlp-16", "threats": ("linf:0.1", "l2:0.5")}, 3),
    ],
)
def test_every_study_trains_attacks_and_judges(given: Materials, name: str, options: dict[str, object], rows: int) -> None:
    kind = find(name)
    assert issubclass(kind, Trains)
    study = kind.from_spec({**SMALL, **options})
    assert kind.from_spec(json.loads(json.dumps(study.spec()))) == study
    found = study.run(given)
    assert len(found.table.rows) == rows
    (figure,) = found.figures
    assert len(figure.values) == rows
    assert all(0 <= value <= 1 for row in figure.values for value in row if value is not None)
    assert len(found.claims) >= 2
    assert (study.seeds == 1) <= all(claim.held is None for claim in found.claims)
    assert {len(fact["shares"]) for fact in found.facts} == {study.seeds}


def test_a_network_that_hardly_learned_is_attacked(given: Materials, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first examples get the same scores, for which an audit would refuse it."""

    class Dead(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.flatten(1).sum(1, keepdim=True) - least).relu() * torch.arange(10.0)

    few = given.test.take(given.test.x.flatten(1).sum(1).argsort(stable=True)[:40])
    least = float(few.x[-1].sum()) - 0.5
    monkeypatch.setattr(Trains, "_trained", lambda *given: Dead().eval())
    study = Capacity(seeds=1, examples=40)
    shares, notes = study.measured(Materials(given.data, few), {"one": Way("mlp-8")}, ["linf:0.01"])
    assert not notes
    assert 0 <= shares["one"]["linf:0.01"][0] <= shares["one"]["clean"][0]


def test_a_part_is_held_out_of_other_data(tmp_path: Path) -> None:
    x, y = torch.rand(50, 3), torch.arange(50) % 2
    np.savez(tmp_path / "own.npz", x=x.numpy(), y=y.numpy())
    parts = materials(str(tmp_path / "own.npz"), None)
    assert (len(parts.data), len(parts.test)) == (40, 10)
    assert not set(parts.data.ids.tolist()) & set(parts.test.ids.tolist())


def test_the_holistic_table_is_that_of_audits() -> None:
    found = Holistic(threats=("linf:0.03", "rotation:10deg"), queries=30).run(subject())
    assert [row[0] for row in found.table.rows] == ["linf:0.03", "rotation:10deg"]
    by = {(fact["kind"], fact["access"]): fact for fact in found.facts}
    assert int(by["linf:0.03", "gradient"]["broken"]) > 0
    assert "mohs substitute" in str(by["linf:0.03", "transfer"]["refused"])
    assert any("poisoning" in note for note in found.notes)


@pytest.fixture
def mohs_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    monkeypatch.chdir(tmp_path)
    return command_line(monkeypatch, capsys)


def test_what_a_user_types(mohs_: Mohs) -> None:
    done = mohs_(
        "study", "capacity", "--widths", "8,16", "--depths", "1", "--epochs", 1, "--seeds", 1, "--examples", 10,
        "--limit", 160, "--out", "page.html",
    )  # fmt: skip
    assert done.code == 0, done.said
    assert "mlp-16" in done.out
    assert "undecided" in done.out
    page = Path("page.html").read_text()
    assert "mohs study capacity --seeds 1 --epochs 1" in page
    assert "--widths 8,16" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["capacity", "demo"], "trains its own networks"),
        (["difficulty"], "is of models"),
        (["capacity", "--widths", "a,b"], "should be ints parted by commas"),
        (["capacity", "--widths", "8", "--depths", "1"], "two sizes or more"),
        (["capacity", "--family", "resnet"], "should be mlp or wrn"),
        (["capacity", "--threat", "linf:inf"], "needs a budget"),
        (["capacity", "--seeds", "0"], "should be a whole number, 1 or more"),
        (["activations", "--activations", "relu"], "name an activation"),
        (["activations", "--activations", "silo"], "did you mean 'silu'"),
        (["transfer", "--threats", "linf:0.1"], "two threats or more"),
        (["attention", "--attention", "vit-2-20"], "16, 32, 48"),
    ],
)
def test_requests_that_are_wrong_write_nothing(mohs_: Mohs, words: list[str], said: str) -> None:
    done = mohs_("study", *words)
    assert done.code == 2
    assert said in done.said
    assert list(Path().iterdir()) == []


def test_a_holistic_table_needs_budgets() -> None:
    with pytest.raises(RequestError, match="needs a budget"):
        Holistic(threats=("l2:inf",)).on(subject())
    with pytest.raises(RequestError, match="queries should be a whole number, 1 or more, not -3"):
        Holistic(queries=-3).on(subject())
