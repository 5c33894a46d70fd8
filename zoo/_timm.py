"""The one place that imports timm, also where torchvision was built for another torch.

timm imports torchvision. Beside its own torch that just works, and torchvision has to come *first*: its library registers operators,
and where somebody has registered them before, it aborts the process. Beside another torch (PyPI's torchvision and a CPU wheel
of torch) its import fails with "operator torchvision::nms does not exist"; timm needs none of these operators, only their names,
so they are defined then, and only then, and torchvision is imported anew.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

_libraries: list[Any] = []  # operators live as long as the library that defines them

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_timm() -> types.ModuleType:
    """The timm package. Raises ImportError with the command that installs it."""
    try:
        _import_torchvision()
        package: types.ModuleType = importlib.import_module("timm")
    except ImportError as error:
        raise ImportError(
            f'timm cannot be imported ({error}); install it with: pip install "blockzoo[timm]"'
        ) from error
    return package


def _import_torchvision() -> None:
    """torchvision, with the names of its operators where its own library does not load. Raises ImportError."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _define_operators()
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # what the failed import left behind
        importlib.import_module("torchvision")


def _define_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)
    _libraries.append(library)
