"""What a network sees of an input: activations of unit length, for the perceptual distance.

Zhang, Isola, Efros, Shechtman, Wang, CVPR 2018, arXiv:1801.03924; Laidlaw, Singla, Feizi, ICLR 2021, arXiv:2006.12655.
"""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mohs.errors import ModelError, UnknownName
from mohs.models.frozen import crafting
from mohs.models.torch_model import in_double

ROWS, EXACT_ROWS, QUANTUM = 128, 16, 16  # of a call, in float32 and float64: few shapes, so that batch mates do not matter
TINY = 1e-10  # added to lengths
ACTIVATIONS = frozenset(
    {"relu", "relu_", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish"}
    | {"softplus", "hardswish", "tanh", "sigmoid"}
)
INSTEAD = "name another network by --perceptual-model, or layers by `+layers:NAME,NAME`"

Maps = Callable[[nn.Module, Tensor], list[Tensor]]


class Perception:
    """phi(x) [n, features] of inputs x [n, *input]: activations of a network, divided at each place by their length over
    the channels (the second dimension) and by the square root of the number of places, concatenated. Differentiable; in
    float64 for float64 inputs where the network computes in it, else in float32. The network is copied.

    layers: names of `named_modules`, whose outputs are taken. Without any, outputs of activation functions are, wherever
    in the network they are called: of each size of feature maps the last, which for VGG and ResNet are the layers of the
    papers; of a network without maps, all of them. batch: the one number of rows it takes, or None. example: of inputs.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str] = (),
        *,
        name: str,
        batch: int | None = None,
        example: Tensor | None = None,
        maps: Maps | None = None,
        live: bool = False,
    ) -> None:
        self.name, self.batch = name, batch
        self.module = module if live else copy.deepcopy(module).eval().requires_grad_(False)
        named = dict(self.module.named_modules())
        for layer in layers:
            if layer not in named:
                raise UnknownName(f"layer of {name}", layer, [known for known in named if known])
        self.maps = maps or (_named(layers) if layers else _activations)
        self.exact = None if live else self._double(example)

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            if self.exact is None:
                return self(x.float()).double()
            module, rows = self.exact, self.batch or EXACT_ROWS
        else:
            module, rows = self.module, self.batch or ROWS
        with crafting(module):
            return torch.cat([self._padded(module, part) for part in x.split(rows)]) if len(x) else x.flatten(1)

    def fingerprint(self) -> str:
        """sha256 of the network's numbers."""
        digest = hashlib.sha256()
        for name, value in self.module.state_dict().items():
            digest.update(f"{name} {list(value.shape)};".encode() + value.detach().double().cpu().numpy().tobytes())
        return digest.hexdigest()

    def _padded(self, module: nn.Module, x: Tensor) -> Tensor:
        missing = -len(x) % (self.batch or QUANTUM)
        seen = self.maps(module, torch.cat([x, x[:1].expand(missing, *x.shape[1:])]) if missing else x)
        if not seen:
            raise ModelError(f"no activation layers are seen in {self.name}, for the perceptual distance: {INSTEAD}")
        return torch.cat([part.flatten(1) for part in seen], 1)[: len(x)]

    def _double(self, example: Tensor | None) -> nn.Module | None:
        try:
            twin = in_double(self.module)
            if example is not None and self._padded(twin, example.double()).dtype != torch.float64:
                return None
        except Exception:  # a module may refuse to compute in float64 in any way
            return None
        return twin


def unit(a: Tensor) -> Tensor:
    """Activations [n, channels, ...] of length 1 over the channels, and over the root of the number of places."""
    places = a[0, 0].numel() if a.ndim > 1 else 1
    length: Tensor = torch.linalg.vector_norm(a, dim=1, keepdim=True)
    scaled: Tensor = a / ((length + TINY) * places**0.5)
    return scaled


class Watch(TorchFunctionMode):
    """Keeps `keep(a)` of what activation functions return, whoever calls them."""

    def __init__(self, keep: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.keep = keep
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "").partition(".")[0] in ACTIVATIONS:
            self.seen.append(self.keep(out))  # at once: what follows may overwrite it
        return out


def _activations(module: nn.Module, x: Tensor) -> list[Tensor]:
    with Watch(unit) as watch:
        module(x)
    maps = {a.shape[2:]: a for a in watch.seen if a.ndim > 2}  # the last of each size
    return list(maps.values()) or watch.seen


def _named(layers: Sequence[str]) -> Maps:
    def maps(module: nn.Module, x: Tensor) -> list[Tensor]:
        seen: list[Tensor] = []

        def keep(part: nn.Module, given: object, out: Tensor) -> None:
            seen.append(unit(out))

        hooks = [module.get_submodule(name).register_forward_hook(keep) for name in layers]
        try:
            module(x)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    return maps


# LPIPS, version 0.1, with AlexNet: convolutions of these sizes, each followed by a ReLU that is looked at.
CONVOLUTIONS = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
PLACES = (0, 3, 6, 8, 10)  # of the convolutions in AlexNet, by which the file names them
POOLED = (1, 2)  # convolutions before which maps are halved
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]
WANTED = (
    "a state dict with net.slice1.0.weight to net.slice5.10.bias and lin0.model.1.weight to lin4.model.1.weight, as "
    'torch.save(lpips.LPIPS(net="alex").state_dict(), FILE) or safetensors write it'
)


class AlexNet(nn.Module):
    """LPIPS as features: ||phi(x) - phi(y)||^2 is the LPIPS of images [n, 3, height, width] in `bounds`; those of one
    channel are shown as grey ones."""

    shift: Tensor
    scale: Tensor

    def __init__(self, bounds: tuple[float, float]) -> None:
        super().__init__()
        self.bounds = bounds
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, stride=s, padding=p) for i, o, k, s, p in CONVOLUTIONS)
        self.weights = nn.ParameterList(torch.ones(1, o, 1, 1) for _, o, *_ in CONVOLUTIONS)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])

    def forward(self, x: Tensor) -> list[Tensor]:
        low, high = self.bounds
        a = ((x - low) * (2 / (high - low)) - 1 - self.shift) / self.scale
        seen = []
        for k, convolution in enumerate(self.convolutions):
            a = torch.relu(convolution(nn.functional.max_pool2d(a, 3, 2) if k in POOLED else a))
            seen.append(unit(a) * self.weights[k].clamp(min=0).sqrt())
        return seen


def load_lpips(path: str, bounds: tuple[float, float], device: torch.device) -> Perception:
    """LPIPS with AlexNet, its weights from a file; ModelError says what is missing."""
    if not math.isfinite(bounds[1] - bounds[0]):
        raise ModelError(f"LPIPS is of images, whose black and white are the model's bounds, and they are {list(bounds)}")
    state = _state(path)
    names = {f"convolutions.{k}.{kind}": f"net.slice{k + 1}.{PLACES[k]}.{kind}" for k in range(5) for kind in ("weight", "bias")}
    names |= {f"weights.{k}": f"lin{k}.model.1.weight" for k in range(5)}
    missing = [name for name in names.values() if name not in state]
    if missing:
        said = f"{', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}"
        half = (
            "; the weights of LPIPS alone, without AlexNet's, do not do"
            if missing[0].startswith("net.") and names["weights.0"] in state
            else ""
        )
        raise ModelError(f"{path} lacks {said}{half}; wanted is {WANTED}")
    network = AlexNet(bounds)
    try:
        network.load_state_dict({ours: state[theirs] for ours, theirs in names.items()}, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{path} holds another network than LPIPS with AlexNet: {error}; wanted is {WANTED}") from error
    return Perception(network.to(device), name=f"LPIPS of {Path(path).name}", maps=lambda module, x: module(x))


def _state(path: str) -> dict[str, Tensor]:
    """A state dict, from safetensors or from torch's own format opened as weights only."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise ModelError(f"there is no file {path} of LPIPS weights, which mohs does not bring along; wanted is {WANTED}")
    try:
        state = load_file(path) if path.endswith(".safetensors") else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be opened as plain weights: {str(error).splitlines()[0]}; wanted is {WANTED}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds {type(state).__name__} and no state dict; wanted is {WANTED}")
    return state
