"""What the zoo asks of timm: a model on the current device, its deploy form, and what is known of its weights."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from torch import nn

from zoo._timm import import_timm
from zoo.catalog.external import External
from zoo.weights.manifest import Manifest, Preprocess
from zoo_timm.deploying import deploy

__all__ = ["create", "deploy", "manifest"]

LICENCES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause"}


def create(name: str, tag: str = "", **options: Any) -> nn.Module:
    """`timm.create_model` without weights; `tag` decides the number of classes and the size, as the weights need them."""
    options = {"num_classes": None, **options}
    known = {key: value for key, value in options.items() if value is not None}
    with _quiet():
        model: nn.Module = import_timm().create_model(f"{name}.{tag}" if tag else name, pretrained=False, **known)
    return model


def manifest(name: str, tag: str) -> Manifest | None:
    """Where timm keeps weights of an architecture: a file of the Hub, whose bytes nobody here has seen."""
    config = import_timm().models.get_pretrained_cfg(f"{name}.{tag}", allow_unregistered=False)
    if config is None or not config.hf_hub_id:
        return None
    licence = LICENCES.get(config.license or "", config.license or "unknown")
    forbids = "nc" in licence.lower().split("-")
    channels, *size = config.input_size
    return Manifest(
        model=f"timm/{name}",
        tag=tag,
        digest=External(f"timm/{name}").digest,
        source=f"hub:{config.hf_hub_id}/{config.hf_hub_filename or 'model.safetensors'}",
        state="listed",
        licence=licence,
        licence_class="noncommercial" if forbids else "permissive" if licence in LICENCES.values() else "unknown",
        origin=config.origin_url or "timm",
        preprocess=Preprocess(
            size=size[0] if size[0] == size[1] else tuple(size),
            mean=tuple(config.mean),
            std=tuple(config.std),
            channels=channels,
            interpolation=config.interpolation
            if config.interpolation in ("bicubic", "bilinear", "nearest")
            else "bicubic",
            crop=config.crop_pct,
        ),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """timm tells on import and on creation of old names; the zoo has no use for it."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
