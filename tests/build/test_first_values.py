"""Every block gets its first values when a model is given memory."""

from __future__ import annotations

import math

import pytest
import torch

import blocks
import zoo
from blocks.structured.dynamic_low_rank import DynamicLowRank
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["jei_dnn_nano", "lego_nano"])
def test_a_model_begins_under_any_default_dtype(name: str, dtype: torch.dtype) -> None:
    """Orthonormal matrices are drawn in float32 where torch has no decomposition, and a trial run meets numbers of the default's width."""
    torch.set_default_dtype(dtype)
    try:
        model = zoo.create(name)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {each.dtype for each in model.parameters() if each.is_floating_point()} == {dtype}
    assert all(each.isfinite().all() for each in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_ranks_change_in_any_dtype(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linear, x = DynamicLowRank(12, 10, rank=4).to(dtype), torch.randn(6, 12, dtype=dtype)
    linear.step(lambda: linear(x).square().mean(), 0.1, tau=0.1)
    assert {linear.U.dtype, linear.V.dtype, linear.S_hat.dtype} == {dtype} and linear(x).isfinite().all()
    torch.testing.assert_close(linear.U.float().T @ linear.U.float(), torch.eye(linear.U.shape[1]), rtol=0, atol=0.05)
