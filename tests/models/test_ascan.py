"""AsCAN against its two layers (arXiv:2411.04967, section 3.1) written as sums, and the order in which they stand: nobody published code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from tests.models.parity import error

State = dict[str, Tensor]


def batch_normed(x: Tensor, w: State, path: str) -> Tensor:
    scale = w[f"{path}.weight"] / (w[f"{path}.running_var"] + 1e-5).sqrt()
    shift = w[f"{path}.bias"] - w[f"{path}.running_mean"] * scale
    return x * scale[:, None, None] + shift[:, None, None]


def convolution(x: Tensor, w: State, path: str) -> Tensor:
    """C: x + BN(W_2 gelu(BN(W_1 * x))), W_1 a 3 x 3 kernel to four times the width."""
    y = F.gelu(batch_normed(F.conv2d(x, w[f"{path}.0.conv.weight"], padding=1), w, f"{path}.0.norm"))
    return x + batch_normed(F.conv2d(y, w[f"{path}.1.conv.weight"]), w, f"{path}.1.norm")


def layer_normed(x: Tensor, w: State, path: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{path}.weight"], w[f"{path}.bias"], 1e-6)


def transformer(x: Tensor, w: State, path: str, head_dim: int) -> Tensor:
    """T: x + W_o softmax(q k^T / sqrt(d)) v of all pixels, head by head, then x + MLP(LN x)."""
    B, C, H, W = x.shape
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (layer_normed(tokens, w, f"{path}.0.0") @ w[f"{path}.0.1.qkv.weight"].T).chunk(3, -1)
    heads = []
    for start in range(0, C, head_dim):
        one = slice(start, start + head_dim)
        scores = q[..., one] @ k[..., one].transpose(1, 2) / head_dim**0.5
        heads.append(scores.softmax(-1) @ v[..., one])
    tokens = tokens + torch.cat(heads, -1) @ w[f"{path}.0.1.proj.weight"].T
    if (bias := w.get(f"{path}.0.1.proj.bias")) is not None:
        tokens = tokens + bias
    y = F.linear(layer_normed(tokens, w, f"{path}.1.0"), w[f"{path}.1.1.fc1.weight"], w[f"{path}.1.1.fc1.bias"])
    tokens = tokens + F.linear(F.gelu(y), w[f"{path}.1.1.fc2.weight"], w[f"{path}.1.1.fc2.bias"])
    return tokens.transpose(1, 2).view(B, C, H, W)


def test_nano_gives_what_its_layers_give() -> None:
    torch.manual_seed(0)
    model: Any = zoo.create("ascan_nano").double().eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(0.1 * torch.rand_like(tensor))
        w, picture = model.state_dict(), torch.randn(2, 1, 32, 32, dtype=torch.float64)
        x = picture
        for i, stride in ((0, 2), (1, 1)):
            x = F.conv2d(x, w[f"stem.{i}.conv.weight"], stride=stride, padding=1)
            x = F.gelu(batch_normed(x, w, f"stem.{i}.norm"))
        x = convolution(x, w, "stages.0.layers.0.0.0")
        for i in (1, 2):
            x = F.conv2d(x, w[f"stages.{i}.downsample.conv.weight"], stride=2, padding=1)
            x = batch_normed(x, w, f"stages.{i}.downsample.norm")
            first = convolution(x, w, "stages.1.layers.0.0.0") if i == 1 else transformer(x, w, "stages.2.layers.0", 16)
            x = transformer(first, w, f"stages.{i}.layers.1", 16)
        expected = (
            layer_normed(x.mean((2, 3)), w, "head.norm") @ w["head.classifier.weight"].T + w["head.classifier.bias"]
        )
        assert error(model(picture), expected) <= 1e-9


@pytest.mark.parametrize("name", ["ascan_tiny", "ascan_base", "ascan_large", "ascan_nano"])
def test_a_stage_has_no_smaller_share_of_transformers_than_the_one_before(name: str) -> None:
    shares = []
    for stage in zoo.spec(name).stages:
        kinds = ["attention" in str(layer) for layer in stage.layers]
        assert kinds == sorted(kinds)
        shares.append(sum(kinds) / len(kinds))
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
