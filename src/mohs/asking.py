"""One question to a model and its answer: a forward pass of a few candidates and the backward passes wanted. Who may ask,
and what it costs, is the Oracle's business."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mohs.aim import Aim
from mohs.errors import Refused
from mohs.losses import Loss
from mohs.models.batched import Batched
from mohs.rng import Stream
from mohs.threat import Goal, Knowledge, Threat

NOTHING = torch.empty(0)

Transform = Callable[[Tensor, Stream], Tensor]  # inputs [n, *input] and the streams of their rows -> inputs


class Answer(NamedTuple):
    """Of each candidate; zeros where its row is closed. margin, loss [n]; logits [n, classes]; gradient [n, *point], or
    [n, K, *point] of a jacobian. What was not asked for is empty."""

    margin: Tensor
    logits: Tensor
    loss: Tensor = NOTHING
    gradient: Tensor = NOTHING


class Question(NamedTuple):
    """want: a loss, the classes [n, K] of a jacobian, or nothing, which of gradients asks for logits with their graph.
    transform: a change of the input on its way to the model."""

    model: Batched
    level: Knowledge
    want: Loss | Tensor | None = None
    transform: Transform | None = None

    @property
    def backwards(self) -> int:
        """Backward passes a candidate."""
        if self.level < Knowledge.GRADIENT or self.traced:
            return 0
        return self.want.shape[1] if isinstance(self.want, Tensor) else 1

    @property
    def traced(self) -> bool:
        """Whether the gradient is left to whoever asks."""
        return self.level == Knowledge.GRADIENT and self.want is None

    def about(self, candidates: Tensor | slice) -> Question:
        """The question about these candidates alone."""
        return self._replace(want=self.want[candidates]) if isinstance(self.want, Tensor) else self

    def blank(self, p: Tensor, classes: int) -> Answer:
        """The answer where all rows are closed."""
        zeros = p.new_zeros(len(p))
        shape = (len(p), self.want.shape[1], *p.shape[1:]) if isinstance(self.want, Tensor) else p.shape
        return Answer(zeros, p.new_zeros(len(p), classes), zeros, p.new_zeros(shape))


class Candidates(NamedTuple):
    """Points [n, *point], and of their rows: clean inputs [n, *input], aims and streams."""

    point: Tensor
    x0: Tensor
    aim: Aim
    stream: Stream


def ask(question: Question, threat: Threat, goal: Goal, c: Candidates, draws: list[Stream] | None = None) -> Answer:
    """The mean of the answers over `draws`, each one's stream for a random model and threat; without, of one pass."""
    if draws is None:
        return _once(question, threat, goal, c)
    with torch.random.fork_rng():
        return _mean([_drawn(question, threat, goal, c._replace(stream=draw)) for draw in draws])


def _drawn(question: Question, threat: Threat, goal: Goal, c: Candidates) -> Answer:
    torch.manual_seed(int(c.stream.keys[0]))  # a random module draws from torch's own generator
    model = question.model
    drawn = replace(model, model=model.model.drawn(c.stream.at("model")))
    return _once(question._replace(model=drawn), threat, goal, c, c.stream)


def _once(question: Question, threat: Threat, goal: Goal, c: Candidates, draw: Stream | None = None) -> Answer:
    model, level, want, transform = question

    def shown(point: Tensor) -> Tensor:
        x = threat.apply(point, c.x0, draw)
        return x if transform is None else transform(x, c.stream)

    if level < Knowledge.GRADIENT:
        with torch.no_grad():
            logits = model.scores(shown(c.point))
            loss = NOTHING if want is None or isinstance(want, Tensor) else want(goal.heard(logits, c.aim), c.aim)
        return Answer(goal.margin(logits, c.aim), logits, loss)
    point = c.point if question.traced else c.point.detach().requires_grad_()
    with torch.enable_grad():
        logits = model.logits(shown(point))
        if not logits.requires_grad:
            raise Refused(f"the model {model.model.name} gives no gradient: its output does not depend on the input")
        if question.traced:
            return Answer(goal.margin(logits.detach(), c.aim), logits)
        if isinstance(want, Tensor):
            columns = [torch.autograd.grad(z.sum(), point, retain_graph=True)[0] for z in logits.gather(1, want).unbind(1)]
            loss, gradient = NOTHING, torch.stack(columns, 1)
        else:
            assert want is not None
            loss = want(goal.heard(logits, c.aim), c.aim)
            gradient = torch.autograd.grad(loss.sum(), point)[0].contiguous()
    logits = logits.detach()
    return Answer(goal.margin(logits, c.aim), logits, loss.detach(), gradient)


def cat(parts: list[Answer]) -> Answer:
    return Answer(*(torch.cat(column) for column in zip(*parts, strict=True)))


def scatter(answer: Answer, index: Tensor, n: int) -> Answer:
    """The answers of the candidates asked about, among n."""
    return Answer(*(v.new_zeros(n, *v.shape[1:]).index_copy_(0, index, v) if len(v) else v for v in answer))


def _mean(parts: list[Answer]) -> Answer:
    return Answer(*(torch.stack(column).mean(0) for column in zip(*parts, strict=True)))
