"""Diagnosis: models that mask their gradients are caught, those that hide nothing are not, and each sign reads its numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mohs import diagnose
from mohs.data import load_digits
from mohs.defend import BitDepth, GaussianNoise
from mohs.demo import DigitNet, load_demo
from mohs.diagnosis import Diagnosis, Evidence, Found, Grade, Plot, searches
from mohs.diagnosis.battery import SIGNS
from mohs.errors import DataError, ModelError, RequestError
from mohs.losses import cross_entropy
from mohs.models import TorchModel
from mohs.report import diagnosis as pages
from mohs.report.svg import picture
from tests import masked
from tests.test_cli import Mohs, command_line

N = 32
MANY = ["draws", "gradients", "slope", "stability", "silent", "unfinished", "one-step"]
THREATS = {"demo:standard": "linf:0.1", "demo": "linf:0.3"}


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    return load_digits("test")


@pytest.fixture(scope="module")
def bases() -> dict[str, nn.Module]:
    return {name: load_demo(name) for name in THREATS}


def fails(found: Diagnosis) -> set[str]:
    return {f.sign.name for f in found.found if f.grade == Grade.FAIL}


# what must be caught

MASKS: dict[str, tuple[Callable[[nn.Module], nn.Module], set[str]]] = {
    "bit depth": (lambda network: masked.Before(network, masked.Bits()), {"gradients", "gradient-free"}),
    "jpeg": (lambda network: masked.Before(network, masked.Jpeg()), {"gradients"}),
    "resize": (lambda network: masked.Before(network, masked.Resize()), {"draws"}),
    "noise": (lambda network: masked.Before(network, masked.Noise(0.1)), {"draws"}),
    "x 1000": (lambda network: masked.Times(network, 1000), {"gradients", "losses", "unbounded"}),
    "kwta": (lambda network: masked.with_relus_replaced(network, lambda: masked.Winners(0.1)), {"slope"}),
    "dropout": (lambda network: masked.Before(network, masked.Dropout()), {"draws"}),
}


@pytest.mark.parametrize("base", sorted(THREATS))
@pytest.mark.parametrize("mask", sorted(MASKS))
def test_masked_models_are_caught(mask: str, base: str, bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]) -> None:
    wrap, expected = MASKS[mask]
    found = diagnose(wrap(bases[base]).eval(), digits, threat=THREATS[base], limit=N, signs=sorted(expected))
    assert found.grade == Grade.FAIL
    assert expected == fails(found)
    assert all(fact["todo"] for fact in found.facts()["signs"] if fact["grade"] == "fail")


def test_what_is_broken_is_not_doubted(bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]) -> None:
    """The scores of what stands count, over all examples; where nothing stands there is nothing to look at."""

    def found(threat: str) -> Found:
        return diagnose(bases["demo:standard"], digits, threat=threat, limit=N, signs=["stability"]).found[0]

    whole, half, none = found("linf:0.001"), found("linf:0.1"), found("linf:0.5")
    assert whole.evidence.number is not None
    assert half.evidence.number is not None
    assert 0 < half.evidence.number < 0.8 * whole.evidence.number
    assert none.grade == Grade.SKIPPED


def test_defensive_distillation_is_caught(digits: tuple[Tensor, Tensor]) -> None:
    """Papernot et al., S&P 2016, arXiv:1511.04508: teacher and student at T = 100, the student used at T = 1."""
    x, y = load_digits("train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, student = DigitNet(), DigitNet()
    masked.trained(teacher, x, y, epochs=4, rate=1e-2, temperature=100)
    with torch.no_grad():
        soft = (teacher(x) / 100).softmax(1)
    masked.trained(student, x, soft, epochs=4, rate=1e-2, temperature=100)
    found = diagnose(student, digits, threat="linf:0.1", limit=N, signs=["gradients", "unbounded"])
    assert found.clean > 0.9
    assert {"gradients", "unbounded"} <= fails(found)


class Counting(nn.Module):
    """A network whose answers depend on how often it was asked."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.network(x)


class Cleaning(nn.Module):
    """A step down the entropy of its own answer, before it answers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            p = self.network(z).log_softmax(1)
            (g,) = torch.autograd.grad((p.exp() * p).sum(), z)
        return self.network(x + 0.01 * g.sign())


@pytest.mark.parametrize("wrapper", [Counting, Cleaning])
def test_inner_optimisation_and_state_are_seen(
    wrapper: type[nn.Module], bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]
) -> None:
    found = diagnose(wrapper(bases["demo"]).eval(), digits, threat="linf:0.1", limit=16, signs=["inference"])
    assert "inference" in fails(found)


# what must not be


@pytest.mark.parametrize(("base", "threat"), [("demo", "linf:0.2"), ("demo:standard", "l2:0.5")])
def test_honest_models_raise_no_alarm(base: str, threat: str, bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]) -> None:
    before = torch.get_rng_state()
    found = diagnose(bases[base], digits, threat=threat, limit=N)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.grade == Grade.PASS
    assert not found.remedies
    skipped = [f.sign.name for f in found.found if f.grade == Grade.SKIPPED]
    assert skipped == ["transfer"]


def test_declared_defences_raise_no_alarm(bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]) -> None:
    """Attacks go through them: by the substitute they declare, and over draws of their own."""
    model = TorchModel(bases["demo:standard"], classes=10)
    for defence in (BitDepth(model), GaussianNoise(model)):
        found = diagnose(defence, digits, threat="linf:0.1", limit=N, signs=[*MANY, "losses", "unbounded"])
        assert found.grade == Grade.PASS
        assert found.of("slope").grade == Grade.SKIPPED


def test_a_diagnosis_is_the_same_again(bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]) -> None:
    one, two = (diagnose(bases["demo"], digits, threat="linf:0.2", limit=16, signs=MANY).facts() for _ in range(2))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


# remedies


@pytest.mark.parametrize(
    ("mask", "sign", "remedy"),
    [
        ("bit depth", "gradients", "bpda"),
        ("bit depth", "gradient-free", "scores"),
        ("x 1000", "gradients", "loss"),
        ("noise", "draws", "eot"),
        ("kwta", "slope", "bpda"),
    ],
)
def test_remedies_show_the_number_before_and_after(
    mask: str, sign: str, remedy: str, bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]
) -> None:
    wrap, _ = MASKS[mask]
    found = diagnose(wrap(bases["demo:standard"]).eval(), digits, threat="linf:0.1", limit=16, fix=True, signs=[sign])
    (told,) = found.remedies
    assert told.name == remedy
    assert told.before == (1.0 if found.standing is None else found.standing)
    assert told.after is not None
    assert told.after <= told.before if remedy == "eot" else told.after < told.before - 0.1


def test_a_rounding_outside_of_any_layer_is_told(bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]) -> None:
    class Rounds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = bases["demo"]

        def forward(self, x: Tensor) -> Tensor:
            return self.network((x * 7).round() / 7)

    found = diagnose(Rounds().eval(), digits, threat="linf:0.2", limit=16, fix=True, signs=["gradients"])
    (told,) = found.remedies
    assert told.after is None
    assert "forward of the model (Rounds)" in told.said
    assert found.standing is None
    assert "leaves" not in pages.render(found.facts())


def test_transfer_from_a_copy_without_its_mask(bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]) -> None:
    base = bases["demo:standard"]
    found = diagnose(
        masked.Before(base, masked.Bits()).eval(), digits, threat="linf:0.2", limit=16, surrogate=base, signs=["transfer"]
    )
    assert found.of("transfer").grade == Grade.FAIL
    assert (
        diagnose(base, digits, threat="linf:0.2", limit=16, surrogate=base, signs=["transfer"]).of("transfer").grade == Grade.PASS
    )


# each sign by itself, on what attacks would have found


def bench(**broken: str) -> SimpleNamespace:
    """Attacks by what they break, one character an example: `x` where it does."""

    def answer(attack: object, threat: object = None, draws: int = 1) -> Tensor:
        kind = type(attack).__name__
        name = kind.lower() if kind != "PGD" else _pgd(attack, threat)
        return torch.tensor([c == "x" for c in broken.get(name, broken["pgd"])])

    n = len(broken["pgd"])
    model = SimpleNamespace(random=False, classes=10)
    of = lambda share: SimpleNamespace(epsilon=share, share=share)  # noqa: E731
    return SimpleNamespace(graded=True, model=model, n=n, broken=answer, of=of)


def _pgd(attack: object, threat: object) -> str:
    if threat is not None:
        return f"at{threat.share:g}".replace(".", "_")  # type: ignore[attr-defined]
    if attack.loss is not cross_entropy:  # type: ignore[attr-defined]
        return "other"
    if attack.restarts > 1:  # type: ignore[attr-defined]
        return "restarts"
    plain = searches.plain()
    if attack.steps != plain.steps:  # type: ignore[attr-defined]
        return "steps"
    return "pgd" if attack.step_size == plain.step_size else "sizes"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("look", "given", "number"),
    [
        (searches.one_step, {"fgsm": "xx.."}, 0.25),
        (searches.one_step, {"fgsm": ".x.."}, 0.0),
        (searches.more_steps, {"steps": "xxx."}, 0.5),
        (searches.restarts, {"restarts": "xx.x"}, 0.5),
        (searches.step_size, {"sizes": "xx.."}, 0.25),
        (searches.other_losses, {"other": "xxxx", "restarts": ".x.x"}, 0.5),
        (searches.unbounded, {"atinf": "xx.x"}, 0.25),
        (searches.epsilons, {"at0_25": "x...", "at0_5": "x...", "at1": ".x..", "at2": "xx..", "at4": "xxx."}, 0.25),
        (searches.epsilons, {"at0_25": "....", "at0_5": "x...", "at1": "xx..", "at2": "xx..", "at4": "xxx."}, 0.0),
        (searches.epsilons, {"at0_25": "....", "at0_5": "....", "at1": "xx..", "at2": "xx..", "at4": ".xx."}, 0.25),
        (searches.gradient_free, {"square": "xxx.", "other": "x..."}, 0.25),
    ],
)
def test_signs_count_what_is_broken_beside(look: Callable[..., Evidence], given: dict[str, str], number: float) -> None:
    assert look(bench(pgd=".x..", **given)).number == number


def traced(margins: list[list[float]], losses: list[list[float]]) -> SimpleNamespace:
    """Steps by examples."""
    rows = torch.tensor(losses), torch.tensor(margins)
    made = bench(pgd="." * len(margins[0]))
    made.path = lambda attack, which: rows
    return made


def test_a_success_that_the_last_point_lost_is_silent() -> None:
    margins = [[-1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]]
    assert searches.silent(traced(margins, margins)).number == pytest.approx(1 / 3)


def test_a_loss_that_still_rises_is_unfinished() -> None:
    steps = 30
    rising, flat = [i / steps for i in range(steps)], [min(1.0, i / 10) for i in range(steps)]
    margins = [[-1.0, -1.0, 1.0]] * steps
    assert searches.unfinished(
        traced(margins, [list(v) for v in zip(rising, flat, rising, strict=True)])
    ).number == pytest.approx(1 / 3)


def test_grades_follow_the_limits() -> None:
    sign = replace(SIGNS[0], warn=0.1, fail=0.2)
    grades = [Found(sign, Evidence(number, "")).grade for number in (None, 0.0, 0.099, 0.1, 0.199, 0.2)]
    assert grades == [Grade.SKIPPED, Grade.PASS, Grade.PASS, Grade.WARN, Grade.WARN, Grade.FAIL]


# bad input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threat": "l0:3px"}, "linf and l2"),
        ({"threat": "linf:inf"}, "with a budget"),
        ({"threat": "linf:0.1+knowledge:scores"}, "doubts attacks that know the model"),
        ({"threat": "linf:0.1", "limit": 8}, "limit of 16 or more"),
        ({"threat": "linf:8"}, "outside the box"),
        ({"threat": "linf:0.1", "depth": 3}, "options are"),
        ({"threat": "linf:0.1", "signs": ["slopes"]}, "did you mean 'slope'"),
    ],
)
def test_bad_requests_are_refused(
    options: dict[str, object], said: str, bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(RequestError, match=said):
        diagnose(bases["demo"], digits, **options)  # type: ignore[arg-type]


def test_models_that_break_their_contract_are_refused(bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]) -> None:
    softmax = nn.Sequential(bases["demo"], nn.Softmax(1)).eval()
    with pytest.raises(ModelError, match="probabilities"):
        diagnose(softmax, digits, threat="linf:0.1")
    x, y = digits
    with pytest.raises(DataError, match="examples right"):
        diagnose(bases["demo"], (x[:20], (y[:20] + 1) % 10), threat="linf:0.1")


def test_saturated_probabilities_are_caught(bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]) -> None:
    """Declared as such, a softmax whose float32 is used up has no gradient left for any loss."""
    softmax = nn.Sequential(masked.Times(bases["demo"], 1000), nn.Softmax(1)).eval()
    found = diagnose(softmax, digits, threat="linf:0.2", limit=16, outputs="probabilities", signs=["gradients"])
    assert found.grade == Grade.FAIL


# faces


@pytest.fixture
def mohs_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mohs:
    """`mohs WORDS` in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return command_line(monkeypatch, capsys)


def masked_demo() -> nn.Module:
    return masked.Before(load_demo("demo"), masked.Bits()).eval()


def test_the_command_tells_by_its_exit_code(mohs_: Mohs, tmp_path: Path) -> None:
    words = ["--data", "digits", "--threat", "linf:0.1", "--limit", 16]
    done = mohs_("diagnose", "demo", *words, "--sign", "slope", "--sign", "draws", "--json")
    assert done.code == 0
    assert [s["name"] for s in done.json["signs"]] == ["draws", "slope"]
    words += ["--sign", "gradients", "--sign", "stability", "--sign", "random"]
    done = mohs_("diagnose", "tests.test_diagnosis:masked_demo", *words, "--fix", "--out", "page.html")
    assert done.code == 1
    assert "not to be believed" in done.out
    assert "remedy bpda" in done.out
    assert "page.html" in done.out
    assert (tmp_path / "page.html").read_text().count("<svg class=") >= 2


def test_bad_requests_exit_with_2_and_write_nothing(mohs_: Mohs, tmp_path: Path) -> None:
    for words in (["--threat", "l0:3"], ["--threat", "linf:0.1", "--out", "page.txt"]):
        assert mohs_("diagnose", "demo", "--data", "digits", *words).code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_whole_and_escapes_what_it_is_told(
    tmp_path: Path, bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]
) -> None:
    found = diagnose(
        masked.Times(bases["demo"], 1000).eval(),
        digits,
        threat="linf:0.2",
        limit=16,
        fix=True,
        signs=["draws", "gradients", "losses"],
    )
    evil = "<script>alert(1)</script>"
    facts = json.loads(json.dumps(found.facts()))
    facts["model"] = facts["data"] = facts["signs"][0]["evidence"] = evil
    facts["signs"][1]["plot"] = {"x": [evil, "b"], "lines": {evil: [0.1, 0.2]}, "across": evil, "up": evil, "bars": True}
    page = pages.render(facts)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert pages.sentence(facts) in page.replace("&#39;", "'")
    for sign in facts["signs"]:
        assert f'id="sign-{sign["name"]}"' in page
    assert found.report(tmp_path / "deep" / "page.html").exists()
    with pytest.raises(RequestError, match="cannot write"):
        found.report(tmp_path / "deep" / "page.html" / "below.html")


def test_pictures_stand_what_is_not_finite() -> None:
    for lines in ({"a": [1.0, float("nan"), 2.0]}, {"a": [0.0, 0.0, 0.0]}, {"a": [-3.0, float("inf"), -1.0]}):
        drawn = picture({"x": [0, 1, 2], "lines": lines, "across": "x", "up": "y", "bars": False})
        assert "nan" not in drawn.partition(">")[2]
        assert "inf" not in drawn.partition(">")[2]


def test_plots_have_a_number_an_x(bases: dict[str, nn.Module], digits: tuple[Tensor, Tensor]) -> None:
    for f in diagnose(bases["demo"], digits, threat="linf:0.2", limit=16, signs=MANY).found:
        plot = f.evidence.plot
        if isinstance(plot, Plot):
            assert all(len(line) == len(plot.x) for line in plot.lines.values()), f.sign.name


def test_a_softmax_that_is_sure_but_alive_passes(digits: tuple[Tensor, Tensor], bases: dict[str, nn.Module]) -> None:
    """A few times larger logits are no mask: the cross-entropy still has a gradient everywhere."""
    found = diagnose(masked.Times(bases["demo"], 3).eval(), digits, threat="linf:0.2", limit=16, signs=["gradients"])
    assert found.of("gradients").evidence.number == 0
