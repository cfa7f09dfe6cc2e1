"""On-manifold adversarial training: through an autoencoder of each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mohs.attacks.adam import adam
from mohs.errors import RequestError
from mohs.models.autoencoder import fit_autoencoder
from mohs.train import together
from mohs.train.batch import Batch, crafting
from mohs.train.recipe import Adversarial, Trainer

TRUNCATED = 2.0  # latents move no further than this from 0, or than they are


@dataclass(frozen=True, kw_only=True)
class OnManifold(Adversarial):
    """Half of every batch is replaced by dec_y(enc_y(x) + p), where |p_i| <= epsilon climbs the cross-entropy, by Adam from a
    random p. enc_y and dec_y are an autoencoder fitted, first, to the examples of class y alone: what it decodes is of that
    class, so that the label stays true however far p goes.

    The paper's class manifolds are VAE-GANs; here each is a small autoencoder of ten latents, whose standard deviations over its
    class are 1, in which epsilon counts. It serves small images such as digits; of photographs it keeps little.
    epsilon, steps, rate: the paper's. It makes for accuracy; changes off the manifold get through, as the paper shows:
    give --threat to see it.
    Stutz, Hein, Schiele, CVPR 2019, arXiv:1812.00740.
    """

    epsilon: float = 0.3
    steps: int = 40
    rate: float = 0.005

    paper = "Stutz et al., CVPR 2019, arXiv:1812.00740"
    cost = "k(F+Bx)/2+F+Bw, after the autoencoders"
    purpose = "accuracy: errors on inputs that look like data; not robustness to small changes"
    sets = ()
    mixes = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon < torch.inf:
            raise RequestError(f"on-manifold moves latents by epsilon, a number above 0, not {self.epsilon:g}")

    def aids(self, train: Trainer) -> dict[str, nn.Module]:
        return {"manifolds": Manifolds(train.x, train.y, train.bounds)}

    def attacked(self, batch: Batch) -> Tensor:
        manifolds, joint = batch.aids["manifolds"], together.summed(torch.tensor(len(batch.x0), device=batch.x0.device))
        n = len(together.mine(int(joint) // 2))
        assert isinstance(manifolds, Manifolds)
        if n == 0:
            return batch.x0
        y = batch.y[:n]
        with torch.no_grad():
            z = manifolds.encode(batch.x0[:n], y)
        low, high = (-self.epsilon + torch.zeros_like(z)), (self.epsilon + torch.zeros_like(z))
        low, high = torch.maximum(low, z.clamp(max=-TRUNCATED) - z), torch.minimum(high, z.clamp(min=TRUNCATED) - z)
        draws = batch.stream.take(torch.arange(n, device=z.device)).at("start").uniform(*z.shape[1:])
        p = low + (high - low) * draws
        first, second = torch.zeros_like(p), torch.zeros_like(p)
        with crafting(batch.network):
            for k in range(self.steps):
                p.requires_grad_()
                loss = functional.cross_entropy(batch.network(manifolds.decode(z + p, y)), y, reduction="sum")
                direction, metric = adam(torch.autograd.grad(loss, p)[0], first, second, k)
                p = p.detach().addcdiv(direction, metric, value=self.rate).clamp(min=low).clamp(max=high)
            with torch.no_grad():
                return torch.cat([manifolds.decode(z + p, y), batch.x0[n:]])

    def outer(self, batch: Batch, point: Tensor) -> Tensor:
        return functional.cross_entropy(batch.network(point), batch.y)


class Manifolds(nn.Module):
    """An autoencoder a class, each fitted to its own examples of x [n, *input], y [n]."""

    def __init__(self, x: Tensor, y: Tensor, bounds: tuple[float, float]) -> None:
        super().__init__()
        classes = y.unique().tolist()
        self.of = nn.ModuleDict({str(c): fit_autoencoder(x[y == c], bounds).module.float() for c in classes})

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return self._each("encode", x, y)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return self._each("decode", z, y)

    def _each(self, part: str, a: Tensor, y: Tensor) -> Tensor:
        """Every row by the autoencoder of its class."""
        order = y.argsort(stable=True)
        answers = [getattr(self.of[str(c)], part)(a[y == c]) for c in y.unique().tolist()]
        return torch.cat(answers)[order.argsort()]
