"""Inputs of the form that a spec asks for, on meta, and drawn ones to try a model with."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.specs.inputs import (
    AnyInput,
    FramesInput,
    Ids,
    Mask,
    Named,
    NumbersInput,
    Places,
    SeriesInput,
    SpectrogramInput,
    TokenInput,
    VideoInput,
)
from zoo.specs.model import Described

DEFAULT_LENGTH = 128
"""Tokens in a trial run of a model that takes any number of them."""


def meta_input(spec: Described, batch: int = 1) -> Tensor:
    """The first input of the spec's form, on meta: images, clips, series, spectrograms, token ids, or numbers."""
    if isinstance(spec.input, TokenInput):
        return torch.empty(batch, *input_size(spec.input), dtype=torch.long, device="meta")
    if isinstance(spec.input, NumbersInput):
        return torch.empty(_shape(spec.input, batch), device="meta")
    if isinstance(spec.input, SpectrogramInput):
        return torch.empty(batch, spec.input.features, *input_size(spec.input), device="meta")
    if isinstance(spec.input, SeriesInput):
        return torch.empty(batch, *input_size(spec.input), spec.input.features, device="meta")
    frames = (spec.input.frames,) if isinstance(spec.input, VideoInput) else ()
    axes = (*frames, spec.input.channels) if isinstance(spec.input, FramesInput) else (spec.input.channels, *frames)
    return torch.empty(batch, *axes, *input_size(spec.input), device="meta")


def meta_inputs(spec: Described, batch: int = 1) -> tuple[Tensor, ...]:
    """All inputs of a call in their order, on meta."""
    types = {Ids: torch.long, Mask: torch.bool}
    beside = (torch.empty(_shape(named, batch), dtype=types.get(type(named)), device="meta") for named in spec.inputs)
    return (meta_input(spec, batch), *beside)


def drawn_inputs(
    spec: Described, batch: int = 1, seed: int = 0, device: str | torch.device = "cpu"
) -> tuple[Tensor, ...]:
    """All inputs of a call in their order, at random: normal numbers, ids of all kinds alike, masks that hide nothing.

    Numbers beside the first input lie between 0 and 1, as times do, places within their span."""
    generator = torch.Generator(device).manual_seed(seed)
    first = torch.empty_like(meta_input(spec, batch), device=device)
    if isinstance(spec.input, TokenInput):
        first.random_(0, spec.input.vocab_size, generator=generator)
    else:
        first.normal_(generator=generator)
    drawn = [first.contiguous(memory_format=torch.channels_last) if first.ndim == 4 else first]
    for named, empty in zip(spec.inputs, meta_inputs(spec, batch)[1:], strict=True):
        x = torch.empty_like(empty, device=device)
        if isinstance(named, Ids):
            x.random_(0, named.count, generator=generator)
        elif isinstance(named, Mask):
            x.fill_(True)
        else:
            x.uniform_(0, named.span if isinstance(named, Places) else 1, generator=generator)
        drawn.append(x)
    return tuple(drawn)


def has_samples(spec: Described) -> bool:
    """Whether a call takes several samples, on an axis of their own; the atoms of molecules lie behind each other instead."""
    return not isinstance(spec.input, NumbersInput) or "batch" in spec.input.shape


def input_size(declared: AnyInput) -> tuple[int, ...]:
    """(H, W) of the images, (L,) of the token sequences and series, or the axes of the numbers, that a model is made for."""
    if isinstance(declared, (TokenInput, SeriesInput)):
        return (declared.length or DEFAULT_LENGTH,)
    if isinstance(declared, NumbersInput):
        return tuple(axis for axis in declared.shape if isinstance(axis, int))
    return (declared.size, declared.size) if isinstance(declared.size, int) else (declared.size[0], declared.size[1])


def _shape(declared: NumbersInput | Named, batch: int) -> tuple[int, ...]:
    return tuple(batch if axis == "batch" else int(axis) for axis in declared.shape)
