"""Random resizing and padding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mohs.defend.base import Defence
from mohs.errors import ModelError
from mohs.models import Model
from mohs.rng import Stream


class ResizePad(Defence):
    """An image becomes r x r, r uniform in [smallest, size), at a random place in size x size zeros; fresh at every pass.

    Bilinear, and zeros are those of the input's units. Images [n, channels, side, side]; the model takes `size`. The
    authors resize 299 to [299, 331) in 331. Xie, Wang, Zhang, Ren, Yuille, ICLR 2018, arXiv:1711.01991.

    When to use: against changes that were made for another place and size, such as transferred ones. Whoever averages over the
    draws breaks it. The network behind takes larger images, and should have seen such ones in training.
    """

    def __init__(self, model: Model, *, smallest: int, size: int) -> None:
        if not 1 <= smallest < size:
            raise ModelError(f"resizing to [{smallest}, {size}) should leave a choice: 1 <= smallest < size")
        super().__init__(model, f"resize [{smallest}, {size}) and pad to {size}", random=True)
        self.smallest, self.size = smallest, size

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        if x.ndim != 4 or x.shape[2] != x.shape[3]:
            raise ModelError(f"resizing takes images [n, channels, side, side], and the inputs are {list(x.shape)}")
        side = stream.at("side").integers(self.size - self.smallest, 1)[:, 0] + self.smallest
        place = stream.at("place").integers(self.size - side + 1, 2)
        where = torch.arange(self.size, device=x.device) + 0.5
        grid = 2 * (where - place[:, :, None]) / side[:, None, None] - 1  # [n, 2, size]: -1 to 1 inside of the image
        down, right = grid.to(x.dtype).unbind(1)
        shape = (len(x), self.size, self.size)
        points = torch.stack([right[:, None, :].expand(shape), down[:, :, None].expand(shape)], 3)
        inside = (points.abs() < 1).all(3)[:, None]
        return functional.grid_sample(x, points, padding_mode="border", align_corners=False) * inside
