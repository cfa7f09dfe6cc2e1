"""The batteries. `standard` is AutoAttack's standard version: its published constants stand here as numbers, on purpose."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

import mohs
from mohs import demo
from mohs.attacks import APGD, FABT, AnnealFlip, APGDTargeted, NoisyCopies, SigmaZero, SparseRS, SpatialGrid, Square
from mohs.attacks.gradient.apgd import towards
from mohs.certificates import Crown
from mohs.engine.certified import certified, certifying
from mohs.engine.flat import backed
from mohs.engine.profiles import PROFILES, Step, TenClasses, find_profile, joined, outline, sighted
from mohs.errors import RequestError, UnknownName
from mohs.jobs import make_job
from mohs.losses import cross_entropy, dlr, dlr_targeted, logit_difference
from mohs.models import Guide, Judge, Model, Prepared, TorchModel
from mohs.threat import L0, L1, L2, Knowledge, Linf, Threat, Untargeted, parse_threat

THREATS: dict[str, Threat] = {"linf": Linf(8 / 255), "l2": L2(0.5), "l1": L1(12.0)}


def model(classes: int = 10, random: bool = False) -> Model:
    return TorchModel(nn.Linear(4, classes), classes=classes, random=random)


def composed(profile: str, threat: Threat | str, of: Model | None = None) -> list[Step]:
    threat = THREATS[threat] if isinstance(threat, str) else threat
    return find_profile(profile).compose(threat, of or model())


def decisions(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step.kind == "decide"]


# the composition. AutoAttack: fra31/auto-attack, version `standard`; Croce & Hein, ICML 2020, and 2021 for L1.


@pytest.mark.parametrize("norm", THREATS)
def test_standard_is_autoattack(norm: str):
    steps = composed("standard", norm)
    assert [step.name for step in steps] == ["apgd-ce", "apgd-t", "fab-t", "square", "curve"]
    assert [step.kind for step in steps] == ["decide"] * 4 + ["measure"]
    assert all(len(step.attacks) == 1 and step.note is None for step in decisions(steps))
    ce, t, fab, square = (step.attacks[0] for step in decisions(steps))
    l1 = norm == "l1"

    assert type(ce) is APGD
    assert (ce.steps, ce.rho, ce.loss) == (100, 0.75, cross_entropy)
    assert (ce.restarts, ce.multi_epsilon) == ((5, True) if l1 else (1, False))

    assert type(t) is APGDTargeted
    assert (t.steps, t.rho, t.loss, t.restarts) == (100, 0.75, dlr_targeted, 1)
    assert (t.targets, t.multi_epsilon) == ((5, True) if l1 else (9, False))

    assert type(fab) is FABT
    assert (fab.steps, fab.restarts, fab.targets) == (100, 1, 9)
    assert (fab.eta, fab.alpha_max, fab.beta) == (1.05, 0.1, 0.9)

    assert type(square) is Square
    assert (square.queries, square.restarts, square.p, square.rescale_schedule) == (5000, 1, 0.8, False)
    assert square.loss is logit_difference  # the margin loss, for goals that name no class


def test_a_random_model_gets_the_rand_version():
    steps = composed("standard", "linf", model(random=True))
    assert [step.name for step in steps] == ["apgd-ce", "apgd-dlr"]
    ce, short = (step.attacks[0] for step in steps)
    assert type(ce) is type(short) is APGD
    assert (ce.steps, ce.restarts, ce.loss) == (100, 1, cross_entropy)
    assert (short.steps, short.restarts, short.loss) == (100, 1, dlr)
    assert PROFILES["standard"].draws == 20
    assert "rand" in str(steps[0].note)
    assert "20 draws" in str(steps[0].note)
    assert [step.name for step in composed("deep", "linf", model(random=True))][:2] == ["apgd-ce", "apgd-dlr"]


@pytest.mark.parametrize(
    ("classes", "short", "targeted"),
    [(10, dlr, dlr_targeted), (4, dlr, dlr_targeted), (3, dlr, logit_difference), (2, logit_difference, logit_difference)],
)
def test_few_classes_get_another_loss_and_the_stage_says_so(classes: int, short, targeted):
    refusing = model(classes + 1)
    refusing.rejected = classes  # which no attack may reach
    for profile, of in product(("standard", "deep", "quick"), (model(classes), refusing)):
        for step in decisions(composed(profile, "linf", of)):
            (attack,) = step.attacks
            if type(attack) is APGDTargeted and step.name != "apgd-margin":
                assert attack.loss is targeted
                assert ("replaced by the logit difference" in (step.note or "")) == (targeted is logit_difference)
            if step.name.startswith("apgd-dlr"):
                assert attack.loss is short
                assert (step.note is None) == (classes >= 4)
            if step.name.startswith("apgd-ce"):
                assert attack.loss is cross_entropy
                assert step.note is None


def test_deep_ends_in_linf_with_the_search_across_kinks():
    step = composed("deep", "linf")[-2]
    (attack,) = step.attacks
    assert type(attack) is AnnealFlip
    assert (attack.restarts, attack.targets, attack.starts, attack.steps, attack.rounds) == (1, 3, 20, 100, 16)
    assert (attack.temperature, attack.step_size, attack.entries, attack.together) == ((0.8, 0.02), (0.5, 0.005), 1024, 32)


def test_deep_begins_with_standard_and_adds_the_plus_attacks():
    for norm in THREATS:
        steps, standard = composed("deep", norm), composed("standard", norm)
        assert steps[:4] == standard[:4]
        assert steps[-1] == standard[-1]
        names = ["apgd-ce x5", "apgd-dlr x5", "apgd-t all", "apgd-margin", "fab-t x5", "noisy-copies"]
        assert [step.name for step in steps[4:-1]] == names + ["anneal-flip"] * (norm == "linf")
        assert [step.closest_first for step in steps] == [False] * 4 + [True] * (len(steps) - 5) + [False]
        ce, short, every, margin, fab, copies = (step.attacks[0] for step in steps[4:10])
        assert (ce.steps, ce.restarts, ce.loss) == (100, 5, cross_entropy)
        assert (short.steps, short.restarts, short.loss) == (100, 5, dlr)
        assert (every.steps, every.targets, every.loss) == (200, 9, dlr_targeted)
        assert (margin.steps, margin.targets, margin.loss) == (200, 9, logit_difference)
        assert (fab.steps, fab.restarts, fab.targets) == (100, 5, 9)
        assert type(copies) is NoisyCopies
        assert (copies.steps, copies.copies, copies.restarts, copies.loss) == (50, 5, 5, logit_difference)
        assert all(attack.multi_epsilon == (norm == "l1") for attack in (ce, short, every, margin))
    assert composed("deep", "linf", model(100))[6].attacks[0].targets == 99


def test_quick_is_short():
    steps = composed("quick", "linf")
    assert [step.name for step in steps] == ["apgd-ce", "apgd-t", "curve"]
    assert sum(attack.passes(10)[1] for step in decisions(steps) for attack in step.attacks) < 100


@pytest.mark.parametrize("profile", ["quick", "standard", "deep"])
def test_where_scores_are_all_there_is_no_stage_of_gradients(profile: str):
    seen, blind = Linf(8 / 255), Linf(8 / 255, knowledge=Knowledge.SCORES)
    wanted = [step.name for step in composed("scores", "linf")]
    instead = sighted(find_profile(profile), [blind], model())
    steps = instead.compose(blind, model())
    assert [step.name for step in steps] == wanted
    assert (instead.name, instead.version) == ("scores", find_profile("scores").version)
    assert steps[0].note == f"no gradient is to be had: the profile `scores` in place of `{profile}`"

    other = model()
    other.gives = Knowledge.SCORES  # an ONNX file
    assert sighted(find_profile(profile), [seen], other).name == "scores"
    assert sighted(find_profile(profile), [seen], model()) is find_profile(profile)
    both = sighted(find_profile(profile), [seen, blind], model())
    assert both.name == f"{profile}/scores"
    assert [step.name for step in both.compose(seen, model())] == [step.name for step in composed(profile, "linf")]
    assert [step.name for step in both.compose(blind, model())] == wanted
    labels = Linf(8 / 255, knowledge=Knowledge.LABEL)
    assert sighted(find_profile(profile), [labels], model()) is find_profile(profile)


def test_an_audit_by_scores_says_what_it_is():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 10)).eval()
    x = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    plan = make_job(module, (x, module(x).argmax(1)), threats=["linf:0.1+knowledge:scores"], profile="quick").plan
    assert plan.profile["name"] == "scores"
    assert "asked for as `quick`" in plan.profile["words"]
    assert [stage.inapplicable for stage in plan.threats[0].stages] == [None] * 3


@pytest.mark.parametrize("profile", ["quick", "standard", "deep"])
def test_where_gradients_vanish_somewhere_attacks_by_scores_stand_behind(profile: str):
    patchy, plain = model(), find_profile(profile)
    patchy.flat = True
    own, steps = composed(profile, "linf"), backed(plain, patchy).compose(THREATS["linf"], patchy)
    names = [step.name for step in steps]
    assert [step for step in steps if step in own] == own
    assert {step.name for step in decisions(composed("scores", "linf"))} <= set(names)
    assert len(set(names)) == len(names)  # what the profile has already is not run twice
    assert steps[-1] == own[-1]
    assert backed(plain, patchy).name == f"{profile}+scores"
    assert backed(plain, model()) is plain
    for other in (replace(THREATS["linf"], knowledge=Knowledge.LABEL), parse_threat("flow:0.05")):  # no place for them
        if profile != "standard":
            assert backed(plain, patchy).compose(other, patchy) == plain.compose(other, patchy)


def test_an_audit_where_gradients_vanish_runs_both_batteries():
    module = nn.Sequential(nn.Flatten(), nn.Hardtanh(0.0, 0.5)).eval()
    x = torch.rand(8, 1, 2, 5, generator=torch.Generator().manual_seed(0)) / 4
    x[5:] += 0.6
    job = make_job(module, (x, module(x).argmax(1)), threats=["linf:0.1"], profile="quick")
    assert job.plan.profile["name"] == "quick+scores"
    assert [stage.name for stage in job.plan.threats[0].stages] == ["apgd-ce", "apgd-t", "parsimonious", "square", "curve"]


def test_where_no_attack_can_be_run_nothing_is():
    class Labels(TorchModel):
        gives = Knowledge.LABEL

    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 10)).eval()
    x = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RequestError, match="no attack of `quick` can be run"):
        make_job(Labels(module, classes=10), (x, module(x).argmax(1)), threats=["linf:0.1"], profile="quick")


def test_scores_asks_for_no_gradient():
    """Every stage serves a model that gives scores, or labels, and a threat that grants no more."""
    blind = model()
    blind.gives = Knowledge.SCORES
    stages = {"linf": ["parsimonious", "square"], "l2": ["square", "simba-dct"], "l1": ["square"]}
    for threat in (*THREATS.values(), L0(5.0), parse_threat("rotation:30deg+translation:3px"), parse_threat("hue:0.1")):
        threat = replace(threat, knowledge=Knowledge.SCORES)
        steps = composed("scores", threat, blind)
        assert [step.name for step in decisions(steps)] == stages.get(threat.name, [step.name for step in decisions(steps)])
        assert steps[-1].kind == "measure"
        for step in decisions(steps):
            step.attacks[0].check(threat, Untargeted(), blind)
    with pytest.raises(RequestError, match=r"flow:0\.1"):
        composed("scores", parse_threat("flow:0.1"))


def test_l0_is_for_quick_and_deep():
    for profile in ("quick", "deep"):
        assert decisions(composed(profile, L0(5.0)))
    with pytest.raises(RequestError, match="quick or deep"):
        composed("standard", L0(5.0))


@pytest.mark.parametrize("profile", ["quick", "deep"])
def test_l0_is_left_to_no_single_attack(profile: str):
    """Gradients at the input say little of which few entries count: what counts them, and what searches, break more."""
    assert {"pgd", "sigma-zero", "sparse-rs"} <= {step.name for step in decisions(composed(profile, L0(5.0)))}
    model, x, y = demo.example(24)
    alone = [attack(model, x, y, threat="l0:3").broken for attack in (SigmaZero(steps=50), SparseRS(queries=500))]
    left = mohs.audit(model, (x, y), threats=["l0:3"], profile=profile).verdict.threats[0]
    assert int((left.status == "broken").sum()) + left.natural >= int(torch.stack(alone).any(0).sum()) > 12


def test_profiles_are_named_versioned_and_outlined():
    assert list(PROFILES) == ["quick", "standard", "deep", "scores"]
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert profile.version.isdigit()
        told = outline(profile)
        assert list(told) == [
            "linf",
            "l2",
            "l1",
            "l0",
            "spatial",
            "semantic",
            "flow",
            "recolor",
            "wasserstein",
            "perceptual",
            "patch",
            "manifold",
        ]
        for norm in ("linf", "l2", "l1"):
            for step in profile.compose(THREATS[norm], model()):
                assert step.name in told[norm]
    told = outline(PROFILES["standard"])
    assert (
        told["linf"]
        == "apgd-ce (100 steps), apgd-t (100 steps x 9 targets), fab-t (100 steps x 9 targets), square (5000 queries), [curve]"
    )
    assert "apgd-ce (100 steps x 5 restarts), apgd-t (100 steps x 5 targets)" in told["l1"]
    assert told["l0"].startswith("not defined")


@pytest.mark.parametrize("name", ["standart", "autoattack", ""])
def test_an_unknown_profile_names_the_nearest(name: str):
    with pytest.raises(UnknownName, match="standard"):
        find_profile(name)


# what is run


class Corners(nn.Module):
    """Logits that fall with the distance from points of a line: smooth, with margins that are known."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(0, 1, classes)[:, None].expand(classes, 4).clone())

    def forward(self, x: Tensor) -> Tensor:
        return -4 * (x.flatten(1)[:, None] - self.centres).square().sum(2)


def points(classes: int, *places: float) -> tuple[Tensor, Tensor]:
    """Inputs [n, 1, 2, 2] at so many class widths along the line, and the labels the model gives them."""
    x = torch.tensor(places)[:, None].expand(-1, 4).reshape(-1, 1, 2, 2) / (classes - 1)
    return x.contiguous(), Corners(classes)(x).argmax(1)


@pytest.fixture(scope="module")
def run():
    """One clean error, two that lie a hair from a boundary, and three survivors."""
    x, y = points(10, 2.0, 3.1, 4.500005, 6.9, 7.2, 1.499995)
    y[0] = 5
    return mohs.audit(Corners(), (x, y), threats=["linf:1e-6"], profile="standard", rows=8)


SURVIVORS = [1, 3, 4]
FALLEN = [2, 5]


def test_survivors_pay_every_pass_of_the_composition(run):
    counts = {"apgd-ce": (101, 101), "apgd-t": (9 * 101, 9 * 101), "fab-t": (9 * 100 * 2, 9 * 100), "square": (5000, 0)}
    records = run.run.records().to_pylist()
    for name, passes in counts.items():
        paid = {row["id"]: (row["forwards"], row["backwards"]) for row in records if row["attack"] == name}
        assert [paid[i] for i in SURVIVORS] == [passes] * 3, name


def test_survivors_pay_every_pass_of_the_schedule_of_l1():
    """Three balls, each begun anew, for each of five restarts or targets."""
    x, y = points(10, 3.1, 6.9)
    prepared = mohs.prepare(TorchModel(Corners(), classes=10), x, rows=2)
    ce, t, fab, square = (step.attacks[0] for step in decisions(composed("standard", "l1")))
    for attack in (ce, t):
        out = attack(prepared, x, y, threat="l1:4e-6")
        assert out.forwards.tolist() == out.backwards.tolist() == [5 * 103] * 2
    assert (fab.passes(10), square.passes(10)) == ((1800, 900), (5000, 0))


def test_only_survivors_go_on(run):
    records = run.run.records().to_pylist()
    standing = {row["id"] for row in records if row["attack"] == "clean" and row["status"] == "survived"}
    assert standing == {1, 2, 3, 4, 5}  # the clean error is not attacked
    for stage, name in enumerate(("apgd-ce", "apgd-t", "fab-t", "square")):
        rows = [row for row in records if row["attack"] == name]
        assert {row["id"] for row in rows} == standing, name
        assert {row["stage"] for row in rows} == {stage}
        standing -= {row["id"] for row in rows if row["status"] == "broken"}
    assert standing == set(SURVIVORS)
    assert {row["id"] for row in records if row["attack"] == "curve"} == {1, 2, 3, 4, 5}  # which measures
    verdict = run.verdict.threats[0]
    tried = [stage.tried for stage in verdict.stages if stage.kind == "decide"]
    assert tried[0] == 5
    assert tried[1:] == [tried[k] - verdict.stages[k].broken for k in range(3)]
    assert verdict.score.robust == 3


def test_the_fallen_stop_early(run):
    rows = [row for row in run.run.records().to_pylist() if row["attack"] == "apgd-ce" and row["id"] in FALLEN]
    assert any(row["status"] == "broken" and row["forwards"] < 101 for row in rows)


def test_what_was_run_is_what_the_profile_says(run):
    plan = run.run.spec["plan"]
    assert plan["profile"]["name"] == "standard"
    assert plan["profile"]["version"] == PROFILES["standard"].version
    stages = plan["threats"][0]["stages"]
    assert [stage["name"] for stage in stages] == ["apgd-ce", "apgd-t", "fab-t", "square", "curve"]
    spec = stages[0]["attacks"][0]
    assert spec == {"attack": "apgd", "restarts": 1, "steps": 100, "loss": "cross_entropy", "rho": 0.75, "multi_epsilon": False}
    assert stages[3]["attacks"][0]["queries"] == 5000
    assert "standard" in run.verdict.profile


def test_targets_are_ranked_on_clean_logits():
    """Whatever the attacks do, the k-th target is the k-th likeliest wrong class of the clean input."""
    seen: list[Tensor] = []

    class Deceiving(Corners):
        """Ranks the wrong classes the other way round wherever the input is not a clean one."""

        def forward(self, x: Tensor) -> Tensor:
            z = super().forward(x)
            away = (x[:, None] - clean).flatten(2).abs().amax(2).amin(1) > 0
            top = z.amax(1, keepdim=True)
            return torch.where(away[:, None] & (z < top), -z - 40, z)

    clean, y = points(10, 3.1, 6.9)
    wrapped = TorchModel(Deceiving().eval(), classes=10)
    prepared = Prepared(Judge(wrapped, 2, 1), Guide(wrapped, 2, 1))

    class Noting(APGDTargeted):
        def tries(self, oracle):
            for aim in towards(oracle, self.targets):
                seen.append(aim.toward)
                yield aim

    Noting(steps=3, targets=9)(prepared, clean, y, threat="linf:1e-3")
    want = Corners()(clean).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :9]
    assert torch.equal(torch.stack(seen, 1), want)


@pytest.mark.parametrize(("classes", "profile"), [(2, "standard"), (2, "quick"), (3, "quick")])
def test_models_of_two_and_three_classes_are_audited(classes: int, profile: str):
    x, y = points(classes, 0.1, 0.49999, 0.9)
    threat = "linf:0.001" if profile == "quick" else "l2:0.002"
    result = mohs.audit(Corners(classes), (x, y), threats=[threat], profile=profile, rows=4)
    verdict = result.verdict.threats[0]
    assert verdict.status.tolist() == ["robust", "broken", "robust"]
    stage = next(stage for stage in verdict.stages if stage.name == "apgd-t")
    assert "replaced by the logit difference" in stage.note
    assert stage.inapplicable is None
    records = [row for row in result.run.records().to_pylist() if row["id"] == 0]
    targeted = next(row for row in records if row["attack"] == "apgd-t")
    steps = 100 if profile == "standard" else 20
    assert targeted["forwards"] == (classes - 1) * (steps + 1)


def test_a_random_model_is_audited_by_the_rand_version():
    class Shaken(Corners):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 1e-3 * torch.randn_like(x))

    x, y = points(10, 3.1, 4.49, 6.9, 7.1)
    plan = make_job(Shaken(), (x, y), threats=["linf:1e-5"], profile="standard", rows=4).plan
    assert plan.draws == 20
    assert [stage.name for stage in plan.threats[0].stages] == ["apgd-ce", "apgd-dlr"]
    noisy = TorchModel(Shaken(), classes=10, random=True)
    out = APGD(steps=5)(noisy, x, y, threat="linf:1e-5", draws=plan.draws)
    assert out.forwards[[0, 2, 3]].tolist() == out.backwards[[0, 2, 3]].tolist() == [20 * 6] * 3


# transformed inputs


@pytest.mark.parametrize(
    ("text", "quick", "deep"),
    [
        ("rotation:30deg+translation:3px", ["worst-of-k", "pgd", "spatial-grid"], ["worst-of-k", "pgd", "spatial-grid"]),
        ("hue:0.1+contrast:0.2", ["worst-of-k", "pgd"], ["worst-of-k", "pgd"]),
        ("flow:0.05", ["pgd"], ["pgd", "stadv"]),
        ("recolor:0.06", ["pgd"], ["pgd", "recoloradv"]),
        ("wasserstein:0.01", ["wasserstein-dual", "pgd"], ["wasserstein-dual", "pgd"]),
    ],
)
def test_transformed_inputs_have_batteries_of_their_own(text: str, quick: list[str], deep: list[str]):
    threat = parse_threat(text)
    for name, wanted in (("quick", quick), ("deep", deep)):
        steps = composed(name, threat)
        assert [step.name for step in decisions(steps)] == wanted
        assert steps[-1].name == "curve"
        for step in steps:
            for attack in step.attacks:
                attack.check(threat.minimal() if step.kind == "measure" else threat, Untargeted(), model())
    if threat.name == "spatial":
        (grid,) = composed("deep", threat)[2].attacks
        assert isinstance(grid, SpatialGrid)
        assert grid.passes(10) == (775, 0)  # the paper's
    with pytest.raises(RequestError, match="AutoAttack's composition"):
        composed("standard", threat)


def test_an_audit_of_rotations_runs():
    result = mohs.audit("demo", "digits", threats=["rotation:30deg+translation:2px"], profile="quick", limit=32)
    (threat,) = result.verdict.threats
    assert result.verdict.finished
    assert threat.score.n == 32
    assert threat.boundary > 0
    assert bool((threat.distance[threat.status == "broken"] <= 1 + 1e-6).all())
    assert "rotate the image by up to 30 degrees" in threat.words


def test_a_certificate_goes_before_the_whole_profile():
    threat = parse_threat("linf:0.1")
    for name in ("quick", "standard", "deep"):
        plain = find_profile(name)
        step, *others = certified(plain, Crown()).compose(threat, TenClasses())
        assert (step.kind, step.name) == ("prove", "crown")
        own = plain.compose(threat, TenClasses())
        assert [one for one in others if one.name != "from-bound"] == own
        assert [one.closest_first for one in others if one.name == "from-bound"] == [True] * (name == "deep")
    assert others[-1] == own[-1]
    assert [step.kind for step in certifying(Crown()).compose(threat, TenClasses())] == ["prove"]


def test_attacks_of_the_callers_decide_too():
    plain, more = composed("quick", "linf"), [FABT(steps=5), Square(queries=10)]
    steps = joined(find_profile("quick"), more).compose(THREATS["linf"], model())
    assert decisions(steps)[: len(decisions(plain))] == decisions(plain)
    assert [step.attacks for step in decisions(steps)[len(decisions(plain)) :]] == [(attack,) for attack in more]
    assert steps[-1] == plain[-1]
