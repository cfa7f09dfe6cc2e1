"""Certificate: a method and its settings, which proves of examples that no input of a threat reaches the goal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mohs.attacks.settings import Settings
from mohs.certificates.backward import Bounds
from mohs.certificates.branching import branch_and_bound
from mohs.certificates.crown import Ascent, alpha_crown, crown, interval, margins
from mohs.certificates.graph import Network, network_of
from mohs.certificates.reduced import reduced
from mohs.certificates.region import Region, region_of
from mohs.errors import Refused, RequestError, UnknownName
from mohs.models import Model, as_model
from mohs.threat import Aim, Confidence, Goal, Threat, parse_threat

ROWS = 32  # examples bounded together
CLOSE = 0.03  # of what the relaxation costs: rounding in float32 costs less


class Found(NamedTuple):
    """lower [n, classes - 1] float64: what z_y - z_j of the logits z comes to at least around each example, for the classes j
    other than y, by rising j: one above 0 is a proof. point [n, *input]: an input at which one of them seems to be below 0, NaN
    where none was met."""

    lower: Tensor
    point: Tensor


class Proof(NamedTuple):
    """least [n] float64: the least of the margins that the aim allows; above 0, no input of the threat reaches its goal.
    point: as of `Found`."""

    least: Tensor
    point: Tensor


@dataclass(frozen=True, kw_only=True)
class Certificate(Settings, ABC):
    """A way to bound margins from below. `paper`: authors, venue, year, arXiv id."""

    paper: ClassVar[str]

    @abstractmethod
    def search(self, network: Network, threat: Threat, x: Tensor, y: Tensor, wanted: Tensor) -> Found:
        """Bounds around examples x [n, *input] of the margins of y [n] over the classes that are wanted [n, classes - 1] bool; of
        the others it may say less."""

    @property
    def seconds_each(self) -> float:
        """What an example may take beyond a moment."""
        return 0.0

    def bound(self, network: Network, threat: Threat, x: Tensor, y: Tensor) -> Tensor:
        """[n, classes - 1]: `Found.lower` of examples x [n, *input] with labels y [n]."""
        return self.search(
            network, threat, x, y, torch.ones(len(y), network.classes - 1, dtype=torch.bool, device=y.device)
        ).lower

    def prove(self, network: Network, threat: Threat, x: Tensor, aim: Aim) -> Proof:
        """Whether an input of the threat around examples x [n, *input] reaches the goal of an aim."""
        wanted = torch.ones(len(x), network.classes - 1, dtype=torch.bool, device=x.device)
        if aim.target is not None:
            at = (aim.target - (aim.target > aim.y).long()).clamp(0, network.classes - 2)
            wanted = torch.zeros_like(wanted).scatter(1, at.unsqueeze(1), True)
        lower, point = self.search(network, threat, x, aim.y, wanted)
        return Proof(lower.masked_fill(~wanted, torch.inf).amin(1), point)

    def check(self, threat: Threat, goal: Goal, model: Model, x: Tensor) -> Network:
        """The network to bound, traced on examples x; Refused or ModelError where there can be no proof."""
        region_of(threat, x[:1].float())
        if isinstance(goal, Confidence):
            raise Refused(f"bounds are of differences of logits, and the goal {goal} is of a probability")
        if model.rejected is not None or model.abstained is not None:
            raise Refused(f"{model.name} refuses some inputs, and no bound of margins speaks of that")
        return network_of(model, x.float().to(model.device))

    def __call__(self, model: Model | nn.Module, x: Tensor, y: Tensor, *, threat: Threat | str) -> Tensor:
        """[n, classes - 1] as `bound`, of examples x [n, *input] with labels y [n] under a threat."""
        threat = parse_threat(threat) if isinstance(threat, str) else threat
        found = as_model(model, x, threat.bounds)
        threat = threat.facing(found)
        network = network_of(found, x)
        return self.bound(network, threat, x, y)


class Relaxed(Certificate):
    """Bounds of a relaxation: all margins at once, in one go."""

    @abstractmethod
    def lower(self, network: Network, region: Region, y: Tensor) -> tuple[Tensor, Bounds]:
        """[rows, classes - 1]: the margins over a region at least, in the dtype of the network, and the boxes of the nodes."""

    def search(self, network: Network, threat: Threat, x: Tensor, y: Tensor, wanted: Tensor) -> Found:
        """Rounding is taken off, and what is so close to 0 that rounding may have cost the proof is bounded again in float64."""
        found = self._bound(network, threat, x, y)
        nowhere = torch.full_like(x, torch.nan)
        if network.exact is None:
            return Found(found, nowhere)
        with torch.no_grad():
            there = torch.einsum("bsk,bk->bs", margins(network.classes, y, network.dtype), network.logits(x.to(network.dtype)))
        lost = (there - found).clamp_min(0)  # to the relaxation, mostly
        close = ((found <= 0) & (found > -CLOSE * lost)).any(1) & (found > -CLOSE * lost).all(1)
        rows = close.nonzero()[:, 0]
        if len(rows):
            found[rows] = torch.maximum(found[rows], self._bound(network.exact, threat, x[rows], y[rows]))
        return Found(found, nowhere)

    def _bound(self, network: Network, threat: Threat, x: Tensor, y: Tensor) -> Tensor:
        region = region_of(threat, x.to(network.dtype))
        with torch.no_grad():
            parts = [self.lower(network, region.rows(part), y[part])[0] for part in torch.arange(len(y)).split(ROWS)]
        return torch.cat(parts).double()


@dataclass(frozen=True, kw_only=True)
class Interval(Relaxed):
    """Interval bound propagation: boxes carried forward, the last affine layers in one with the margin. The loosest and the
    cheapest, about two passes; of use for networks trained with it.

    Gowal et al., ICCV 2019, arXiv:1810.12715.
    """

    paper = "Gowal et al., ICCV 2019, arXiv:1810.12715"

    def lower(self, network: Network, region: Region, y: Tensor) -> tuple[Tensor, Bounds]:
        return interval(network, region, margins(network.classes, y, region.box.lower.dtype))


@dataclass(frozen=True, kw_only=True)
class Crown(Relaxed):
    """CROWN: linear bounds of every activation, substituted from the margin back to the input; the boxes that they are drawn
    over come from the same, met with intervals.

    Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866.
    """

    paper = "Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866"

    def lower(self, network: Network, region: Region, y: Tensor) -> tuple[Tensor, Bounds]:
        return crown(network, region, margins(network.classes, y, region.box.lower.dtype))


@dataclass(frozen=True, kw_only=True)
class AlphaCrown(Crown):
    """CROWN, and for what it leaves open alpha-CROWN: every slope of every linear bound follows the gradient of that bound.

    steps, lr, decay: of Adam; the best slopes are kept. Xu et al., ICLR 2021, arXiv:2011.13824.
    """

    steps: int = 20
    lr: float = 0.5
    decay: float = 0.98

    paper = "Xu et al., ICLR 2021, arXiv:2011.13824"

    def lower(self, network: Network, region: Region, y: Tensor) -> tuple[Tensor, Bounds]:
        return alpha_crown(
            network, region, margins(network.classes, y, region.box.lower.dtype), Ascent(self.steps, self.lr, self.decay)
        )


@dataclass(frozen=True, kw_only=True)
class BranchAndBound(Certificate):
    """alpha-CROWN, and for what it leaves open branch and bound over unstable ReLUs with the bounds of beta-CROWN: every
    example is proved, or an input met that breaks it, or its time is over.

    seconds: of processor time, an example that alpha-CROWN leaves open; steps, lr: of Adam on the slopes and multipliers of a
    subdomain. Networks of piecewise linear activations are decided in the end over Linf balls; smooth ones are not split.
    Wang et al., NeurIPS 2021, arXiv:2103.06624.
    """

    seconds: float = 10.0
    steps: int = 5
    lr: float = 0.1

    paper = "Wang, Zhang, Xu, Lin, Jana, Hsieh, Kolter, NeurIPS 2021, arXiv:2103.06624"

    @property
    def seconds_each(self) -> float:
        return self.seconds

    def search(self, network: Network, threat: Threat, x: Tensor, y: Tensor, wanted: Tensor) -> Found:
        """Examples one after the other, once alpha-CROWN has had them together."""
        exact = network.exact or network
        region, point = region_of(threat, x.to(network.dtype)), torch.full_like(x, torch.nan)
        A, found = margins(network.classes, y, exact.dtype), list[Tensor]()
        with torch.no_grad():
            for part in torch.arange(len(y)).split(ROWS):
                lower, bounds = alpha_crown(network, region.rows(part), A[part].to(network.dtype))
                found.append(lower.double())
                for i, row in enumerate(part.tolist()):
                    left = ((lower[i] <= 0) & wanted[row]).nonzero()[:, 0]
                    if len(left):
                        net = reduced(exact, bounds.rows(torch.tensor([i])), A[row, left])
                        tree = branch_and_bound(net, self.seconds, self.steps, self.lr)
                        found[-1][i, left] = torch.maximum(found[-1][i, left], tree.lower.double())
                        if tree.point is not None:
                            point[row] = threat.project(tree.point[None].to(x), x[row : row + 1])[0]
        return Found(torch.cat(found), point)


METHODS: dict[str, type[Certificate]] = {
    "interval": Interval,
    "crown": Crown,
    "alpha-crown": AlphaCrown,
    "branch-and-bound": BranchAndBound,
}


def spec_of(certificate: Certificate) -> dict[str, object]:
    """The method and its settings, which `made` reads back."""
    name = next(name for name, kind in METHODS.items() if kind is type(certificate))
    return {"method": name, **certificate.spec()}


def made(spec: dict[str, object]) -> Certificate:
    """The certificate of a spec."""
    settings = dict(spec)
    method = str(settings.pop("method"))
    if method not in METHODS:
        raise UnknownName("method", method, METHODS)
    return METHODS[method].from_spec(settings)


def make(text: str) -> Certificate:
    """The certificate of a line: the name of its method, and settings as `seconds=20`, apart by spaces. UnknownName where there
    is none of the name, RequestError where the line does not read so."""
    method, *words = text.split() or [""]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    if len(settings) < len(words):
        raise RequestError(f"the method {text!r} should read NAME setting=value ..., such as 'branch-and-bound seconds=20'")
    return made({"method": method, **settings})
