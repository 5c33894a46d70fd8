"""Inputs of the form that a spec asks for, on meta."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.specs.check import AnyInput, SeriesInput, TokenInput, VideoInput
from zoo.specs.model import Spec

DEFAULT_LENGTH = 128
"""Tokens in a trial run of a model that takes any number of them."""


def meta_input(spec: Spec, batch: int = 1) -> Tensor:
    """An input of the spec's form, on meta: images, clips, series, or token ids."""
    if isinstance(spec.input, TokenInput):
        return torch.empty(batch, *input_size(spec.input), dtype=torch.long, device="meta")
    if isinstance(spec.input, SeriesInput):
        return torch.empty(batch, *input_size(spec.input), spec.input.features, device="meta")
    frames = (spec.input.frames,) if isinstance(spec.input, VideoInput) else ()
    return torch.empty(batch, spec.input.channels, *frames, *input_size(spec.input), device="meta")


def input_size(declared: AnyInput) -> tuple[int, ...]:
    """(H, W) of the images, or (L,) of the token sequences and series, that a model is made for."""
    if isinstance(declared, (TokenInput, SeriesInput)):
        return (declared.length or DEFAULT_LENGTH,)
    return (declared.size, declared.size) if isinstance(declared.size, int) else (declared.size[0], declared.size[1])
