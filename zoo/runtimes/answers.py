"""What nets answer to the evidence, batch by batch, and the loss of one against another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.runtimes.evidence import Evidence
from zoo.runtimes.judging import Call, drawn
from zoo.runtimes.loss import ENOUGH, Loss, changed_answers, is_hopeless, paired_loss, perplexity_rise, relative_error


class Pair(NamedTuple):
    """Outputs (B, …) of the float32 net and of another to the same inputs, and the classes, or the tokens that follow, where they are known."""

    before: Tensor
    after: Tensor
    labels: Tensor | None


class Comparison:
    """The float32 net beside others; its own outputs are computed once."""

    def __init__(self, reference: Call, evidence: Evidence, has_classes: bool):
        self.reference, self.evidence, self.has_classes = reference, evidence, has_classes
        self._outputs: list[Tensor] = []

    def loss(self, call: Call, max_loss: float, is_over: Callable[[], bool] = lambda: False) -> Loss:
        """The loss of a net. What need not be known is not counted: it ends where the bound cannot hold any more, or when `is_over` says so."""
        if self.reference.signature.kind == "language":
            rises = [_rises(pair) for pair in _until(self._pairs(call), is_over)]
            return perplexity_rise(torch.cat(rises), self.evidence.what)
        if not self.has_classes:
            errors = [_errors(pair) for pair in _until(self._pairs(call), is_over)]
            return relative_error(torch.cat(errors), self.evidence.what)
        before: list[Tensor] = []
        after: list[Tensor] = []
        changed = answered = 0
        for pair in _until(self._pairs(call), is_over):
            ours, theirs = _classes(pair.before), _classes(pair.after)
            if pair.labels is not None:
                ours, theirs = ours == pair.labels, theirs == pair.labels
            before.append(ours)
            after.append(theirs)
            changed, answered = changed + int((ours != theirs).sum()), answered + ours.numel()
            most = max(ENOUGH, self.evidence.size * ours.numel() // len(pair.before))
            if pair.labels is None and is_hopeless(changed, answered, most, max_loss):
                break
        count = paired_loss if self.evidence.labels is not None else changed_answers
        return count(torch.cat(before), torch.cat(after), self.evidence.what)

    def _pairs(self, call: Call) -> Iterator[Pair]:
        ours, theirs = (drawn(one.signature, seed=0)[1:] for one in (self.reference, call))
        for number, (x, labels) in enumerate(self.evidence.batches(call.signature.inputs[0].example[0])):
            if number == len(self._outputs):
                self._outputs.append(self.reference(x, *ours)[0].clone())
            yield Pair(self._outputs[number], call(x, *theirs)[0], labels)


def _until(pairs: Iterator[Pair], is_over: Callable[[], bool]) -> Iterator[Pair]:
    """Pairs until it is over; one at least."""
    for pair in pairs:
        yield pair
        if is_over():
            return


def _classes(outputs: Tensor) -> Tensor:
    """The likeliest class of each output: (N,) of (B, classes), of (B, L, classes) with N = B L, and of maps (B, classes, H, W) with
    N = B H W. NaN is no class: -1."""
    outputs = outputs.movedim(1, -1) if outputs.ndim == 4 else outputs
    flat = outputs.reshape(-1, outputs.shape[-1])
    return torch.where(flat.isnan().any(-1), -1, flat.argmax(-1))


def _rises(pair: Pair) -> Tensor:
    """Nats (B,) that a token of each sequence costs more: of the text where it is known (`labels` (B, L - 1), what follows), else of what
    the float32 net itself would write, sum_v p_v (log p_v - log q_v)."""
    before, after = pair.before.double().log_softmax(-1), pair.after.double().log_softmax(-1)
    if pair.labels is None:
        return (before.exp() * (before - after)).sum(-1).mean(1)
    next_one = pair.labels.unsqueeze(-1)
    return (before[:, :-1].gather(-1, next_one) - after[:, :-1].gather(-1, next_one)).squeeze(-1).mean(1)


def _errors(pair: Pair) -> Tensor:
    """|after - before| / |before| of each input, in root mean square."""
    before, after = pair.before.flatten(1).double(), pair.after.flatten(1).double()
    return (after - before).norm(dim=1) / before.norm(dim=1).clamp_min(1e-30)
