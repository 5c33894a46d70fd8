"""Terminator against its authors' code, on the batch of four pictures that its outputs are of: norms and kernels read all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

import zoo
from blocks.folding import fuse
from tests.models.parity import GOLDEN, KEYED, count, error, golden, loaded

STEM = "terminator__cifar100"


@pytest.fixture(scope="module")
def model() -> Any:
    return loaded("terminator_cifar100", STEM).double().eval()


def pictures() -> torch.Tensor:
    x: torch.Tensor = KEYED["golden_sample"](golden(STEM), {}, batch=4)
    return x.double()


def test_outputs_and_parameters_are_those_of_the_reference(model: Any) -> None:
    reference = load_file(str(GOLDEN / "vision" / f"{STEM}.safetensors"))["output"]
    with torch.no_grad():
        assert error(model(pictures()), reference.double()) <= 1e-5
    assert count(model) == golden(STEM)["params"]


def test_a_batch_of_four_takes_the_work_of_the_reference() -> None:
    net = zoo.create("terminator_cifar100", device="meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(4, 3, 32, 32, device="meta"))
    assert counter.get_total_flops() // 2 == golden(STEM)["macs_flopcounter"]


def test_deploy_form_gives_the_same_output(model: Any) -> None:
    with torch.no_grad():
        assert error(fuse(model)(pictures()), model(pictures())) <= 1e-9


def test_what_stands_beside_a_picture_changes_its_output(model: Any) -> None:
    with torch.no_grad():
        assert error(model(pictures()[:2])[:1], model(pictures())[:1]) > 1e-3
