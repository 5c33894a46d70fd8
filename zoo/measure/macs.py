"""Multiply-accumulates of a forward pass, counted on meta: no weights, no memory, attention included."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import nn

from zoo.build.inputs import meta_inputs
from zoo.measure.op_counter import EXACT, Work, modules_open


class Macs(NamedTuple):
    """`total` MACs (1 MAC = 2 FLOPs) of matmul, convolution and attention for one input; `scan_flops` beside them, in FLOPs."""

    total: int
    scan_flops: int
    by_module: dict[str, int]


def count_macs(model: nn.Module) -> Macs:
    """MACs of one input of the model's own size (`model.spec.input`), in eval mode. Scans are a class of their own."""
    twin = model if all(parameter.is_meta for parameter in model.parameters()) else copy.deepcopy(model).to("meta")
    was_training = twin.training
    work = Work()
    with torch.no_grad(), work, modules_open(work, {module: path for path, module in twin.named_modules()}):
        twin.eval()(*meta_inputs(twin.spec))  # type: ignore[arg-type]
    twin.train(was_training)
    totals = {path: sum(counts[kind] for kind in EXACT) // 2 for path, counts in work.paths.items()}
    return Macs(totals.get("", 0), work.paths[""]["scan"], {path: total for path, total in totals.items() if path})
