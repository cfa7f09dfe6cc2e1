"""Residual networks that activate before each convolution: PreAct-ResNet-18 (He, Zhang, Ren, Sun, ECCV 2016,
arXiv:1603.05027, in its common form for CIFAR) and WideResNet (Zagoruyko, Komodakis, BMVC 2016, arXiv:1605.07146)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mohs.errors import RequestError
from mohs.networks.parts import Activation, Block, convolution, normalisation


class PreActBlock(Block):
    """Two convolutions; a change of shape goes by one of size 1, of the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: Activation, norm: str) -> None:
        super().__init__()
        self.norm1, self.act1 = normalisation(norm, inputs), act()
        self.conv1 = convolution(inputs, outputs, 3, stride, norm)
        self.norm2, self.act2 = normalisation(norm, outputs), act()
        self.conv2 = convolution(outputs, outputs, 3, 1, norm)
        self.reshapes = stride > 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if self.reshapes else nn.Identity()
        self.starts_at_zero = norm == "none"

    def forward(self, x: Tensor) -> Tensor:
        active = self.act1(self.norm1(x))
        branch = self.conv2(self.act2(self.norm2(self.conv1(active))))
        out: Tensor = branch + self.shortcut(active if self.reshapes else x)
        return out


class PreActResNet(nn.Module):
    """stem: channels after the first convolution. widths: of the stages, each of which but the first halves its maps."""

    def __init__(
        self, stem: int, widths: Sequence[int], blocks: int, shape: Sequence[int], classes: int, act: Activation, norm: str
    ) -> None:
        super().__init__()
        self.conv1 = convolution(shape[0], stem, 3, 1, norm)
        stages, inputs = [], stem
        for place, width in enumerate(widths):
            stage = nn.Sequential()
            for number in range(blocks):
                stage.append(PreActBlock(inputs, width, 2 if number == 0 and place > 0 else 1, act, norm))
                inputs = width
            stages.append(stage)
        self.stages = nn.Sequential(*stages)
        self.norm, self.act = normalisation(norm, inputs), act()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.act(self.norm(self.stages(self.conv1(x))))
        out: Tensor = self.linear(maps.mean((2, 3)))
        return out


def preact_resnet18(*, shape: Sequence[int], classes: int, act: Activation, norm: str) -> nn.Module:
    return PreActResNet(64, (64, 128, 256, 512), 2, shape, classes, act, norm)


def wide_resnet(depth: int, factor: int, *, shape: Sequence[int], classes: int, act: Activation, norm: str) -> nn.Module:
    """Depth 6 n + 4 and `factor` times the channels; without dropout."""
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest or factor < 1:
        raise RequestError(f"there is no WideResNet {depth}-{factor}: its depth is 6 n + 4, such as 28-10, 34-10, 16-4")
    return PreActResNet(16, (16 * factor, 32 * factor, 64 * factor), blocks, shape, classes, act, norm)
