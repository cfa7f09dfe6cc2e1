"""The smoothed classifier, deployed: what randomised smoothing certifies."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mohs.defend.base import Defence, straight_through
from mohs.defend.noise import NOISES
from mohs.errors import ModelError, UnknownName
from mohs.models import Model
from mohs.rng import Stream


class SmoothedModel(Defence):
    """PREDICT: the class that the model answers most often in `samples` draws of x + noise, or none.

    noise: `gaussian`, `laplace` or `uniform`, of standard deviation sigma in the units of the input. Where the two first classes
    could be equally likely, by the two-sided exact test at level alpha, it abstains: that is the class `abstained`, one
    more than the model's own, an error as its authors count it. Its logits are log((votes + 1/2) / (samples + classes / 2)), and
    `abstained` stands half a vote below what the first class must have.
    Votes have no derivative; gradients are those of the logarithm of the mean softmax over the same draws, the loss of Salman et
    al., NeurIPS 2019, arXiv:1906.04584, so that attacks go through it. A step costs `samples` forward passes, and with a gradient
    another and `samples` backward passes; the draws are one after another, so that memory is that of one.
    Cohen, Rosenfeld, Kolter, ICML 2019, arXiv:1902.02918.

    When to use: where a guarantee in a norm is wanted and `samples` passes an answer can be paid for; `mohs certify` says the
    radius. The network behind should be trained under the noise (`--recipe gaussian`). Beyond the radius it is a network like
    others.
    """

    def __init__(self, model: Model, *, sigma: float, noise: str = "gaussian", samples: int = 100, alpha: float = 0.001) -> None:
        if not 0 < sigma < math.inf:
            raise ModelError(f"a noise of sigma {sigma:g} should be above 0")
        if noise not in NOISES:
            raise UnknownName("noise", noise, NOISES)
        if not 0 < alpha < 1:
            raise ModelError(
                f"alpha, the probability of a wrong answer in place of none, should lie between 0 and 1, not {alpha:g}"
            )
        if samples < (least := 1 + math.ceil(-math.log2(alpha))):
            raise ModelError(f"{samples} samples never answer at alpha = {alpha:g}, even if all agree; give at least {least}")
        if model.rejected is not None or model.abstained is not None:
            raise ModelError(
                f"{model.name} rejects inputs by itself, and votes for that are not defined; smooth the model behind"
            )
        super().__init__(model, f"votes of {samples} under {noise} noise {sigma:g} (alpha {alpha:g})", random=True)
        self.sigma, self.noise, self.samples, self.alpha = sigma, noise, samples, alpha
        self.classes, self.abstained = model.classes + 1, model.classes

    def transform(self, x: Tensor, stream: Stream) -> Tensor:
        drawn = torch.empty_like(x, requires_grad=False)
        for row, generator in zip(drawn, stream.generators(), strict=True):
            NOISES[self.noise](row, self.sigma, generator)
        return x + drawn

    def logits(self, x: Tensor) -> Tensor:
        stream, again = self._draw(x), x.requires_grad and torch.is_grad_enabled()
        votes, mean = x.new_zeros(len(x), self.classes - 1), x.new_zeros(len(x), self.classes - 1)
        for k in range(self.samples):
            draw = stream.at("vote", k)
            scores = checkpoint(self._scores, x, draw, use_reentrant=False) if again else self._scores(x, draw)
            votes.scatter_add_(1, scores.detach().argmax(1, keepdim=True), x.new_ones(len(x), 1))
            mean = mean + scores.softmax(1) / self.samples
        return straight_through(self._answer(votes), self._soft(mean))

    def _scores(self, x: Tensor, stream: Stream) -> Tensor:
        return self.model.drawn(stream.at("behind")).logits(self.transform(x, stream)).to(x.dtype)

    def _answer(self, votes: Tensor) -> Tensor:
        """[n, classes + 1] from votes [n, classes]."""
        first = votes.topk(2, dim=1).values.sum(1).long()
        needed = votes.new_tensor(votes_needed(self.samples, self.alpha))[first]
        counts = torch.cat([votes + 0.5, needed[:, None]], 1)
        return (counts / (self.samples + votes.shape[1] / 2)).log()

    @staticmethod
    def _soft(mean: Tensor) -> Tensor:
        return torch.cat([mean.clamp_min(torch.finfo(mean.dtype).tiny).log(), torch.zeros_like(mean[:, :1])], 1)


@cache
def votes_needed(most: int, alpha: float) -> tuple[int, ...]:
    """Of n = 0, 1, …, most votes for two classes, how many the first must have for the two-sided exact test to reject that both
    are equally likely; n + 1 where none will do. Hung and Fithian, Annals of Statistics 2019, arXiv:1610.03944."""
    from scipy.stats import binom

    return tuple(1 + int(k) for k in binom.isf(alpha / 2, range(most + 1), 0.5))
