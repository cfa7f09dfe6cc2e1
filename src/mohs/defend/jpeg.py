"""JPEG compression."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from mohs.defend.base import Defence, back, unit
from mohs.errors import ModelError
from mohs.models import Model
from mohs.rng import Stream


class JPEG(Defence):
    """Every image is written as a JPEG file and read again. No derivative: attacks pass it as the identity.

    quality: of the encoder (Pillow's, which halves the resolution of colours), 1 to 95. Images [n, 1 or 3, height, width].
    Dziugaite, Ghahramani, Roy, 2016, arXiv:1608.00853; Guo, Rana, Cisse, van der Maaten, ICLR 2018, arXiv:1711.00117.

    When to use: against nobody who tries. It takes off what small changes of high frequency add by chance, costs little
    accuracy, and is worth having where images are compressed anyway: audit the model behind it, for that is the model deployed.
    """

    def __init__(self, model: Model, *, quality: int = 75) -> None:
        if not 1 <= quality <= 95:
            raise ModelError(f"a JPEG quality of {quality} should be from 1 to 95")
        super().__init__(model, f"JPEG {quality}", differentiable=False)
        self.quality = quality

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ModelError(f"JPEG takes images [n, 1 or 3, height, width], and the inputs are {list(x.shape)}")
        grey = (unit(x, self.bounds).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        shown = np.stack([self._coded(image) for image in grey])
        return back(torch.from_numpy(shown).to(x) / 255, self.bounds)

    def _coded(self, image: np.ndarray) -> np.ndarray:
        """uint8 [height, width, channels] through a file, and [channels, height, width] out of it."""
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "JPEG", quality=self.quality)
        return np.asarray(Image.open(file)).reshape(image.shape).transpose(2, 0, 1)
