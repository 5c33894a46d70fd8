"""DPT's decoder against its paper, written out: arXiv:2103.13413, section 3.2 and figure 1, in the order in which the authors compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from zoo.errors import SpecError
from zoo.testing.block_cases import perturbed

State = dict[str, Tensor]


def unit(x: Tensor, state: State, name: str) -> Tensor:
    """A residual unit of two convolutions that see x before its activation."""
    y = x
    for place in ("1", "3"):
        y = F.conv2d(y.relu(), state[f"{name}.{place}.weight"], state[f"{name}.{place}.bias"], padding=1)
    return x + y


def enlarged(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def point(x: Tensor, state: State, name: str) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])


@torch.no_grad()
def test_levels_are_fused_from_the_coarsest_on_and_enlarged_before_their_last_map() -> None:
    net = perturbed(zoo.create("dpt_nano").eval()).double()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    found = dict(zip(net.places, net.taps(x, None), strict=True))
    state = net.graph.state_dict()
    levels = []
    for i, name in enumerate(name for name in net.places if name.startswith("stages")):
        level = point(found[name], state, f"level{i}.0")
        levels.append(F.conv2d(level, state[f"level{i}.1.weight"], padding=1))
    y = unit(levels[2], state, "fused2.0")
    for i in (1, 0):
        y = point(enlarged(y, tuple(levels[i].shape[2:])), state, f"fused{i + 1}.1")
        y = unit(y + unit(levels[i], state, f"fused{i}.edges.1.0"), state, f"fused{i}.0")
    y = point(enlarged(y, tuple(2 * side for side in y.shape[2:])), state, "fused0.1")
    y = F.conv2d(y, state["classes.1.conv.weight"], padding=1)
    norm = {key: state[f"classes.1.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
    y = point(F.batch_norm(y, *norm.values()).relu(), state, "classes.2")
    torch.testing.assert_close(net(x), enlarged(y, (32, 32)))


SMALL = {
    "backbone": {"model": "vit_tiny_patch16_224", "levels": [0, 1, 2, 3]}, "input": {"size": 64}, "num_classes": 4,
    "graph.let.dim": 16, "graph.let.widths": [8, 16, 24, 32],
}  # fmt: skip


def normed_unit(x: Tensor, state: State, name: str) -> Tensor:
    """A residual unit whose two convolutions have norms instead of biases."""
    y = x
    for place in ("1", "3"):
        y = F.conv2d(y.relu(), state[f"{name}.{place}.conv.weight"], padding=1)
        norm = (state[f"{name}.{place}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        y = F.batch_norm(y, *norm)
    return x + y


@torch.no_grad()
def test_pixels_of_a_plain_transformer_are_told_what_its_class_token_knows() -> None:
    """Against `Read_proj`, reassembly at four sizes and fusion, written out as in the paper; tokens are those that flow between its layers."""
    net = perturbed(zoo.create("dpt_vit_base", SMALL).eval()).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    tokens, _ = net.stages[0].view.enter(net.stem(x))
    flowing = []
    for layer in net.stages[0].layers:
        tokens = layer(tokens, None)
        flowing.append(tokens)
    state, levels = net.graph.state_dict(), []
    for i, tokens in enumerate(flowing):
        name = f"level{i}"
        pairs = torch.cat((tokens[:, 1:], tokens[:, :1].expand(-1, 16, -1)), -1)
        told = F.gelu(F.linear(pairs, state[f"{name}.merge.proj.weight"], state[f"{name}.merge.proj.bias"]))
        y = point(told.transpose(1, 2).unflatten(2, (4, 4)), state, f"{name}.0")
        if i < 2:
            y = F.conv_transpose2d(y, state[f"{name}.1.weight"], state[f"{name}.1.bias"], stride=(4, 2)[i])
        if i == 3:
            y = F.conv2d(y, state[f"{name}.1.weight"], state[f"{name}.1.bias"], stride=2, padding=1)
        last = max(
            int(key.split(".")[1]) for key in state if key.startswith(f"{name}.") and key.split(".")[1].isdigit()
        )
        levels.append(F.conv2d(y, state[f"{name}.{last}.weight"], padding=1))
    assert [level.shape[-1] for level in levels] == [16, 8, 4, 2]
    y = normed_unit(levels[3], state, "fused3.0")
    for i in (2, 1, 0):
        y = point(enlarged(y, tuple(levels[i].shape[2:])), state, f"fused{i + 1}.1")
        y = normed_unit(y + normed_unit(levels[i], state, f"fused{i}.edges.1.0"), state, f"fused{i}.0")
    y = point(enlarged(y, (32, 32)), state, "fused0.1")
    y = F.conv2d(y, state["classes.1.conv.weight"], padding=1)
    norm = (state[f"classes.1.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    y = point(F.batch_norm(y, *norm).relu(), state, "classes.2")
    torch.testing.assert_close(net(x), enlarged(y, (64, 64)))


def test_tokens_are_read_of_layers_alone() -> None:
    with pytest.raises(SpecError, match=r"stages\.0\.tokens"):
        zoo.spec("dpt_vit_base", {**SMALL, "graph.nodes.fused{last}.from": "stages.0.tokens"})
