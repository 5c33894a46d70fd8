"""Parts of a model that a training leaves as they are."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.errors import InputError, Problem


def freeze(model: Any, stages: int) -> list[nn.Module]:
    """The stem and the first `stages` stages learn nothing, or with -1 all but the last linear layer; returns what is frozen.

    Raises InputError for more stages than there are."""
    if stages == 0:
        return []
    if stages < 0:
        classifier = model.get_classifier()
        model.requires_grad_(False)
        classifier.requires_grad_(True)
        head = [
            module for module in model.head.modules() if module is not model.head and not _holds(module, classifier)
        ]
        frozen = [model.stem, *model.stages, *head]
    else:
        if stages > len(model.stages):
            raise InputError(
                "recipe",
                Problem("model.freeze", f"at most {len(model.stages)}, the stages of {model.spec.name}", str(stages)),
            )
        frozen = [model.stem, *model.stages[:stages]]
        for module in frozen:
            if module is not None:
                module.requires_grad_(False)
    return [module for module in frozen if module is not None]


def norms_of(model: nn.Module) -> list[nn.Module]:
    """The batch norms of a model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _holds(module: nn.Module, part: nn.Module) -> bool:
    return any(inner is part for inner in module.modules())
