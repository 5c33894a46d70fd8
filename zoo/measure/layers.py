"""A model as rows: each layer and part with its output shape, parameters and MACs. Runs on meta."""

from __future__ import annotations

from typing import Any

import msgspec
from torch import nn

from zoo.measure.profile import profile


def layer_rows(model: nn.Module) -> list[dict[str, Any]]:
    """One row for each registered block that stands in the spec's own places: path, block, output shape, params, macs.

    Slots inside a block (its norms and activations) are part of it.
    """
    rows = [msgspec.to_builtins(row) for row in profile(model).blocks]
    return [{key: value for key, value in row.items() if key != "scan_flops"} for row in rows]
