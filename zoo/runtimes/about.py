"""What is known of a deployed model beside its tensors: name, digest, licence, names of classes, pre-processing. Plain data."""

from __future__ import annotations

from typing import Any

import msgspec
from torch import nn

from zoo.catalog.labels import labels as labels_of
from zoo.data.transforms import preprocess_of
from zoo.errors import InputError
from zoo.weights.manifest import Preprocess


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    digest: str
    weights: str = ""
    """Name and tag of the weights that it was made with, "" where nobody published them."""
    sha256: str = ""
    """The sha256 of the file of those weights."""
    licence: str = "unknown"
    origin: str = ""
    """Who says so: where the weights come from."""
    vocabulary: int = 0
    """How many tokens a language model knows."""
    labels: tuple[str, ...] = ()
    preprocess: Preprocess | None = None


def about(net: nn.Module) -> About:
    """What is known of a model that the zoo made; of a module without a spec its class alone."""
    model: Any = net
    spec = getattr(model, "spec", None)
    if spec is None:
        return About(type(net).__name__, "")
    manifest = getattr(model, "pretrained", None)
    is_image = hasattr(spec.input, "channels")
    return About(
        name=spec.name,
        digest=spec.digest,
        weights=manifest.name if manifest else "",
        sha256=manifest.sha256 if manifest else "",
        licence=(manifest.licence if manifest else spec.family.licence) or "unknown",
        origin=manifest.origin if manifest else "",
        vocabulary=getattr(spec.input, "vocab_size", 0),
        labels=_labels(model) if is_image and getattr(model, "out_indices", None) is None else (),
        preprocess=preprocess_of(model) if is_image else None,
    )


def _labels(model: Any) -> tuple[str, ...]:
    try:
        return tuple(labels_of(model))
    except (InputError, ImportError):  # nobody knows them, or timm, which knows ImageNet's, is not installed
        return ()
