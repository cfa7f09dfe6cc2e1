"""Streams: a draw is a function of (seed, address, example id), its values are uniform, and they never change."""

import math

import pytest
import torch

from mohs.rng import Stream

IDS = torch.tensor([7, 0, 123456789, 3, 2**40 + 1])

DRAWS = {
    "bits": lambda s: s.bits(3, 1667),
    "uniform": lambda s: s.uniform(3, 1667),
    "integers": lambda s: s.integers(10, 3, 1667),
    "signs": lambda s: s.signs(3, 1667),
    "normal": lambda s: s.normal(3, 1667),
    "exponential": lambda s: s.exponential(3, 1667),
    "permutation": lambda s: s.permutation(1667),
    "long normal": lambda s: s.normal(50001),
    "long exponential": lambda s: s.exponential(50001),
    "bulk uniform": lambda s: s.bulk().uniform(3, 1667),
    "bulk normal": lambda s: s.bulk().normal(3, 1667),
    "a few of bulk": lambda s: s.at("few").bulk().normal(3),
}
each = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@each
def test_a_draw_does_not_know_its_batch(draw):
    together = draw(Stream.of(5, IDS).at("step", 3))
    assert torch.equal(draw(Stream.of(5, IDS).at("step", 3)), together)
    for rows in (torch.tensor([4, 1, 0, 3, 2]), torch.tensor([2, 4]), *torch.arange(5).split(1)):
        assert torch.equal(draw(Stream.of(5, IDS[rows]).at("step", 3)), together[rows])
        assert torch.equal(draw(Stream.of(5, IDS).take(rows).at("step", 3)), together[rows])


@each
def test_every_word_of_the_address_counts(draw):
    stream = Stream.of(5, IDS)
    others = [Stream.of(6, IDS), Stream.of(5, IDS + 1), stream.at("step"), stream.at(0), stream.at("step", 0)]
    others += [stream.at(0, "step"), stream.at("try", 0), stream.at("step", 1), stream.at(1).at(0), stream.at(0).at(1)]
    found = [draw(s) for s in [stream, *others]]
    for i, one in enumerate(found):
        assert not any(torch.equal(one[row], other[row]) for other in found[i + 1 :] for row in range(len(IDS)))
        assert not torch.equal(one[0], one[1])
    assert torch.equal(draw(stream.at("step", 1)), draw(stream.at("step").at(1)))


def test_addresses_seldom_collide():
    ids = torch.arange(2000)
    keys = torch.cat([Stream.of(seed, ids).at("step", step).keys for seed in range(5) for step in range(20)])
    assert len(keys.unique()) == len(keys)  # by chance: 2**-30


def test_seeds_beyond_an_int64():
    big = Stream.of(2**70 + 1, IDS).keys
    assert not torch.equal(big, Stream.of(2**70, IDS).keys)


def test_bulk_numbers_look_random_and_keep_their_address():
    n = 20_000
    stream = Stream.of(1, torch.arange(10)).bulk()
    u, z = stream.uniform(n).double(), stream.at("z").normal(n).double()
    near = 5 / math.sqrt(u.numel())
    assert 0 <= u.min() <= u.max() < 1
    assert abs(u.mean() - 1 / 2) < near * math.sqrt(1 / 12)
    assert abs(z.mean()) < near
    assert abs(z.square().mean() - 1) < near * math.sqrt(2)
    assert z.corrcoef().fill_diagonal_(0).abs().max() < 5 / math.sqrt(n)  # rows are strangers
    assert torch.equal(stream.take(torch.tensor([3])).at("z").normal(n)[0].double(), z[3])


@pytest.mark.parametrize("axis", ["one row", "many rows"])
def test_moments(axis):
    """Over one long row and over many short ones: both must look random. Tolerances are five standard errors."""
    n = 200_000
    stream = Stream.of(1, torch.arange(1 if axis == "one row" else n))
    shape = (n,) if axis == "one row" else (1,)
    u, z, e, s = (f(*shape).flatten().double() for f in (stream.uniform, stream.normal, stream.exponential, stream.signs))
    near = 5 / math.sqrt(n)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 1 / 2) < near * math.sqrt(1 / 12)
    assert abs(u.var() - 1 / 12) < near * math.sqrt(1 / 180)
    assert abs((u[1:] * u[:-1]).mean() - 1 / 4) < near / 3  # neighbours are not correlated
    assert torch.histc(u, 64, 0, 1).sub(n / 64).square().sum() / (n / 64) < 63 + 5 * math.sqrt(126)
    assert abs(z.mean()) < near
    assert abs(z.var() - 1) < near * math.sqrt(2)
    assert abs(z.pow(3).mean()) < near * math.sqrt(15)
    assert abs(z.pow(4).mean() - 3) < near * math.sqrt(96)
    assert z.isfinite().all()
    assert e.min() >= 0
    assert e.isfinite().all()
    assert abs(e.mean() - 1) < near
    assert abs(e.square().mean() - 2) < near * math.sqrt(20)
    assert set(s.tolist()) == {-1.0, 1.0}
    assert abs(s.mean()) < near


def test_bits_are_splitmix64():
    """The published generator, in Python's integers, from the key of each row."""
    stream = Stream.of(9, IDS).at("x")
    for key, row in zip(stream.keys.tolist(), stream.bits(5).tolist(), strict=True):
        state = key
        for value in row:
            state = (state + 0x9E3779B97F4A7C15) % 2**64
            z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
            assert value % 2**64 == z ^ z >> 31


def test_every_bit_is_fair():
    bits = Stream.of(2, torch.arange(20)).bits(1000).flatten()
    share = torch.stack([(bits >> i & 1).double().mean() for i in range(64)])
    assert (share - 0.5).abs().max() < 5 * 0.5 / math.sqrt(len(bits))


def test_integers():
    n = 30_000
    stream = Stream.of(3, torch.arange(3))
    found = stream.integers(7, n)
    assert found.dtype == torch.int64
    assert found.min() == 0
    assert found.max() == 6
    for row in found:
        assert torch.bincount(row).sub(n / 7).square().sum() / (n / 7) < 6 + 5 * math.sqrt(12)
    own = stream.integers(torch.tensor([1, 5, 1000]), n)
    assert own.amax(1).tolist() == [0, 4, 999]
    assert stream.integers(torch.tensor([1, 5, 1000])).shape == (3,)


def test_permutation():
    found = Stream.of(4, torch.arange(6000)).permutation(5)
    assert torch.equal(found.sort(1).values, torch.arange(5).expand(6000, 5))
    for place in range(5):
        assert torch.bincount(found[:, place]).sub(1200).square().sum() / 1200 < 4 + 5 * math.sqrt(8)
    assert len(found.unique(dim=0)) == 120


def test_shapes():
    stream = Stream.of(0, IDS)
    assert stream.uniform().shape == (5,)
    assert stream.normal(2, 3).shape == (5, 2, 3)
    assert Stream.of(0, IDS[:0]).normal(2, 3).shape == (0, 2, 3)


def test_values_never_change():
    """Runs are resumed by later versions: these numbers are part of the run format."""
    stream = Stream.of(42, torch.tensor([0, 1])).at("step", 7)
    assert stream.keys.tolist() == [5872063921589260835, -7192004876814396163]
    assert stream.bits(1).tolist() == [[6356790115340831418], [-6719480528356786787]]
    assert stream.integers(1000, 3).tolist() == [[344, 254, 41], [635, 490, 221]]
    assert stream.permutation(5).tolist() == [[4, 2, 1, 3, 0], [0, 4, 2, 3, 1]]
    for found, expected in (
        (stream.uniform(2), [[0.344602227, 0.254014552], [0.635736227, 0.490734875]]),
        (stream.normal(2), [[1.4100312, -0.723478377], [0.169758976, -1.18437326]]),
        (stream.exponential(2), [[1.06536436, 1.37036359], [0.452971548, 0.71185118]]),
    ):
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=0.0)
