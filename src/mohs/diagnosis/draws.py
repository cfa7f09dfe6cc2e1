"""Signs in what the model does at a forward pass: draws, optimises, changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from mohs.diagnosis.bench import Bench
from mohs.diagnosis.sign import Evidence, Plot
from mohs.models import TorchModel

PASSES = 10  # over the same examples


def randomness(bench: Bench) -> Evidence:
    """The share of examples whose scores differ from pass to pass, 0 where the model declares its draws: those are averaged."""
    told = next((f.message.partition(";")[0] for f in bench.findings if f.code == "random"), None)
    if told is None:
        return Evidence(0.0, "repeated passes agree")
    margins = torch.stack([bench.margins(bench.rows) for _ in range(PASSES)])
    share = float((margins.amax(0) > margins.amin(0)).double().mean())
    plot = Plot(list(range(PASSES)), {f"example {i}": margins[:, i].tolist() for i in range(min(4, bench.n))}, "pass", "margin")
    if bench.declared:
        return Evidence(0.0, f"{told}, as it declares: attacks average over draws of its own", plot)
    return Evidence(share, f"{told}: a number from one draw is one of many, and its gradient that of another model", plot)


@torch.no_grad()
def inference(bench: Bench) -> Evidence:
    """Whether a forward pass computes gradients, though none were asked for, or changes the model."""
    module = bench.model.module if isinstance(bench.model, TorchModel) else None
    before = {} if module is None else {name: tensor._version for name, tensor in module.state_dict(keep_vars=True).items()}
    with _Watch() as watch:
        bench.model.logits(bench.rows[:4])
    after = {} if module is None else {name: tensor._version for name, tensor in module.state_dict(keep_vars=True).items()}
    changed = sorted(name for name in before if before[name] != after[name])
    if watch.learns:
        return Evidence(1.0, "a forward pass turns gradients on for itself: it optimises at inference")
    if changed:
        return Evidence(
            1.0, f"a forward pass changes the model ({', '.join(changed[:3])}): its answers depend on what came before"
        )
    return Evidence(0.0, "a forward pass neither optimises nor changes the model")


class _Watch(TorchFunctionMode):
    """Notes whether anything is computed with gradients on."""

    learns = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.learns |= torch.is_grad_enabled()
        return func(*args, **(kwargs or {}))
