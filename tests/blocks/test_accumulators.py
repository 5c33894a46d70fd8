"""Buffers that grow by small steps move in a net of any dtype, and keep their values wherever the net goes."""

from __future__ import annotations

import copy
import pathlib

import pytest
import torch
from torch import Tensor, nn

import blocks
import zoo
from blocks.accumulators import accumulators_of
from blocks.context import Context
from blocks.moe.adaptation import adapt_routers
from blocks.moe.moe import Moe
from blocks.moe.relu_router import ReluRouter
from blocks.moe.topk_router import BIAS_STEP, TopkRouter
from blocks.primitives.norms import BatchNorm
from zoo.testing.block_cases import Subject
from zoo.weights.load import load_state

LOW = [torch.bfloat16, torch.float16]
KNOWN = {
    "batch_norm": {"running_mean", "running_var"},
    "relu_router": {"l1_weight"},
    "topk_router": set(),  # without `bias`
    "zero_expert_router": {"balance_bias"},
}


def test_every_buffer_of_a_state_is_constant_or_an_accumulator() -> None:
    """A new buffer that is neither in this table nor constant has to be named here, or to become an accumulator."""
    constant = {
        "hyena": {"t"},
        "monarch_mixer": {"t"},
        "orchid": {"t"},
        "kernelized_attention": {"omega"},
        "kernelized_attention_2d": {"omega"},
    }
    constant |= {"sparse": {"columns"}, "sparse_matrix": {"columns"}}
    for name in [name for name in blocks.list_blocks() if "/" not in name]:
        subject = Subject(name)
        net = subject.build(subject.spaces[0], device="meta")
        grown = accumulators_of(net)
        leaves = {key.rpartition(".")[2] for key, _ in net.named_buffers() if key not in grown}
        assert leaves <= constant.get(name, set()), name
        if name in KNOWN:
            assert grown == KNOWN[name]


@pytest.mark.parametrize("dtype", LOW)
def test_a_balancing_bias_moves_in_low_precision(dtype: torch.dtype) -> None:
    moe = Moe(16, router={"block": "topk_router", "num_experts": 4, "bias": "balanced"}).to(dtype).train()
    bias: Tensor = moe.router.balance_bias  # type: ignore[assignment, union-attr]
    bias.fill_(0.5)
    ctx = Context()
    moe(torch.randn(2, 30, 16, generator=torch.Generator().manual_seed(0)).to(dtype), ctx)
    load = next(iter(ctx.reports.values()))["load"]
    adapt_routers(moe, ctx)
    torch.testing.assert_close(bias - 0.5, BIAS_STEP * (load.mean() - load).sign(), rtol=0, atol=1e-6)


def test_a_weight_that_begins_at_next_to_nothing_grows_in_float16() -> None:
    router = ReluRouter(8, num_experts=4).half()
    router.adapt({"sparsity": torch.tensor(0.0)})
    torch.testing.assert_close(router.l1_weight, torch.tensor(1.2e-8))


@pytest.mark.parametrize("shape", [(4, 8, 3, 3), (4, 9, 8), (4, 8)])
@pytest.mark.parametrize("dtype", LOW)
def test_running_moments_follow_in_low_precision(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    low, wide = BatchNorm(8, momentum=0.001).to(dtype), BatchNorm(8, momentum=0.001)
    x = (100 + torch.randn(*shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    for _ in range(50):
        assert low.train()(x).dtype == dtype
        wide.train()(x.float())
    torch.testing.assert_close(low.running_mean, wide.running_mean, rtol=1e-5, atol=1e-4)
    assert low.eval()(x).dtype == dtype


@pytest.mark.parametrize(
    "convert",
    [
        lambda net: net.to(torch.bfloat16),
        lambda net: net.half(),
        lambda net: net.double().half(),
        lambda net: net.to("cpu", torch.bfloat16).float().bfloat16(),
        lambda net: copy.deepcopy(net.half()),
    ],
)
def test_conversions_leave_accumulators_alone(convert) -> None:  # type: ignore[no-untyped-def]
    net = nn.ModuleList([TopkRouter(8, num_experts=4, bias="balanced"), BatchNorm(8)])
    net[0].balance_bias.fill_(0.123456789)  # type: ignore[operator, union-attr]
    after = convert(net)
    assert after[0].balance_bias.dtype == torch.float32
    assert after[1].running_mean.dtype == torch.float32
    assert after[0].gate.weight.dtype != torch.float32
    torch.testing.assert_close(after[0].balance_bias, torch.full((4,), 0.123456789), rtol=0, atol=0)


def test_on_meta_and_under_another_default_dtype_they_are_float32_too() -> None:
    router = TopkRouter(8, num_experts=4, bias="balanced").to("meta", torch.bfloat16).to_empty(device="cpu")
    assert router.balance_bias is not None
    assert router.balance_bias.dtype == torch.float32
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert BatchNorm(3).running_var.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_double_is_double() -> None:
    assert BatchNorm(3).double().running_var.dtype == torch.float64


def test_tensors_of_an_older_file_are_widened() -> None:
    net = BatchNorm(3).to(torch.bfloat16)
    load_state(net, {name: tensor.to(torch.bfloat16) for name, tensor in net.state_dict().items()}, "net")
    assert net.running_mean.dtype == torch.float32
    assert net.weight.dtype == torch.bfloat16


def test_a_model_of_bfloat16_is_made_saved_and_loaded_with_them(tmp_path: pathlib.Path) -> None:
    net = zoo.create("starnet_nano", dtype=torch.bfloat16).train()
    image = torch.randn(4, net.spec.input.channels, 28, 28)
    with torch.no_grad():
        net(image.bfloat16())
    zoo.save(net, tmp_path / "net.safetensors")
    back = zoo.create(str(tmp_path / "net.safetensors"))
    names = accumulators_of(net)
    assert names
    for name, tensor in net.state_dict().items():
        found = back.state_dict()[name]
        assert found.dtype == (torch.float32 if name in names else torch.bfloat16), name
        assert torch.equal(found, tensor), name
    with torch.no_grad():
        assert zoo.deploy(back)(image.bfloat16()).dtype == torch.bfloat16
