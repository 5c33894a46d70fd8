"""One of two gloo processes: `python distributed.py RANK FILE` trains a step, replicated and sharded, and compares with a lone process."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import zoo

NET = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}


def model() -> nn.Module:
    torch.manual_seed(0)
    return zoo.create("convnext_tiny", NET, num_classes=5).train()


def step(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()


def main(rank: int, file: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    for kind in ("ddp", "fsdp2"):
        trains_as_one(kind, rank)
    dist.destroy_process_group()


def trains_as_one(kind: str, rank: int) -> None:
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 1, 2, 3])
    alone = model()
    step(alone, x, y)
    shared = model()
    if kind == "ddp":
        wrapped: nn.Module = DistributedDataParallel(shared)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        shared.to(memory_format=torch.contiguous_format)  # FSDP2 takes no channels_last parameters
        mesh = init_device_mesh("cpu", (2,))
        for stage in shared.stages:
            fully_shard(stage, mesh=mesh)
        wrapped = fully_shard(shared, mesh=mesh)
    part = slice(2 * rank, 2 * rank + 2)
    step(wrapped, x[part], y[part])
    for (name, found), expected in zip(shared.named_parameters(), alone.parameters(), strict=True):
        whole = found.full_tensor() if hasattr(found, "full_tensor") else found
        torch.testing.assert_close(
            whole, expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{kind}: {name}: {text}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
