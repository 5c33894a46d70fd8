"""Nets of papers without code, or with code of a block alone: held against their equations in plain torch, and timm where it has the host."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from tests.models.parity import KEYED, count, error, timm_macs
from zoo.measure.macs import count_macs


def lived_in(name: str, seed: int = 0) -> nn.Module:
    """A model in float64 whose norms are not those of a new one."""
    torch.manual_seed(seed)
    model = zoo.create(name).double()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5) if key.endswith(("weight", "var")) else tensor.normal_(std=0.1)
    return model.eval()


def normed(x: Tensor, part: Any) -> Tensor:
    """A batch norm in eval mode."""
    return F.batch_norm(x, part.running_mean, part.running_var, part.weight, part.bias)


def unit(x: Tensor, part: Any, **how: int) -> Tensor:
    """A convolution and its norm."""
    return normed(F.conv2d(x, part.conv.weight, **how), part.norm)


@pytest.mark.parametrize("group_dim", [2, 8, 32])
def test_e2gc_is_timms_mobilenet_with_groups_of_one_size(group_dim: int, timm: types.ModuleType) -> None:
    build = timm.models.efficientnet._gen_mobilenet_v1
    theirs = build("mobilenetv1_100", group_size=group_dim).eval()
    weights = {}
    for key, tensor in theirs.state_dict().items():
        drawn = KEYED["keyed_tensor"](key, list(tensor.shape))
        weights[key] = tensor if drawn is None else drawn
    theirs.load_state_dict(weights)
    ours = zoo.create(f"e2gc_mobilenetv1_g{group_dim}", weights=weights, source="timm")
    x = KEYED["golden_input"](64)
    with torch.no_grad():
        assert error(ours(x), theirs(x)) <= 1e-5
    assert count(ours) == count(theirs)
    assert count_macs(zoo.create(f"e2gc_mobilenetv1_g{group_dim}", device="meta")).total == timm_macs(
        theirs.to("meta"), (3, 224, 224)
    )


@pytest.mark.parametrize("group_dim", [4, 8, 16, 32])
def test_e2gc_resnext_has_groups_of_one_size_in_every_stage(group_dim: int) -> None:
    model = zoo.create(f"e2gc_resnext50_g{group_dim}", device="meta")
    convs = [part for part in model.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
    assert len(convs) == 16 and {part.in_channels // part.groups for part in convs} == {group_dim}


@torch.no_grad()
def test_convfirst_is_made_of_the_blocks_of_its_author() -> None:
    model: Any = lived_in("convfirst_nano")
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    y = F.silu(unit(x, model.stem.get_submodule("0"), stride=2, padding=1))
    for stage in model.stages:
        if hasattr(stage, "downsample") and stage.downsample is not None:  # MBConv: 1 x 1, grouped 3 x 3, 1 x 1
            expand, wide, project = stage.downsample.children()
            y = F.silu(unit(y, expand))
            y = F.silu(unit(y, wide, stride=2, padding=1, groups=y.shape[1] // 8))
            y = unit(y, project)
        for layer in stage.layers:  # ConvFirst: grouped 3 x 3, then 1 x 1, 1 x 1
            grouped, expand, project = next(layer.children()).children()
            inner = unit(y, grouped, padding=1, groups=y.shape[1] // 8)
            y = y + unit(F.silu(unit(inner, expand)), project)
    torch.testing.assert_close(model(x), model.head.classifier(y.mean((2, 3))))


@torch.no_grad()
def test_intra_channel_convolution_and_projection_stand_beside_the_input() -> None:
    model: Any = lived_in("sic_nano")
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    y = F.relu(unit(x, model.stem, padding=1))
    for stage in model.stages:
        if getattr(stage, "downsample", None) is not None:
            y = F.relu(unit(F.max_pool2d(y, 2), stage.downsample.get_submodule("1")))
        for layer in stage.layers:
            inside, across = layer.get_submodule("0").children()
            y = F.relu(y + unit(unit(y, inside, padding=1, groups=y.shape[1]), across))
    torch.testing.assert_close(model(x), model.head.classifier(y.mean((2, 3))))


def test_topology_and_bottleneck_cost_what_the_paper_says() -> None:
    """Half of each of two sides is a quarter of the projection; half of the rows and columns is a quarter of it, too."""
    macs = {
        name: count_macs(zoo.create(name, device="meta"))
        for name in ("sic_nano", "sic_topology_nano", "sic_bottleneck_nano")
    }
    projections = 3 * sum(dim**2 * side**2 for dim, side in ((24, 32), (48, 16), (96, 8)))
    assert macs["sic_nano"].total - macs["sic_topology_nano"].total == projections * 3 // 4


@torch.no_grad()
def test_a_stage_of_fe_net_takes_its_channels_in_bit_by_bit() -> None:
    model: Any = lived_in("fe_net_nano")
    changed = []
    for stage in model.stages[1:]:
        x = torch.randn(
            1, stage.layers[0].out_dim if hasattr(stage.layers[0], "out_dim") else 32, 8, 8, dtype=torch.float64
        )
        for layer in stage.layers:
            y = layer(x)
            changed.append(int((y != x).flatten(2).any(2).sum()))
            x = y
    assert changed == [8, 16, 32, 16, 32, 64]


def test_fe_net_mixes_neighbours_by_shifts_alone() -> None:
    model = zoo.create("fe_net_nano", device="meta")
    convs = [
        part for path, part in model.named_modules() if isinstance(part, nn.Conv2d) and not path.startswith("stem")
    ]
    assert {part.kernel_size for part in convs} == {(1, 1)}


@torch.no_grad()
@pytest.mark.parametrize("name", ["fast_sparse_mobilenetv1_nano", "fast_sparse_mobilenetv2_nano"])
def test_sparse_nets_are_dense_ones_with_zeros(name: str) -> None:
    model: Any = lived_in(name)
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    expected = model(x)
    for path, part in list(model.named_modules()):
        if getattr(part, "block_id", "") == "core/sparse_matrix@1":
            dense = nn.Conv2d(part.dim, part.out_dim, 1, bias=False).double()
            dense.weight.copy_(part.dense()[..., None, None])
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, dense)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("name", "host", "sparsity"),
    [("fast_sparse_mobilenetv1_100", "mobilenetv1_100", 0.9), ("fast_sparse_mobilenetv2_200", "mobilenetv2_100", 0.85)],
)
def test_macs_are_those_of_the_weights_that_remain(name: str, host: str, sparsity: float) -> None:
    model = zoo.create(name, device="meta")
    maps = [part for part in model.modules() if getattr(part, "block_id", "") == "core/sparse_matrix@1"]
    assert len(maps) == (13 if host == "mobilenetv1_100" else 34)
    kept = sum(part.weight.numel() for part in maps) / sum(part.dim * part.out_dim for part in maps)
    assert kept == pytest.approx(1 - sparsity, abs=0.01)
    same = zoo.create(host, {"width": {"scale": 2.0, "head": True}} if host == "mobilenetv2_100" else {}, device="meta")
    assert count(same) - count(model) == sum(part.dim * part.out_dim - part.weight.numel() for part in maps)
