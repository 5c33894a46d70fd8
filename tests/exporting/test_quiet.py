"""An exporter that fails says so in one sentence of ours, and prints nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import InputError
from zoo.exporting.onnx import write_onnx


class Decomposed(nn.Module):
    """Singular values, for which ONNX has no operator."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x)


def test_a_net_that_cannot_be_written_prints_no_graph(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="found `aten::linalg_svdvals`"):
        write_onnx(Decomposed(), torch.zeros(1, 3, 8, 8), tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
