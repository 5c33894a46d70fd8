"""torch.compile: Inductor writes C++ for the net as it runs, weights in the layout of its kernels.

What it compiles is of one process, and for the shapes that it has met: another process compiles again (torch keeps parts of that work), and
the first input of another shape does, for all that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.runtimes.eager import Eager
from zoo.runtimes.net import Flat
from zoo.runtimes.protocol import Session
from zoo.runtimes.quiet import refusing
from zoo.runtimes.signature import Signature
from zoo.runtimes.torch_files import NET, examples_of, read_net, read_program
from zoo.runtimes.torch_session import TorchSession, in_precision, lacks_compiler

OPTIONS: dict[str, Any] = {"freezing": True}
"""Weights are constants: they are folded, and brought into the layout of the kernels once."""


class Compiled(Eager):
    name = "compile"

    def missing(self) -> str:
        return lacks_compiler()

    def open(self, folder: Path, signature: Signature, precision: str, threads: int) -> Session:
        if (folder / NET).exists():
            return self._session(read_net(folder), signature, precision, threads)
        return self._ready(in_precision(read_program(folder, self.name), precision), signature, precision, threads)

    remake = open

    def _session(self, net: nn.Module, signature: Signature, precision: str, threads: int) -> Session:
        return self._ready(Flat(in_precision(net, precision), signature).eval(), signature, precision, threads)

    def _ready(self, flat: nn.Module, signature: Signature, precision: str, threads: int) -> Session:
        """Compiled for the example. Raises InputError."""
        call = torch.compile(flat, options=OPTIONS)
        session = TorchSession(call, signature, precision, threads, flat)
        with refusing(self.name, "a net that torch.compile can follow"):
            session(*examples_of(signature))
        return session
