"""What a lower precision costs in right answers, measured: on labelled pictures as a difference, or else as answers that change.

A share of answers that change bounds the loss: no more right answers can be lost than change. It is the stricter measure, and wants no
labels. Both come with a 95 % interval, and a precision is taken when the upper end of it is at most what was allowed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.weights.stats import Z95, wilson_interval

DEFAULT_MAX_LOSS = 0.005
"""Half a point of right answers."""
ENOUGH = 768
"""Answers of which none may change for the upper end to be half a point: n / (n + z^2) > 0.995."""


class Loss(NamedTuple):
    """Shares of all answers: `value` was found, and the true one lies between `low` and `high` nineteen times in twenty."""

    value: float
    low: float
    high: float
    of: str
    """What it was counted on, as the report says it: `359 labelled pictures`."""

    def sentence(self) -> str:
        """`0.28 points lost (-0.10 to 0.66) of 1,795 labelled pictures`."""
        return f"{100 * self.value:.2f} points ({100 * self.low:.2f} to {100 * self.high:.2f}) of {self.of}"


def paired_loss(before: Tensor, after: Tensor, what: str) -> Loss:
    """Right answers lost: before, after are bool (N,), whether the same N answers were right.

    (lost - gained) / N, with the adjusted interval of Agresti and Min (2005): half an answer is added to each of the four cells, so that
    it has a width where no answer changed. Raises ValueError for no answers."""
    n = before.numel()
    if n < 1 or after.shape != before.shape:
        raise ValueError(f"expected pairs of answers; found {n} and {after.numel()}")
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    cells, b, c = n + 2, lost + 0.5, gained + 0.5
    centre = (b - c) / cells
    margin = Z95 * math.sqrt(max(0.0, (b + c) / cells - centre**2) / cells)
    return Loss((lost - gained) / n, centre - margin, centre + margin, f"{n:,} {what}")


def changed_answers(before: Tensor, after: Tensor, what: str) -> Loss:
    """Answers that differ: before, after are classes (N,). The interval is Wilson's."""
    changed, n = int((before != after).sum()), before.numel()
    low, high = wilson_interval(changed, n)
    return Loss(changed / n, low, high, f"{n:,} answers to {what}, whose changes are counted")


def is_hopeless(changed: int, n: int, most: int, max_loss: float) -> bool:
    """Whether so many changes among the first n of `most` answers already say that the bound will not hold, whatever follows."""
    return wilson_interval(changed, max(n, most))[1] > max_loss


def natural_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Pictures (N, C, H, W) as nature's are in the mean: noise whose amplitude falls with the frequency as 1 / f.

    Each has a brightness and a contrast of its own, and channels that agree by two thirds; over all the mean is 0 and the deviation
    about 1, as of pictures that were normalised."""
    count, channels, rows, columns = shape
    y, x = torch.fft.fftfreq(rows), torch.fft.rfftfreq(columns)
    frequency = (y[:, None] ** 2 + x[None, :] ** 2).sqrt().clamp_min(1 / max(rows, columns))
    common = torch.randn(count, 1, rows, columns, generator=generator)
    noise = 0.8 * common + 0.6 * torch.randn(count, channels, rows, columns, generator=generator)
    pictures = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(rows, columns))
    pictures = (pictures - pictures.mean((1, 2, 3), True)) / pictures.std(
        (1, 2, 3), keepdim=True, unbiased=False
    ).clamp_min(1e-6)
    contrast = 0.4 + 1.2 * torch.rand(count, 1, 1, 1, generator=generator)
    return 0.8 * contrast * pictures + 0.5 * torch.randn(count, 1, 1, 1, generator=generator)


def perplexity_rise(rises: Tensor, what: str) -> Loss:
    """By which share the perplexity rises: exp(mean) - 1 of nats (N,) more for each token, one mean for each sequence, with the interval
    of their mean."""
    mean, n = float(rises.mean()), rises.numel()
    margin = Z95 * float(rises.std()) / math.sqrt(n) if n > 1 else abs(mean)
    of = f"{n:,} sequences of {what}, as the rise of their perplexity"
    return Loss(math.expm1(mean), math.expm1(mean - margin), math.expm1(mean + margin), of)


def relative_error(errors: Tensor, what: str) -> Loss:
    """The loss of outputs that are no classes: the mean of each input's |y - expected| / |expected| (N,), with the interval of a mean."""
    mean, n = float(errors.mean()), errors.numel()
    margin = Z95 * float(errors.std()) / math.sqrt(n) if n > 1 else mean
    return Loss(mean, max(0.0, mean - margin), mean + margin, f"{n:,} outputs to {what}, as their relative error")
