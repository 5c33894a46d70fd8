"""Padding and packed sequences: obeyed, or refused with a sentence, wherever ctx may carry them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blocks.chain import run
from blocks.construct import construct
from blocks.context import Context
from blocks.registry.slots import Place

DIM, REAL, LENGTH = 16, 10, 16
MASK = (torch.arange(LENGTH) < REAL).expand(2, -1)


def part(call: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = construct(call, Place(path="part", num_classes=5, sizes=lambda: (LENGTH,)), DIM, DIM)
    assert built is not None
    return built.double().eval()


def tokens(form: str = "tokens") -> Tensor:
    x = torch.randn(2, LENGTH, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x if form == "tokens" else x.unflatten(1, (4, 4)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax"])
@pytest.mark.parametrize("head", ["linear_head", "mlp_head", "conv_head", "state_fusion_head"])
def test_a_head_pools_real_tokens_alone(head: str, pool: str) -> None:
    module = part({"block": head, "pool": pool})
    y = run(module, tokens(), Context(mask=MASK))
    torch.testing.assert_close(y, run(module, tokens()[:, :REAL]), rtol=0, atol=1e-12)


def test_a_sample_of_padding_alone_is_pooled_to_zeros() -> None:
    module = part({"block": "linear_head", "num_classes": 0, "pool": "avgmax"})
    assert not run(module, tokens(), Context(mask=torch.zeros(2, LENGTH, dtype=torch.bool))).any()


@pytest.mark.parametrize(
    "block", ["random_mixing", "spatial_gating_mlp", "mambavision_mixer", "grn", "group_norm", "squeeze_excite"]
)
def test_a_position_mixer_without_masks_refuses_one(block: str, refused: Any) -> None:
    with refused(
        f"block `{block}` cannot keep padding (ctx.mask) out; give it sequences of one length, without a mask"
    ):
        run(part(block), tokens(), Context(mask=MASK))


@pytest.mark.parametrize("block", ["conv", "cosine_attention", "affine_mixing", "depthwise_conv", "window_attention"])
def test_a_mixer_of_rows_and_columns_refuses_a_mask_of_tokens(block: str, refused: Any) -> None:
    place = Place(path="part", sizes=lambda: (4, 4))
    module = construct({"block": block} | ({"kernel_size": 3} if block == "conv" else {}), place, 32, 32)
    assert module is not None
    with refused(
        f"block `{block}` cannot keep padding (ctx.mask) out; give it sequences of one length, without a mask"
    ):
        run(module, torch.randn(2, 32, 4, 4), Context(mask=MASK))


def test_a_batch_norm_minds_padding_in_training_alone(refused: Any) -> None:
    norm = part("batch_norm")
    run(norm, tokens(), Context(mask=MASK))
    with refused(
        "block `batch_norm` cannot keep padding (ctx.mask) out; give it sequences of one length, without a mask"
    ):
        run(norm.train(), tokens(), Context(mask=MASK))


def test_positions_do_not_go_on_into_the_next_packed_sequence(refused: Any) -> None:
    with refused(
        "block `position_embedding` cannot keep packed sequences (ctx.cu_seqlens) apart; pad them, or give it one by one"
    ):
        run(part("position_embedding"), tokens()[:1], Context(cu_seqlens=torch.tensor([0, 4, LENGTH])))


@pytest.mark.parametrize("view", ["scan_2d", {"block": "window", "size": 2}, "multi_scan"])
def test_a_view_in_another_order_refuses_a_mask(view: Any) -> None:
    place = Place(path="part", sizes=lambda: (4, 4))
    module = construct({"block": "within", "view": view, "parts": ["layer_norm"]}, place, DIM)
    assert module is not None
    module.double()
    with pytest.raises(ValueError, match=r"cannot keep padding \(ctx\.mask\) out"):
        run(module, tokens("image"), Context(mask=MASK))


def test_tokens_row_by_row_keep_a_mask() -> None:
    place = Place(path="part", sizes=lambda: (4, 4))
    call = {"block": "within", "view": "tokens", "parts": [{"block": "attention", "num_heads": 2}]}
    module = construct(call, place, DIM)
    assert module is not None
    module.double()
    x = tokens("image")
    other = x.masked_fill(~MASK.view(2, 1, 4, 4), 37.0)
    first, second = (run(module, image, Context(mask=MASK)).flatten(2)[..., :REAL] for image in (x, other))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def test_merged_experts_that_mix_positions_refuse_a_mask() -> None:
    expert = "rwkv_channel_mix"
    module = part({"block": "moe", "router": {"block": "smear_router", "num_experts": 2}, "expert": expert})
    with pytest.raises(ValueError, match=rf"block `{expert}` cannot keep padding"):
        run(module, tokens(), Context(mask=MASK))
