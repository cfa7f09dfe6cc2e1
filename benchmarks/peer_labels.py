"""Label-only attacks of the peer libraries on one case, in the peers' own environment: prints distances, queries and seconds.

.peers/bin/python -m benchmarks.peer_labels PEER CASE QUERIES N
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time

import torch
from torch import Tensor, nn

from benchmarks.cases import case
from benchmarks.peer import Counted
from benchmarks.peer_minimal import distances

STEPS = {1000: 5, 5000: 17}  # of Foolbox's HopSkipJump: 1,000 and 5,200 queries


class Timed(Counted):
    """Counts the processor's seconds in the model too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.seconds = 0.0

    def forward(self, x: Tensor) -> Tensor:
        started = time.process_time()
        out = super().forward(x)
        self.seconds += time.process_time() - started
        return out


def facts(counted: Timed, model: nn.Module, x: Tensor, y: Tensor, adversarial: Tensor, seconds: float) -> dict:
    return {
        "distances": [round(d, 6) for d in distances("l2", model, x, adversarial, y)],
        "queries": counted.forwards / len(x),
        "processor_seconds": round(seconds, 2),
        "beyond_the_model": round(seconds - counted.seconds, 2),
        "microseconds_a_query_beyond": round((seconds - counted.seconds) / counted.forwards * 1e6, 1),
    }


def run(peer: str, counted: Timed, x: Tensor, y: Tensor, queries: int) -> Tensor:
    if peer == "art-geoda":
        import numpy
        from art.attacks.evasion import GeoDA
        from art.estimators.classification import PyTorchClassifier

        numpy.mat = numpy.asmatrix  # which numpy 2 has dropped
        os.chdir(tempfile.mkdtemp())  # where it leaves its basis
        wrapped = PyTorchClassifier(counted, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1), device_type="cpu")
        return torch.tensor(GeoDA(wrapped, batch_size=64, max_iter=queries, verbose=False).generate(x.numpy(), y.numpy()))
    import foolbox

    made = {
        "foolbox-hop-skip-jump": lambda: foolbox.attacks.HopSkipJumpAttack(steps=STEPS[queries]),
        "foolbox-boundary": lambda: foolbox.attacks.BoundaryAttack(steps=queries),
    }[peer]()
    return made(foolbox.PyTorchModel(counted, bounds=(0, 1), device="cpu"), x, y, epsilons=None)[1]


def main(peer: str, name: str, queries: str, n: str) -> None:
    model, x, y = case(name, int(n))
    torch.manual_seed(0)
    counted = Timed(model.eval())
    with torch.no_grad():
        model(x)  # the first call is slow
    started = time.process_time()
    adversarial = run(peer, counted, x.clone(), y.clone(), int(queries)).detach().float()
    print(json.dumps(facts(counted, model, x, y, adversarial, time.process_time() - started)))


if __name__ == "__main__":
    main(*sys.argv[1:])
