"""Every block gets its first values when a model is given memory."""

from __future__ import annotations

import math

import pytest
import torch

import blocks
from zoo.build.init import initialise
from zoo.specs.check import Init
from zoo.testing.block_cases import Subject


@pytest.mark.parametrize("name", [name for name in blocks.list_blocks() if "/" not in name])
@torch.no_grad()
def test_block_built_on_meta_begins_in_fresh_memory(name: str) -> None:
    subject = Subject(name)
    module = subject.build(subject.spaces[0], device="meta").to_empty(device="cpu")
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(math.nan)
    initialise(module, Init())
    left = [name for name, tensor in module.state_dict().items() if not tensor.isfinite().all()]
    assert left == []
