"""Attacks of the table as inner maximisations: on the network as it is at each step, not on a copy."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mohs.attacks.base import Attack
from mohs.geometry import per_row
from mohs.models import Prepared, TorchModel
from mohs.models.frozen import crafting
from mohs.models.perception import Perception
from mohs.models.prepared import Guide, Judge
from mohs.oracle import Oracle
from mohs.threat import Threat, Untargeted
from mohs.train.batch import Batch


class Trained(TorchModel):
    """A network that is being trained."""

    def perception(self, layers: tuple[str, ...] = ()) -> Perception:
        return Perception(self.module, layers, name=self.name, live=True)


def facing(threat: Threat, network: nn.Module) -> Threat:
    """The threat as one against a network that is being trained."""
    return threat.facing(Trained(network, classes=0, bounds=threat.bounds))


def attacked_by(attack: Attack, batch: Batch) -> Tensor:
    """The points [n, *point] of largest cross-entropy at which the tries of an attack end: with no stop at a success, on the raw
    network in evaluation mode, in one micro-batch. Those of a minimal attack are its nearest successes, judged by the same
    network, and its last points, projected, where it has none."""
    threat, n = batch.threat, len(batch.x0)
    point, highest = threat.origin(batch.x0), torch.full((n,), -torch.inf, device=batch.x0.device)
    with crafting(batch.network):
        with torch.no_grad():
            reference = batch.network(batch.x0)
        model = Trained(batch.network, classes=reference.shape[1], bounds=threat.bounds)
        prepared = Prepared(Judge(model, n, 1), Guide(model, n, 1))
        oracle = Oracle.begin(
            prepared, threat, Untargeted(), batch.x0, batch.y, ids=batch.rows, reference=reference, stop=False, keep_closest=False
        )
        roams = attack.minimal or attack.roams
        oracle = replace(oracle, stream=batch.stream.at("attack"), judged=attack.minimal, roams=roams)
        for number, aim in enumerate(attack.tries(oracle)):
            part, ended = oracle.attempt(aim, number), point.clone()
            ended[part.ids] = attack.run(part, part.x0, threat)
            if attack.minimal:
                ended = threat.project(ended, batch.x0)
                ended = torch.where(per_row(oracle.best.broken, ended), oracle.best.point, ended)
            with torch.no_grad():
                loss = batch.misled(batch.network(batch.shown(ended)))
            point = torch.where(per_row(loss > highest, point), ended, point)
            highest = torch.maximum(loss, highest)
    return point
