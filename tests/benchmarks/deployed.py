"""The deploy form against the model as created: small models, where each layer's own cost counts, and prompts of changing length."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from tests.benchmarks.harness import Comparison, compare
from zoo.build.inputs import meta_input

IMAGES = ["activator_nano", "vit_tiny_patch16_224", "gmlp_ti16_224", "mobilenetv4_conv_small"]
TOKENS = ["llama_nano", "mamba2_nano", "rwkv7_nano", "llama_smollm2_135m"]
LENGTH = 256
PROMPTS = [97, 31, 160, 64, 203, 45, 128, 77, 250, 19, 111, 180]
"""Tokens of one prompt after the other; no two in a row are of the same length."""


def run(rounds: int = 15) -> dict[str, Comparison]:
    """The model as created is the baseline of each row."""
    rows = {}
    for name in IMAGES:
        model = zoo.create(name)
        rows[f"{name}, deployed"] = _compare(model, [torch.randn(meta_input(model.spec, 1).shape)], rounds)
    for name in TOKENS:
        rows[f"{name}, deployed, {LENGTH} tokens"] = _compare(zoo.create(name), [_prompt(LENGTH)], rounds)
    name = TOKENS[-1]
    prompts = [_prompt(length) for length in PROMPTS]
    rows[f"{name}, deployed, prompts of {len(prompts)} lengths"] = _compare(zoo.create(name), prompts, rounds)
    return rows


def _prompt(length: int) -> Tensor:
    return torch.randint(256, (1, length), generator=torch.Generator().manual_seed(length))


def _compare(model: nn.Module, inputs: list[Tensor], rounds: int) -> Comparison:
    forms = {"as created": model.eval(), "deploy": zoo.deploy(model)}
    return compare({name: _in_turn(form, inputs) for name, form in forms.items()}, rounds)


def _in_turn(model: nn.Module, inputs: list[Tensor]) -> Any:
    """Each call takes the next input."""
    turn = itertools.cycle(inputs)

    def work() -> Tensor:
        with torch.inference_mode():
            y: Tensor = model(next(turn))
        return y

    return work
