"""Scans of clips along routes with weights of their own, frames that are shown as clips, and parts that nothing runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from blocks import get
from blocks.construct import construct
from blocks.folding import fuse
from blocks.registry.slots import Place
from zoo.testing.block_cases import perturbed


@torch.no_grad()
def test_each_route_is_a_mamba_of_its_own_between_shared_maps() -> None:
    """arXiv:2401.14168, section 3.2: the mean of a scan there, one back, and one that follows each place through time."""
    block = perturbed(get("clip_mamba")(6, state_dim=3)).double()
    x = torch.randn(2, 6, 3, 2, 4, dtype=torch.float64)
    orders = {"there": (2, 3, 4), "back": (2, 3, 4), "through time": (3, 4, 2)}
    total = torch.zeros_like(x)
    for (name, axes), branch in zip(orders.items(), block.branches, strict=True):
        alone = get("mamba")(6, state_dim=3).double()
        alone.load_state_dict(
            {**branch.state_dict(), "in_proj.weight": block.in_proj.weight, "out_proj.weight": block.out_proj.weight}
        )
        tokens = x.permute(0, *axes, 1).flatten(1, 3)
        y = alone(tokens.flip(1)).flip(1) if name == "back" else alone(tokens)
        placed = y.unflatten(1, [x.shape[axis] for axis in axes])
        total += placed.permute(0, 4, *(1 + axes.index(axis) for axis in (2, 3, 4)))
    torch.testing.assert_close(block(x), total / 3)


def test_frames_in_a_row_are_clips_and_frames_again() -> None:
    view, x = get("clips")(frames=3), torch.randn(6, 4, 2, 5)
    clips, memo = view.enter(x)
    assert clips.shape == (2, 4, 3, 2, 5)
    assert torch.equal(clips[1, :, 2], x[5])
    assert torch.equal(view.exit(clips, memo), x)
    with pytest.raises(ValueError, match="5 frames are no whole number of clips of 3"):
        view.enter(x[:5])


def test_spare_parts_stand_in_the_state_and_nothing_else() -> None:
    spare = construct({"spare": ["layer_norm", {"block": "dense", "out_dim": 7}]}, Place("spare"), 4)
    chain, x = nn.Sequential(get("dense")(4), spare), torch.randn(2, 3, 4)
    assert chain.state_dict()["1.1.weight"].shape == (7, 4)
    assert torch.equal(chain(x), chain[0](x))
    assert not any(parameter.requires_grad for parameter in chain[1].parameters())
    assert list(fuse(chain).state_dict()) == ["0.weight", "0.bias"]


def test_a_net_of_frames_reads_clips_frame_by_frame() -> None:
    spec = {
        "schema": "zoo.spec/1",
        "spec": {
            "input": {"kind": "frames", "channels": 2, "frames": 3, "size": 4},
            "graph": {"nodes": [{"name": "y", "from": "input", "do": ["relu"]}]},
        },
    }
    model, x = zoo.create(spec), torch.randn(2, 3, 2, 4, 4)
    assert torch.equal(model(x), x.flatten(0, 1).relu())
