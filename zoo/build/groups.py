"""Parameters in groups: what does not decay, and learning rates that fall with depth (arXiv:2106.08254, section 3.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

STEM = r"^stem|^stages\.0\.(?:downsample|view)\."
"""What stands before the first layer; the tokens and positions of a plain transformer are in its view."""
COARSE = r"^stages\.(\d+)"
LAYER = r"^stages\.(\d+)\.layers\.(\d+)"
DOWNSAMPLE = r"^stages\.(\d+)\.(?:downsample|view)"
LAST = (99999,)


def no_weight_decay(model: nn.Module) -> set[str]:
    """Names of the parameters that their blocks name in `no_decay`."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in getattr(module, "no_decay", ())
        if module._parameters.get(name) is not None
    }


def group_matcher(coarse: bool = False) -> dict[str, Any]:
    """The patterns that timm's `group_parameters` takes: layers in order, stem first, the head's own layers last."""
    if coarse:
        return {"stem": STEM, "blocks": COARSE}
    return {"stem": STEM, "blocks": [(DOWNSAMPLE, (0,)), (LAYER, None), (r"^stages\.(\d+)\.post", LAST)]}


def param_groups(
    model: nn.Module, weight_decay: float = 0.05, layer_decay: float | None = None, lr: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: vectors and what `no_weight_decay` names do not decay.

    layer_decay: with d layers above it, a parameter learns at lr * layer_decay^d; the factor stands in `lr_scale`, and in `lr`
    itself when that is given. Parameters that are not trained are left out.
    """
    never = no_weight_decay(model)
    depths = _depths(name for name, _ in model.named_parameters())
    top = max(depths.values(), default=0)
    groups: dict[tuple[bool, int], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and name not in never
        above = top - depths[name] if layer_decay is not None else 0
        if (decays, above) not in groups:
            scale = (layer_decay or 1.0) ** above
            group = {"params": [], "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
            groups[decays, above] = group | ({"lr": lr * scale} if lr is not None else {})
        groups[decays, above]["params"].append(parameter)
    return list(groups.values())


def _depths(names: Iterable[str]) -> dict[str, int]:
    """How deep each parameter lies: 0 in the stem, one more with every layer, the deepest in the head."""
    places = {name: _place(name) for name in names}
    order = {place: depth for depth, place in enumerate(sorted(set(places.values())))}
    return {name: order[place] for name, place in places.items()}


def _place(name: str) -> tuple[int, int]:
    """(stage, layer); what leads into a stage counts to its first layer, what closes it to the head of the next."""
    if re.match(STEM, name):
        return (-1, 0)
    if found := re.match(LAYER, name):
        return (int(found[1]), int(found[2]))
    if found := re.match(DOWNSAMPLE, name):
        return (int(found[1]), 0)
    return (1_000_000, 0)
