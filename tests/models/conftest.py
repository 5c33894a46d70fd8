"""timm as an oracle, and the golden data as models see it."""

from __future__ import annotations

import types

import pytest
import torch


@pytest.fixture(scope="session")
def timm() -> types.ModuleType:
    """The timm package; without it the test is skipped.

    A torchvision built for another torch cannot register its operators. timm needs none of them, only their names.
    """
    try:
        return pytest.importorskip("timm")
    except RuntimeError:
        names = torch.library.Library("torchvision", "DEF")
        names.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        names.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_names"] = names  # the operators live as long as their library
        import timm

        return timm
