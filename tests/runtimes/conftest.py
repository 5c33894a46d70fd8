"""Small nets with weights, deployed in one runtime; all that is kept on this machine goes into the folder of the test."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.build.deploy import fused
from zoo.runtimes import registered
from zoo.runtimes.compiling import deployed_in
from zoo.runtimes.deployed import Deployed
from zoo.runtimes.net import signature_of

IMAGES = "starnet_nano.digits"
QUICK = ("torch", "onnxruntime", "openvino")
ALL = (*QUICK, pytest.param("compile", marks=pytest.mark.slow), pytest.param("aot", marks=pytest.mark.slow))
"""Those of a C++ compiler take half a minute for a net."""

Deploy = Callable[..., Deployed]


@pytest.fixture(autouse=True, scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One folder for all tests of the room, so that a net is compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@functools.cache
def net_of(name: str = IMAGES, **arguments: Any) -> nn.Module:
    return zoo.create(name, **arguments)


def truth(net: nn.Module, *tensors: Tensor, **options: Any) -> Any:
    """What the train form answers in float64."""
    import copy

    with torch.no_grad():
        return copy.deepcopy(net).double()(*(x.double() if x.is_floating_point() else x for x in tensors), **options)


def error_of(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest output."""
    assert found.shape == wanted.shape
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.fixture
def deploy() -> Any:
    """(net, runtime, precision, threads, example, dynamic) -> Deployed; closed at the end of the test."""
    opened: list[Deployed] = []

    def made(
        net: nn.Module,
        runtime: str = "torch",
        precision: str = "float32",
        threads: int = 1,
        example: Any = None,
        dynamic: str = "size",
    ) -> Deployed:
        plain = fused(net)
        model = deployed_in(
            registered.runtime(runtime), plain, signature_of(plain, example, dynamic), precision, threads
        )
        opened.append(model)
        return model

    yield made
    for model in opened:
        model.close()


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(deploy: Deploy, tmp_path: Path) -> Callable[[str], Path]:
    """The folder of a small net, deployed in a runtime and saved."""
    return lambda runtime: deploy(net_of(), runtime).save(tmp_path / runtime)
