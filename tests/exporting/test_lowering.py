"""Lowering: nets laid out for graph runtimes compute the same, whichever layout each part is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from blocks.attention.attention import Attention
from tests.sampled import sampled
from zoo import catalog
from zoo.build.deploy import fused
from zoo.catalog.listing import list_models
from zoo.exporting.functions import WrittenOut
from zoo.exporting.heads import PlainHeads
from zoo.exporting.lowering import Arranger, lowered
from zoo.exporting.onnx import opened, write_onnx
from zoo.exporting.ports import Port, Ports, flat, image_like
from zoo.exporting.proof import relative_error

VISION = [name for name, entry in catalog.entries().items() if entry.task == "image-classification"]
NANO = [name for name in list_models("*_nano") if name in VISION]
SMALLEST = [
    min((name for name in VISION if catalog.entry(name).family == family), key=lambda name: catalog.entry(name).params)
    for family in sorted({catalog.entry(name).family for name in VISION})
]


@torch.no_grad()
@pytest.mark.parametrize("prefers", ["image", "tokens"])
@pytest.mark.parametrize("name", sampled(sorted({*NANO, *SMALLEST})))
def test_a_lowered_net_computes_what_the_net_does(name: str, prefers: Any) -> None:
    model: Any = fused(zoo.create(name)).eval().double()
    size = model.spec.input.size
    x = image_like((2, model.spec.input.channels, size, size)).double()
    wanted = flat(model(x))
    with WrittenOut():
        found = flat(lowered(model, prefers)(x))
    assert relative_error(found, wanted) < 1e-9


@torch.no_grad()
def test_feature_levels_of_a_lowered_net_are_the_same() -> None:
    for name in ("convnext_tiny", "swin_tiny_patch4_window7_224", "deit_tiny_patch16_224", "mobilenetv4_nano"):
        model: Any = fused(zoo.create(name, features_only=True)).eval().double()
        size = model.spec.input.size
        x = image_like((1, model.spec.input.channels, size, size)).double()
        assert relative_error(tuple(lowered(model)(x)), tuple(model(x))) < 1e-9


def test_parts_that_want_tokens_run_on_them_together() -> None:
    swin: Any = fused(zoo.create("swin_tiny_patch4_window7_224"))
    arranger = Arranger("tokens", by_layer=False)
    layers = list(swin.stages[0].layers)
    cost, layouts = arranger.cheapest(layers, "image")
    assert layouts == ["tokens"] * len(layers) and round(cost) == 2


def test_functions_written_out_are_those_of_torch() -> None:
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight, mask = torch.rand(8, dtype=torch.float64), torch.randn(5, 5, dtype=torch.float64)
    calls: list[Any] = [
        lambda: torch.nn.functional.rms_norm(x, (8,), weight, 1e-6),
        lambda: torch.nn.functional.rms_norm(x, (8,)),
        lambda: torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask, scale=0.3),
        lambda: torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True),
        lambda: x.mean((2, 3)),
        lambda: x.mean((-1, -2), keepdim=True),
        lambda: x.mean(1),
        lambda: x.mean(),
        lambda: torch.nn.functional.adaptive_avg_pool2d(x, (3, 5)),
        lambda: torch.nn.functional.adaptive_avg_pool2d(x, (None, 7)),
        lambda: torch.nn.functional.adaptive_avg_pool2d(x, 1),
        lambda: torch.nn.functional.adaptive_avg_pool2d(x[0], 3),
    ]
    whole = torch.randint(-9, 9, (3, 150), generator=torch.Generator().manual_seed(1))
    long, truths = torch.randn(2, 150, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), whole > 0
    calls += [
        lambda: long.cummax(1),
        lambda: torch.cummax(long, -1),
        lambda: whole.cummax(-1),
        lambda: whole[0].cummax(0).values,
        lambda: truths.cumsum(1),
        lambda: torch.where(whole > 3, truths, ~truths),
        lambda: torch.where(whole > 3, truths, False),
    ]
    for call in calls:
        wanted = call()
        with WrittenOut():
            torch.testing.assert_close(call(), wanted, rtol=1e-12, atol=1e-12)


def test_the_largest_so_far_goes_to_onnx_at_any_length(tmp_path: Path) -> None:
    class Largest(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(x.cummax(1))

    example = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))
    ports = Ports((Port("x", example, {1: "length"}),), ("values", "places"))
    run = opened(write_onnx(Largest().eval(), ports, tmp_path / "net.onnx"), ports)
    for length in (1, 64, 130):
        x = torch.randint(0, 40, (2, length, 3), generator=torch.Generator().manual_seed(length)).float()
        assert all(torch.equal(y, right) for y, right in zip(run((x,)), x.cummax(1), strict=True))


def test_scales_and_shifts_of_group_norms_go_into_what_follows() -> None:
    twin = lowered(fused(zoo.create("poolformer_s12")))
    norms = [module for module in twin.modules() if type(module).__name__ == "GroupNorm"]
    assert norms and all(norm.weight is None and norm.bias is None for norm in norms)


def test_the_scale_of_plain_attention_goes_into_its_queries() -> None:
    model: Any = fused(zoo.create("deit_tiny_patch16_224"))
    twin: Any = lowered(model)
    before = next(part for part in model.modules() if isinstance(part, Attention))
    after = next(part for part in twin.modules() if isinstance(part, PlainHeads))
    torch.testing.assert_close(after.qkv.weight[:192], before.qkv.weight[:192] / 8)
    torch.testing.assert_close(after.qkv.weight[192:], before.qkv.weight[192:])
