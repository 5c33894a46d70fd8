"""Blocks that count tokens while they run: their graphs hold for lengths that were not recorded, and for the parameters that a call makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blocks.attention.hip_attention import HipAttention
from blocks.moe.capacity import capacity_of, room_for
from blocks.moe.dispatch import RepeatedExperts
from blocks.moe.merging import run_merged
from blocks.moe.routing import Routing
from blocks.moe.switch_router import SwitchRouter
from blocks.ops.graph import exporting
from blocks.ssm.lmu import CHUNK, Lmu
from zoo.exporting.onnx import opened, write_onnx
from zoo.exporting.ports import Port, Ports


class Outputs(nn.Module):
    """A block, and of what it gives the tensors."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Any:
        y = self.block(x)
        if isinstance(y, Routing):
            return y.indices.to(x.dtype)
        return y[0] if isinstance(y, tuple) else y


def made(block: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.2)
    return Outputs(block).eval()


def drawn(length: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, 16, generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize(
    ("block", "lengths"),
    [
        (Lmu(16, memory_dim=8, theta=20.0), (1, CHUNK, 2 * CHUNK + 5)),
        (SwitchRouter(16, num_experts=4), (3, 40)),
        (HipAttention(16, num_heads=2, mask_k=8, coarse=4, least=2), (40,)),
    ],
    ids=["lmu", "switch_router", "hip_attention"],
)
def test_a_graph_of_any_length_counts_its_own_tokens(
    block: nn.Module, lengths: tuple[int, ...], tmp_path: Path
) -> None:
    net = made(block)
    ports = Ports((Port("x", drawn(7), {1: "length"}),), ("y",))
    run = opened(write_onnx(net, ports, tmp_path / "net.onnx"), ports)
    for length in lengths:
        with torch.no_grad():
            wanted = net(drawn(length))
        torch.testing.assert_close(run((drawn(length),))[0], wanted, rtol=1e-4, atol=1e-5)


def test_the_room_of_an_expert_is_the_same_of_a_tensor() -> None:
    for length in range(1, 70):
        for rule in ((1, 4, 1.25), (2, 3, 1.0), (1, 7, 0.3), (1, 5, 1.1)):
            assert int(room_for(torch.tensor(length), *rule)) == capacity_of(length, *rule)


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, 3 * CHUNK + 1])
def test_a_memory_carried_by_a_loop_is_that_of_the_chunks(length: int) -> None:
    block: Any = made(Lmu(16, memory_dim=8, theta=20.0)).double()
    x = drawn(length).double()
    with torch.no_grad():
        wanted = block(x)
        with exporting("unrolled", dynamic=True):
            found = block(x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_merged_experts_are_recorded_by_torch_jit_for_their_batch() -> None:
    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = RepeatedExperts(nn.Linear(16, 16) for _ in range(3))

        def forward(self, weights: Tensor, x: Tensor) -> Tensor:
            return run_merged(self.experts, weights, x)

    net, weights = Merged().eval(), torch.rand(2, 3)
    own = {name: id(parameter) for name, parameter in net.named_parameters()}
    with torch.no_grad():
        traced = torch.jit.trace(net, (weights, drawn(5)))
        torch.testing.assert_close(traced(1 - weights, drawn(5)), net(1 - weights, drawn(5)))
    assert {name: id(parameter) for name, parameter in net.named_parameters()} == own
