"""A width that leaves no channels is a sentence when a block is made, not an empty tensor, and not another width in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import blocks
import zoo
from blocks.attention.heads import check_divides
from blocks.chain import run
from blocks.construct import construct
from blocks.linear_attention.retention import Retention
from blocks.mlp.mlp import Mlp
from blocks.registry.errors import BlockError
from blocks.registry.slots import Place
from blocks.signature import NO_CHANNELS
from zoo.errors import SpecError
from zoo.testing.block_cases import Subject

MIXERS = [
    name for kind in ("token_mixer", "channel_mixer") for name in blocks.list_blocks(kind=kind) if "/" not in name
]

SMALL = {"ngram_context": {"window": 2}}
"""What a mixer is told that needs several windows on a map of 4 x 4."""


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_is_sound_or_refused_at_every_small_width(name: str) -> None:
    subject = Subject(name)
    numbers = [key for key, param in subject.info.params.items() if "'number'" in str(param.schema)]
    size = {"image": (4, 4), "video": (2, 4, 4)}.get(subject.spaces[0], (16,))
    for dim in (1, 3, 4, 16):
        place = Place("subject", sizes=lambda: size, stage_dims=(dim,) * 4)
        for change in (
            {},
            *({key: 0.01} for key in numbers),
            *({"num_heads": 64} for _ in [0] if "num_heads" in subject.info.params),
        ):
            call: dict[str, Any] = {**subject.call, **SMALL.get(name, {}), **change}
            try:
                mixer = construct(call, place, dim, dim)
            except BlockError:
                continue
            assert mixer is not None
            assert all(parameter.numel() for parameter in mixer.parameters())
            with torch.no_grad():
                y = run(mixer.eval(), torch.randn(2, dim, *size) if size != (16,) else torch.randn(2, 16, dim))
            assert y.isfinite().all(), call


def test_no_keys_are_told_where_a_spec_is_checked() -> None:
    with pytest.raises(SpecError, match=r"block `gla` cannot be built here: .*leaves? (it )?no channels"):
        zoo.create("gla_nano", {"**.<gla>.expand_k": 0.001}, device="meta")


def test_the_sentences_of_constructors(refused: Any) -> None:
    with refused("expand_k * dim is 0, which leaves no channels; it should be 8 at least"):
        Retention(64, expand_k=0.001)
    with refused(f"{NO_CHANNELS} (its `dense` of 4 channels would give 0)"):
        Mlp(4, ratio=0.1)
    with refused("dim is 0, which leaves no channels; it should be 2 at least"):
        check_divides("num_heads", 2, "dim", 0)
