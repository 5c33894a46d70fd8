"""Every block gets its first values when a model is given memory."""

from __future__ import annotations

import math

import torch

import blocks
from zoo.build.init import initialise
from zoo.specs.check import Init
from zoo.testing.block_cases import Subject


@torch.no_grad()
def test_blocks_built_on_meta_begin_in_fresh_memory() -> None:
    for subject in (Subject(name) for name in blocks.list_blocks() if "/" not in name):
        module = subject.build(subject.spaces[0], device="meta").to_empty(device="cpu")
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(math.nan)
        initialise(module, Init())
        left = [key for key, tensor in module.state_dict().items() if not tensor.isfinite().all()]
        assert left == [], subject.name
