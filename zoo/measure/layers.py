"""A model as rows: each layer and part with its output shape, parameters and MACs. Runs on meta."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.build.builder import meta_input
from zoo.measure.macs import count_macs


def layer_rows(model: nn.Module) -> list[dict[str, Any]]:
    """One row for each registered block that stands in the spec's own places: path, block, output shape, params, macs.

    `model` is on meta (see zoo.build.builder.build). Slots inside a block (its norms and activations) are part of it.
    """
    places = {module: path for path, module in model.named_modules() if _is_place(path, module)}
    shapes: dict[str, list[int]] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[places[module]] = list(output.shape)

    hooks = [module.register_forward_hook(note) for module in places]
    try:
        with torch.no_grad():
            model(meta_input(model.spec))  # type: ignore[arg-type]
    finally:
        for hook in hooks:
            hook.remove()
    macs = count_macs(model).by_module
    rows = []
    for module, path in places.items():
        params = sum(parameter.numel() for parameter in module.parameters())
        block = str(module.block_id).removeprefix("core/").removesuffix("@1")
        rows.append(
            {"path": path, "block": block, "shape": shapes.get(path, []), "params": params, "macs": macs.get(path, 0)}
        )
    return rows


def _is_place(path: str, module: nn.Module) -> bool:
    """Blocks under numbered positions only: `stages.0.layers.1.0.2`, not the `fc1` inside."""
    if not hasattr(module, "block_id"):
        return False
    steps = path.split(".")
    named = {"stem", "stages", "downsample", "layers", "view", "post", "head"}
    return (
        all(step.isdigit() or step in named for step in steps) and steps[0] in named and steps[:2] != ["head", "norm"]
    )
