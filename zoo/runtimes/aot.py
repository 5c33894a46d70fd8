"""AOTInductor: the net as machine code in a package, compiled once, for one shape of inputs.

The code is of this machine's instructions, so that the folder says which they are. It is opened where it was made, or where somebody
says that its maker is trusted: it is a program."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import InputError, Problem
from zoo.exporting.archives import write_archive
from zoo.measure.clock import on_threads
from zoo.runtimes.eager import Eager
from zoo.runtimes.protocol import Session
from zoo.runtimes.quiet import refusing
from zoo.runtimes.signature import Signature
from zoo.runtimes.torch_files import NET, PROGRAM, exported, read_net, write_net
from zoo.runtimes.torch_session import TorchSession, in_precision, lacks_compiler

PACKAGE = "package.pt2"
CONFIG: dict[str, Any] = {"freezing": True}


class Aot(Eager):
    holds_code = True
    name = "aot"
    distribution = "torch"

    def missing(self) -> str:
        return lacks_compiler()

    def compile(self, net: nn.Module, signature: Signature, precision: str, threads: int, folder: Path) -> Session:
        kept = write_net(net, folder)
        program = self._package(copy.deepcopy(net), signature, precision, threads, folder)
        if not kept:
            with refusing(self.name, "a place for the program"):
                write_archive(folder / PROGRAM, lambda file: torch.export.save(program, file))
        return self.open(folder, signature, precision, threads)

    def open(self, folder: Path, signature: Signature, precision: str, threads: int) -> Session:
        with refusing(self.name, f"a package of AOTInductor in {folder / PACKAGE}"):
            package = torch._inductor.aoti_load_package(str(folder / PACKAGE))
        run = package.loader.boxed_run  # the package itself parses a tree of its arguments at each call

        def call(*arrays: Tensor) -> list[Tensor]:
            return run([x.contiguous() for x in arrays])  # type: ignore[no-any-return]

        return TorchSession(call, signature.fixed(), precision, threads)

    def complete(self, session: Session, folder: Path) -> None:
        """The package is all that `run.py` reads."""

    def remake(self, folder: Path, signature: Signature, precision: str, threads: int) -> Session:
        """Compiles again. A net that no spec describes is compiled of its program, which has the precision that it was made with."""
        if not (folder / NET).exists():
            raise InputError(
                "deploy", Problem(str(folder), f"{NET}, of which it is made again", "none", next="deploy it anew")
            )
        self._package(read_net(folder), signature, precision, threads, folder)
        return self.open(folder, signature, precision, threads)

    def _package(
        self, net: nn.Module, signature: Signature, precision: str, threads: int, folder: Path
    ) -> torch.export.ExportedProgram:
        """Writes the package. Takes the net: it is changed. Raises InputError."""
        program = exported(in_precision(net, precision), signature.fixed(), self.name, precision)
        with refusing(self.name, "a net that AOTInductor can compile"), on_threads(threads), torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(folder / PACKAGE), inductor_configs=CONFIG
            )
        return program
