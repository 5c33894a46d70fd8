"""The backends that tests run on, and what each needs of the machine."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from blocks.ops import native

FAST = ["eager", "native"]


def able(backend: str, dtype: torch.dtype = torch.float32) -> None:
    """Skips the test, with the reason, where the backend cannot run here."""
    if backend == "native" and dtype == torch.float64:
        pytest.skip("native kernels compute in float32")
    if backend == "native" and (reason := native.missing("selective_scan")):
        pytest.skip(reason)
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
