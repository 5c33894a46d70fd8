"""What nets answer to the evidence, batch by batch, and the loss of one against another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.runtimes.evidence import Evidence
from zoo.runtimes.judging import Call
from zoo.runtimes.loss import ENOUGH, Loss, changed_answers, is_hopeless, paired_loss, perplexity_rise, relative_error
from zoo.runtimes.net import first_state

MOST_KEPT = 2**28
"""Bytes of the float32 net's outputs that are kept for the next comparison; what is beyond is computed again."""

Tensors = tuple[Tensor, ...]


class Pair(NamedTuple):
    """All outputs, the first of which is (B, …), of the float32 net and of another to the same inputs, and the classes, or the tokens that
    follow, where they are known."""

    before: Tensors
    after: Tensors
    labels: Tensor | None


class Comparison:
    """The float32 net beside others; its own outputs are computed once."""

    def __init__(self, reference: Call, evidence: Evidence, has_classes: bool):
        self.reference, self.evidence, self.has_classes = reference, evidence, has_classes
        self._outputs: list[Tensors] = []
        self._kept = 0

    def loss(self, call: Call, max_loss: float, is_over: Callable[[], bool] = lambda: False) -> Loss:
        """The loss of a net. What need not be known is not counted: it ends where the bound cannot hold any more, or when `is_over` says so."""
        if self.reference.signature.kind == "language":
            rises = [_rises(pair) for pair in _until(self._pairs(call), is_over)]
            return perplexity_rise(torch.cat(rises), self.evidence.what)
        if not self.has_classes:
            errors = [_errors(pair, call.signature.samples) for pair in _until(self._pairs(call), is_over)]
            return relative_error(torch.cat(errors), self.evidence.what)
        before: list[Tensor] = []
        after: list[Tensor] = []
        changed = answered = 0
        for pair in _until(self._pairs(call), is_over):
            ours, theirs = _classes(pair.before[0]), _classes(pair.after[0])
            if pair.labels is not None:
                ours, theirs = ours == pair.labels, theirs == pair.labels
            before.append(ours)
            after.append(theirs)
            changed, answered = changed + int((ours != theirs).sum()), answered + ours.numel()
            most = max(ENOUGH, self.evidence.size * ours.numel() // len(pair.before[0]))
            if pair.labels is None and is_hopeless(changed, answered, most, max_loss):
                break
        count = paired_loss if self.evidence.labels is not None else changed_answers
        return count(torch.cat(before), torch.cat(after), self.evidence.what)

    def _pairs(self, call: Call) -> Iterator[Pair]:
        ours, theirs = (first_state(one.signature.state, one.signature.samples) for one in (self.reference, call))
        for number, (inputs, labels) in enumerate(self.evidence.batches(call.signature.samples)):
            before = self._before(number, (*inputs, *ours))
            yield Pair(before, _outputs(call, (*inputs, *theirs)), labels)

    def _before(self, number: int, tensors: Tensors) -> Tensors:
        """What the float32 net answers to a batch, kept for the next comparison while there is room."""
        if number < len(self._outputs):
            return self._outputs[number]
        outputs = tuple(y.clone() for y in _outputs(self.reference, tensors))
        self._kept += sum(y.nbytes for y in outputs)
        if number == len(self._outputs) and self._kept <= MOST_KEPT:
            self._outputs.append(outputs)
        return outputs


def _outputs(call: Call, tensors: Tensors) -> Tensors:
    """What a net answers, without the leaves of its state."""
    return tuple(call(*tensors)[: len(call.signature.outputs)])


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
    before, after = (y[0].double().log_softmax(-1) for y in (pair.before, pair.after))
    if pair.labels is None:
        return (before.exp() * (before - after)).sum(-1).mean(1)
    next_one = pair.labels.unsqueeze(-1)
    return (before[:, :-1].gather(-1, next_one) - after[:, :-1].gather(-1, next_one)).squeeze(-1).mean(1)


def _errors(pair: Pair, samples: int) -> Tensor:
    """|after - before| / |before| of each sample (B,), in root mean square, of the output that is furthest off; (1,) where outputs are not of
    single samples."""
    apart = all(y.ndim and len(y) == samples for y in pair.before)
    errors = []
    for before, after in zip(pair.before, pair.after, strict=True):
        before, after = (y.double().reshape(samples if apart else 1, -1) for y in (before, after))
        errors.append((after - before).norm(dim=1) / before.norm(dim=1).clamp_min(1e-30))
    return torch.stack(errors).amax(0)
