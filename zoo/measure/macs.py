"""Multiply-accumulates of a forward pass, counted by torch's flop counter on meta: no weights, no memory, attention included."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SCANS = ("zoo.selective_scan",)


class Macs(NamedTuple):
    """`total` MACs (1 MAC = 2 FLOPs) of matmul, convolution and attention for one input; `scan_flops` beside them, in FLOPs."""

    total: int
    scan_flops: int
    by_module: dict[str, int]


def count_macs(model: nn.Module) -> Macs:
    """MACs of one input of the model's own size (`model.spec.input`), in eval mode. Scans are a class of their own."""
    from zoo.build.builder import meta_input

    twin = model if _on_meta(model) else copy.deepcopy(model).to("meta")
    was_training = twin.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin.eval()(meta_input(twin.spec))  # type: ignore[arg-type]
    twin.train(was_training)
    counts: dict[str, dict[Any, int]] = counter.get_flop_counts()
    scans = {name: sum(flops for op, flops in ops.items() if _is_scan(op)) for name, ops in counts.items()}
    totals = {name: sum(ops.values()) - scans[name] for name, ops in counts.items()}
    by_module = {name.partition(".")[2]: total // 2 for name, total in totals.items() if name != "Global"}
    return Macs(totals.get("Global", 0) // 2, scans.get("Global", 0), by_module)


def _is_scan(op: Any) -> bool:
    return any(scan in str(op) for scan in SCANS)


def _on_meta(model: nn.Module) -> bool:
    return all(parameter.is_meta for parameter in model.parameters())
