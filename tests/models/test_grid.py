"""Decoders and heads on backbones of different kinds: each pair is built, trained for a step, profiled and exported."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import pytest
import torch

import zoo
from blocks.context import Context
from zoo.errors import WeightsError
from zoo.training.task_losses import Truth, task_loss

BACKBONES = (
    "starnet_nano", "mobilenetv4_nano", "unireplknet_nano", "vanillanet_nano", "fcanet_nano", "linear_vit_nano", "convit_nano", "vim_nano",
    "ghostnet_nano", "efficientvim_nano", "moe_vit_nano", "van_nano",
)  # fmt: skip
DECODERS = ("unet_nano", "fpn_nano", "deeplabv3plus_nano", "mlp_decoder_nano", "dpt_nano")
DETECTORS = ("retinanet_nano", "gelan_neck_nano")
QUICK = {
    ("unet_nano", "mobilenetv4_nano"),
    ("retinanet_nano", "mobilenetv4_nano"),
    ("gelan_neck_nano", "linear_vit_nano"),
}
PAIRS = [
    pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
    for pair in itertools.product((*DECODERS, *DETECTORS), BACKBONES)
]


def built(head: str, backbone: str) -> Any:
    """The head on the last three levels of a backbone; a detector knows their strides."""
    if head in DECODERS:
        return zoo.create(head, swap={"backbone": backbone})
    strides = zoo.create(backbone, features_only=True, out_indices=3, device="meta").feature_info.reduction()
    further = [2 * strides[-1], 4 * strides[-1]] if head == "retinanet_nano" else []
    return zoo.create(head, {"graph.let.strides": [*strides, *further]}, swap={"backbone": backbone})


@pytest.mark.parametrize("head, backbone", PAIRS)
def test_a_pair_is_trained_profiled_and_exported(head: str, backbone: str, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    net = built(head, backbone)
    x = torch.randn(2, net.spec.input.channels, 32, 32)
    boxes, classes = [torch.tensor([[3.0, 4, 25, 28]])] * 2, [torch.tensor([1])] * 2
    truth = Truth(boxes, classes, torch.randint(4, (2, 32, 32)))
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    before = {key: p.detach().clone() for key, p in net.named_parameters()}
    loss = task_loss(net)(net.train(), (x, truth), Context())
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    moved = {key.partition(".")[0] for key, p in net.named_parameters() if not torch.equal(p, before[key])}
    assert moved >= {"stages", "graph"}
    assert zoo.profile(net.eval(), tuple(x.shape)).complete
    assert zoo.export(net, tmp_path / "net.pt2", to="torch-export", form="train", example=x).stat().st_size > 0


def test_a_backbone_brings_its_weights() -> None:
    net = zoo.create("unet_nano", pretrained="backbone")
    own, known = net.state_dict(), zoo.create("starnet_nano", pretrained=True).state_dict()
    shared = own.keys() & known.keys()
    assert any(key.startswith("stages.2") for key in shared)
    assert all(torch.equal(own[key], known[key]) for key in shared)
    swapped = zoo.create("unet_nano", swap={"backbone": "mobilenetv4_nano"}, pretrained="backbone").state_dict()
    theirs = zoo.create("mobilenetv4_nano", pretrained=True).state_dict()
    assert all(torch.equal(swapped[key], theirs[key]) for key in swapped.keys() & theirs.keys())


def test_what_has_no_backbone_of_another_is_refused() -> None:
    with pytest.raises(WeightsError, match="a model with a `backbone` of another model"):
        zoo.create("u2net_nano", pretrained="backbone")
    with pytest.raises(WeightsError, match="other shapes of `stem"):
        zoo.create("unet_nano", pretrained="backbone", in_chans=3)
