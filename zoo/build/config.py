"""What a model wants of its input, under the keys of timm's `pretrained_cfg`, so that timm's data functions work on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zoo.build.inputs import meta_input
from zoo.data.transforms import preprocess_of
from zoo.specs.inputs import ImageInput


def pretrained_cfg(model: Any) -> dict[str, Any]:
    """Input size, interpolation, crop, mean, deviation, number of classes, names of the first convolution and the classifier.

    Of a model that reads tokens or series only what is not of images.
    """
    manifest = model.pretrained
    about = {
        "architecture": model.spec.name,
        "tag": manifest.tag if manifest is not None else "",
        "num_classes": model.num_classes,
        "classifier": _classifier(model),
        "license": manifest.licence if manifest is not None else model.spec.family.licence,
        "paper_ids": model.spec.family.paper,
    }
    if not isinstance(model.spec.input, ImageInput):
        return about | {"fixed_input_size": False}
    preprocess = preprocess_of(model)
    size = preprocess.channels, *preprocess.rows_and_columns
    pool_size, fixed = _pool_size(model)
    return about | {
        "input_size": size,
        "fixed_input_size": fixed,
        **({"min_input_size": size} if fixed else {}),
        "pool_size": pool_size,
        "crop_pct": preprocess.crop,
        "interpolation": preprocess.interpolation,
        "mean": preprocess.mean,
        "std": preprocess.std,
        "first_conv": _first_conv(model),
    }


def _classifier(model: Any) -> str | tuple[str, ...] | None:
    """The name of the last linear layer; of several, one for each state and set, all their names."""
    names: list[str] = []
    for name in ("classifier", "classifier_dist"):
        layer = getattr(model.head, name, None)
        if isinstance(layer, nn.ModuleList):
            names += [f"head.{name}.{i}" for i in range(len(layer))]
        elif layer is not None:
            names.append(f"head.{name}")
    return names[0] if len(names) == 1 else tuple(names) or None


def _first_conv(model: nn.Module) -> str | None:
    return next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)


@torch.no_grad()
def _pool_size(model: Any) -> tuple[tuple[int, ...] | None, bool]:
    """Rows and columns before the head, None when tokens stand there; and whether the model refuses images of another size."""
    twin, image = model.rebuild(model.spec), meta_input(model.spec)
    features = twin.forward_features(image)
    pool_size = tuple(features.shape[2:]) if features.ndim == 4 else None
    try:
        twin.forward_features(image.new_empty(*image.shape[:2], 2 * image.shape[2], 2 * image.shape[3]))
    except (ValueError, RuntimeError):
        return pool_size, True
    return pool_size, False
