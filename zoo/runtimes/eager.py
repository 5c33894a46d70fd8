"""torch as it is: the deploy form, run module by module. Of language models lower precisions are those of weights alone."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from blocks.narrowing import narrow
from zoo.build.deploy import packed
from zoo.build.language import LanguageModel
from zoo.errors import InputError, Problem
from zoo.runtimes.narrowed import narrows
from zoo.runtimes.net import Flat
from zoo.runtimes.protocol import Session
from zoo.runtimes.signature import Signature
from zoo.runtimes.torch_files import NET, PROGRAM, read_net, read_program, write_net, write_program
from zoo.runtimes.torch_session import TorchSession, in_precision, precisions, torch_version


class Eager:
    """In float32 on a CPU its layers keep their weights in the layout of the kernels, as those of `zoo.deploy`.

    A language model in bfloat16 or int8 keeps its weights in it, and computes in float32 (`blocks.narrowing`); the folder holds the
    weights in float32, of which they are made again."""

    name = "torch"
    distribution = "torch"

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return torch_version()

    def precisions(self) -> tuple[str, ...]:
        return precisions()

    def compile(self, net: nn.Module, signature: Signature, precision: str, threads: int, folder: Path) -> Session:
        session = self._session(copy.deepcopy(net), signature, precision, threads)
        if not write_net(net, folder):
            if narrows(self.name, signature.kind, precision):
                found = "one that was changed by hand, as only a program of float32 holds it"
                raise InputError("deploy", Problem("model", "a net that its spec describes", found))
            write_program(net, signature, folder, self.name, "float32")
        return session

    def open(self, folder: Path, signature: Signature, precision: str, threads: int) -> Session:
        if (folder / NET).exists():
            return self._session(read_net(folder), signature, precision, threads)
        program = read_program(folder, self.name)
        return TorchSession(in_precision(program, precision), signature, precision, threads)

    remake = open

    def complete(self, session: Session, folder: Path) -> None:
        """The program for `run.py`; a net that is not exported runs where the zoo is."""
        signature = session.signature
        if (folder / PROGRAM).exists() or not (folder / NET).exists():
            return
        if isinstance(session, TorchSession) and narrows(self.name, signature.kind, session.precision):
            return
        try:
            write_program(read_net(folder), signature, folder, self.name, "float32")
        except InputError:
            (folder / PROGRAM).unlink(missing_ok=True)

    def _session(self, net: nn.Module, signature: Signature, precision: str, threads: int) -> Session:
        """Takes the net: it is changed."""
        if narrows(self.name, signature.kind, precision):
            net = narrow(net, precision)  # type: ignore[arg-type]  # one of its forms
        else:
            net = packed(net) if precision == "float32" else in_precision(net, precision)
        if isinstance(net, LanguageModel) and signature.state:
            net.write_steps()
        return TorchSession(Flat(net, signature).eval(), signature, precision, threads, net)
