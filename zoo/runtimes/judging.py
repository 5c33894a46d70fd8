"""Whether a compiled net computes what the model does: held against the train form in float64, on two batches.

In float32 a candidate may be off by as much as the model itself is in float32, times a small factor, since it adds in another order. In
lower precisions this only refuses what is broken; what they cost is measured by `zoo.runtimes.loss`. Other sizes than the example's are no
matter here: a runtime that says that it takes them has shown it when it compiled.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from zoo.measure.worker import free_memory
from zoo.runtimes.drawing import drawn
from zoo.runtimes.net import Flat
from zoo.runtimes.signature import Signature

Tensors = tuple[Tensor, ...]

FACTOR = 16.0
"""How many times the model's own error in float32 a candidate's may be: sums in another order, kernels with other series."""
FLOOR, CEILING = 2e-5, 1e-2
"""The bound is never below or above these: a net of three layers has hardly any error, and a badly scaled one no bound that means much."""
BROKEN = 0.5
"""Error of a lower precision, as a share of the largest output, that is none of rounding."""
BATCHES, MOST_BATCHES = 2, 8
"""So many batches decide, the steadiest of so many where rounding decides what the model answers to the first ones."""
EDGE = 1e-4
"""The error of the model in float32 above which an input sits on an edge, as where two experts are all but as good for a token."""


class _Tried(NamedTuple):
    """A batch, the answers in float64, and the error of the model in float32."""

    inputs: Tensors
    expected: Tensors
    own: float


class Call(Protocol):
    """Flat tensors in, as its signature lists them, and flat tensors out: a session, or a `Flat` net."""

    signature: Signature

    def __call__(self, *arrays: Tensor) -> Sequence[Tensor]: ...


class Judge:
    """What the train form answers, in eval mode, in float64 where that fits into memory, and how far off a candidate may be.

    `own` is the error of the model itself in float32, and `bound` what a float32 candidate is allowed."""

    def __init__(self, model: nn.Module, signature: Signature):
        self.is_exact = fits_double(model)
        flat = Flat(copy.deepcopy(model) if self.is_exact else model, signature).eval()
        tried = self._tried(flat, range(BATCHES))
        if max(each.own for each in tried) > EDGE:
            tried = sorted([*tried, *self._tried(flat, range(BATCHES, MOST_BATCHES))], key=lambda each: each.own)
        kept = tried[:BATCHES]
        self.batches, self.expected = [each.inputs for each in kept], [each.expected for each in kept]
        self.own = max(each.own for each in kept)
        self.bound = min(max(FACTOR * self.own, FLOOR), CEILING)

    def _tried(self, flat: Flat, seeds: range) -> list[_Tried]:
        """Batches with what the model answers in float64, and how far off it is in float32. Leaves the model in float64, if it is a copy."""
        batches = [drawn(flat.signature, seed) for seed in seeds]
        with torch.inference_mode():
            if self.is_exact:
                flat.float()
            own = [tuple(y.double() for y in flat(*batch)) for batch in batches]
            if not self.is_exact:
                return [_Tried(batch, y, 0.0) for batch, y in zip(batches, own, strict=True)]
            flat.double()
            exact = [tuple(y.double() for y in flat(*map(_widened, batch))) for batch in batches]
        errors = [max(map(distance, y, wanted)) for y, wanted in zip(own, exact, strict=True)]
        return [_Tried(*each) for each in zip(batches, exact, errors, strict=True)]

    def error(self, call: Call) -> float:
        """The largest max |y - expected| / max |expected| of all outputs and batches; infinite where one is not finite or has another
        shape. Of a call whose signature lists fewer tensors than the model's, those."""
        counts = len(call.signature.input_names), len(call.signature.output_names)
        largest = 0.0
        with torch.inference_mode():
            for batch, wanted in zip(self.batches, self.expected, strict=True):
                outputs = call(*batch[: counts[0]])
                if len(outputs) != counts[1]:
                    return math.inf
                largest = max(largest, *(distance(y, expected) for y, expected in zip(outputs, wanted, strict=False)))
        return largest

    def refusal(self, error: float, precision: str) -> str:
        """Why a candidate with this error is refused; "" where it is not."""
        if not math.isfinite(error):
            return "its outputs are not finite, or not of the shapes of the model's"
        bound = self.bound if precision == "float32" else BROKEN
        if error <= bound:
            return ""
        return f"its outputs are off by {error:.1e} of the largest, and {bound:.1e} is the limit"


def _widened(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def distance(y: Tensor, expected: Tensor) -> float:
    """max |y - expected| / max |expected| in float64; infinite for another shape and for what is not finite."""
    if y.shape != expected.shape or not bool(torch.isfinite(y).all()):
        return math.inf
    if not expected.numel():
        return 0.0
    largest = float(expected.abs().max())
    return float((y.double() - expected).abs().max()) / max(largest, 1e-30)


def fits_double(model: nn.Module) -> bool:
    """Whether a copy of the model in float64 fits into half of the memory that is free."""
    needed = sum(8 * tensor.numel() for tensor in model.state_dict().values())
    free = free_memory("cpu")
    return not free or needed < free / 2
