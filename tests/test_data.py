"""Every source round trips, every fault of data is refused with a message, and samples are stable."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mohs.data import load_data, load_digits
from mohs.data.digits import held_out
from mohs.data.shared import shared
from mohs.errors import DataError, UnknownName
from mohs.jobs import make_job
from tests.small import Linear


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(12, 3, 4, 5, generator=generator), torch.arange(12) % 4


# sources


def test_digits_are_split_once_for_all() -> None:
    test, train = load_data("digits"), load_data("digits:train")
    assert (test.x.shape, train.x.shape) == ((450, 1, 8, 8), (1347, 1, 8, 8))
    assert (float(test.x.min()), float(test.x.max())) == (0, 1)
    assert (test.x.dtype, test.y.dtype, test.name) == (torch.float32, torch.int64, "digits")
    shares = test.y.bincount() / torch.cat([test.y, train.y]).bincount()
    assert float((shares - 450 / 1797).abs().max()) < 0.01  # stratified
    rows = {row.numpy().tobytes() for row in train.x}
    assert not any(row.numpy().tobytes() in rows for row in test.x)
    assert torch.equal(test.y, load_digits("test")[1])
    assert test.sha256() == "b7bd1bfbda5b4bc104a1e1b725f0cd2ca334815479f7119f46a581763b780976"


def test_held_out_examples_are_spread_over_classes() -> None:
    mask = held_out(torch.tensor([1, 0, 1, 0, 0, 1, 0, 1]), 4)
    assert mask.tolist() == [False, False, True, True, False, False, True, True]


def test_arrays_round_trip_through_every_file(tmp_path: Path, pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    np.savez(tmp_path / "plain.npz", x=x, y=y)
    np.savez_compressed(tmp_path / "images.npz", images=x, labels=y, class_names=np.array(["a", "b", "c", "d"]))
    save_file({"X": x, "labels": y}, tmp_path / "tensors.safetensors")
    sources: list[Any] = [
        (x, y),
        [x.numpy(), y.numpy().astype(np.uint8)],
        (x.double(), y.int()),
        tmp_path / "plain.npz",
        str(tmp_path / "images.npz"),
        tmp_path / "tensors.safetensors",
        TensorDataset(x, y),
        DataLoader(TensorDataset(x, y), batch_size=5),
    ]
    reference = load_data(sources[0])
    for source in sources:
        data = load_data(source)
        assert torch.equal(data.x, x)
        assert torch.equal(data.y, y)
        assert torch.equal(data.ids, torch.arange(12))
        assert data.sha256() == reference.sha256()
        assert data.notes == ()
    assert load_data(tmp_path / "images.npz").class_names == ("a", "b", "c", "d")
    assert reference.sha256() != load_data((x, y.flip(0))).sha256()
    assert reference.sha256() != load_data((x.flip(0), y)).sha256()


def test_an_array_that_cannot_be_written_to_is_taken_without_a_warning(pair: tuple[Tensor, Tensor]) -> None:
    x = pair[0].numpy()[::-1].copy()
    x.flags.writeable = False
    assert len(load_data((x, pair[1].numpy()[::-1]))) == 12


@pytest.mark.parametrize(
    ("shape", "want", "notes"),
    [
        ((6, 7, 9, 3), (6, 3, 7, 9), ["divided by 255", "channels moved first"]),
        ((6, 3, 7, 9), (6, 3, 7, 9), ["divided by 255"]),
        ((6, 3, 7, 3), (6, 3, 7, 3), ["divided by 255"]),  # ambiguous: as it is
        ((6, 7, 9), (6, 1, 7, 9), ["divided by 255", "a channel added"]),
        ((6, 7), (6, 7), ["divided by 255"]),
    ],
)
def test_8_bit_images_are_scaled_and_their_channels_moved_where_that_is_sure(
    shape: tuple[int, ...], want: tuple[int, ...], notes: list[str]
) -> None:
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = load_data((x, torch.zeros(6, dtype=torch.long)))
    assert data.x.shape == want
    moved = x.permute(0, 3, 1, 2) if shape == (6, 7, 9, 3) else x.reshape(want)
    assert torch.equal(data.x, moved.float() / 255)
    assert len(data.notes) == len(notes)
    assert all(part in note for part, note in zip(notes, data.notes, strict=True))


def test_8_bit_values_are_brought_to_the_bounds_that_were_declared(tmp_path: Path) -> None:
    """The least at the lower and the greatest at the upper one; for a model of 0..255 they are what they were."""
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(4).view(3, 1, 2, 2)
    (tmp_path / "a").mkdir()
    Image.fromarray(x[0, 0].numpy()).save(tmp_path / "a" / "0.png")
    for bounds, want, note in (((-1, 1), [-1.0, -0.6, 1.0], ["-1..1"]), ((0, 255), [0.0, 51.0, 255.0], [])):
        data = load_data((x, torch.zeros(3, dtype=torch.long)), bounds=bounds)
        torch.testing.assert_close(data.x.flatten(), torch.tensor(want).repeat(4))
        assert [text.rpartition(" ")[2] for text in data.notes] == note
        pictures = load_data(tmp_path, bounds=bounds)
        assert torch.equal(pictures.x[0], data.x[0])
        assert pictures.notes == data.notes


def test_an_audit_loads_8_bit_data_in_the_bounds_of_its_model(tmp_path: Path) -> None:
    x = torch.arange(256, dtype=torch.uint8).view(64, 1, 2, 2)
    np.savez(tmp_path / "8bit.npz", x=x, y=np.zeros(64, dtype=int))
    module = Linear(torch.eye(4), torch.zeros(4))
    job = make_job(module.eval(), str(tmp_path / "8bit.npz"), threats=["linf:8"], bounds=(0, 255), profile="quick")
    assert torch.equal(job.data.x, x.float())


def test_floating_point_images_stay_as_they_are() -> None:
    x = torch.rand(6, 7, 9, 3) * 255
    data = load_data((x, torch.zeros(6, dtype=torch.long)), bounds=(-1, 1))
    assert torch.equal(data.x, x)
    assert data.notes == ()


def write_images(folder: Path, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> dict[str, np.ndarray[Any, Any]]:
    generator, written = np.random.default_rng(0), {}
    for name in ("cat/b.png", "cat/a.png", "dog/c.PNG", "ant/d.png"):
        pixels = generator.integers(0, 256, (size[1], size[0]) + ((3,) if mode == "RGB" else ()), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
        written[name] = pixels
    (folder / "cat" / "notes.txt").write_text("not an image")
    (folder / ".hidden").mkdir()
    return written


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_of_images(mode: str, tmp_path: Path) -> None:
    written = write_images(tmp_path, mode)
    data = load_data(tmp_path)
    assert data.class_names == ("ant", "cat", "dog")
    assert data.y.tolist() == [0, 1, 1, 2]
    for x, name in zip(data.x, ("ant/d.png", "cat/a.png", "cat/b.png", "dog/c.PNG"), strict=True):
        want = torch.from_numpy(written[name]).float() / 255
        assert torch.equal(x, want.permute(2, 0, 1) if mode == "RGB" else want[None])


def test_only_the_images_that_are_taken_are_decoded(tmp_path: Path) -> None:
    write_images(tmp_path)
    taken = load_data(tmp_path, limit=2, seed=3).ids.tolist()
    names = ("ant/d.png", "cat/a.png", "cat/b.png", "dog/c.PNG")
    for position, name in enumerate(names[1:], 1):  # the first tells the size
        if position not in taken:
            (tmp_path / name).write_bytes(b"broken")
    assert load_data(tmp_path, limit=2, seed=3).ids.tolist() == taken


def test_small_pictures_with_three_pixels_of_height_keep_their_layout(tmp_path: Path) -> None:
    write_images(tmp_path, size=(7, 3))
    assert load_data(tmp_path).x.shape == (4, 3, 3, 7)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: Image.new("RGB", (6, 9)).save(f / "cat/b.png"), r"cat/b.png is 6 x 9 colour and .*ant/d.png is 6 x 5"),
        (lambda f: Image.new("L", (6, 5)).save(f / "cat/b.png"), "cat/b.png is 6 x 5 grey and .* all grey or all colour"),
        (lambda f: (f / "cat/b.png").write_bytes(b"no"), "cat/b.png cannot be read as an image"),
    ],
)
def test_folders_with_other_images_are_refused(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images; expected a folder a class"):
        load_data(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables(kind: str, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import csv, parquet

    path = tmp_path / f"table.{kind}"
    write = csv.write_csv if kind == "csv" else parquet.write_table

    def table(**columns: list[Any]) -> None:
        write(pyarrow.table(columns), path)

    table(age=[0.5, 0.25, 1.0], target=[1, 0, 1], wins=[3, 4, 5])
    data = load_data(path)
    assert data.x.tolist() == [[0.5, 3], [0.25, 4], [1, 5]]
    assert data.y.tolist() == [1, 0, 1]
    for columns, message in (
        ({"a": [1], "b": [2]}, "has the columns a, b; expected exactly one of y, label, target"),
        ({"a": [1], "y": [2], "label": [2]}, "has the columns a, y, label; expected exactly one"),
        ({"a": ["red"], "y": [1]}, "the column 'a' is string; expected numbers"),
        ({"a": [1], "y": ["red"]}, "labels in 'y' are string; write them as numbers"),
        ({"a": [1, 2], "y": [1, None]}, "lacks 1 labels"),
        ({"a": [1.5, None], "y": [1, 0]}, r"holds NaN or infinity in 1 examples, at positions \[1\]"),
        ({"a": [1], "y": [1.5]}, "labels torch.float64"),
        ({"y": [1]}, "labels and no other column"),
    ):
        table(**columns)
        with pytest.raises(DataError, match=message):
            load_data(path)
    path.write_bytes(b"\x00\x01" if kind == "parquet" else b"a,b\n1,2,3\n")
    with pytest.raises(DataError, match=f"cannot be read as {kind}"):
        load_data(path)


class Squares(Dataset[tuple[Tensor, int]]):
    """Counts what is read."""

    classes = ("even", "odd")

    def __init__(self, count: int = 1000) -> None:
        self.count, self.read = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.read += 1
        return torch.full((2, 3), i / 1000), i % 2


class Endless(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        i = 0
        while True:
            yield torch.full((2,), float(i)), i % 2
            i += 1


def test_datasets_are_read_where_they_are_sampled() -> None:
    squares = Squares()
    data = load_data(squares, limit=10)
    assert squares.read == 10
    assert torch.equal(data.x[:, 0, 0], data.ids.float() / 1000)
    assert data.class_names == ("even", "odd")


def test_endless_streams_need_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data(Endless(), limit=5)
    assert data.x[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert load_data(DataLoader(Endless(), batch_size=4), limit=6).y.tolist() == [0, 1, 0, 1, 0, 1]
    monkeypatch.setattr("mohs.data.torch_data.MOST", 50)
    with pytest.raises(DataError, match="more than 50 examples; give a Dataset with a length, and a limit"):
        load_data(Endless())


def test_loaders_that_shuffle_and_odd_items_are_refused() -> None:
    with pytest.raises(DataError, match="shuffles, so that ids would change"):
        load_data(DataLoader(Squares(4), shuffle=True))

    class Odd(Squares):
        def __getitem__(self, i: int) -> Any:
            return torch.ones(i + 1), 1

    class Bare(Squares):
        def __getitem__(self, i: int) -> Any:
            return torch.ones(2)

    with pytest.raises(DataError, match=r"gives \[2\] at 1 and \[1\] before"):
        load_data(Odd(3))
    with pytest.raises(DataError, match=r"gives Tensor; expected pairs \(input, label\)"):
        load_data(Bare(3))


# samples


def test_a_sample_is_drawn_by_its_seed_in_the_order_of_the_source() -> None:
    whole = load_data("digits")
    one, again, other = (load_data("digits", limit=50, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.ids, again.ids)
    assert one.sha256() == again.sha256() != other.sha256()
    assert not torch.equal(one.ids, other.ids)
    assert torch.equal(one.ids, one.ids.unique())  # ascending, none twice
    assert torch.equal(one.x, whole.x[one.ids])
    assert torch.equal(one.y, whole.y[one.ids])
    assert torch.equal(load_data("digits", limit=450).ids, whole.ids)


@pytest.mark.parametrize(
    ("limit", "message"),
    [(451, "451 examples were asked for and digits has 450"), (0, "a limit of 0"), (-1, "a limit of -1")],
)
def test_limits_that_cannot_be(limit: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data("digits", limit=limit)


# faults


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:0], y[:0]), "tensors is empty"),
        (lambda x, y: (x, y[:-1]), r"x of shape \[12, 3, 4, 5\] and y of shape \[11\]; expected one label an example"),
        (lambda x, y: (x, y - 1), "has the label -1 at position 0; classes count from 0"),
        (lambda x, y: (x, y.float()), "labels torch.float32 of shape .*; expected whole numbers"),
        (lambda x, y: (x, y > 1), "labels torch.bool"),
        (lambda x, y: (x, y[:, None]), r"labels torch.int64 of shape \[12, 1\]"),
        (lambda x, y: (x[:, 0, 0, 0], y), r"examples of shape \[12\]; expected \[n, \*input\]"),
        (lambda x, y: (x.index_fill(0, torch.tensor([7]), torch.inf), y), r"infinity in 1 examples, at positions \[7\]"),
        (lambda x, y: ([["a"]] * 12, y), "x of tensors is list; expected an array of numbers"),
        (lambda x, y: (np.array([{}] * 12), y), "x of tensors is object; expected an array of numbers"),
    ],
)
def test_tensors_that_cannot_be_audited(
    change: Callable[[Tensor, Tensor], object], message: str, pair: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(change(*pair))


class Marker:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_in_npz_are_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    np.savez(tmp_path / "evil.npz", x=np.array([Marker(marker)], dtype=object), y=np.zeros(1))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Marker(marker)))
    (tmp_path / "text.npz").write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match="carries pickled objects, which run code when loaded"):
        load_data(tmp_path / "evil.npz")
    for name in ("bare.npz", "text.npz"):
        with pytest.raises(DataError, match=r"is no \.npz, whatever its name"):
            load_data(tmp_path / name)
    assert not marker.exists()


def test_files_that_cannot_be_read(tmp_path: Path, pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no zip")
    np.save(tmp_path / "single.npy", x)
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    np.savez(tmp_path / "names.npz", inputs=x, y=y)
    np.savez(tmp_path / "both.npz", x=x, images=x, y=y)
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    (tmp_path / "data.txt").write_text("1 2 3")
    for name, message in {
        "broken.npz": "cannot be read as .npz",
        "single.npz": "is a single array; expected an .npz with x and y",
        "names.npz": "holds inputs, y; expected exactly one of x, X, images, data",
        "both.npz": "holds x, images, y; expected exactly one of x, X, images, data",
        "broken.safetensors": "cannot be read as safetensors",
        "data.txt": "is no kind of data that mohs reads; expected .npz, .safetensors, .parquet, .csv",
    }.items():
        with pytest.raises(DataError, match=message):
            load_data(tmp_path / name)
    with pytest.raises(UnknownName, match=r"unknown data in .* 'brokn.npz'; did you mean 'broken.npz'"):
        load_data(tmp_path / "brokn.npz")
    with pytest.raises(UnknownName, match=r"unknown data in .* 'digts'; did you mean 'digits'"):
        load_data("digts")
    with pytest.raises(DataError, match="data is a int; expected a name, a path, a pair"):
        load_data(3)


def test_examples_in_common_are_told_by_their_values() -> None:
    x = torch.arange(24.0).view(4, 1, 2, 3)
    other = torch.cat([x[[3, 1]], x[:1] + 1e-6]).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert shared(x, other).tolist() == [False, True, False, True]
    assert shared(other, x).tolist() == [True, True, False]
    assert shared(-torch.zeros(1, 2), torch.zeros(3, 2)).tolist() == [True]


def test_the_real_data(cases: Any) -> None:
    folder = Path(cases.HERE) / "data"
    x, y = cases.data("mnist")
    data = load_data(folder / "mnist_test.npz", limit=100, seed=5)
    assert torch.equal(data.x, x[data.ids])
    assert torch.equal(data.y, y[data.ids])
    x, y, _ = cases.data("cifar10", lossless=True)
    data = load_data(folder / "cifar10_test_lossless_subset.npz")
    assert torch.equal(data.x, x)
    assert data.notes[1].startswith("channels moved first")
