"""The names of a model's classes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zoo._timm import import_timm
from zoo.catalog.sources import find_source
from zoo.errors import InputError, Problem

if TYPE_CHECKING:
    from zoo.build.backbone import Backbone


def labels(model: Backbone | str | os.PathLike[str]) -> list[str]:
    """The names of the classes, in the order of the logits.

    They come with the weights; for a model of 1,000 classes without weights they are ImageNet's, as timm tells them.
    Raises InputError when nobody knows them.
    """
    if isinstance(model, (str, os.PathLike)):
        source = find_source(model)
        manifests, spec = source.manifests, source.spec
    else:
        manifests, spec = [model.pretrained] if model.pretrained is not None else [], model.spec
    named = next((manifest.labels for manifest in manifests if len(manifest.labels) == spec.num_classes), ())
    if named:
        return list(named)
    if spec.num_classes == 1000:
        info = import_timm().data.ImageNetInfo()
        return [info.index_to_description(index) for index in range(1000)]
    found = f"a model of {spec.num_classes} classes without weights that name them"
    step = "zoo.save(model, path, labels=[...]) writes them beside the weights"
    raise InputError("labels", Problem(spec.name, "weights with the names of their classes", found, next=step))
