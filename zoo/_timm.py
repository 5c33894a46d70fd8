"""The one place that makes timm importable beside a CPU torch.

timm imports torchvision, whose wheel registers operators of another torch build and fails with "operator
torchvision::nms does not exist". timm needs none of them, only their names.
"""

from __future__ import annotations

import types
from typing import Any

_libraries: list[Any] = []  # operators live as long as the library that defines them

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_timm() -> types.ModuleType:
    """The timm package. Raises ImportError with the command that installs it."""
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            library.define(schema)
        _libraries.append(library)
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f'timm cannot be imported ({error}); install it with: pip install "blockzoo[timm]"'
        ) from error
    package: types.ModuleType = timm
    return package
