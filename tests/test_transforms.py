"""Transformed inputs and the attacks on them, against what is known of rotations, shifts, flows and colours."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mohs.aim import Aim
from mohs.attacks import PGD, GenAttack, OnePixel, ReColorAdv, SpatialGrid, StAdv, WorstOfK
from mohs.attacks.blackbox.gen_attack import draw
from mohs.attacks.perceptual import recoloradv
from mohs.attacks.sparse.one_pixel import three
from mohs.attacks.spatial import stadv
from mohs.errors import MohsError, ThreatError, UnknownName
from mohs.losses import cross_entropy, log_odds
from mohs.models import TorchModel, prepare
from mohs.oracle import Oracle
from mohs.rng import Stream
from mohs.threat import (
    CompositeThreat,
    Constraints,
    FlowThreat,
    Knowledge,
    Linf,
    RecolorThreat,
    SemanticThreat,
    SpatialThreat,
    Threat,
    TransformThreat,
    Untargeted,
    WassersteinThreat,
    parse_threat,
)
from mohs.threat.colour import cieluv, interpolate, srgb
from mohs.threat.wasserstein import simplex

BITS8 = Constraints(bits=8)
THREATS: list[TransformThreat] = [
    SpatialThreat(rotation=30, translation=3),
    SpatialThreat(rotation=30),
    SpatialThreat(translation=2),
    SemanticThreat(hue=0.1, saturation=0.5, brightness=0.2, contrast=0.5),
    FlowThreat(epsilon=0.1),
    RecolorThreat(epsilon=0.06),
]


def images(n: int = 5, channels: int = 3, height: int = 7, width: int = 9) -> Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0))


# the grammar


@pytest.mark.parametrize(
    ("text", "threat"),
    [
        ("rotation:30deg+translation:3px", SpatialThreat(rotation=30, translation=3)),
        ("translation:3px + rotation:30deg", SpatialThreat(rotation=30, translation=3)),
        ("rotation:30", SpatialThreat(rotation=30)),
        ("translation:5/2px", SpatialThreat(translation=2.5)),
        ("flow:0.05", FlowThreat(epsilon=0.05)),
        ("recolor:0.06", RecolorThreat(epsilon=0.06)),
        ("wasserstein:0.01", WassersteinThreat(epsilon=0.01)),
        (
            "hue:0.1+saturation:0.2+brightness:0.1+contrast:0.2",
            SemanticThreat(hue=0.1, saturation=0.2, brightness=0.1, contrast=0.2),
        ),
        ("contrast:0.2", SemanticThreat(contrast=0.2)),
        (
            "rotation:3deg+quantise:8bit+translation:1px",
            SpatialThreat(rotation=3, translation=1, constraints=Constraints(bits=8)),
        ),
        (
            "linf:0.1+rotation:3deg+flow:0.1+translation:2px+quantise:8bit",
            CompositeThreat(
                parts=(Linf(0.1), SpatialThreat(rotation=3, translation=2), FlowThreat(epsilon=0.1)), constraints=BITS8
            ),
        ),
        ("flow:0.1+knowledge:scores", FlowThreat(epsilon=0.1, knowledge=Knowledge.SCORES)),
    ],
)
def test_sets_of_transformations_parse(text: str, threat: Threat) -> None:
    parsed = parse_threat(text)
    assert parsed == threat
    assert parse_threat(str(parsed)) == replace(threat, knowledge=Knowledge.GRADIENT)
    assert parsed.words().startswith("An adversary who ")


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("rotate:3", UnknownName, "did you mean 'rotation'"),
        ("rotation:3deg+translate:1px", UnknownName, "did you mean 'translation'"),
        ("rotation:3deg+translation", ThreatError, "no budget"),
        ("rotation:3px", ThreatError, "'3px' is not a number"),
        ("rotation:-3deg", ThreatError, "rotation -3.0; it must be a finite number, 0 or more"),
        ("translation:inf", ThreatError, "translation inf"),
        ("rotation:3deg+rotation:5deg", ThreatError, "says rotation twice"),
        ("rotation:3deg+wasserstein:0.1", ThreatError, "do not go together: joined by + are rotation and translation; hue"),
        ("flow:0.1+flow:0.1", ThreatError, "do not go together"),
        ("rotation:3deg+linf:inf", ThreatError, "its budget must be above 0 and finite"),
        ("linf:0.1+l2:0.1", ThreatError, "joined by + are"),
        ("flow:-1", ThreatError, "epsilon -1.0"),
        ("recolor:nan", ThreatError, "not a number"),
    ],
)
def test_bad_sets_say_what_was_meant(text: str, error: type[MohsError], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        parse_threat(text)


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        ("rotation:30deg", (10,), "images [channels, height, width], and the inputs have shape [10]"),
        ("flow:0.1", (8, 8), "shape [8, 8]"),
        ("recolor:0.06", (1, 8, 8), "takes 3 channels, not 1"),
        ("hue:0.1", (1, 8, 8), "takes 3 channels"),
        ("saturation:0.1+contrast:0.1", (4, 8, 8), "takes 3 channels, not 4"),
        ("contrast:0.1", (64,), "shape [64]"),
        ("rotation:181deg", (1, 8, 8), "half a turn"),
        ("translation:9px", (1, 8, 8), "the side of the image, 8 pixels"),
        ("hue:0.6", (3, 8, 8), "half a turn of hue"),
        ("flow:3", (3, 8, 8), "beyond the image"),
    ],
)
def test_threats_that_do_not_fit_are_refused(text: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ThreatError, match=re.escape(words)):
        parse_threat(text).check(torch.rand(2, *shape))


def test_words_say_what_is_allowed() -> None:
    words = parse_threat("rotation:30deg+translation:3px").words()
    assert "may rotate the image by up to 30 degrees and shift it by up to 3 pixels each way, inside [0, 1]." in words
    assert "shift" not in parse_threat("rotation:30deg").words()
    assert "contrast by up to 20.0%" in parse_threat("hue:0.1+contrast:0.2").words()
    assert "as little as will do" in parse_threat("flow:inf").words()


# what every set of transformations promises


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_the_origin_is_the_input_to_the_bit(threat: TransformThreat) -> None:
    x0 = images()
    origin = threat.origin(x0)
    assert torch.equal(threat.apply(origin, x0), x0)
    assert torch.equal(threat.distance(origin, x0), torch.zeros(5, dtype=torch.float64))
    assert bool(threat.contains(origin, x0).all())


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_points_are_in_the_set_where_their_largest_ratio_is(threat: TransformThreat) -> None:
    x0, reach = images(), threat.reach(images())
    stream = Stream.of(0, torch.arange(5))
    inside = threat.random_point(x0, stream)
    assert bool(threat.contains(inside, x0).all())
    assert bool((inside != 0).flatten(1).any(1).all())
    g = torch.randn(inside.shape, generator=torch.Generator().manual_seed(1))
    full = threat.step(inside.clone(), g.clone(), x0, 2.0)
    assert torch.allclose(full, threat.epsilon * reach * g.sign())  # twice epsilon from anywhere is the corner
    assert torch.allclose(threat.distance(full, x0), torch.full((5,), threat.epsilon).double(), rtol=1e-6)
    assert bool(threat.contains(full, x0).all())
    assert not bool(threat.contains(full * 1.001, x0).any())
    assert torch.equal(threat.project(full.clone(), x0), full)
    half = threat.step(threat.origin(x0), g.clone(), x0, 0.5)
    assert torch.allclose(threat.distance(half, x0), torch.full((5,), threat.epsilon / 2).double(), rtol=1e-6)
    each = torch.linspace(0, 1, 5) * threat.epsilon
    assert torch.allclose(threat.distance(threat.project(full.clone(), x0, each), x0), each.double(), rtol=1e-5)
    assert bool((reach > 0).all()) or bool((full[:, reach == 0] == 0).all())
    free = threat.minimal()
    assert free.epsilon == math.inf
    assert bool(free.contains(100 * full, x0).all())
    assert torch.equal(free.project(100 * full, x0), 100 * full)
    assert not bool(threat.contains(full * torch.nan, x0).any())


def test_a_parameter_that_is_not_the_adversarys_may_not_move() -> None:
    threat, x0 = SpatialThreat(rotation=30), images()
    moved = threat.origin(x0)
    moved[:, 1] = 1e-6
    assert not bool(threat.contains(moved, x0).any())
    assert torch.equal(threat.project(moved.clone(), x0), threat.origin(x0))
    assert not bool(threat.minimal().project(moved.clone(), x0).any())


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_gradients_are_those_of_differences(threat: TransformThreat) -> None:
    """Along one direction in the parameters, away from the kinks of bilinear sampling."""
    x0 = images(n=3).double().mul(0.5).add(0.25)
    g = torch.Generator().manual_seed(2)
    p = threat.random_point(x0.float(), Stream.of(3, torch.arange(3))).double() * 0.37
    direction = torch.randn(p.shape, generator=g, dtype=torch.float64) * threat.reach(x0)
    weight = torch.randn(x0.shape, generator=g, dtype=torch.float64)
    p.requires_grad_()

    def value(q: Tensor) -> Tensor:
        return (threat.transform(q, x0) * weight).sum()

    (slope,) = torch.autograd.grad(value(p), p)
    with torch.no_grad():
        h = 1e-7
        difference = (value(p + h * direction) - value(p - h * direction)) / (2 * h)
    assert torch.allclose((slope * direction).sum(), difference, rtol=1e-4)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_constraints_bind_what_is_shown(threat: TransformThreat) -> None:
    x0 = images()
    mask = torch.rand(7, 9, generator=torch.Generator().manual_seed(3)) < 0.5
    p = threat.random_point(x0, Stream.of(0, torch.arange(5)))
    plain = threat.apply(p, x0)
    assert bool((plain >= 0).all() and (plain <= 1).all())
    masked = replace(threat, constraints=Constraints(mask=mask.expand(3, 7, 9)))
    assert torch.equal(masked.apply(p, x0), torch.where(mask, plain, x0))
    limited = replace(threat, constraints=Constraints(limit=torch.tensor(0.01)))
    assert torch.equal(limited.apply(p, x0), torch.maximum(torch.minimum(plain, x0 + 0.01), x0 - 0.01).clamp(0, 1))
    eight = replace(threat, constraints=Constraints(bits=8))
    assert torch.allclose(eight.apply(p, x0), (plain * 255).round() / 255)
    q = p.clone().requires_grad_()
    (through,) = torch.autograd.grad(eight.apply(q, x0).sum(), q)
    (straight,) = torch.autograd.grad(threat.apply(q, x0).sum(), q)
    assert torch.equal(through, straight)


# rotation and translation


def spatial(angle: float, dx: float, dy: float, x0: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    threat = SpatialThreat(rotation=180, translation=7, bounds=bounds)
    return threat.apply(torch.tensor([[angle, dx, dy]]).expand(len(x0), 3), x0)


def test_whole_shifts_move_pixels_to_the_bit() -> None:
    x0 = images()
    right = spatial(0, 2, 0, x0)
    assert torch.equal(right[..., 2:], x0[..., :-2])
    assert not bool(right[..., :2].any())
    down = spatial(0, 0, 1, x0)
    assert torch.equal(down[..., 1:, :], x0[..., :-1, :])
    assert not bool(down[..., :1, :].any())
    left_up = spatial(0, -1, -3, x0)
    assert torch.equal(left_up[..., :-3, :-1], x0[..., 3:, 1:])


def test_half_shifts_are_means_of_neighbours() -> None:
    x0 = images()
    moved = spatial(0, 0.5, 0, x0)
    assert torch.allclose(moved[..., 1:], (x0[..., 1:] + x0[..., :-1]) / 2)
    assert torch.allclose(moved[..., 0], x0[..., 0] / 2)  # half of it black


def test_quarter_turns_are_those_of_arrays() -> None:
    x0 = images(height=7, width=7)
    for quarters in (-1, 1, 2):
        assert torch.allclose(spatial(90 * quarters, 0, 0, x0), x0.rot90(quarters, (2, 3)), atol=1e-5)
    turned = spatial(90, 1, 0, x0)  # turned first, then shifted
    assert torch.allclose(turned[..., 1:], x0.rot90(1, (2, 3))[..., :-1], atol=1e-5)


def test_a_small_turn_is_counter_clockwise() -> None:
    """A bright pixel at the right goes up."""
    x0 = torch.zeros(1, 1, 9, 9)
    x0[0, 0, 4, 8] = 1
    turned = spatial(20, 0, 0, x0)
    assert turned[0, 0, :4].sum() > 0.5
    assert turned[0, 0, 5:].sum() == 0


def test_what_comes_in_is_black() -> None:
    x0 = images() * 2 - 1
    assert bool((spatial(0, 7, 0, x0, (-1.0, 1.0))[..., :7] == -1).all())
    assert bool((spatial(0, 7, 0, x0, (-math.inf, math.inf))[..., :7] == 0).all())


class Reads(nn.Module):
    """Class 1 wins where `above` at one pixel exceeds a level."""

    def __init__(self, row: int, column: int, level: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([-1.0, 1.0]))
        self.row, self.column, self.level = row, column, level

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :, self.row, self.column].mean(1)[:, None] - self.level) * self.weight


def ramp(n: int = 1) -> Tensor:
    """Brighter by a tenth a pixel to the right."""
    return (torch.arange(9) / 10).expand(n, 3, 9, 9).contiguous()


def bench(module: nn.Module, x: Tensor, threat: Threat | str) -> Oracle:
    prepared = prepare(TorchModel(module, classes=2), x, rows=16, accelerate=False)
    threat = parse_threat(threat) if isinstance(threat, str) else threat
    y = torch.zeros(len(x), dtype=torch.long)
    return Oracle.begin(prepared, threat, Untargeted(), x, y, ids=torch.arange(len(x)))


@pytest.mark.parametrize("made", [PGD(steps=30, step_size=0.2), SpatialGrid(angles=1, shifts=3)], ids=["pgd", "grid"])
def test_the_shift_a_ramp_needs_is_found(made: PGD | SpatialGrid) -> None:
    """The middle pixel shows 0.4 and must show more than 0.55: a shift of 1.5 pixels to the left."""
    module, x, y = Reads(4, 4, 0.55), ramp(4), torch.zeros(4, dtype=torch.long)
    assert bool(made(module, x, y, threat="translation:1.501px").broken.all())
    assert not bool(made(module, x, y, threat="translation:1.499px").broken.any())


def test_the_grid_finds_a_quarter_turn() -> None:
    x = torch.zeros(2, 1, 9, 9)
    x[:, :, 4, 8] = 1
    module, y = Reads(0, 4, 0.5), torch.zeros(2, dtype=torch.long)
    found = SpatialGrid(angles=5, shifts=3)(module, x, y, threat="rotation:180deg")
    assert bool(found.broken.all())
    assert torch.equal(found.point, torch.tensor([[90.0, 0.0, 0.0]]).expand(2, 3))
    assert torch.equal(found.distance, torch.full((2,), 0.5, dtype=torch.float64))
    assert not bool(SpatialGrid(angles=5, shifts=3)(module, x, y, threat="rotation:80deg").broken.any())


def test_the_grid_is_the_papers_from_the_nearest_on() -> None:
    threat, x0 = SpatialThreat(rotation=30, translation=3), ramp()
    grid = SpatialGrid().grid(threat, x0)
    assert len(grid) == 775
    assert torch.equal(grid[0], torch.zeros(3))
    assert torch.allclose(grid[:, 0].unique(), torch.linspace(-30, 30, 31))
    assert torch.allclose(grid[:, 1].unique(), torch.tensor([-3.0, -1.5, 0.0, 1.5, 3.0]))
    assert torch.equal(grid[:, 2].unique(), grid[:, 1].unique())
    assert bool((threat.distance(grid, x0).diff() >= 0).all())
    assert len(SpatialGrid().grid(SpatialThreat(rotation=30), x0)) == 31
    assert bool(threat.contains(grid, x0.expand(775, -1, -1, -1)).all())


@pytest.mark.parametrize("text", ["rotation:30deg+translation:3px", "hue:0.1+contrast:0.5"])
def test_worst_of_k_is_the_worst(text: str) -> None:
    x = images(height=9)
    oracle = bench(Reads(4, 4, 2.0), x, text)
    threat = oracle.threat
    last = WorstOfK(k=7).run(oracle, oracle.x0, threat)
    tried = torch.stack([threat.random_point(x, oracle.stream.at("point", i)) for i in range(7)])
    loss = torch.stack([oracle.scores(p, cross_entropy).loss for p in tried])
    assert torch.equal(last, tried[loss.argmax(0), torch.arange(5)])
    assert int(oracle.ledger.forwards.max()) == 14


# flows


def test_a_flow_reads_elsewhere() -> None:
    x0, threat = images(), FlowThreat(epsilon=2.0)
    flow = torch.zeros(5, 2, 7, 9)
    flow[:, 0], flow[:, 1] = 1.0, -2.0  # every pixel shows what is one to the right and two up
    moved = threat.apply(flow, x0)
    assert torch.equal(moved[..., 2:, :-1], x0[..., :-2, 1:])
    assert torch.equal(moved[..., 0, :-1], x0[..., 0, 1:])  # the edge goes on
    assert torch.equal(moved[..., 2:, -1], x0[..., :-2, -1])
    assert torch.allclose(threat.distance(flow, x0), torch.full((5,), 2 / 3.5, dtype=torch.float64))


def test_the_flow_a_ramp_needs_is_found() -> None:
    """0.15 more in steps of 0.1 a pixel is 1.5 pixels, a third of half the width."""
    module, x, y = Reads(4, 4, 0.55), ramp(4), torch.zeros(4, dtype=torch.long)
    for made in (PGD(steps=20, step_size=0.2), StAdv(tau=1e-6)):
        assert bool(made(module, x, y, threat="flow:0.334").broken.all())
        assert not bool(made(module, x, y, threat="flow:0.333").broken.any())


def test_roughness_is_the_papers_sum() -> None:
    flow = torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value, slope = stadv.roughness(flow)
    brute = torch.zeros(3, dtype=torch.float64)
    for i in range(4):
        for j in range(5):
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= k < 4 and 0 <= m < 5:
                    brute += ((flow[:, :, i, j] - flow[:, :, k, m]).square().sum(1) + 1e-10).sqrt()
    assert torch.allclose(value, brute)
    step = 1e-6 * torch.randn(flow.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    change = (stadv.roughness(flow + step)[0] - stadv.roughness(flow - step)[0]) / 2
    assert torch.allclose((slope * step).flatten(1).sum(1), change, rtol=1e-5)
    assert bool(stadv.roughness(torch.zeros(1, 2, 4, 5))[1].isfinite().all())


def test_stadv_bends_smoothly() -> None:
    """Of the flows that succeed, one that moves the whole image by what the pixel needs costs nothing, and is found."""
    found = {}
    for tau in (1e-6, 0.05):
        oracle = bench(Reads(4, 4, 0.55), ramp(), "flow:inf")
        oracle.stop = False
        found[tau] = StAdv(tau=tau, tolerance=1e-9).run(oracle, oracle.x0, oracle.threat)
        assert bool(oracle.best.broken.all())
    assert float(stadv.roughness(found[1e-6].double())[0]) > 1
    assert float(stadv.roughness(found[0.05].double())[0]) < 0.1  # 12 and more where neighbours stay behind
    assert torch.allclose(found[0.05][:, 0], torch.tensor(1.5), atol=0.01)


# colours


def test_cieluv_of_known_colours() -> None:
    """White, the primaries of sRGB, and mid-grey, as every table has them (D65)."""
    colours = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5], [0, 0, 0]])
    known = torch.tensor(
        [[100.0, 0, 0], [53.24, 175.01, 37.76], [87.74, -83.08, 107.39], [32.30, -9.41, -130.34], [53.39, 0, 0], [0, 0, 0]]
    )
    luv = cieluv(colours[:, :, None, None])[:, :, 0, 0] * torch.tensor([100.0, 200, 200]) - torch.tensor([0.0, 100, 100])
    assert torch.allclose(luv, known, atol=0.25)


def test_srgb_undoes_cieluv() -> None:
    x = images(n=50)
    x[0, :, :3] = 0
    x[1] = x[1] / 255
    assert torch.allclose(srgb(cieluv(x)), x, atol=1e-3)


def test_slopes_near_black_are_finite() -> None:
    x0 = torch.cat([torch.zeros(1, 3, 4, 4), images(n=3, height=4, width=4) / 500])
    threat = RecolorThreat(epsilon=0.06)
    for p in (threat.origin(x0), threat.random_point(x0, Stream.of(0, torch.arange(4)))):
        p.requires_grad_()
        x = threat.apply(p, x0)
        (slope,) = torch.autograd.grad(x.sum(), p)
        assert bool(x.isfinite().all())
        assert bool(slope.isfinite().all())
        assert float(slope.abs().max()) < 1e4


def test_the_map_is_trilinear() -> None:
    """A grid that holds a linear function of the colour gives that function everywhere."""
    sizes = (4, 5, 6)
    at = torch.stack(torch.meshgrid(*(torch.linspace(0, 1, s) for s in sizes), indexing="ij"))
    colour = images()
    for channel in range(3):
        g = torch.zeros(5, 3, *sizes)
        g[:, 1] = at[channel]
        found = interpolate(g, colour)
        assert torch.allclose(found[:, 1], colour[:, channel], atol=1e-6)
        assert not bool(found[:, 0].any())
    far = interpolate(at[None].expand(5, -1, -1, -1, -1), colour * 4 - 2)
    assert torch.allclose(far, (colour * 4 - 2).clamp(0, 1), atol=1e-6)


def test_a_lighter_grey_is_the_grey_of_that_lightness() -> None:
    x0 = torch.full((1, 3, 2, 2), 0.5)
    p = RecolorThreat(epsilon=0.06).origin(x0)
    p[:, 0] = 0.06
    lighter = RecolorThreat(epsilon=0.06).apply(p, x0)
    light = 53.389 + 6  # of grey 0.5
    linear = ((light + 16) / 116) ** 3
    assert torch.allclose(lighter, torch.tensor(1.055 * linear ** (1 / 2.4) - 0.055), atol=2e-3)


def test_colours_go_together() -> None:
    """Pixels of one colour stay of one colour, whatever the map."""
    x0 = images(n=2, height=2, width=2).repeat(1, 1, 3, 3)
    threat = RecolorThreat(epsilon=0.1)
    x = threat.apply(threat.random_point(x0, Stream.of(0, torch.arange(2))), x0)
    assert bool((x != x0).any())
    assert torch.equal(x[..., :2, :2].repeat(1, 1, 3, 3), x)


def test_smoothness_is_the_papers_sum() -> None:
    g = torch.randn(2, 3, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value, slope = recoloradv.roughness(g.clone())
    brute = torch.zeros(2, dtype=torch.float64)
    for dim in (2, 3, 4):
        brute += 2 * (g.diff(dim=dim).square().sum(1) + 1e-10).sqrt().flatten(1).sum(1)
    assert torch.allclose(value, brute)
    step = 1e-6 * torch.randn(g.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    change = (recoloradv.roughness(g + step)[0] - recoloradv.roughness(g - step)[0]) / 2
    assert torch.allclose((slope * step).flatten(1).sum(1), change, rtol=1e-5)


def test_recoloradv_finds_the_lighter_grey() -> None:
    """A grey of 0.5 must show 0.55: about 4.9 of L*, where neighbours of the grey in the grid must go along."""
    linear = [((v + 0.055) / 1.055) ** 2.4 for v in (0.5, 0.55)]
    needed = (116 * linear[1] ** (1 / 3) - 116 * linear[0] ** (1 / 3)) / 100
    x, y = torch.full((2, 3, 9, 9), 0.5), torch.zeros(2, dtype=torch.long)
    module = Reads(4, 4, 0.55)
    for made in (ReColorAdv(rate=0.003, smooth=1e-4), PGD(steps=20, step_size=0.2)):
        assert bool(made(module, x, y, threat=f"recolor:{needed * 1.1}").broken.all())
        if isinstance(made, ReColorAdv):
            assert not bool(made(module, x, y, threat=f"recolor:{needed * 0.5}").broken.any())


# hue, saturation, brightness, contrast


def semantic(x0: Tensor, hue: float = 0.0, saturation: float = 0.0, brightness: float = 0.0, contrast: float = 0.0) -> Tensor:
    p = torch.tensor([[hue, saturation, brightness, contrast]]).expand(len(x0), 4)
    threat = SemanticThreat(hue=0.5, saturation=1, brightness=1, contrast=1, bounds=(-math.inf, math.inf))
    return threat.transform(p, x0)


GREY = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def test_hue_turns_and_keeps_luma() -> None:
    x0 = images()
    turned = semantic(x0, hue=1 / 3)
    assert torch.allclose((turned * GREY).sum(1), (x0 * GREY).sum(1), atol=2e-3)
    assert bool(((turned - x0).abs().amax((1, 2, 3)) > 0.1).all())
    assert torch.allclose(semantic(x0, hue=1.0), x0, atol=1e-5)
    assert torch.allclose(semantic(turned, hue=-1 / 3), x0, atol=5e-3)
    grey = x0[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(semantic(grey, hue=0.3), grey, atol=1e-3)


def test_saturation_brightness_and_contrast() -> None:
    x0 = images()
    luma = (x0 * GREY).sum(1, keepdim=True)
    assert torch.allclose(semantic(x0, saturation=-1), luma.expand_as(x0), atol=1e-6)
    assert torch.allclose(semantic(x0, saturation=0.5), luma + 1.5 * (x0 - luma), atol=1e-6)
    assert torch.allclose(semantic(x0, brightness=0.25), x0 + 0.25)
    middle = luma.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(semantic(x0, contrast=-1), middle.expand_as(x0), atol=1e-6)
    assert torch.allclose(semantic(x0, contrast=1), 2 * x0 - middle, atol=1e-6)
    one = images(channels=1)
    assert torch.allclose(semantic(one, contrast=-1), one.mean((1, 2, 3), keepdim=True).expand_as(one), atol=1e-6)


def test_brightness_is_a_share_of_the_range() -> None:
    x0 = images()
    threat = SemanticThreat(brightness=0.5, bounds=(0.0, 2.0))
    assert torch.allclose(threat.apply(torch.tensor([[0.0, 0.0, 0.25, 0.0]]).expand(5, 4), x0), x0 + 0.5)


def test_the_brightness_a_ramp_needs_is_found() -> None:
    module, x, y = Reads(4, 4, 0.55), ramp(4), torch.zeros(4, dtype=torch.long)
    made = PGD(steps=20, step_size=0.2)
    assert bool(made(module, x, y, threat="brightness:0.1501").broken.all())
    assert not bool(made(module, x, y, threat="brightness:0.1499").broken.any())


# the Wasserstein ball


def test_the_simplex_projection_is_duchis() -> None:
    p = torch.randn(4, 9, 3, 5, generator=torch.Generator().manual_seed(0))
    p[:, 2] = -torch.inf
    p[0] = torch.where(p[0] > -torch.inf, 0.3, p[0])  # all alike
    mass = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(1))
    mass[:2, 0] = 0.0  # black
    found = simplex(p, mass)
    assert torch.allclose(found.sum(1), mass, atol=1e-6)
    assert not bool(found[:, 2].any())
    u = p.sort(dim=1, descending=True).values
    theta = (u.cumsum(1) - mass[:, None]) / torch.arange(1.0, 10)[:, None, None]
    rho = ((u > theta).sum(1, keepdim=True) - 1).clamp(min=0)
    assert torch.allclose(found, (p - theta.gather(1, rho)).clamp(min=0), atol=1e-6)
    assert torch.equal(simplex(p[1:2], mass[1:2]), found[1:2])


def test_plans_move_brightness_and_pay_for_distance() -> None:
    threat, x0 = WassersteinThreat(epsilon=1.0), images() * 0.4
    assert torch.equal(threat.apply(threat.origin(x0), x0), x0)
    assert not bool(threat.distance(threat.origin(x0), x0).any())
    plan = torch.zeros_like(threat.origin(x0))
    k = threat.offsets().index((1, -2))
    plan[:, k, :, :-1, 2:] = x0[:, :, :-1, 2:]
    plan[:, 12] = x0 - plan[:, k]
    x = threat.arrivals(plan)
    wanted = x0.clone()
    wanted[:, :, :-1, 2:] = 0
    wanted[:, :, 1:, :-2] += x0[:, :, :-1, 2:]
    assert torch.allclose(x, wanted)
    share = x0[:, :, :-1, 2:].double().sum((1, 2, 3)) / x0.double().sum((1, 2, 3))
    assert torch.allclose(threat.distance(plan, x0), math.sqrt(5) * share)


LIMITS = [Constraints(), Constraints(mask=torch.arange(9) % 3 != 0), Constraints(limit=torch.tensor(0.1))]


@pytest.mark.parametrize("limits", LIMITS, ids=["free", "mask", "limit"])
def test_projected_plans_lie_in_the_ball_and_the_box(limits: Constraints) -> None:
    x0 = images()
    x0[:2, :, 2] = 0.0  # black, from where nothing goes
    x0[1:3, :, 4] = 1.0  # white, where nothing more fits
    if limits.mask is not None:
        limits = replace(limits, mask=limits.mask.expand(3, 7, 9))
    threat = WassersteinThreat(epsilon=0.1, constraints=limits)
    wild = threat.origin(x0) + torch.randn(5, 25, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    plan = threat.project(wild, x0)
    assert bool(threat.contains(plan, x0).all())
    assert float(threat.distance(plan, x0).min()) > 0.01
    x = threat.arrivals(plan)
    assert torch.allclose(x.sum((2, 3)), x0.sum((2, 3)), rtol=1e-5)  # each channel keeps what it has
    assert bool((x <= 1 + 1e-6).all())
    if limits.mask is not None:
        assert torch.equal(threat.apply(plan, x0)[..., ::3], x0[..., ::3])
    if limits.limit is not None:
        assert float((x - x0).abs().max()) <= 0.1 + 1e-6
    broken = plan.clone()
    broken[:, 12] *= 1.01
    assert not bool(threat.contains(broken, x0).any())
    assert not bool(replace(threat, epsilon=0.9 * float(threat.distance(plan, x0).min())).contains(plan, x0).any())


def test_the_projection_of_plans_is_the_nearest() -> None:
    """Where no pixel fills up: no plan on the way to a random one of the ball is nearer."""
    x0 = images() * 0.2
    threat = WassersteinThreat(epsilon=0.3)
    wild = threat.origin(x0) + 0.05 * torch.randn(5, 25, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    plan = threat.project(wild.clone(), x0)
    assert torch.allclose(threat.distance(plan, x0), torch.full((5,), 0.3).double(), rtol=1e-3)
    for seed in range(5):
        other = threat.random_point(x0, Stream.of(seed, torch.arange(5)))
        assert bool(threat.contains(other, x0).all())
        uphill = ((wild - plan) * (other - plan)).masked_fill(~threat.open(x0), 0).double().flatten(1).sum(1)
        assert bool((uphill <= 1e-3).all())


def test_pgd_finds_the_least_transport() -> None:
    """One pixel of 0.2 must reach 0.25: its neighbours, 0.2 each, send 0.05 by one pixel. Of all 3 x 81 x 0.2 that is
    0.15 / 48.6 pixels on average."""
    x, y, module = torch.full((2, 3, 9, 9), 0.2), torch.zeros(2, dtype=torch.long), Reads(4, 4, 0.25)
    least = 0.15 / (3 * 81 * 0.2)
    made = PGD(steps=40, step_size=0.25, random_start=False)
    assert bool(made(module, x, y, threat=f"wasserstein:{1.02 * least}").broken.all())
    assert not bool(made(module, x, y, threat=f"wasserstein:{0.98 * least}").broken.any())


def test_what_the_wasserstein_ball_does_not_fit() -> None:
    with pytest.raises(ThreatError, match=re.escape("inputs have shape [64]")):
        parse_threat("wasserstein:0.1").check(torch.rand(2, 64))
    with pytest.raises(ThreatError, match="moves what is above 0"):
        parse_threat("wasserstein:0.1").within((-1.0, 1.0)).check(images())
    with pytest.raises(ThreatError, match="kernel of 4"):
        WassersteinThreat(epsilon=0.1, kernel=4)
    assert "0.01 pixels on average" in parse_threat("wasserstein:0.01").words()


# one pixel, and a genetic algorithm


def test_children_have_three_different_parents() -> None:
    a, b, c = three(Stream.of(0, torch.arange(50)), 4)
    assert bool(((a != b) & (b != c) & (a != c)).all())
    for parent in (a, b, c):
        assert parent.min() == 0
        assert parent.max() == 3


def test_one_pixel_finds_the_one_that_counts() -> None:
    """Only the pixel in the middle is read, and only its brightness."""
    x, y, module = images(height=9) * 0.4, torch.zeros(5, dtype=torch.long), Reads(4, 4, 0.8)
    found = OnePixel(population=60, generations=20)(module, x, y, threat="l0:1px")
    assert bool(found.broken.all())
    assert bool((found.distance == 1).all())
    changed = (found.adversarial != x).any(1)
    assert bool(changed[:, 4, 4].all())
    assert bool((changed.sum((1, 2)) == 1).all())
    assert not bool(OnePixel(population=60, generations=5)(Reads(4, 4, 1.1), x, y, threat="l0:1px").broken.any())


def test_parents_are_drawn_by_their_shares() -> None:
    u = Stream.of(0, torch.arange(3)).uniform(20000, 1)
    drawn = draw(torch.tensor([[0.1, 0.2, 0.7]]).expand(3, 3), u)
    counts = torch.stack([(drawn == k).double().mean((1, 2)) for k in range(3)], 1)
    assert torch.allclose(counts, torch.tensor([0.1, 0.2, 0.7]).double(), atol=0.02)


def test_gen_attack_climbs_and_keeps_its_fittest() -> None:
    """A mean of nine entries that must rise by three quarters of what the ball allows."""
    x, y = torch.full((2, 1, 3, 3), 0.5), torch.zeros(2, dtype=torch.long)

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([-10.0, 10.0]))

        def forward(self, x: Tensor) -> Tensor:
            return (x.mean((1, 2, 3))[:, None] - 0.575) * self.weight

    oracle = bench(Mean(), x, "linf:0.1")
    aims = Aim(torch.tensor([0])), Aim(torch.tensor([0]), torch.tensor([1]))
    fitness = [log_odds(torch.tensor([[3.0, 1.0, 0.0]]), aim) for aim in aims]
    p = torch.tensor([3.0, 1.0, 0.0]).softmax(0)
    assert torch.allclose(fitness[0], -(p[0] / (1 - p[0])).log())
    assert torch.allclose(fitness[1], (p[1] / (1 - p[1])).log())
    short = oracle.scores(GenAttack(steps=1).run(oracle, x, oracle.threat)).margin
    assert not bool((short > 0).any())
    found = GenAttack(steps=300)(Mean(), x, y, threat="linf:0.1")
    assert bool(found.broken.all())
    assert not bool(GenAttack(steps=50)(Mean(), x, y, threat="linf:0.074").broken.any())


# several sets at once


def test_a_composite_transforms_and_then_adds() -> None:
    threat, x0 = parse_threat("linf:0.1+translation:2px+hue:0.2"), images() * 0.5 + 0.2
    assert torch.equal(threat.apply(threat.origin(x0), x0), x0)
    delta = 0.1 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).sign()
    shift, hue = torch.tensor([[0.0, 2.0, 0.0]]).expand(5, 3), torch.tensor([[0.1, 0.0, 0.0, 0.0]]).expand(5, 4)
    p = torch.cat([(x0 + delta).flatten(1), shift, hue], 1)
    turned = SemanticThreat(hue=0.2).apply(hue, SpatialThreat(translation=2).apply(shift, x0))
    assert torch.allclose(threat.apply(p, x0), (turned + delta).clamp(0, 1), atol=1e-6)
    assert torch.allclose(threat.distance(p, x0), torch.ones(5).double(), rtol=1e-5)
    assert bool(threat.contains(p, x0).all())
    assert not bool(threat.contains(torch.cat([p[:, :-7], 1.01 * p[:, -7:]], 1), x0).any())
    half = threat.project(p.clone(), x0, 0.5)
    assert torch.allclose(threat.distance(half, x0), torch.full((5,), 0.5).double(), rtol=1e-5)


def test_a_composite_needs_less_of_each() -> None:
    """0.15 more at one pixel: 0.05 by a shift of half a pixel, and 0.1 by Linf."""
    module, x, y = Reads(4, 4, 0.55), ramp(4), torch.zeros(4, dtype=torch.long)
    made = PGD(steps=30, step_size=0.2)
    assert bool(made(module, x, y, threat="translation:0.5px+linf:0.1005").broken.all())
    assert not bool(made(module, x, y, threat="translation:0.5px+linf:0.0995").broken.any())
    assert not bool(made(module, x, y, threat="translation:0.45px+linf:0.1005").broken.any())


def test_a_composite_is_as_far_as_the_part_that_needs_most() -> None:
    """Half of the rotation and all of the change of pixels, and the other way round, are at the edge of the set."""
    threat, x0 = parse_threat("rotation:30deg+linf:0.1"), images()
    stream = Stream.of(0, torch.arange(len(x0)))
    g = torch.randn(threat.random_point(x0, stream).shape, generator=torch.Generator().manual_seed(1))
    corner = threat.step(threat.origin(x0), g, x0, 2.0)
    parts = threat.split(corner, x0)
    for least in range(len(parts)):
        scaled = threat.split(corner.clone(), x0)
        origin = threat.split(threat.origin(x0), x0)
        scaled[least].copy_((parts[least] + origin[least]) / 2)
        point = torch.cat([part.flatten(1) for part in scaled], 1).view(corner.shape)
        assert torch.allclose(threat.distance(point, x0), torch.ones(len(x0)).double(), atol=1e-3)


def test_a_plan_sends_nothing_negative() -> None:
    """It would pay for other moves: what is sent adds up, the image hardly changes, and it costs less than nothing."""
    threat, x0 = parse_threat("wasserstein:0.05"), 0.25 + 0.5 * images()
    plan = threat.origin(x0)
    offsets = list(threat.offsets())
    stays, moves = offsets.index((0, 0)), offsets.index((0, 1))
    assert bool(threat.contains(plan, x0).all())
    for sent, good in ((0.01, True), (-0.01, False)):
        moved = plan.clone()
        moved[:, moves, :, 1, 1] += sent
        moved[:, stays, :, 1, 1] -= sent
        assert threat.contains(moved, x0).tolist() == [good] * len(x0)
