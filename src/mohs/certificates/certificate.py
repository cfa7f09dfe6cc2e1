"""Certificate: a method and its settings, which proves of examples that no input of a threat reaches the goal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mohs.attacks.settings import Settings
from mohs.certificates.backward import Bounds
from mohs.certificates.crown import Ascent, alpha_crown, crown, interval, margins
from mohs.certificates.graph import Network, network_of
from mohs.certificates.region import Region, region_of
from mohs.errors import Refused, UnknownName
from mohs.models import Model, as_model
from mohs.threat import Aim, Confidence, Goal, Threat, parse_threat

ROWS = 32  # examples bounded together
CLOSE = 0.03  # of what the relaxation costs: rounding in float32 costs less


@dataclass(frozen=True, kw_only=True)
class Certificate(Settings, ABC):
    """A way to bound margins from below. `paper`: authors, venue, year, arXiv id."""

    paper: ClassVar[str]

    def bound(self, network: Network, threat: Threat, x: Tensor, y: Tensor) -> Tensor:
        """[n, classes - 1] float64: what z_y - z_j of the logits z comes to at least around examples x [n, *input], for the
        classes j other than y, by rising j. One above 0 is a proof: rounding is taken off, and what is so close to 0 that
        rounding may have cost the proof is bounded again in float64."""
        found = self._bound(network, threat, x, y)
        if network.exact is None:
            return found
        with torch.no_grad():
            there = torch.einsum("bsk,bk->bs", margins(network.classes, y, network.dtype), network.logits(x.to(network.dtype)))
        lost = (there - found).clamp_min(0)  # to the relaxation, mostly
        close = ((found <= 0) & (found > -CLOSE * lost)).any(1) & (found > -CLOSE * lost).all(1)
        rows = close.nonzero()[:, 0]
        if len(rows):
            found[rows] = torch.maximum(found[rows], self._bound(network.exact, threat, x[rows], y[rows]))
        return found

    def _bound(self, network: Network, threat: Threat, x: Tensor, y: Tensor) -> Tensor:
        region = region_of(threat, x.to(network.dtype))
        with torch.no_grad():
            parts = [self.lower(network, region.rows(part), y[part])[0] for part in torch.arange(len(y)).split(ROWS)]
        return torch.cat(parts).double()

    def least(self, network: Network, threat: Threat, x: Tensor, aim: Aim) -> Tensor:
        """[n] float64: the least of `bound` over the classes that the aim allows; above 0, no input of the threat reaches its
        goal."""
        found = self.bound(network, threat, x, aim.y)
        if aim.target is None:
            return found.amin(1)
        at = aim.target - (aim.target > aim.y).long()
        return found.gather(1, at.clamp(0, found.shape[1] - 1).unsqueeze(1))[:, 0]

    @abstractmethod
    def lower(self, network: Network, region: Region, y: Tensor) -> tuple[Tensor, Bounds]:
        """[rows, classes - 1]: `bound` over a region, in the dtype of the network, and the boxes of the nodes."""

    def check(self, threat: Threat, goal: Goal, model: Model, x: Tensor) -> Network:
        """The network to bound, traced on examples x; Refused or ModelError where there can be no proof."""
        region_of(threat, x[:1].float())
        if isinstance(goal, Confidence):
            raise Refused(f"bounds are of differences of logits, and the goal {goal} is of a probability")
        if model.rejected is not None:
            raise Refused(f"{model.name} is a detector, whose refusals no bound of margins speaks of")
        return network_of(model, x.float().to(model.device))

    def __call__(self, model: Model | nn.Module, x: Tensor, y: Tensor, *, threat: Threat | str) -> Tensor:
        """[n, classes - 1] as `bound`, of examples x [n, *input] with labels y [n] under a threat."""
        threat = parse_threat(threat) if isinstance(threat, str) else threat
        found = as_model(model, x, threat.bounds)
        threat = threat.facing(found)
        network = network_of(found, x)
        return self.bound(network, threat, x, y)


@dataclass(frozen=True, kw_only=True)
class Interval(Certificate):
    """Interval bound propagation: boxes carried forward, the last affine layers in one with the margin. The loosest and the
    cheapest, about two passes; of use for networks trained with it.

    Gowal et al., ICCV 2019, arXiv:1810.12715.
    """

    paper = "Gowal et al., ICCV 2019, arXiv:1810.12715"

    def lower(self, network: Network, region: Region, y: Tensor) -> tuple[Tensor, Bounds]:
        return interval(network, region, margins(network.classes, y, region.box.lower.dtype))


@dataclass(frozen=True, kw_only=True)
class Crown(Certificate):
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


METHODS: dict[str, type[Certificate]] = {"interval": Interval, "crown": Crown, "alpha-crown": AlphaCrown}


def spec_of(certificate: Certificate) -> dict[str, object]:
    """The method and its settings, which `made` reads back."""
    name = next(name for name, kind in METHODS.items() if kind is type(certificate))
    return {"method": name, **certificate.spec()}


def made(spec: dict[str, object]) -> Certificate:
    """The certificate of a spec."""
    settings = dict(spec)
    return make(str(settings.pop("method")), settings)


def make(method: str, settings: dict[str, object] | None = None) -> Certificate:
    """The certificate of a name, with its settings; UnknownName where there is none."""
    if method not in METHODS:
        raise UnknownName("method", method, METHODS)
    return METHODS[method].from_spec(settings or {})
