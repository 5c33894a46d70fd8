"""A supernet of speech: its subnets have one state, and the sizes that its authors print."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import functional_call

import zoo
from blocks.folding import fuse
from tests.models.parity import KEYED, count, golden
from zoo.measure.macs import count_macs

SUBNETS = ("efficienttdnn_supernet_sub", "efficienttdnn_supernet_ecapa", "efficienttdnn_supernet_min")


@pytest.mark.parametrize("name", SUBNETS)
def test_subnets_have_the_state_of_the_supernet(name: str) -> None:
    shapes = [
        {key: tensor.shape for key, tensor in zoo.create(model, device="meta").state_dict().items()}
        for model in (name, "efficienttdnn_supernet")
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("efficienttdnn_supernet_min", 443.97e3, 83.47e6), ("efficienttdnn_supernet", 7.55e6, 1.93e9)],
)
def test_the_ends_of_the_search_space_are_as_large_as_printed(name: str, params: float, macs: float) -> None:
    """Of the net that is cut out; the authors count two for each number of a batch norm, too."""
    deployed: Any = fuse(zoo.create(name))
    assert count(deployed) == pytest.approx(params, rel=0.002)
    assert count_macs(deployed).total == pytest.approx(macs, rel=0.01)


def test_a_step_of_a_drawn_subnet_trains_the_supernet() -> None:
    small = {"graph.let.heard": [1], "graph.let.depth": 1, "graph.let.width": 32, "graph.let.pooled": 48}
    beyond = {"graph.outputs": {"embedding": "embedding", "beyond": {"of": "o2", "when": "train"}}}
    supernet = zoo.create("efficienttdnn_nano")
    subnet = zoo.create("efficienttdnn_nano", small | beyond)
    y = functional_call(subnet.eval(), dict(supernet.named_parameters()), torch.randn(2, 16, 24))
    y.sum().backward()
    kernel = supernet.get_parameter("graph.o0.1.weight")
    assert kernel.grad[:32].any() and not kernel.grad[32:].any()
    assert supernet.get_parameter("graph.f2.0.wide.0.weight").grad is None


def test_the_file_of_a_whole_training_run_gives_the_net_in_it() -> None:
    """The classifier of speakers and the filters lie beside the net, whose names all have one prefix."""
    whole = golden("efficienttdnn__ecapa")
    tensors = KEYED["keyed_state_dict"](whole)
    beside = {"__L__.weight": torch.zeros(5, 192), "__T__.torchfb.0.weight": torch.zeros(1, 1, 2)}
    run = {f"module.{key}": tensor for key, tensor in beside.items()} | {
        f"module.__S__.{key}": tensor for key, tensor in tensors.items()
    }
    loaded = [
        zoo.create("efficienttdnn_ecapa", weights=weights, source="official").state_dict()
        for weights in (tensors, {"state_dict": run})
    ]
    assert all(tensor.equal(loaded[1][key]) for key, tensor in loaded[0].items())
