"""A graph is handed out only if it computes what the net computes, at the sizes that it was recorded with and at others that it takes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from blocks.packing import unpacked
from blocks.registry.words import raised
from zoo.errors import InputError, Problem
from zoo.exporting.ports import Ports, flat

BOUND = 1e-4
"""How far a float32 graph may be off, relative to the largest output."""
TIMES = 20
"""Where the net itself is further from float64 than this allows, how many times its error a graph may have."""

Run = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


class OtherSizesError(InputError):
    """A graph computes what the net computes at the sizes that it was recorded with, and not at others that were to be free."""


def prove(run: Run, net: nn.Module, ports: Ports, subject: str) -> float:
    """The largest error of `run` against `net` in float64, relative to the largest output, over the examples and other sizes.

    Raises InputError where it is above `BOUND`, naming the sizes, and where `run` does not take them; OtherSizesError where those of the
    example are well."""
    exact = copy.deepcopy(unpacked(net)).double()
    worst = 0.0
    for number, inputs in enumerate([ports.examples, *ports.others()]):
        try:
            wanted = _computed(exact, tuple(x.double() if x.is_floating_point() else x for x in inputs))
            own = _computed(net, inputs)
        except Exception as error:
            if number > 1:
                continue  # sides that are multiples of nothing, which the net itself does not take
            if number == 1:
                raise _unequal(subject, inputs, f"a refusal of the net itself, {raised(error)}", 1) from error
            raise
        try:
            found = run(inputs)
        except Exception as error:
            raise _unequal(subject, inputs, f"a refusal, {raised(error)}", number) from error
        distance, least = relative_error(found, wanted), relative_error(own, wanted)
        if not distance <= max(BOUND, TIMES * least):
            raise _unequal(subject, inputs, f"outputs that differ by {distance:.1e} of the largest", number)
        worst = max(worst, distance)
    return worst


def relative_error(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    """The largest |found - wanted| / max |wanted| over all outputs; infinite for other shapes, and for what is no number."""
    worst = 0.0
    for one, exact in zip(found, wanted, strict=True):
        if one.shape != exact.shape:
            return float("inf")
        scale = float(exact.abs().max()) if exact.numel() else 0.0
        error = float((one.double() - exact).abs().max()) if exact.numel() else 0.0
        worst = max(worst, error / scale if scale else error) if error == error else float("inf")
    return worst


def _computed(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return flat(net(*inputs))


def _unequal(subject: str, inputs: tuple[Tensor, ...], found: str, number: int) -> InputError:
    sizes = " and ".join(str(tuple(x.shape)) for x in inputs)
    step = "leave fewer sizes free: `dynamic=('batch',)`, or `()`" if number else ""
    return (OtherSizesError if number else InputError)(
        subject, Problem(f"inputs of {sizes}", "the outputs of the net in float64", found, next=step)
    )
