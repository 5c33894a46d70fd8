"""A graph is handed out only if it computes what the net computes, at the sizes that it was recorded with and at others that it takes.

Rounding alone decides what a net answers to inputs that sit on an edge, as where two experts are all but as good for a token: there neither the
net in float32 nor its graph can be held to float64. Where a graph differs, it is therefore asked whether the net moves as much by itself;
then other inputs decide.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blocks.packing import unpacked
from blocks.registry.words import raised
from zoo.errors import InputError, Problem
from zoo.exporting.ports import Ports, flat

BOUND = 1e-4
"""How far a float32 graph may be off, relative to the largest output."""
STEADY = 1e-5
"""Up to so much a net may move, in float32 and by inputs (of tokens: parameters) that are `NUDGE` off, where a graph is held to `BOUND`."""
NUDGE = 1e-6
"""A share of an input's deviation that is some roundings in float32."""
DRAWS = 6
"""Inputs of the same sizes, one after the other, of which one has to show that a graph is equal."""
TIMES, CEILING = 20, 1e-2
"""Where all inputs move a net by itself, how many times its error in float32 a graph may have, and never more than a hundredth."""

Run = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


class OtherSizesError(InputError):
    """A graph computes what the net computes at the sizes that it was recorded with, and not at others that were to be free."""


class Proof(NamedTuple):
    """`error` is the largest difference from the net in float64, relative to the largest output, at the inputs that decided."""

    error: float
    is_edgy: bool
    """Whether there were inputs at which the net itself is as far off, so that others decided."""


def prove(run: Run, net: nn.Module, ports: Ports, subject: str) -> Proof:
    """How near `run` comes to `net` in float64, over the examples and other sizes.

    Raises InputError where it is further off than `BOUND`, naming the sizes, and where `run` does not take them; OtherSizesError where those of
    the example are well."""
    exact = copy.deepcopy(unpacked(net)).double()
    proofs = []
    for number, inputs in enumerate([ports.examples, *ports.others()]):
        try:
            answers(exact, inputs, torch.float64), answers(net, inputs)
        except Exception as error:
            if number > 1:
                continue  # sides that are multiples of nothing, which the net itself does not take
            if number == 1:
                raise _unequal(subject, inputs, f"a refusal of the net itself, {raised(error)}", 1) from error
            raise
        draws = itertools.chain([inputs], (ports.like(inputs, seed) for seed in range(2, DRAWS + 1)))
        proofs.append(_proof_at(run, net, exact, draws, number, subject))
    return Proof(max(proof.error for proof in proofs), any(proof.is_edgy for proof in proofs))


def _proof_at(
    run: Run, net: nn.Module, exact: nn.Module, draws: Iterable[tuple[Tensor, ...]], number: int, subject: str
) -> Proof:
    """The proof at some sizes, by the first inputs that decide: at which the graph is equal, or the net is steady. Without any the net itself is
    ill-conditioned, and the graph may be as far off as it."""
    least, allowed, refusal = math.inf, 0.0, None
    for count, inputs in enumerate(draws):
        wanted = answers(exact, inputs, torch.float64)
        try:
            found = run(inputs)
        except Exception as error:
            raise _unequal(subject, inputs, f"a refusal, {raised(error)}", number) from error
        distance = relative_error(found, wanted)
        if distance <= BOUND:
            return Proof(distance, count > 0)
        own = relative_error(answers(net, inputs), wanted)
        moved = max(own, *(relative_error(moved, wanted) for moved in around(exact, inputs)))
        if moved <= STEADY:
            raise _unequal(subject, inputs, f"outputs that differ by {distance:.1e} of the largest", number)
        if distance < least:
            least, allowed = distance, min(CEILING, TIMES * own)
            found_out = (
                f"outputs that differ by {distance:.1e} of the largest, and the net itself by {own:.1e} in float32"
            )
            refusal = _unequal(subject, inputs, found_out, number)
    if refusal is not None and not least <= allowed:
        raise refusal
    return Proof(least, True)


def around(exact: nn.Module, inputs: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """The outputs at inputs that are off by some roundings, to either side; where these are whole numbers, those of a net whose parameters are."""
    if not inputs[0].is_floating_point():
        for side in (1, -1):
            twin = copy.deepcopy(exact)
            parameters = [parameter for parameter in twin.parameters() if parameter.is_floating_point()]
            for parameter, moved in zip(parameters, nudged(tuple(parameters), side), strict=True):
                parameter.data = moved
            yield answers(twin, inputs, torch.float64)
    for side in (1, -1):
        yield answers(exact, nudged(inputs, side), torch.float64)


def nudged(inputs: tuple[Tensor, ...], side: int) -> tuple[Tensor, ...]:
    """Inputs whose numbers are off by some roundings, to one side (1) or the other (-1); whole numbers stay."""
    generator = torch.Generator().manual_seed(0)
    return tuple(_nudged(x, side, generator) if x.is_floating_point() else x for x in inputs)


def _nudged(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    x = x.detach().double()
    scale = float(x.square().mean().sqrt()) if x.numel() else 0.0
    return x + side * NUDGE * scale * torch.randn(x.shape, generator=generator, dtype=torch.float64)


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


def answers(net: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """All outputs of a net, computed in a dtype."""
    with torch.no_grad():
        return flat(net(*(x.to(dtype) if x.is_floating_point() else x for x in inputs)))


def _unequal(subject: str, inputs: tuple[Tensor, ...], found: str, number: int) -> InputError:
    sizes = " and ".join(str(tuple(x.shape)) for x in inputs)
    step = "leave fewer sizes free: `dynamic=('batch',)`, or `()`" if number else ""
    return (OtherSizesError if number else InputError)(
        subject, Problem(f"inputs of {sizes}", "the outputs of the net in float64", found, next=step)
    )
