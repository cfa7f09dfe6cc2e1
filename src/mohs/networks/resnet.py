"""ResNets for CIFAR. He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385, section 4.2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from mohs.errors import RequestError
from mohs.networks.parts import Activation, Block, convolution, normalisation

WIDTHS = (16, 32, 64)


class Pad(nn.Module):
    """The shortcut without weights, the paper's option A: every second place, and channels of zeros on both sides."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class PostActBlock(Block):
    """Two convolutions; skip: add the input before the last activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: Activation, norm: str, skip: bool) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(inputs, outputs, 3, stride, norm), normalisation(norm, outputs)
        self.act1 = act()
        self.conv2, self.norm2 = convolution(outputs, outputs, 3, 1, norm), normalisation(norm, outputs)
        self.act2 = act()
        self.skip = skip
        self.shortcut = nn.Identity() if inputs == outputs or not skip else Pad(inputs, outputs)
        self.starts_at_zero = skip and norm == "none"

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        if self.skip:
            out = out + self.shortcut(x)
        out = self.act2(out)
        return out


class ResNet(nn.Module):
    """Three stages of feature maps, halved in size as their number doubles. skip: False leaves all shortcuts out, the twin
    whose loss landscape is compared (Li et al., NeurIPS 2018, arXiv:1712.09913)."""

    def __init__(self, blocks: int, shape: Sequence[int], classes: int, act: Activation, norm: str, skip: bool) -> None:
        super().__init__()
        self.conv1, self.norm1, self.act1 = convolution(shape[0], 16, 3, 1, norm), normalisation(norm, 16), act()
        stages, inputs = [], 16
        for width in WIDTHS:
            stage = nn.Sequential()
            for number in range(blocks):
                stride = 2 if number == 0 and width > 16 else 1
                stage.append(PostActBlock(inputs, width, stride, act, norm, skip))
                inputs = width
            stages.append(stage)
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stages(self.act1(self.norm1(self.conv1(x))))
        out: Tensor = self.linear(maps.mean((2, 3)))
        return out


def resnet(depth: int, *, shape: Sequence[int], classes: int, act: Activation, norm: str, skip: bool = True) -> nn.Module:
    """Depth 6 n + 2: 20, 32, 44, 56, 110."""
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise RequestError(f"there is no CIFAR ResNet of depth {depth}: it is 6 n + 2, such as 20, 32, 44, 56, 110")
    return ResNet(blocks, shape, classes, act, norm, skip)
