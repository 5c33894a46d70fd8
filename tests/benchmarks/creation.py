"""Creating a model: with random weights against timm, and with weights of a local file against timm's `checkpoint_path`."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import torch

import zoo
from tests.benchmarks.harness import Comparison, compare
from tests.models.parity import entries
from zoo._timm import import_timm

RANDOM = ["convnext_tiny", "vit_base_patch16_224", "resnet50", "inceptionnext_tiny", "caformer_s18"]
LOADED = "vit_base_patch16_224"


def random_weights(rounds: int = 7) -> dict[str, Comparison]:
    """Per model: timm (the baseline) and ours, drawing weights."""
    timm, names = import_timm(), entries("timm")
    known = [name for name in RANDOM if name in names]
    return {name: compare(_random_pair(timm, names[name], name), rounds) for name in known}


def _random_pair(timm: Any, theirs: str, ours: str) -> dict[str, Any]:
    return {"timm": lambda: timm.create_model(theirs), "zoo": lambda: zoo.create(ours)}


def from_file(rounds: int = 7) -> dict[str, Comparison]:
    """The same weights from a safetensors file each, in each library's own names."""
    names = entries("timm")
    if LOADED not in names:
        return {}
    from safetensors.torch import save_file

    timm = import_timm()
    theirs = timm.create_model(names[LOADED])
    ours = zoo.create(LOADED, weights=theirs.state_dict(), source="timm")
    with tempfile.TemporaryDirectory() as folder:
        timm_file, zoo_file = pathlib.Path(folder, "timm.safetensors"), pathlib.Path(folder, "zoo.safetensors")
        save_file({key: tensor.contiguous() for key, tensor in theirs.state_dict().items()}, timm_file)
        zoo.save(ours, zoo_file)
        overlay = {"file": str(timm_file)}
        pair = {
            "timm": lambda: timm.create_model(names[LOADED], pretrained=True, pretrained_cfg_overlay=overlay),
            "zoo": lambda: zoo.create(LOADED, weights=zoo_file),
        }
        check = [work() for work in pair.values()]
        x = torch.zeros(1, 3, 224, 224)
        with torch.inference_mode():
            torch.testing.assert_close(check[0].eval()(x), check[1](x))
        return {f"{LOADED} from a file": compare(pair, rounds)}
