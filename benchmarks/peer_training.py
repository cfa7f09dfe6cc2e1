"""An epoch of adversarial training the public way: a plain loop around a peer's attack. One JSON line.

.peers/bin/python -m benchmarks.peer_training LIBRARY RECIPE

The Wong-Kolter network, 5,120 random images in batches of 128, linf:2/255, one thread; `pgd` takes 7 steps from a random start,
`fast` one. As these libraries say how: torchattacks sets the model to evaluation by itself; ART's trainers do the whole loop;
that of ART 1.20.1 for `fast` counts its hits over shapes that do not meet, and ends with an error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGES, BATCH, EPSILON, TIMES = 5120, 128, 2 / 255, 5


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def torchattacks_epoch(recipe: str, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    import torchattacks

    if recipe == "pgd":
        attack = torchattacks.PGD(model, eps=EPSILON, alpha=EPSILON / 4, steps=7)
    else:
        attack = torchattacks.FFGSM(model, eps=EPSILON, alpha=1.25 * EPSILON)
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        order = torch.randperm(len(x))
        for part in order.split(BATCH):
            adversarial = attack(x[part], y[part])
            optimiser.zero_grad()
            functional.cross_entropy(model(adversarial), y[part]).backward()
            optimiser.step()

    return epoch


def art_epoch(recipe: str, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    from art.defences.trainer import AdversarialTrainerFBFPyTorch, AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    wrapped = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, optimizer=optimiser, clip_values=(0, 1), device_type="cpu"
    )
    images, labels = x.numpy(), functional.one_hot(y).float().numpy()
    if recipe == "pgd":
        trainer = AdversarialTrainerMadryPGD(
            wrapped, nb_epochs=1, batch_size=BATCH, eps=EPSILON, eps_step=EPSILON / 4, max_iter=7
        )
        return lambda: trainer.fit(images, labels)
    fast = AdversarialTrainerFBFPyTorch(wrapped, eps=EPSILON)
    return lambda: fast.fit(images, labels, batch_size=BATCH, nb_epochs=1)


def main(library: str, recipe: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.rand(IMAGES, 3, 32, 32), torch.arange(IMAGES) % 10
    epoch = {"torchattacks": torchattacks_epoch, "art": art_epoch}[library](recipe, network(), x, y)
    spent = []
    for _ in range(TIMES + 1):
        started = time.process_time()
        epoch()
        spent.append(time.process_time() - started)
    print(json.dumps({"seconds": median(spent[1:]), "raw": spent}))


if __name__ == "__main__":
    main(*sys.argv[1:])
