"""What a model wants of its input, under the keys of timm's `pretrained_cfg`, so that timm's data functions work on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zoo.build.builder import build, meta_input
from zoo.specs.check import TokenInput


def pretrained_cfg(model: Any) -> dict[str, Any]:
    """Input size, interpolation, crop, mean, deviation, number of classes, names of the first convolution and the classifier.

    Of a model that reads tokens only what is not of images.
    """
    from zoo.transforms import preprocess_of

    manifest = model.pretrained
    about = {
        "architecture": model.spec.name,
        "tag": manifest.tag if manifest is not None else "",
        "num_classes": model.num_classes,
        "classifier": "head.classifier" if model.get_classifier() is not None else None,
        "license": manifest.licence if manifest is not None else model.spec.family.licence,
        "paper_ids": model.spec.family.paper,
        "fixed_input_size": any(hasattr(module, "input_size") for module in model.modules()),
    }
    if isinstance(model.spec.input, TokenInput):
        return about
    preprocess = preprocess_of(model)
    return about | {
        "input_size": (preprocess.channels, *preprocess.rows_and_columns),
        "pool_size": _pool_size(model),
        "crop_pct": preprocess.crop,
        "interpolation": preprocess.interpolation,
        "mean": preprocess.mean,
        "std": preprocess.std,
        "first_conv": _first_conv(model),
    }


def _first_conv(model: nn.Module) -> str | None:
    return next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)


@torch.no_grad()
def _pool_size(model: Any) -> tuple[int, ...] | None:
    """Rows and columns before the head; None when tokens stand there."""
    features = build(model.spec).forward_features(meta_input(model.spec))
    return tuple(features.shape[2:]) if features.ndim == 4 else None
