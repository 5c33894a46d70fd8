"""A net whose parameters lie apart over all processes: FSDP2, torch's `fully_shard`, layer by layer.

Each process keeps 1 / processes of the parameters, of their gradients, of their average and of what the optimiser remembers; a layer is
gathered for as long as it computes. What is computed is what replicas compute: under autocast, with gradients that are means over all
processes, and with the buffers of the first process, which are not sharded.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from blocks.context import Context
from zoo.training.loop import RunningAverage
from zoo.training.objectives import Student


class Engine:
    """accelerate's `Accelerator`, for a sharded model."""

    def __init__(self, accelerator: Any):
        self.backward, self.clip_grad_norm_ = accelerator.backward, accelerator.clip_grad_norm_

    @contextmanager
    def no_sync(self, model: Any) -> Iterator[None]:
        """Within it gradients are those of this process, and whole."""
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)


class Outline:
    """What a student was before it was sharded: the same modules without values."""

    def __init__(self, student: Student):
        with torch.device("meta"):
            self.model = copy.deepcopy(student).to("meta")

    def average(self, sharded: nn.Module, decay: float, device: torch.device) -> RunningAverage:
        """An average that begins with the values of `sharded`, and lies apart as it does."""
        average = RunningAverage(self.model, decay)
        shard(average.model, device)
        with torch.no_grad():
            for value, begun in zip(average.model.state_dict().values(), sharded.state_dict().values(), strict=True):
                value.copy_(begun)
        return average

    def filled(self, sharded: nn.Module) -> nn.Module | None:
        """A whole copy of `sharded`, on the CPU, in the first process; None in the others, each of which has to call it, too."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        tensors = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if dist.get_rank() != 0:
            return None
        model = copy.deepcopy(self.model)
        model.load_state_dict(tensors, assign=True)
        return model


def shard(student: Any, device: torch.device, compiled: bool = False) -> None:
    """Shards `student`, in place, each layer of its net by itself and what is left as one; `compiled`: each layer by torch.compile.

    A layer whose parameters another layer has, too, is gathered with the rest. What is on meta holds anything afterwards.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    student.to(memory_format=torch.contiguous_format)  # FSDP2 takes no parameters with channels last in memory
    layers = [layer for stage in student.net.stages for layer in stage.layers]
    owners = Counter(parameter for layer in layers for parameter in set(layer.parameters()))
    for layer in layers:
        if compiled:
            layer.compile()
        parameters = set(layer.parameters())
        if parameters and all(owners[parameter] == 1 for parameter in parameters):
            fully_shard(layer, mesh=mesh)
            _keep_context(layer)
    fully_shard(student, mesh=mesh)
    is_empty = any(parameter.is_meta for parameter in student.parameters())
    student.to_empty(device=device) if is_empty else student.to(device)
    student.register_forward_pre_hook(lambda module, inputs: same_buffers(module))


def same_buffers(model: nn.Module) -> None:
    """Buffers are those of the first process, in all: running moments, and what routers know of their loads."""
    buffers: dict[torch.dtype, list[Tensor]] = {}
    for buffer in model.buffers():
        buffers.setdefault(buffer.dtype, []).append(buffer)
    for known in buffers.values():
        vector = torch.cat([buffer.flatten() for buffer in known])
        dist.broadcast(vector, 0)
        for buffer, values in zip(known, vector.split([buffer.numel() for buffer in known]), strict=True):
            buffer.copy_(values.view_as(buffer))


def _keep_context(layer: nn.Module) -> None:
    """What a layer writes to its ctx reaches the one that it was given: FSDP2 hands it a copy, as of every dataclass with tensors."""
    given: list[Context | None] = []

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        given.append(_context_of(inputs))

    def after(module: nn.Module, inputs: tuple[Any, ...], y: Any) -> None:
        original, copied = given.pop(), _context_of(inputs)
        if original is not None and copied is not None and copied is not original:
            for name in ("losses", "reports", "slots"):
                getattr(original, name).update(getattr(copied, name))

    layer.register_forward_pre_hook(before, prepend=True)
    layer.register_forward_hook(after)


def _context_of(inputs: tuple[Any, ...]) -> Context | None:
    return next((value for value in inputs if isinstance(value, Context)), None)
