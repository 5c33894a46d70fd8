"""FIT against its authors' code: tokens and latents, with the authors' names of the weights."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zoo
from blocks.primitives.activations import Gelu
from tests.models.parity import GOLDEN, KEYED


def joined(groups: torch.Tensor) -> torch.Tensor:
    """Groups (B, 4, 6, 5) as images (B, 5, 4, 6), whose windows of 2 x 3 they are."""
    return groups.unflatten(2, (2, 3)).unflatten(1, (2, 2)).permute(0, 5, 1, 3, 2, 4).reshape(-1, 5, 4, 6)


ROOT = float(torch.tensor(0.5).sqrt())
"""The root of a half in float32, by which TensorFlow's GELU multiplies float64 as well."""


def gelu_of_tensorflow(act: Gelu, x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(ROOT * x))


@pytest.mark.parametrize("theirs", [True, False])
def test_tokens_and_latents_are_those_of_the_reference(theirs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the tolerance of the golden with TensorFlow's GELU, and to 2e-8 with torch's."""
    if theirs:
        monkeypatch.setattr(Gelu, "forward", gelu_of_tensorflow)
        monkeypatch.setattr(Gelu, "over", gelu_of_tensorflow)
    about = json.loads((GOLDEN / "sequence" / "model_fit.json").read_text())
    data = load_file(GOLDEN / "sequence" / "model_fit.safetensors")
    model: Any = zoo.create("fit_small", weights=KEYED["keyed_state_dict"](about), source="official").double()
    with torch.no_grad():
        found = model(joined(data["in.x"].double()))
    for ours, name in (("tokens", "output"), ("seen", "latents")):
        expected = data[f"{name}.f64"].flatten(1, 2)
        atol = about["tolerance"][name]["fp64_atol"] if theirs else 2e-8
        torch.testing.assert_close(found[ours], expected, rtol=0, atol=atol)


def test_a_group_hears_of_another_by_its_latents_alone() -> None:
    model: Any = zoo.create("fit_nano").double().eval()
    torch.manual_seed(0)
    x = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    y = x.clone()
    y[..., 16:, 16:] += 1
    begun = [model.graph.embedded([model.graph.patches([image])]) for image in (x, y)]
    local = [model.graph.round0.merge.local0([tokens]) for tokens in begun]
    torch.testing.assert_close(local[0][:, :48], local[1][:, :48])
    assert not local[0][:, 48:].allclose(local[1][:, 48:])
    told = [model.graph.round0.merge((tokens, model.graph.latents([tokens])))["tokens"] for tokens in begun]
    assert not told[0][:, :16].allclose(told[1][:, :16])
