"""The models of a request: the one under attack, the adversary's own, and those that threats are made with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from mohs.defend.table import shown
from mohs.errors import ModelError, RequestError
from mohs.models import Model, as_model, load_model
from mohs.models.autoencoder import fit_autoencoder, load_autoencoder
from mohs.models.blinding import COPIES, Blinding, trials
from mohs.models.checks import PROBES
from mohs.models.contract import Finding
from mohs.models.findings import warning
from mohs.models.http import HttpModel, load_endpoint
from mohs.models.perception import Perception, load_lpips
from mohs.request import Request, name_of
from mohs.threat import Knowledge, ManifoldThreat, NormThreat, PerceptualThreat, Threat

HONEST = 200  # queries by which a guard's false alarms are told
AnyModel = str | Model | nn.Module


def alone(model: AnyModel, x: Tensor, request: Request, answers: Path | None = None) -> Model:
    """The model of a request without its defences, which takes what they make of inputs x [n, *input]."""
    if request.defences and request.describe is not None:
        raise RequestError("an endpoint has its own defences: those of --with stand before models that run here")
    return load(model, shown(x[:PROBES].float(), request.defences, request.bounds), request, answers)


def load(model: str | Model | nn.Module, x: Tensor, request: Request, answers: Path | None = None) -> Model:
    """A Model from whatever was given."""
    if isinstance(model, str) and request.describe is not None:
        return load_http(model, request, answers)
    if not isinstance(model, str):
        return as_model(model, x, request.bounds, outputs=request.outputs)
    return load_model(
        model,
        x=x,
        bounds=request.bounds,
        outputs=request.outputs,
        device=request.device,
        trust_pickle=request.trust_pickle,
    )


def load_http(url: str, request: Request, answers: Path | None = None) -> HttpModel:
    """The endpoint of a request; RequestError where it is another's and nobody said that they may."""
    assert request.describe is not None
    endpoint = load_endpoint(request.describe, url)
    if not (endpoint.loopback or request.i_am_authorised):
        raise RequestError(
            f"{endpoint.host} is another machine: a probe sends it thousands of attacks. Say --i-am-authorised where whoever "
            "runs it has agreed to that"
        )
    return HttpModel(
        endpoint, bounds=request.bounds, rate=request.rate, total=request.total, spend=request.spend, answers=answers
    )


def load_surrogate(model: AnyModel, x: Tensor, request: Request) -> Model:
    """A surrogate that takes the same examples, and gives gradients."""
    try:
        loaded = load(model, x, request.model_copy(update={"describe": None}))
    except ModelError as error:
        raise ModelError(f"the surrogate {name_of(model)} does not fit: {error}") from error
    if loaded.gives < Knowledge.GRADIENT:
        raise ModelError(f"the surrogate {loaded.name} gives {loaded.gives}, and an attack is made on its gradients")
    return loaded


def facing(threat: Threat, model: Model, x: Tensor, request: Request) -> Threat:
    """A threat as one against the model: seen by the request's perceptual model, along the manifold of its autoencoder or of
    one fitted to x."""
    if isinstance(threat, PerceptualThreat) and request.perceptual_model is not None:
        threat = replace(threat, network=_eyes(request.perceptual_model, model, threat.layers, x, request))
    if isinstance(threat, ManifoldThreat) and threat.autoencoder is None:
        source = request.autoencoder
        made = fit_autoencoder(x, model.bounds, model.device) if source is None else load_autoencoder(source, model.device)
        threat = threat.given(made)
    return threat.facing(model)


def _eyes(source: str, model: Model, layers: tuple[str, ...], x: Tensor, request: Request) -> Perception:
    if source.startswith("lpips:"):
        return load_lpips(source.removeprefix("lpips:"), model.bounds, model.device)
    return load(source, x, request).perception(layers)


def check_aids(request: Request, threats: Iterable[Threat]) -> None:
    """RequestError where a network was given that no threat is made with."""
    names = [threat.name for threat in threats]
    for given, kind, what in (
        (request.perceptual_model, PerceptualThreat, "a perceptual model"),
        (request.autoencoder, ManifoldThreat, "an autoencoder"),
    ):
        if given is not None and kind.name not in names:
            raise RequestError(f"{what} is for the threat {kind.name}, and the threat is {', '.join(names)}: leave it out")


def check_grid(model: Model, threats: dict[str, Threat]) -> None:
    """RequestError where an endpoint rounds what a threat does not: another input would be judged than the one recorded."""
    bits = model.bits if isinstance(model, HttpModel) else None
    for text, threat in threats.items():
        if bits is not None and threat.constraints.bits != bits:
            raise RequestError(f"the endpoint takes {bits}-bit inputs, and so must the threat: say {text}+quantise:{bits}bit")


def evade(model: Model, threats: dict[str, Threat], x: Tensor, findings: list[Finding]) -> Blinding:
    """Noise under which a guard answers, by trial; what it does to honest clients and to queries that look alike is told."""
    if not isinstance(model, HttpModel) or model.endpoint.guard is None:
        raise RequestError("--adapt is for an endpoint whose description has a section [guard]: how a query is refused")
    for text, threat in threats.items():
        if not isinstance(threat, NormThreat) or threat.knowledge == Knowledge.TRANSFER:
            raise RequestError(f"--adapt blinds queries that move in a norm, and the threat is {text}")
    honest = model.logits(x[:HONEST].float()).isnan().any(1)
    tried = list(trials(model.logits, x.float(), model.bounds))
    first, last = tried[0], tried[-1]
    findings += [
        warning("guard", f"the guard refused {int(honest.sum())} of {len(honest)} honest queries"),
        warning(
            "guard",
            f"of {COPIES} copies of an example, {first.refused} were refused under noise of {first.blinding.size:.3g} on "
            f"{first.blinding.share:.0%} of the entries, and {last.refused} under {last.blinding.size:.3g} on "
            f"{last.blinding.share:.0%}, where {last.kept} of {COPIES - last.refused} kept their label"
            + (": queries go out under that" if last.refused == 0 else ": nothing tried passes, and queries go out under that"),
        ),
    ]
    return last.blinding
