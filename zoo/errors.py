"""The zoo's typed errors. Each carries its problems as data (`.problems`) and prints them as sentences."""

from __future__ import annotations

from blocks.registry.errors import BlockError, Problem, ProblemsError, listed, nearest

__all__ = [
    "BlockError",
    "InputError",
    "Problem",
    "ProblemsError",
    "SpecError",
    "UnknownModelError",
    "WeightsError",
    "listed",
    "nearest",
]


class SpecError(ProblemsError):
    """A spec cannot be read, resolved, checked or built. All problems of a phase at once."""


class UnknownModelError(SpecError, KeyError):
    """No model of that name; carries the nearest one."""

    __str__ = ValueError.__str__  # KeyError would print the message in quotes


class WeightsError(ProblemsError):
    """Weights are missing, are not the bytes of their manifest, or do not fit the model; nothing was loaded."""


class InputError(ProblemsError):
    """What the user handed in (an image, a file, an option) cannot be used."""
