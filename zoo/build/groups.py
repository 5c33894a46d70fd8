"""Parameters in groups: what does not decay, and learning rates that fall with depth (arXiv:2106.08254, section 3.2) or are a block's own."""

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


def lr_scales(model: nn.Module) -> dict[str, float]:
    """Name -> factor of the learning rate, for the parameters whose blocks ask for one in `lr_scales`."""
    return {
        f"{path}.{name}" if path else name: scale
        for path, module in model.named_modules()
        for name, scale in (getattr(module, "lr_scales", None) or {}).items()
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

    A parameter learns at `lr_scale` times the rate: what its block asks for (`lr_scales`), and with layer_decay and d
    layers above it layer_decay^d of that. Where `lr` is given, each group's own stands in `lr`. Parameters that are not
    trained are left out.
    """
    never, scales = no_weight_decay(model), lr_scales(model)
    depths = _depths(name for name, _ in model.named_parameters())
    top = max(depths.values(), default=0)
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and name not in never
        scale = scales.get(name, 1.0) * (1.0 if layer_decay is None else layer_decay ** (top - depths[name]))
        if (decays, scale) not in groups:
            group = {"params": [], "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
            groups[decays, scale] = group | ({"lr": lr * scale} if lr is not None else {})
        groups[decays, scale]["params"].append(parameter)
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
    if match := re.match(LAYER, name):
        return (int(match[1]), int(match[2]))
    if match := re.match(DOWNSAMPLE, name):
        return (int(match[1]), 0)
    return (1_000_000, 0)
