"""What a swap by role changes: every site, with parameters and MACs before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from blocks.registry.words import short_name
from zoo.build.builder import build
from zoo.build.params import count_params
from zoo.measure.macs import count_macs
from zoo.specs.model import Spec
from zoo.specs.patch import swap_edits
from zoo.specs.resolve import respec


def swap_report(spec: Spec, swap: Mapping[str, Any], at: str = "") -> list[dict[str, Any]]:
    """One row per site: path, block before and after (None: empty), params and macs before and after."""
    before, after = build(spec), build(respec(spec, swap_edits(swap, at)))
    macs_before, macs_after = count_macs(before).by_module, count_macs(after).by_module
    old, new = _blocks(before), _blocks(after)
    sites = [path for path in {**old, **new} if _name(old, path) != _name(new, path)]
    outermost = [path for path in sites if not any(path.startswith(f"{other}.") for other in sites)]
    return [
        {
            "path": path,
            "before": _name(old, path), "after": _name(new, path),
            "params_before": _params(old.get(path)), "params_after": _params(new.get(path)),
            "macs_before": macs_before.get(path, 0), "macs_after": macs_after.get(path, 0),
        }
        for path in outermost
    ]  # fmt: skip


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    return {path: module for path, module in model.named_modules() if hasattr(module, "block_id")}


def _name(blocks: dict[str, nn.Module], path: str) -> str | None:
    return short_name(str(blocks[path].block_id)) if path in blocks else None


def _params(module: nn.Module | None) -> int:
    return count_params(module) if module is not None else 0
