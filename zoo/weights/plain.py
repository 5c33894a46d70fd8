"""Which tensors a model can be given: plain, dense, in memory, each value with bytes of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import Problem
from zoo.weights.header import MAX_NAME


def strange_entries(entries: Mapping[Any, Any]) -> list[Problem]:
    """One problem for each entry that is not a name and a plain tensor. No value of a tensor is looked at."""
    problems = []
    for name, value in entries.items():
        if not isinstance(name, str):
            problems.append(Problem(repr(name)[:80], "a name", f"a value of type {type(name).__name__}"))
        elif len(name) > MAX_NAME:
            problems.append(Problem(f"{name[:40]}...", f"a name of at most {MAX_NAME:,} letters", f"{len(name):,}"))
        elif reason := strange(value):
            problems.append(Problem(name, *reason))
    return problems


def strange(value: Any) -> tuple[str, str] | None:
    """What was expected of a value that is to be a tensor of a model, and what it is; None for a plain one."""
    if isinstance(value, Mapping):
        return "a tensor", f"a mapping of {len(value)} entries"
    if not isinstance(value, Tensor):
        return "a tensor", f"a value of type {type(value).__name__}"
    if value.is_nested:
        return "a plain dense tensor", "a nested tensor"
    if value.layout != torch.strided:
        return "a plain dense tensor", f"a sparse tensor ({str(value.layout).removeprefix('torch.')})"
    if value.is_quantized:
        return "a plain dense tensor", f"a quantised tensor ({str(value.dtype).removeprefix('torch.')})"
    if type(value) not in (Tensor, nn.Parameter):
        return "a plain dense tensor", f"a tensor of class {type(value).__name__}"
    if value.is_meta:
        return "values", "none: the tensor is on meta"
    return None


def overlaps(sizes: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether two places of a tensor may be the same bytes, as in what `expand` returns: such a tensor cannot be trained in place.

    With the dimensions in the order of their strides, none overlap where each stride is beyond the reach of all before it."""
    reach = 0
    for stride, size in sorted((abs(stride), size) for size, stride in zip(sizes, strides, strict=True) if size > 1):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False
