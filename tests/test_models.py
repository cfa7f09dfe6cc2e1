"""Every adapter on a small model, every file that must be refused, every line of the contract."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mohs.data import load_digits
from mohs.errors import DataError, Missing, ModelError, ModelRaised, RequestError, UnknownName
from mohs.models import Model, TorchModel, as_model, load_model, prepare
from mohs.models.archive import check_exported
from mohs.models.contract import check_contract
from mohs.models.exported import plain
from mohs.threat import Knowledge


class Net(nn.Module):
    """Normalisation, convolution, batch norm and dropout: what exporters trip over."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout()
        self.linear = nn.Linear(144, 10)
        self.register_buffer("mean", torch.tensor(0.3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.drop(self.norm(self.conv(x - self.mean)).relu().flatten(1)))
        return out


def net() -> Net:
    torch.manual_seed(0)
    made = Net().eval()
    made.norm.running_var.fill_(0.2)
    return made


@pytest.fixture(scope="module")
def x() -> Tensor:
    return load_digits("test")[0][:24]


@pytest.fixture(scope="module")
def y() -> Tensor:
    return load_digits("test")[1][:24]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, x: Tensor) -> Path:
    """One small network in every format."""
    folder, module = tmp_path_factory.mktemp("models"), net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = ({0: torch.export.Dim("n")},)
        torch.export.save(torch.export.export(module, (x[:4],), dynamic_shapes=dynamic), folder / "dynamic.pt2")
        torch.export.save(torch.export.export(module, (x[:4],)), folder / "static.pt2")
        torch.jit.script(module).save(folder / "script.ts")
        torch.jit.trace(module, x[:2]).save(folder / "traced.pt")
        torch.jit.script(net().train()).save(folder / "training.pt")
    torch.save(module, folder / "module.pt")
    torch.save(module.state_dict(), folder / "weights.pth")
    return folder


# the adapters


@pytest.mark.parametrize("name", ["dynamic.pt2", "static.pt2", "script.ts", "traced.pt"])
def test_files_of_torch_give_the_logits_and_gradients_of_the_module(name: str, files: Path, x: Tensor) -> None:
    model = load_model(str(files / name), x=x)
    assert isinstance(model, TorchModel)
    assert (model.classes, model.name, model.gives) == (10, name, Knowledge.GRADIENT)
    assert model.batch == (4 if name == "static.pt2" else None)
    for rows in (1, 4, 7):  # a static batch is padded to
        inputs, want = x[:rows].clone().requires_grad_(), x[:rows].clone().requires_grad_()
        got, expected = model.logits(inputs), net()(want)
        torch.testing.assert_close(got, expected)
        got.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(inputs.grad, want.grad)
    twin = model.double()
    if name.endswith(".pt2"):
        assert twin is not None
        torch.testing.assert_close(twin.logits(x.double()), net().double()(x.double()))
    else:
        assert twin is None
    assert check_contract(model, x, model.logits(x).argmax(1)) == []
    prepared = prepare(model, x)
    torch.testing.assert_close(prepared.guide.scores(x), net()(x), atol=1e-4, rtol=1e-4)


def test_an_exported_module_given_directly_is_made_plain(x: Tensor) -> None:
    program = torch.export.export(net(), (x[:4],))
    model = as_model(program.module(), x)
    assert model.batch == 4
    torch.testing.assert_close(model.logits(x[:6]), net()(x[:6]))
    model.module.eval()  # what the original refuses


def test_the_double_twin_of_a_graph_widens_the_types_it_names(x: Tensor) -> None:
    class Casts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.to(torch.float32) / 3).flatten(1)[:, :5] + torch.arange(5, dtype=torch.float32)

    module, _ = plain(torch.export.export(Casts(), (x[:4],)).module())
    twin = TorchModel(module, classes=5, example=x[:4]).double()
    assert twin is not None
    assert torch.equal(twin.logits(x[:4].double()), x[:4].double().flatten(1)[:, :5] / 3 + torch.arange(5))


def test_a_double_twin_that_computes_something_else_is_none(x: Tensor) -> None:
    class Depends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :5] * (2 if x.dtype == torch.float64 else 1)

    class Narrows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().flatten(1)[:, :5]

    assert as_model(Depends(), x).double() is None
    assert as_model(Narrows(), x).double() is None
    assert as_model(nn.Flatten(), x).double() is not None


def test_exported_graphs_of_other_inputs_and_outputs_are_refused(x: Tensor) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.flatten(1), x.sum((1, 2, 3))

    with pytest.raises(ModelError, match="1 inputs and 2 outputs"):
        as_model(torch.export.export(Two(), (x[:4],)).module(), x)


def test_a_graph_for_other_shapes_is_refused_in_one_line(x: Tensor) -> None:
    program = torch.export.export(net(), (x[:4],))
    with pytest.raises(ModelError, match=r"float32 of shape \[n, 1, 9, 9\]") as caught:
        as_model(program.module(), torch.rand(2, 1, 9, 9))
    assert "\n" not in str(caught.value)


def test_a_factory_is_found_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, x: Tensor) -> None:
    (tmp_path / "mohs_zoo.py").write_text(
        textwrap.dedent("""
        import colorsys, torch
        from mohs.models import TorchModel
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        def make(): return module
        def model(): return TorchModel(module, classes=3, bounds=(-1.0, 1.0), name="mine")
        def number(): return 3
        def fails(): raise KeyError("no weights")
        def training(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(64, 3))
        value = 3
        class Space: make = make
        """)
    )
    (tmp_path / "colorsys.py").write_text("raise SystemExit('a file of the user stood in for a library')")
    (tmp_path / "mohs_broken.py").write_text("import no_such_library")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    before = list(sys.path)
    for source in ("mohs_zoo:make", "mohs_zoo:module", "mohs_zoo:Space.make"):
        model = load_model(source, x=x)
        assert (model.classes, model.name) == (3, source)
    given = load_model("mohs_zoo:model", x=x)
    assert (given.name, given.bounds) == ("mine", (-1.0, 1.0))
    assert sys.path == before
    for source, message in {
        "mohs_zoo:number": "returned int; expected a torch.nn.Module",
        "mohs_zoo:value": "is a int; expected a function",
        "mohs_zoo:fails": r"mohs_zoo:fails\(\) failed: KeyError",
        "mohs_zoo:training": r"training mode \(1\): call model.eval\(\)",
        "mohs_no_such:make": "no Python module 'mohs_no_such'",
        "mohs_broken:make": "mohs_broken imports no_such_library, which is not installed",
    }.items():
        with pytest.raises(ModelError, match=message):
            load_model(source, x=x)
    with pytest.raises(UnknownName, match=r"did you mean .*'make'"):
        load_model("mohs_zoo:mak", x=x)


def test_the_demo_is_asked_for_by_variant(monkeypatch: pytest.MonkeyPatch, x: Tensor) -> None:
    asked: list[str] = []

    class Demo:
        @staticmethod
        def load_demo(variant: str) -> nn.Module:
            asked.append(variant)
            return net()

    monkeypatch.setitem(sys.modules, "mohs.demo", Demo)
    for source in ("demo", "demo:standard", "demo:robust"):
        assert load_model(source, x=x).classes == 10
    assert asked == ["demo", "demo:standard", "demo:robust"]


# ONNX


def write_onnx(
    path: Path, outputs: list[str], *, batch: int | str = "n", softmax: bool = False, width: int = 5, labels: bool = False
) -> None:
    """inputs [batch, 1, 8, 8] -> a linear layer; `outputs` in this order of `label`, `scores`, `image`."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    weights = np.linspace(-1, 1, 64 * width, dtype=np.float32).reshape(64, width) ** 3
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["z"]),
        helper.make_node("Softmax" if softmax else "Identity", ["z"], ["scores"]),
        helper.make_node("ArgMax", ["z"], ["label"], axis=1, keepdims=0),
        helper.make_node("Identity", ["x"], ["image"]),
    ]
    shapes = {
        "scores": helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, width]),
        "label": helper.make_tensor_value_info("label", TensorProto.INT64, [batch]),
        "image": helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, 8, 8]),
    }
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT64 if labels else TensorProto.FLOAT, [batch, 1, 8, 8])]
    if labels:
        nodes = [helper.make_node("ReduceMax", ["x"], ["label"], axes=[1, 2, 3], keepdims=0)]
    graph = helper.make_graph(nodes, "g", inputs, [shapes[o] for o in outputs], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    save(model, path)


@pytest.mark.parametrize(("outputs", "batch"), [(["scores"], "n"), (["label", "image", "scores"], "n"), (["scores"], 4)])
def test_onnx_gives_scores(outputs: list[str], batch: int | str, tmp_path: Path, x: Tensor) -> None:
    write_onnx(tmp_path / "m.onnx", outputs, batch=batch)
    model = load_model(str(tmp_path / "m.onnx"), x=x)
    weights = torch.from_numpy(np.linspace(-1, 1, 320, dtype=np.float32).reshape(64, 5) ** 3)
    assert (model.classes, model.gives, model.batch) == (5, Knowledge.SCORES, 4 if batch == 4 else None)
    assert model.double() is None
    for rows in (1, 4, 7):
        torch.testing.assert_close(model.logits(x[:rows]), x[:rows].flatten(1) @ weights)
    assert check_contract(model, x, model.logits(x).argmax(1)) == []


def test_onnx_files_that_give_no_scores_are_refused(tmp_path: Path, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    write_onnx(path, ["label", "image"])
    with pytest.raises(ModelError, match=r"label tensor\(int64\), image \[2, 1, 8, 8\]; expected a float output"):
        load_model(str(path), x=x)
    write_onnx(path, ["label"], labels=True)
    with pytest.raises(ModelError, match=r"takes x tensor\(int64\)"):
        load_model(str(path), x=x)
    write_onnx(path, ["scores"])
    with pytest.raises(ModelError, match=r"does not take the data, torch.float32 of shape \[n, 1, 9, 9\]"):
        load_model(str(path), x=torch.rand(3, 1, 9, 9))
    path.write_bytes(b"no protobuf")
    with pytest.raises(ModelError, match="cannot be opened as ONNX"):
        load_model(str(path), x=x)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Missing, match=r"needs the package onnxruntime.*pip install 'mohs\[onnx\]'"):
        load_model(str(path), x=x)


def test_onnx_probabilities_are_declared(tmp_path: Path, x: Tensor) -> None:
    write_onnx(tmp_path / "m.onnx", ["label", "scores"], softmax=True)
    raw = load_model(str(tmp_path / "m.onnx"), x=x)
    with pytest.raises(ModelError, match="say --outputs probabilities"):
        check_contract(raw, x, raw.logits(x).argmax(1))
    model = load_model(str(tmp_path / "m.onnx"), x=x, outputs="probabilities")
    torch.testing.assert_close(model.logits(x).exp(), raw.logits(x))
    assert check_contract(model, x, model.logits(x).argmax(1)) == []


# what is refused


class Marker:
    """A pickle that touches a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def tampered(source: Path, target: Path, change: dict[str, Callable[[bytes], bytes]], extra: dict[str, bytes]) -> str:
    """A copy of an archive with some records changed and others added; stored, as torch wants them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            short = name.removeprefix(root + "/")
            new.writestr(f"evil/{short}", change.get(short, bytes)(old.read(name)))
        for name, content in extra.items():
            new.writestr(f"evil/{name}", content)
    return str(target)


def edited(*path: Any, value: object) -> Callable[[bytes], bytes]:
    """Changes one entry of a JSON record."""

    def change(record: bytes) -> bytes:
        root = node = json.loads(record)
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        return json.dumps(root).encode()

    return change


def test_a_pt2_that_carries_a_pickle_is_refused_and_the_pickle_not_run(files: Path, tmp_path: Path, x: Tensor) -> None:
    marker = tmp_path / "marker"
    torch.save({"args": Marker(marker)}, tmp_path / "sample.pt")
    sample = (tmp_path / "sample.pt").read_bytes()
    evil = tampered(files / "dynamic.pt2", tmp_path / "evil.pt2", {"data/sample_inputs/model.pt": lambda _: sample}, {})
    with pytest.raises(ModelError, match=r"carries a pickle that is more than tensors.*--trust-pickle"):
        load_model(evil, x=x)
    assert not marker.exists()
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        torch.export.load(evil)
    assert marker.exists(), "the test proves nothing: torch itself does not run this pickle"


SYSTEM = "torch.os.system"
EVAL = "__import__('os').system('touch marker')"
MODEL = "models/model.json"
CONSTANTS = "data/constants/model_constants_config.json"
GRAPH = ("graph_module", "graph")


@pytest.mark.parametrize(
    ("record", "change"),
    [
        (MODEL, edited(*GRAPH, "nodes", 0, "target", value=SYSTEM)),
        (MODEL, edited(*GRAPH, "nodes", 0, "target", value="torch.ops.aten.from_file.default")),
        (MODEL, edited(*GRAPH, "nodes", 0, "target", value="_operator.methodcaller")),
        (MODEL, edited(*GRAPH, "nodes", 0, "inputs", 0, "arg", value={"as_operator": SYSTEM})),
        (MODEL, edited(*GRAPH, "inputs", 0, "as_tensor", "name", value=f"p={EVAL}")),
        (MODEL, edited(*GRAPH, "tensor_values", "x", "sizes", 0, value={"as_expr": {"expr_str": EVAL, "hint": None}})),
        (MODEL, edited("graph_module", "module_call_graph", 0, "signature", "forward_arg_names", value=[f"x={EVAL}"])),
        (
            MODEL,
            edited(
                *("graph_module", "module_call_graph", 0, "signature", "in_spec"),
                value='[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]',
            ),
        ),
        (CONSTANTS, edited("config", "evil", value={"path_name": "opaque_obj_0", "use_pickle": True})),
        (CONSTANTS, edited("config", "evil", value={"path_name": "custom_obj_0", "use_pickle": True})),
    ],
)
def test_a_pt2_that_would_run_code_without_a_pickle_is_refused(
    record: str, change: Callable[[bytes], bytes], files: Path, tmp_path: Path
) -> None:
    evil = tampered(files / "dynamic.pt2", tmp_path / "evil.pt2", {record: change}, {})
    with pytest.raises(ModelError, match="--trust-pickle"):
        check_exported(Path(evil))


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/evil.so", "data/constants/model.pt", "data/constants/opaque_obj_0", "code/a.py"]
)
def test_a_pt2_with_records_that_are_code_is_refused(name: str, files: Path, tmp_path: Path) -> None:
    evil = tampered(files / "dynamic.pt2", tmp_path / "evil.pt2", {}, {name: pickle.dumps(1)})
    with pytest.raises(ModelError, match=f"carries '{name}', which is code or a pickle"):
        check_exported(Path(evil))


def test_tampering_is_what_makes_an_archive_refused(files: Path, tmp_path: Path) -> None:
    check_exported(Path(tampered(files / "dynamic.pt2", tmp_path / "same.pt2", {}, {})))
    check_exported(files / "static.pt2")


def test_a_pt2_that_torch_cannot_open_is_one_line(files: Path, tmp_path: Path, x: Tensor) -> None:
    (tmp_path / "no.pt2").write_bytes(b"not a zip")
    with pytest.raises(ModelError, match=r"is not an archive of torch.export.save"):
        load_model(str(tmp_path / "no.pt2"), x=x)
    torn = tampered(files / "dynamic.pt2", tmp_path / "torn.pt2", {MODEL: lambda record: record[:-9]}, {})
    with pytest.raises(ModelError, match=r"torn.pt2 is damaged: JSONDecodeError"):
        check_exported(Path(torn))
    with pytest.raises(ModelError, match=r"no.pt2 cannot be opened by torch"):
        load_model(str(tmp_path / "no.pt2"), x=x, trust_pickle=True)
    old = {"archive_version": lambda _: b"99"}
    with pytest.raises(ModelError, match=r"cannot be opened by torch .*archive version") as caught:
        load_model(tampered(files / "dynamic.pt2", tmp_path / "old.pt2", old, {}), x=x)
    assert "\n" not in str(caught.value)


def test_pickles_are_refused_unless_trusted(files: Path, tmp_path: Path, x: Tensor) -> None:
    marker = tmp_path / "marker"
    torch.save(Marker(marker), tmp_path / "evil.pt")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Marker(marker)))
    for path in (tmp_path / "evil.pt", tmp_path / "bare.pth", files / "module.pt", files / "weights.pth"):
        with pytest.raises(ModelError, match=r"is a pickle, which runs code when loaded.*--trust-pickle"):
            load_model(str(path), x=x)
    assert not marker.exists()
    torch.testing.assert_close(load_model(str(files / "module.pt"), x=x, trust_pickle=True).logits(x), net()(x))
    with pytest.raises(ModelError, match=r"weights without the network .*: write a factory"):
        load_model(str(files / "weights.pth"), x=x, trust_pickle=True)
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(ModelError, match="cannot be unpickled"):
        load_model(str(tmp_path / "junk.pt"), x=x, trust_pickle=True)


def test_torchscript_that_writes_files_is_refused(tmp_path: Path, x: Tensor) -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.save(x, "stolen.pt")
            return x.flatten(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Writes()).save(tmp_path / "writes.ts")
    with pytest.raises(ModelError, match="calls save, which reaches the disk"):
        load_model(str(tmp_path / "writes.ts"), x=x)


def test_torchscript_saved_in_training_mode_is_refused(files: Path, x: Tensor) -> None:
    with pytest.raises(ModelError, match=r"training mode \(norm, drop\)"):
        load_model(str(files / "training.pt"), x=x)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("https://models.example/v1", RequestError, "`mohs probe` audits those"),
        ("hf:google/vit", RequestError, "no model that mohs knows"),
        ("model.pkl", RequestError, "package.module:factory"),
        ("weights.safetensors", RequestError, "weights without the network: write a factory"),
        ("no/such/folder/model.onnx", RequestError, "there is no folder no/such/folder"),
    ],
)
def test_other_sources_are_refused(source: str, kind: type[Exception], message: str, x: Tensor) -> None:
    with pytest.raises(kind, match=message):
        load_model(source, x=x)


def test_a_file_that_is_not_there_names_its_neighbours(files: Path, x: Tensor) -> None:
    with pytest.raises(UnknownName, match=r"unknown file in .*did you mean 'dynamic.pt2'"):
        load_model(str(files / "dynamc.pt2"), x=x)


def test_unknown_outputs_and_devices(x: Tensor) -> None:
    with pytest.raises(UnknownName, match="did you mean 'probabilities'"):
        load_model("demo", x=x, outputs="probability")
    with pytest.raises(UnknownName, match="unknown device 'cdua'; did you mean 'cuda'"):
        load_model("demo", x=x, device="cdua")
    if not torch.cuda.is_available():
        with pytest.raises(RequestError, match=r"there is no device cuda: .* sees 0 GPUs"):
            load_model("demo", x=x, device="cuda")


# the contract


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)[:, 20:30] * 5


def contract(function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, **options: Any) -> list[str]:
    model = as_model(Called(function), x, **options)
    return [finding.code for finding in check_contract(model, x, y)]


@pytest.mark.parametrize(
    ("function", "outputs", "message"),
    [
        (lambda x: flat(x) / 0, "logits", "output for example 0 holds NaN or infinity"),
        (lambda x: torch.ones(len(x), 10) + 0 * flat(x), "logits", "the same scores: is it trained"),
        (lambda x: flat(x).softmax(1), "logits", "sum to one: they are probabilities; say --outputs probabilities"),
        (flat, "probabilities", "outputs were declared probabilities and sum to .*; say --outputs logits"),
        (lambda x: flat(x)[:, 5].sigmoid(), "margin", "all lie in .0, 1. as probabilities do"),
        (lambda x: flat(x) - flat(x).mean(0), "logits", "when it comes alone: it depends on the statistics of its batch"),
    ],
)
def test_outputs_that_break_the_contract(
    function: Callable[[Tensor], Tensor], outputs: str, message: str, x: Tensor, y: Tensor
) -> None:
    labels = y.clamp(0, 1) if outputs == "margin" else y
    with pytest.raises(ModelError, match=message):
        contract(function, x, labels, outputs=outputs)


@pytest.mark.parametrize(
    ("function", "outputs", "message"),
    [
        (lambda x: flat(x)[:, :1], "logits", "one value a row: say --outputs margin"),
        (flat, "margin", r"'margin' means one value a row, and the model returned \[2, 10\]"),
        (lambda x: x, "logits", r"returned shape \[2, 1, 8, 8\]"),
        (lambda x: [flat(x)], "logits", "returned list"),
        (lambda x: x.conv(), "logits", "does not take the data, torch.float32 of shape .*AttributeError"),
    ],
)
def test_outputs_that_are_no_scores(function: Callable[[Tensor], Tensor], outputs: Any, message: str, x: Tensor) -> None:
    with pytest.raises(ModelError, match=message):
        as_model(Called(function), x, outputs=outputs)


def test_one_value_a_row_is_a_margin_or_a_probability(x: Tensor) -> None:
    def value(x: Tensor) -> Tensor:
        return flat(x)[:, 5] - 2

    margin = as_model(Called(value), x, outputs="margin")
    assert torch.equal(margin.logits(x), torch.stack([torch.zeros(24), value(x)], 1))
    chance = as_model(Called(lambda x: value(x).sigmoid()), x, outputs="probabilities")
    torch.testing.assert_close(chance.logits(x).exp()[:, 1], value(x).sigmoid())
    y = (value(x) > 0).long()
    assert check_contract(margin, x, y) == check_contract(chance, x, y) == []


def test_shapes_and_types_that_do_not_fit_say_what_would(x: Tensor) -> None:
    colour, last = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), torch.rand(4, 8, 8, 3)
    with pytest.raises(ModelError, match=r"\[n, 3, 8, 8\] and the data are \[n, 8, 8, 3\]: give it x.permute\(0, 3, 1, 2\)"):
        as_model(colour, last)
    with pytest.raises(ModelError, match=r"takes inputs of shape \[n, 64\] .* give it x.flatten\(1\)"):
        as_model(nn.Linear(64, 10), x)
    with pytest.raises(ModelError, match=r"takes inputs of shape \[n, 1, 8, 8\] .* give it x.unsqueeze\(1\)"):
        as_model(net(), x[:, 0])
    with pytest.raises(ModelError, match=r"weights are torch.float64 and mohs gives float32"):
        as_model(net().double(), x)
    with pytest.raises(DataError, match="no examples to probe"):
        as_model(net(), x[:0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:0], y[:0]), "there are no examples"),
        (lambda x, y: (x, y[:-1]), "24 examples and 23 labels"),
        (lambda x, y: ((x * 255).byte(), y), r"torch.uint8; expected floating point: x.float\(\) / 255"),
        (lambda x, y: (x, y.float()), "labels are torch.float32"),
        (lambda x, y: (x.index_fill(0, torch.tensor([3]), torch.nan), y), "example 3 holds NaN"),
        (lambda x, y: (x, y + 5), "labels run from 5 to 14 and the model has 10 classes, 0 to 9: is it the model"),
        (lambda x, y: (x, y + 1), "labels run from 1 to 10 .*: subtract 1"),
        (lambda x, y: (x, y - 1), "labels run from -1 to 8"),
        (lambda x, y: (x, y.clamp(min=2) + 1), "labels run from 3 to 10 and the model has 10 classes, 0 to 9"),
        (lambda x, y: (x * 255, y), r"from 0 to 255, outside the bounds \[0, 1\]: divide them by 255"),
        (lambda x, y: ((x - 0.5) / 0.5, y), r"from -1 to 1, outside the bounds \[0, 1\]: normalisation belongs inside"),
    ],
)
def test_data_that_break_the_contract(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], message: str, x: Tensor, y: Tensor
) -> None:
    model = TorchModel(Called(flat), classes=10)
    with pytest.raises(DataError, match=message):
        check_contract(model, *change(x, y))


def test_a_model_in_training_mode_is_refused(x: Tensor, y: Tensor) -> None:
    model = as_model(net(), x)
    model.module.train()
    with pytest.raises(ModelError, match=r"training mode \(norm, drop\): call model.eval\(\)"):
        check_contract(model, x, y)
    with pytest.raises(ModelError, match="training mode"):
        as_model(net().train(), x)


def test_a_random_model_is_marked(x: Tensor, y: Tensor) -> None:
    model = as_model(Called(lambda x: flat(x) + 0.1 * torch.randn(len(x), 10)), x)
    (finding,) = check_contract(model, x, flat(x).argmax(1))
    assert (finding.code, finding.severity, model.random) == ("random", "warning", True)
    assert "confirmed on fresh draws" in finding.message
    still = as_model(Called(flat), x)
    check_contract(still, x, y)
    assert not still.random


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: flat(x.detach()), "detached from its input"),
        (lambda x: flat((x * 16).round() / 16), "it is zero"),
        (lambda x: flat(x) + 0 * (x - x).sqrt().flatten(1)[:, :10], "NaN or infinite"),
    ],
)
def test_a_model_without_gradient_gives_scores(function: Callable[[Tensor], Tensor], reason: str, x: Tensor, y: Tensor) -> None:
    model = as_model(Called(function), x)
    (finding,) = check_contract(model, x, flat(x).argmax(1))
    assert (finding.code, model.gives) == ("gradient", Knowledge.SCORES)
    assert reason in finding.message
    assert "not robustness" in finding.message


@pytest.mark.parametrize(
    ("function", "outputs", "codes"),
    [
        (lambda x: flat(x).clamp(max=1), "logits", []),
        (lambda x: (flat(x) * 1000).softmax(1), "probabilities", ["saturated"]),
    ],
)
def test_gradients_that_vanish_at_some_examples_are_told(
    function: Callable[[Tensor], Tensor], outputs: Any, codes: list[str], x: Tensor
) -> None:
    """At the last of the probed rows alone, or at the first."""
    for order in (range(16), range(15, -1, -1)):
        some = torch.zeros(16, 64)
        some[:10, 20], some[10:, 20:30], some[10:, 25] = 0.001, 0.8, torch.linspace(0.9, 1.0, 6)
        some = some.view(16, 1, 8, 8)[list(order)]
        model = as_model(Called(function), some, outputs=outputs)
        found = check_contract(model, some, function(some).argmax(1))
        assert [finding.code for finding in found] == [*codes, "flat"]
        assert (model.flat, model.gives) == (True, Knowledge.GRADIENT)
        assert "6 of 16 examples" in found[-1].message
        assert all("without its softmax" in finding.message for finding in found) == (outputs == "probabilities")
    plain = as_model(Called(flat), x)
    check_contract(plain, x, flat(x).argmax(1))
    assert not plain.flat


class Odd(nn.Module):
    """Raises what it is told to where the first pixel is above a half."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if bool((x.flatten(1)[:, 0] > 0.5).any()):
            raise self.error
        return flat(x)


def test_what_a_model_raises_is_told_from_what_it_cannot_help(x: Tensor) -> None:
    bad = torch.ones_like(x)
    model = as_model(Odd(KeyError("sensor 4")), x)
    with pytest.raises(ModelRaised, match=r"the model Odd raised KeyError: 'sensor 4'; it should answer every input") as caught:
        model.logits(bad)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ModelRaised, match="the model Odd raised KeyError"):
        prepare(model, 0.45 + 0 * x)  # whose probes lie off the data
    with pytest.raises(ModelError, match=r"does not take the data, .*KeyError: 'sensor 4'"):
        as_model(model.module, bad)
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] not enough memory: you tried to allocate 1 byte"),
        RequestError("said on purpose"),
        torch.AcceleratorError("the device is lost"),
    ):
        with pytest.raises(type(error)) as passed:
            as_model(Odd(error), x).logits(bad)
        assert passed.value is error


def test_onnx_that_fails_at_an_input_is_told_so(tmp_path: Path, x: Tensor) -> None:
    write_onnx(tmp_path / "m.onnx", ["scores"])
    model = load_model(str(tmp_path / "m.onnx"), x=x)
    with pytest.raises(ModelRaised, match=r"the model m.onnx raised InvalidArgument: .*; it should answer every input"):
        model.logits(torch.zeros(2, 1, 5, 5))


@pytest.fixture(scope="module")
def templates() -> Callable[[Tensor], Tensor]:
    """A good classifier of the digits: the nearest class mean."""
    x, y = load_digits("train")
    means = torch.stack([x[y == k].mean(0) for k in range(10)]).flatten(1)

    def distances(x: Tensor) -> Tensor:
        return -torch.cdist(x.flatten(1), means, compute_mode="donot_use_mm_for_euclid_dist")

    return distances


def shuffled(y: Tensor) -> Tensor:
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(
    ("function", "relabel", "words"),
    [
        (lambda f, x: f(x / 255), None, "with inputs in [0, 255]"),
        (lambda f, x: f(1 - x), None, "dark and light exchanged"),
        (lambda f, x: f(x.transpose(2, 3)), None, "height and width exchanged"),
        (lambda f, x: f(x), lambda y: (y + 1).clamp_max(9), "one too high"),
        (lambda f, x: f(x), shuffled, "no better than chance"),
        (lambda f, x: f(x), None, ""),
    ],
)
def test_a_reading_of_the_data_that_does_better_is_told(
    function: Callable[[Any, Tensor], Tensor],
    relabel: Callable[[Tensor], Tensor] | None,
    words: str,
    templates: Callable[[Tensor], Tensor],
) -> None:
    x, y = load_digits("test")
    model = as_model(Called(lambda x: function(templates, x)), x)
    found = check_contract(model, x, relabel(y) if relabel else y)
    if words:
        assert any(words in finding.message for finding in found), found
    else:
        assert found == []


def test_a_model_of_no_torch_is_checked_too(x: Tensor, y: Tensor) -> None:
    class Labels(Model):
        classes, gives, name = 10, Knowledge.LABEL, "labels"

        def logits(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(flat(x).argmax(1), 10).float() * 2

    assert check_contract(Labels(), x, flat(x).argmax(1)) == []


def test_the_environment_is_left_as_it_was(files: Path, x: Tensor) -> None:
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
