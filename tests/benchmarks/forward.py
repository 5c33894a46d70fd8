"""Forward passes against timm: same weights, both layouts, as created and in deploy form, interleaved within one run."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

import zoo
from tests.benchmarks.harness import Comparison, compare
from tests.models.parity import entries
from zoo._timm import import_timm


def models(pattern: str = "") -> list[str]:
    """Our models that timm has too: of each family the ones asked for, or the first."""
    from tests.models.parity import smallest

    return [name for name in entries("timm") if pattern in name] if pattern else smallest("timm")


def against_timm(name: str, batch: int = 1, rounds: int = 15) -> Comparison:
    """timm as created is the baseline; beside it timm at channels_last, ours as created on the same two inputs, our deploy form."""
    timm = import_timm()
    theirs = timm.create_model(entries("timm")[name]).eval()
    ours = zoo.create(name, weights=theirs.state_dict(), source="timm")
    deployed = zoo.deploy(ours)
    x = torch.randn(batch, *theirs.default_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    last = x.contiguous(memory_format=torch.channels_last)
    theirs_last = copy.deepcopy(theirs).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-3)
    candidates = {
        "timm": _forward(theirs, x),
        "timm, channels_last": _forward(theirs_last, last),
        "zoo": _forward(ours, x),
        "zoo, channels_last": _forward(ours, last),
        "zoo, deploy": _forward(deployed, x),
    }
    return compare(candidates, rounds)


def _forward(model: nn.Module, x: torch.Tensor) -> Any:
    def work() -> torch.Tensor:
        with torch.inference_mode():
            output: torch.Tensor = model(x)
        return output

    return work
