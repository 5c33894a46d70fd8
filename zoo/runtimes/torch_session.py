"""What the three runtimes of torch share: a callable of flat tensors in some dtype, on some threads."""

from __future__ import annotations

import contextlib
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.measure.clock import on_threads
from zoo.runtimes.instructions import computed_here
from zoo.runtimes.signature import Signature

Call = Callable[..., Any]


class TorchSession:
    """Runs `call` without gradients. torch counts its threads for the whole process: a call sets the number where it is another, and
    sets it back, so that of two models with different numbers that run at the same time both may have either.

    `net` is the module behind it, where there is one."""

    def __init__(self, call: Call, signature: Signature, precision: str, threads: int, net: nn.Module | None = None):
        self.signature, self.precision, self.threads, self.net = signature, precision, threads, net
        self._call: Call | None = call
        self._dtype = getattr(torch, precision)
        self._plain = precision == "float32"
        self._inputs = len(signature.inputs)

    def __call__(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        assert self._call is not None  # or it was closed
        many = torch.get_num_threads() != self.threads
        with torch.inference_mode(), on_threads(self.threads) if many else contextlib.nullcontext():
            outputs = self._call(*arrays) if self._plain else self._call(*self._cast(arrays))
        # a copy outside of inference mode is a tensor like any other, and nobody else's
        return tuple(y.float() if y.is_floating_point() and y.dtype != torch.float32 else y.clone() for y in outputs)

    def _cast(self, arrays: tuple[Tensor, ...]) -> list[Tensor]:
        """Inputs in the dtype of the weights; what the state keeps stays as it is."""
        inputs = arrays[: self._inputs]
        return [*(x.to(self._dtype) if x.is_floating_point() else x for x in inputs), *arrays[self._inputs :]]

    def close(self) -> None:
        self._call = self.net = None


def in_precision(net: nn.Module, precision: str) -> nn.Module:
    """The net itself with its floats in a precision, in the memory layout of its kernels."""
    net.to(dtype=getattr(torch, precision))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def torch_version() -> str:
    return str(torch.__version__)


def precisions() -> tuple[str, ...]:
    return computed_here()


def lacks_compiler() -> str:
    """Why Inductor cannot compile here, with the next step; "" where it can."""
    import os

    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++", "cl")), "")
    if not compiler:
        return "it compiles C++ and found no compiler; next: install one (`apt install g++`), or set CXX to its path"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.exists():
        return f"it compiles against Python's headers and found no {header}; next: install them (`apt install python3-dev`)"
    return ""
