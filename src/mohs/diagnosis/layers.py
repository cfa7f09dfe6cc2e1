"""Which layers of a model an attack moves most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mohs import attacks
from mohs.attacks.base import Attack
from mohs.data import Examples, load_data
from mohs.errors import ModelError, RequestError
from mohs.models import Model, TorchModel, prepare
from mohs.models.contract import Finding, check_contract
from mohs.models.sustainability import activations, most_vulnerable, relative_errors
from mohs.request import make_request
from mohs.rng import Stream
from mohs.subjects import facing, load
from mohs.threat import Knowledge, Threat, parse_threat


@dataclass(frozen=True)
class Layer:
    """error: mean relative error between clean and attacked inputs. random: the same for random points of the set, by which
    to tell what any change does from what an adversary does. features: of one example."""

    name: str
    features: int
    error: float
    random: float
    vulnerable: bool


@dataclass(frozen=True)
class Sustainability:
    """layers: in the order of their calls. n: examples that the model had right, which alone are looked at. broken: of
    these, by the attack."""

    model: str
    data: str
    threat: str
    attack: dict[str, object]
    n: int
    broken: int
    layers: tuple[Layer, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def vulnerable(self) -> list[str]:
        return [layer.name for layer in self.layers if layer.vulnerable]

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "model": self.model,
            "data": self.data,
            "threat": self.threat,
            "attack": self.attack,
            "n": self.n,
            "broken": self.broken,
            "layers": [vars(layer) for layer in self.layers],
            "most_vulnerable": self.vulnerable,
        }


def sustainability(
    model: str | Model | nn.Module,
    data: str | tuple[Tensor, Tensor] | Examples,
    *,
    threat: str,
    attack: Attack | None = None,
    deviations: float = 1.0,
    limit: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Sustainability:
    """The relative error of each activation layer between clean and attacked inputs (Khalooei et al., arXiv:2202.02626).

    Attacked inputs are an attack's successes, and where it has none its closest failures; PGD's without an `attack`.
    deviations: a layer is among the most vulnerable from so many standard deviations above the mean over layers. model, data:
    what `mohs.audit` takes. options: `bounds`, `outputs`, `device`, `rows`, `trust_pickle`. Raises RequestError.
    """
    chosen = attack or attacks.PGD()
    parsed = parse_threat(threat)
    if parsed.knowledge < Knowledge.GRADIENT:
        raise RequestError(f"layers are looked at from inside: leave knowledge {parsed.knowledge} out of {threat}")
    request = make_request(model, data, [threat], options)
    examples = data if isinstance(data, Examples) else load_data(data, limit=limit, seed=seed, bounds=request.bounds)
    subject = load(model, examples.x, request)
    if not isinstance(subject, TorchModel):
        raise ModelError(f"the layers of {subject.name} cannot be seen: it is a {type(subject).__name__}; give a torch network")
    bound = facing(parsed, subject, examples.x, request)
    findings = check_contract(subject, examples.x, examples.y)
    prepared = prepare(subject, examples.x[:8], rows=request.rows)
    right = prepared.judge.reference(examples.x.to(subject.device)).argmax(1).cpu() == examples.y
    if not right.any():
        raise RequestError(f"{subject.name} has none of the {len(examples)} examples right: there is nothing left to attack")
    x, y, ids = examples.x[right], examples.y[right], examples.ids[right]
    outcome = chosen(prepared, x, y, threat=bound, seed=seed)
    errors = _errors(subject, x, outcome.adversarial, request.rows)
    noise = _errors(subject, x, _anywhere(bound, x, Stream.of(seed, ids).at("layers")), request.rows)
    means = {name: float(error.mean()) for name, (_, error) in errors.items()}
    worst = most_vulnerable(means, deviations)
    layers = tuple(
        Layer(name, features, means[name], float(noise[name][1].mean()), name in worst) for name, (features, _) in errors.items()
    )
    return Sustainability(
        model=subject.name,
        data=examples.name,
        threat=threat,
        attack={"attack": attacks.name_of(chosen), **chosen.spec()},
        n=len(x),
        broken=int(outcome.broken.sum()),
        layers=layers,
        findings=tuple(findings),
    )


def _anywhere(threat: Threat, x: Tensor, stream: Stream) -> Tensor:
    return threat.apply(threat.random_point(x, stream), x)


@torch.no_grad()
def _errors(model: TorchModel, x: Tensor, attacked: Tensor, rows: int) -> dict[str, tuple[int, Tensor]]:
    """Of each layer the features of an example, and the relative errors [n]."""
    size = model.batch or rows
    features: dict[str, int] = {}
    found: dict[str, list[Tensor]] = {}
    for clean, moved in zip(x.split(size), attacked.split(size), strict=True):
        n = len(clean)
        phi = _seen(model, clean)
        for name, error in relative_errors(phi, _seen(model, moved)).items():
            features[name] = phi[name][0].numel()
            found.setdefault(name, []).append(error[:n].double().cpu())
    return {name: (features[name], torch.cat(parts)) for name, parts in found.items()}


def _seen(model: TorchModel, x: Tensor) -> dict[str, Tensor]:
    """Padded where the model takes one number of rows alone."""
    x = x.float().to(model.device)
    missing = 0 if model.batch is None else model.batch - len(x)
    return activations(model.module, torch.cat([x, x[:1].expand(missing, *x.shape[1:])]))[1]
