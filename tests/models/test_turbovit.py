"""Attention inside mask units with pooled queries: timm's Hiera, which is the authors', written in our language."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blocks
import zoo
from blocks.folding import fuse
from tests.models.parity import KEYED, count, error, timm_macs
from zoo.measure.macs import count_macs

HIERA = {"dims": [96, 192, 384, 768], "define.attention.head_dim": 96}
LAYERS = [(stage, layer) for stage, depth in enumerate((1, 2, 7, 2)) for layer in range(depth)]


def ours_of(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of timm's net under our names."""
    state = {"stem.1.pos_embed": theirs["pos_embed"]}
    for kind in ("weight", "bias"):
        state[f"stem.0.{kind}"] = theirs[f"patch_embed.proj.{kind}"]
        state[f"head.norm.{kind}"], state[f"head.classifier.{kind}"] = (
            theirs[f"head.norm.{kind}"],
            theirs[f"head.fc.{kind}"],
        )
        for block, (stage, layer) in enumerate(LAYERS):
            here, there = f"stages.{stage}.layers.{layer}", f"blocks.{block}"
            halving = stage > 0 and layer == 0
            attention = f"{here}.0.1.0" if halving else f"{here}.0.1"
            names = {
                f"{here}.0.0": "norm1",
                f"{here}.1.0": "norm2",
                f"{here}.1.1.fc1": "mlp.fc1",
                f"{here}.1.1.fc2": "mlp.fc2",
            }
            names |= {f"{attention}.qkv": "attn.qkv", f"{attention}.proj": "attn.proj"}
            names |= {f"{here}.0.1.shortcut.0": "proj"} if halving else {}
            state |= {f"{name}.{kind}": theirs[f"{there}.{name_there}.{kind}"] for name, name_there in names.items()}
    return state


@pytest.fixture(scope="module")
def pair(timm: types.ModuleType) -> tuple[nn.Module, nn.Module]:
    theirs = timm.create_model("hiera_tiny_224").eval()
    keyed = {key: KEYED["keyed_tensor"](key, list(tensor.shape)) for key, tensor in theirs.state_dict().items()}
    theirs.load_state_dict(keyed)
    return zoo.create("turbovit", HIERA, weights=ours_of(keyed)), theirs


@torch.no_grad()
def test_turbovit_with_the_widths_of_hiera_is_timms_hiera(pair: tuple[nn.Module, nn.Module]) -> None:
    ours, theirs = pair
    x = KEYED["golden_input"](224)
    expected = theirs(x)
    assert error(ours(x), expected) <= 1e-5
    assert error(fuse(ours)(x), expected) <= 1e-5
    assert count(ours) == count(theirs)


def test_its_macs_are_those_of_timms_hiera(timm: types.ModuleType) -> None:
    theirs = timm.create_model("hiera_tiny_224").to("meta")
    assert count_macs(zoo.create("turbovit", HIERA, device="meta")).total == timm_macs(theirs, (3, 224, 224))


def test_the_net_has_the_proportions_that_the_paper_prints() -> None:
    model = zoo.create("turbovit", device="meta")
    assert 31.4 / (count(model) / 1e6) == pytest.approx(2.47, abs=0.05)
    assert 7.5 / (count_macs(model).total / 1e9) == pytest.approx(3.4, abs=0.1)


@torch.no_grad()
@pytest.mark.parametrize(
    "parameters", [{"window": 4, "pool": 2}, {"window": "none", "pool": 2}, {"window": 2}], ids=str
)
@pytest.mark.parametrize("size", [(8, 12), (7, 5)])
def test_cells_and_queries_one_by_one(parameters: dict[str, Any], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    window, pool = parameters["window"], parameters.get("pool", 1)
    window = None if window == "none" else window
    block = blocks.get("mask_unit_attention")(8, 12, num_heads=3, window=window, pool=pool).double()
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    cell = window or pool
    H, W = (-(-side // cell) * cell for side in size)
    whole = torch.zeros(2, 8, H, W, dtype=torch.float64)
    whole[:, :, : size[0], : size[1]] = x
    q, k, v = block.qkv(whole).unflatten(1, (3, 3, 4)).unbind(1)  # (B, heads, 4, H, W)
    y = torch.zeros(2, 3, 4, H // pool, W // pool, dtype=torch.float64)
    for i in range(H // pool):
        for j in range(W // pool):
            query = q[..., i * pool : (i + 1) * pool, j * pool : (j + 1) * pool].amax((3, 4))
            rows, columns = (slice(0, H), slice(0, W)) if window is None else (
                slice(i * pool // window * window, (i * pool // window + 1) * window),
                slice(j * pool // window * window, (j * pool // window + 1) * window),
            )  # fmt: skip
            keys, values = k[..., rows, columns].flatten(3), v[..., rows, columns].flatten(3)
            weights = ((query.unsqueeze(2) @ keys) / 2).softmax(-1)
            y[..., i, j] = (values @ weights.mT).squeeze(-1)
    expected = block.proj(y.flatten(1, 2))[..., : -(-size[0] // pool), : -(-size[1] // pool)]
    torch.testing.assert_close(block(x), expected)


def test_cells_that_do_not_divide_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match="cells of 2 x 2 pixels do not divide a window of 7"):
        blocks.get("mask_unit_attention")(32, window=7, pool=2)
