"""The norms against their definitions: closed forms, brute force, scipy's solvers and random feasible points."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from mohs.errors import ThreatError
from mohs.geometry import L0, L0_PIXELS, L1, L2, LINF, L1Norm, Norm, per_row
from mohs.rng import Stream

CONVEX = [LINF, L2, L1]
ALL = [*CONVEX, L0, L0_PIXELS]


def name(norm: object) -> str:
    return norm.name + ("-pixels" if getattr(norm, "pixels", False) else "") if hasattr(norm, "name") else str(norm)


each = pytest.mark.parametrize("norm", ALL, ids=name)
each_convex = pytest.mark.parametrize("norm", CONVEX, ids=name)


def ball_of(norm, delta):
    """The distance by numpy, one a row."""
    flat = delta.double().flatten(1).numpy()
    if norm.name == "l0":
        grid = delta.flatten(2).abs().amax(1) if norm.pixels else delta.flatten(1)
        return np.count_nonzero(grid.numpy(), axis=1).astype(float)
    return np.linalg.norm(flat, {"linf": np.inf, "l2": 2, "l1": 1}[norm.name], axis=1)


@st.composite
def problems(draw, shape=(2, 2, 2)):
    """x far out or near, x0 in an asymmetric box with features at its sides and masked ones, one epsilon a row."""
    entry = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32)
    rows = draw(st.integers(1, 4))
    size = rows * math.prod(shape)
    low = torch.tensor(draw(st.lists(st.sampled_from([-1.0, 0.0]), min_size=size, max_size=size))).view(rows, *shape)
    high = torch.tensor(draw(st.lists(st.sampled_from([0.75, 1.0, 3.0]), min_size=size, max_size=size))).view_as(low)
    x0 = torch.tensor(draw(st.lists(entry, min_size=size, max_size=size))).view_as(low)
    x0 = x0.clamp(low, high)
    mask = torch.tensor(draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))).view_as(low) == 0
    low, high = torch.where(mask, x0, low), torch.where(mask, x0, high)
    scale = draw(st.sampled_from([1e-3, 0.3, 1.0, 10.0, 1e4]))
    jump = draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]) | st.floats(-1, 1, width=32), min_size=size, max_size=size))
    x = x0 + scale * torch.tensor(jump).view_as(low)
    radius = st.sampled_from([0.0, 1e-3, 0.3, 1.0, 2.0, math.inf]) | st.floats(2.0**-10, 6, width=32)
    epsilon = torch.tensor(draw(st.lists(radius, min_size=rows, max_size=rows)))
    return x, x0, epsilon, low, high


@each
@given(problem=problems(), seed=st.integers(0, 2**20))
def test_projection_lands_stays_and_is_nearest(norm: Norm, problem, seed):
    x, x0, epsilon, low, high = problem
    point = norm.project(x.clone(), x0, epsilon, low, high)
    assert point.dtype == x.dtype
    assert point.shape == x.shape
    assert ((point >= low) & (point <= high)).all()
    reach = ball_of(norm, point.double() - x0.double())
    assert (reach <= epsilon.double().numpy() * (1 + 1e-6) + (1e-6 if norm is LINF else 0)).all()
    assert torch.equal(norm.project(point.clone(), x0, epsilon, low, high), point)

    generator = torch.Generator().manual_seed(seed)
    # nearest: no other point of the set is nearer, and none lies beyond the tangent plane
    for scale in (0.1, 1.0, 10.0):
        other = x0 + scale * torch.randn(x.shape, generator=generator)
        other = norm.project(other.clamp(low, high), x0, epsilon, low, high).double()
        away, across = x.double() - point.double(), other - point.double()
        tolerance = 1e-5 * (1 + away.flatten(1).norm(dim=1)) * (1 + across.flatten(1).norm(dim=1))
        assert (away.flatten(1).norm(dim=1) <= (x.double() - other).flatten(1).norm(dim=1) + tolerance).all()
        if norm in CONVEX:
            assert ((away * across).flatten(1).sum(1) <= tolerance).all()


@each
@given(problem=problems())
def test_projection_is_the_identity_inside(norm: Norm, problem):
    x, x0, _, low, high = problem
    inside = x.clamp(low, high)
    enough = torch.from_numpy(np.nextafter(ball_of(norm, inside - x0), np.inf)) + (1e-7 if norm is LINF else 0)
    for start in (inside, x):  # where the clipped x lies in the ball, it is the answer
        assert torch.equal(norm.project(start.clone(), x0, enough, low, high), inside)
        assert torch.equal(norm.project(start.clone(), x0, math.inf, low, high), inside)


@each_convex
@given(problem=problems(), seed=st.integers(0, 2**20))
def test_projection_is_not_expansive(norm: Norm, problem, seed):
    x, x0, epsilon, low, high = problem
    y = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    before = (x - y).flatten(1).norm(dim=1)
    after = (norm.project(x.clone(), x0, epsilon, low, high) - norm.project(y, x0, epsilon, low, high)).flatten(1)
    assert (after.norm(dim=1) <= before + 1e-5 * (1 + x.abs().flatten(1).amax(1))).all()


@pytest.mark.parametrize("norm", [L2, L1], ids=name)
@pytest.mark.parametrize("seed", range(6))
def test_projection_against_scipy(norm: Norm, seed):
    rng = np.random.default_rng(seed)
    d, epsilon = 6, rng.uniform(0.2, 1.5)
    x0 = rng.choice([0, 1, 0.3, 0.8], d)
    v = rng.normal(0, 1, d)
    point = norm.project(*(torch.tensor(a[None], dtype=torch.float32) for a in (x0 + v, x0)), epsilon, 0.0, 1.0)
    # delta = up - down with both >= 0, so that the L1 norm is smooth
    inside = {"l1": lambda z: epsilon - z.sum(), "l2": lambda z: epsilon**2 - ((z[:d] - z[d:]) ** 2).sum()}[norm.name]
    best = minimize(
        lambda z: ((z[:d] - z[d:] - v) ** 2).sum(),
        np.zeros(2 * d),
        bounds=[(0, 1 - a) for a in x0] + [(0, a) for a in x0],
        constraints={"type": "ineq", "fun": inside},
        method="SLSQP",
        options={"ftol": 1e-10, "maxiter": 500},
    )
    assert best.success, best.message
    np.testing.assert_allclose(point[0].numpy() - x0, best.x[:d] - best.x[d:], atol=5e-5)


@pytest.mark.parametrize("norm", [L2, L1], ids=name)
@pytest.mark.parametrize("scale", [0.05, 1.0, 1e3, 1e6])
def test_projection_spends_the_whole_budget_at_image_size(norm: Norm, scale):
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(4, 3, 32, 32, generator=generator).mul(2).sub(0.5).clamp(0, 1)  # half of the features at a side
    x = x0 + scale * torch.randn(x0.shape, generator=generator)
    for epsilon in (1e-3, 0.5, 1.5):
        reach = norm.distance(norm.project(x.clone(), x0, epsilon, 0.0, 1.0).double() - x0.double())
        assert (reach <= epsilon * (1 + 1e-6)).all()
        assert (reach >= epsilon * (1 - (2e-6 if epsilon > 0.1 else 0.01))).all()  # float32 points are this coarse


def test_l1_projection_of_equal_entries():
    point = L1.project(torch.full((1, 3072), 1.0), torch.zeros(1, 3072), 1e-2, 0.0, 1.0)
    torch.testing.assert_close(point, torch.full((1, 3072), 1e-2 / 3072))


@pytest.mark.parametrize("norm", [L0, L0_PIXELS], ids=name)
@pytest.mark.parametrize("seed", range(8))
def test_l0_projection_against_enumeration(norm, seed):
    rng = np.random.default_rng(seed)
    shape = (2, 2, 2)
    x0 = rng.choice([0, 1, 0.3, 0.8], shape)
    x = x0 + rng.normal(0, 1, shape)
    groups = 4 if norm.pixels else 8
    count = int(rng.integers(0, groups + 1))
    clipped = x.clip(0, 1)
    least = math.inf
    for kept in itertools.combinations(range(groups), count):
        mask = np.isin(np.arange(groups), kept).reshape((1, 2, 2) if norm.pixels else shape)
        least = min(least, ((np.where(mask, clipped, x0) - x) ** 2).sum())
    point = norm.project(*(torch.tensor(a[None], dtype=torch.float32) for a in (x, x0)), count + 0.9, 0.0, 1.0)[0]
    assert norm.distance(point[None] - torch.tensor(x0, dtype=torch.float32)) <= count
    assert ((point.double().numpy() - x) ** 2).sum() == pytest.approx(least, rel=1e-5)


def test_l0_ties_fall_to_the_first():
    x = torch.tensor([[0.2, 0.5, 0.5, 0.5, 0.5]])
    point = L0.project(x.clone(), torch.zeros_like(x), torch.tensor([2.0]), 0.0, 1.0)
    assert point.tolist() == [[0.0, 0.5, 0.5, 0.0, 0.0]]


def test_pixels_need_channels():
    with pytest.raises(ThreatError, match="channels"):
        L0_PIXELS.distance(torch.zeros(2, 5))


@each
def test_one_side_a_number_the_other_a_tensor(norm: Norm):
    generator = torch.Generator().manual_seed(3)
    x0 = torch.rand(2, 3, 2, 2, generator=generator)
    x = x0 + torch.randn(x0.shape, generator=generator)
    channels = torch.tensor([0.8, 0.9, 1.0]).view(1, 3, 1, 1).expand_as(x0).maximum(x0)
    expected = norm.project(x.clone(), x0, torch.tensor([1.0, 2.0]), torch.zeros_like(x0), channels)
    assert torch.equal(norm.project(x.clone(), x0, torch.tensor([1.0, 2.0]), 0.0, channels), expected)
    assert torch.equal(norm.project(x[:1].clone(), x0[:1], 1.0, 0.0, channels[:1]), expected[:1])
    side = torch.tensor([0.0, -0.5, 0.0]).view(1, 3, 1, 1)  # broadcasts over rows and places
    whole = norm.project(x.clone(), x0, 1.0, side.expand_as(x0), 1.0)
    assert torch.equal(norm.project(x.clone(), x0, 1.0, side, 1.0), whole)


@each
def test_nothing_and_no_rows(norm: Norm):
    x0 = torch.rand(0, 3, 2, 2)
    assert norm.project(x0.clone(), x0, 1.0, 0.0, 1.0).shape == x0.shape
    assert norm.distance(x0).shape == norm.dual(x0).shape == (0,)
    assert norm.steepest(x0.clone()).shape == norm.ball(x0, Stream.of(0, torch.arange(0))).shape == x0.shape


@each
def test_distance(norm: Norm):
    delta = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    delta[1, :, 1:] = 0
    delta[2] = 0
    assert norm.distance(delta).dtype == torch.float64
    np.testing.assert_allclose(norm.distance(delta).numpy(), ball_of(norm, delta), rtol=1e-7)


@each_convex
def test_distance_has_a_gradient(norm: Norm):
    delta = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm.distance, delta)
    still = torch.zeros(1, 7, requires_grad=True)
    norm.distance(still).sum().backward()
    assert still.grad is not None
    assert still.grad.isfinite().all()


@pytest.mark.parametrize("norm", [LINF, L2, L1Norm(quantile=1.0)], ids=name)
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e12])
def test_the_steepest_step_reaches_the_dual_norm(norm: Norm, scale):
    g = scale * torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    g[0, 0] = 0
    step = norm.steepest(g.clone())
    gain = (g.double() * step.double()).flatten(1).sum(1)
    torch.testing.assert_close(gain, norm.dual(g).double(), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(norm.distance(step), torch.ones(6, dtype=torch.float64), rtol=1e-6, atol=0.0)


@each_convex
@given(seed=st.integers(0, 2**20))
def test_holder(norm: Norm, seed):
    generator = torch.Generator().manual_seed(seed)
    g, d = torch.randn(2, 4, 9, generator=generator)
    assert ((g * d).sum(1).abs() <= norm.dual(g) * norm.distance(d) * (1 + 1e-6)).all()


@each
def test_the_steepest_step_of_nothing_is_nothing(norm: Norm):
    assert torch.equal(norm.steepest(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))


def test_slide_moves_the_top_hundredth():
    g = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    step = L1.steepest(g.clone())
    for row in range(2):
        largest = g[row].flatten().abs().argsort(descending=True)[:3]
        expected = torch.zeros(300)
        expected[largest] = g[row].flatten()[largest].sign() / 3
        torch.testing.assert_close(step[row].flatten(), expected)
    assert L1.steepest(torch.arange(150.0)[None]).nonzero()[:, 1].tolist() == [148, 149]  # at or above: rounded up
    assert L1.steepest(torch.tensor([[2.0, -2.0, 1.0, 0.0]])).tolist() == [[0.5, -0.5, 0.0, 0.0]]  # ties share


@each_convex
def test_ball_and_sphere(norm: Norm):
    d, rows = 5, 4000
    x0 = torch.zeros(rows, d)
    stream = Stream.of(0, torch.arange(rows))
    torch.testing.assert_close(norm.distance(norm.sphere(x0, stream)), torch.ones(rows).double(), rtol=2e-7, atol=0.0)
    ball = norm.ball(x0, stream)
    radius = norm.distance(ball)
    assert (radius <= 1 + 1e-6).all()
    # the radius of a uniform point has distribution function r^d
    u = radius.pow(d).sort().values
    assert (u - (torch.arange(rows) + 0.5) / rows).abs().max() < 1.7 / math.sqrt(rows)  # Kolmogorov, about 1 in 300
    assert ball.mean(0).abs().max() < 0.05
    variance = {"linf": 1 / 3, "l2": 1 / (d + 2), "l1": 2 / ((d + 1) * (d + 2))}[norm.name]
    torch.testing.assert_close(ball.var(0), torch.full((d,), variance), rtol=0.12, atol=0.0)
    correlation = torch.corrcoef(ball.abs().T) if norm is LINF else torch.corrcoef(ball.T)
    assert (correlation - torch.eye(d)).abs().max() < 0.08


@pytest.mark.parametrize("norm", [L0, L0_PIXELS], ids=name)
def test_random_points_of_l0(norm):
    x0 = torch.zeros(300, 2, 2, 2)
    stream = Stream.of(0, torch.arange(300))
    assert (norm.distance(norm.sphere(x0, stream)) == 1).all()
    places = norm.sphere(x0, stream).abs().sum(0)
    assert (places > 0).all()
    assert places.std() < 0.3 * places.mean()
    start = norm.project(x0 + norm.ball(x0, stream), x0, 2.0, -1.0, 1.0)
    assert (norm.distance(start) == 2).all()


def nearest_by_scipy(norm, x, w, b, low, high):
    """The distance to the nearest point of the box with <w, .> = b, or None where there is none."""
    d = len(x)
    if not np.minimum(w * low, w * high).sum() <= b <= np.maximum(w * low, w * high).sum():
        return None
    if norm is L2:
        plane = {"type": "eq", "fun": lambda z: w @ z - b, "jac": lambda z: w}
        start = x.copy()
        options = {"ftol": 1e-15, "maxiter": 1000}
        gap = minimize(
            lambda z: ((z - x) ** 2).sum(),
            start,
            jac=lambda z: 2 * (z - x),
            bounds=list(zip(low, high, strict=True)),
            constraints=plane,
            method="SLSQP",
            options=options,
        )
        return math.sqrt(gap.fun)
    # variables z and t: |z - x| <= t, one t for Linf, one a coordinate for L1
    bound = np.ones((d, 1)) if norm is LINF else np.eye(d)
    k = bound.shape[1]
    upper = np.block([[np.eye(d), -bound], [-np.eye(d), -bound]])
    solution = linprog(
        np.r_[np.zeros(d), np.ones(k)],
        A_ub=upper,
        b_ub=np.r_[x, -x],
        A_eq=np.r_[w, np.zeros(k)][None],
        b_eq=[b],
        bounds=[*zip(low, high, strict=True), *[(0, None)] * k],
    )
    return float(solution.fun)


def meet(norm: Norm, x, w, b, low, high):
    """The nearest point with <w, point> = b."""
    return norm.hyperplane(x, w, b - (w.double() * x.double()).flatten(1).sum(1), low, high)


@each_convex
def test_hyperplane_is_nearest(norm: Norm):
    rng = np.random.default_rng(7)
    rows, d, seen = 30, 6, 0
    low = -1.0
    x0 = rng.choice([low, 3, 0.25, 0.8], (rows, d))
    w = rng.choice([0, 1, -1, 0.5, -2, 0.125], (rows, d))
    w[:20] += rng.normal(0, 1, (20, d)) * (rng.random((20, d)) < 0.8)
    b = (w * x0).sum(1) + rng.normal(0, 5, rows)
    high = np.where(rng.random((rows, d)) < 0.2, x0, 3.0)  # some features only go down
    x, w32, b32, top = (torch.tensor(a, dtype=torch.float32) for a in (x0, w, b, high))
    point = meet(norm, x.clone(), w32, b32, torch.full_like(x, low), top)
    assert ((point >= low) & (point <= top)).all()
    assert torch.equal(meet(norm, x.clone(), w32, b32, low, top), point)
    for row in range(rows):
        normal, level = w32[row].double().numpy(), float(b32[row])
        best = nearest_by_scipy(norm, x[row].double().numpy(), normal, level, np.full(d, low), top[row].double().numpy())
        value = normal @ point[row].double().numpy()
        if best is None:
            corner = np.where((normal > 0) == (level > normal @ x0[row]), top[row].double().numpy(), low)
            assert value == pytest.approx(normal @ corner, abs=1e-6)
        else:
            seen += 1
            assert value == pytest.approx(level, abs=1e-5)
            reach = float(norm.distance((point - x)[row : row + 1].double()))
            assert reach == pytest.approx(best, abs=1e-5)
    assert 10 <= seen <= rows - 3  # both kinds were there


@each_convex
@pytest.mark.parametrize("scale", [1.0, 1e-18, 1e15])
def test_hyperplane_without_a_box(norm: Norm, scale):
    """|<w, x> - b| / ||w||_q, the closed form of DeepFool."""
    generator = torch.Generator().manual_seed(5)
    x, w = torch.randn(2, 8, 3, 9, generator=generator)
    w = w * scale
    b = (w.double() * x).flatten(1).sum(1) + scale * torch.linspace(-3, 3, 8, dtype=torch.float64)
    point = meet(norm, x.clone(), w, b, -math.inf, math.inf)
    sides = torch.full((3, 9), math.inf)
    assert torch.equal(meet(norm, x.clone(), w, b, -sides, sides), point)
    expected = scale * torch.linspace(-3, 3, 8, dtype=torch.float64).abs() / norm.dual(w.double())
    torch.testing.assert_close(norm.distance(point.double() - x.double()), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((w.double() * point).flatten(1).sum(1), b, rtol=1e-5, atol=scale * 2e-6)


@each_convex
def test_hyperplane_at_image_size(norm: Norm):
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(6, 3, 32, 32, generator=generator).mul(2).sub(0.5).clamp(0, 1)
    w = torch.randn(x.shape, generator=generator) * 1e-2
    shift = torch.tensor([1e-4, -1e-2, 1.0, -10.0, 1e4, 0.0], dtype=torch.float64)
    b = (w.double() * x).flatten(1).sum(1) + shift
    point = meet(norm, x.clone(), w, b, 0.0, 1.0)
    value = (w.double() * point).flatten(1).sum(1)
    assert bool(((value - b)[:4].abs() <= 1e-6 + 2.0**-21 * shift[:4].abs()).all())
    assert torch.equal(point[4], (w[4] > 0).float())
    assert torch.equal(point[5], x[5])
    assert (norm.distance(point - x)[:4] * norm.dual(w)[:4] >= shift[:4].abs() * (1 - 1e-4)).all()  # Holder


@each_convex
def test_hyperplane_with_no_normal_stays(norm: Norm):
    x = torch.rand(2, 5)
    assert torch.equal(meet(norm, x.clone(), torch.zeros(2, 5), torch.ones(2), 0.0, 1.0), x)


@pytest.mark.parametrize("norm", [L0, L0_PIXELS], ids=name)
def test_hyperplane_in_l0_changes_the_fewest(norm: Norm):
    """Against every choice of units: those of the largest gain, and as many as it takes."""
    g = torch.Generator().manual_seed(6)
    x, w = torch.rand(20, 2, 1, 3, generator=g), torch.randn(20, 2, 1, 3, generator=g)
    gap = (torch.rand(20, generator=g, dtype=torch.float64) - 0.5) * 4
    point = norm.hyperplane(x, w, gap, 0.0, 1.0)
    assert ((point >= 0) & (point <= 1)).all()
    turned = w.double() * gap.sign()[:, None, None, None]
    gain = torch.where(turned > 0, turned * (1 - x), -turned * x)
    gain = gain.sum(1).flatten(1) if norm.pixels else gain.flatten(1)
    units = gain.sort(dim=1, descending=True).values.cumsum(1)
    for row in range(20):
        moved = float((w[row].double() * (point - x)[row].double()).sum())
        fewest = int((units[row] < float(gap[row].abs())).sum()) + 1
        if fewest <= units.shape[1]:
            assert moved == pytest.approx(float(gap[row]), abs=1e-5)
            assert float(norm.distance(point - x)[row]) == fewest
        else:
            assert abs(moved) == pytest.approx(float(units[row, -1]), abs=1e-5)
    assert torch.equal(norm.hyperplane(x, torch.zeros_like(x), gap, 0.0, 1.0), x)


@each
@pytest.mark.parametrize("s", [0.0, 0.2, 0.7, 0.999])
def test_between_minimises_both_distances(norm: Norm, s):
    """No other point of the box is nearer to v that is as near to e, and it goes from v to e."""
    g = torch.Generator().manual_seed(8)
    v, e = torch.randn(4, 2, 2, 2, generator=g), torch.rand(4, 2, 2, 2, generator=g) - 0.5
    low, high = torch.full_like(v, -0.6), torch.full_like(v, 0.6)
    share = torch.full((4, 1, 1, 1), s)
    d = norm.between(v.clone(), e, share, low, high)
    assert ((d >= low) & (d <= high)).all()
    goal = v / (1 - s) if norm is L2 else v  # as its docstring says, v may have any length there
    if s == 0:
        assert torch.equal(d, v.clamp(low, high))
    near, reach = (d - goal).flatten(1).norm(dim=1), norm.distance((d - e).double())
    if s == 0.999 and norm is not L2:
        assert (reach <= norm.distance((v.clamp(low, high) - e).double()) * 0.01 + 1e-6).all()
    for k in range(200):
        other = d + 0.3 * torch.randn(d.shape, generator=g) * (torch.rand(d.shape, generator=g) < 0.4)
        if k % 2:
            other = torch.where(torch.rand(d.shape, generator=g) < 0.5, e, other)
        other = other.clamp(low, high)
        nearer = (other - goal).flatten(1).norm(dim=1) < near - 1e-5
        assert not (nearer & (norm.distance((other - e).double()) <= reach - (0 if norm.name == "l0" else 1e-5))).any()


@each
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 211, 211)], ids=str)
def test_rows_do_not_know_each_other(norm: Norm, shape):
    """Bit-equal alone, together, permuted; the long row is the one that torch would sum by two threads."""
    rows = 6
    generator = torch.Generator().manual_seed(2)
    x0 = torch.rand(rows, *shape, generator=generator).mul(2).sub(0.5).clamp(0, 1)
    g = torch.randn(x0.shape, generator=generator)
    x = x0 + g * torch.tensor([1e-4, 0.01, 0.1, 1.0, 3.0, 1e3]).view(-1, 1, 1, 1)
    epsilon = torch.tensor([0.1, 0.5, 1.0, 3.0, 12.0, math.inf])
    b = (g * x0).flatten(1).sum(1) + torch.tensor([0.01, -0.1, 1.0, -10.0, 100.0, 1e6])
    ids = torch.arange(rows) + 100

    def everything(i):
        stream = Stream.of(3, ids[i])
        found = [
            norm.project(x[i].clone(), x0[i], epsilon[i], 0.0, 1.0),
            norm.project(x[i].clone(), x0[i], 2.0, 0.0, 1.0),
            norm.steepest(g[i].clone()),
            norm.ball(x0[i], stream),
            norm.sphere(x0[i], stream),
            norm.distance(g[i]),
            norm.dual(g[i]),
        ]
        if norm in CONVEX:
            found.append(meet(norm, x0[i].clone(), g[i], b[i], 0.0, 1.0))
        return found

    together = everything(torch.arange(rows))
    for order in (torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([4, 2]), *torch.arange(rows).split(1)):
        for whole, part in zip(together, everything(order), strict=True):
            assert torch.equal(whole[order], part)


def test_per_row():
    like = torch.zeros(3, 2, 2)
    assert per_row(0.5, like) == 0.5
    assert per_row(torch.arange(3.0), like).shape == (3, 1, 1)
    assert per_row(torch.zeros(1, 2, 2), like).shape == (1, 2, 2)


def test_an_interval_in_linf_is_of_its_budget_and_its_point() -> None:
    """What is kept of a point from one projection to the next is found anew where either changes."""
    x0, far = torch.full((2, 3), 0.5), torch.ones(2, 3)
    assert LINF.project(far.clone(), x0, 0.1, 0.0, 1.0).flatten().tolist() == pytest.approx([0.6] * 6)
    assert LINF.project(far.clone(), x0, 0.2, 0.0, 1.0).flatten().tolist() == pytest.approx([0.7] * 6)
    x0 += 0.1
    assert LINF.project(far.clone(), x0, 0.2, 0.0, 1.0).flatten().tolist() == pytest.approx([0.8] * 6)
    assert LINF.project(far.clone(), x0, 0.2, 0.0, 0.65).flatten().tolist() == pytest.approx([0.65] * 6)
