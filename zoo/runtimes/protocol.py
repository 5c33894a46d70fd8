"""What a runtime is: a few methods that the zoo calls, for its own runtimes and for those of plugins. This file imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from zoo.runtimes.signature import Signature

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class Session(Protocol):
    """A net that is ready to run. Calls from several threads at once are safe, and none sees another's tensors."""

    signature: Signature
    """What it takes: as it was asked for, or of fewer sizes, where the runtime or the exported graph takes no more."""

    def __call__(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Flat tensors in, as the signature lists them, and flat tensors out: on the CPU, each with memory of its own.

        Shapes and dtypes were checked by the caller. Outputs of floats are float32 in every precision."""
        ...

    def close(self) -> None:
        """Gives its memory and handles back; it is not called again. A second close does nothing."""
        ...


@runtime_checkable
class Runtime(Protocol):
    """A way to run nets. An object without state; what it needs is imported inside its methods, so that listing costs nothing."""

    name: str
    """As people ask for it: `onnxruntime`."""
    distribution: str
    """What pip installs for it: `onnxruntime`; `torch` for those that come with the zoo."""

    def missing(self) -> str:
        """Why it cannot be used here, as one sentence with the command that mends it; "" where it can."""
        ...

    def version(self) -> str:
        """The version of the runtime as installed; what is built with one version is not opened with another."""
        ...

    def precisions(self) -> tuple[str, ...]:
        """Those in which this machine computes, of `zoo.catalog.runtimes.PRECISIONS`: without the instructions for bfloat16 that is none of them."""
        ...

    def compile(self, net: nn.Module, signature: Signature, precision: str, threads: int, folder: Path) -> Session:
        """A net made ready, and in `folder`, which is empty, all that `open` and `remake` need.

        `net` is the deploy form in eval mode, on the CPU, in float32, its layers not packed; its forward takes the tensors of the
        signature and returns what `signature.kind` says. It is not changed. Raises InputError with a sentence, and the operator's name,
        where the runtime cannot run it."""
        ...

    def open(self, folder: Path, signature: Signature, precision: str, threads: int) -> Session:
        """The net that `compile` left in `folder`, by the same version on a machine with the same instructions. Raises InputError."""
        ...

    def complete(self, session: Session, folder: Path) -> None:
        """Adds to `folder`, in which a session was compiled or opened, what only a folder that is handed on needs: what `run.py` reads
        where the zoo is not installed. May do nothing. Raises InputError."""
        ...

    def remake(self, folder: Path, signature: Signature, precision: str, threads: int) -> Session:
        """The same of the portable file alone, for this version and this machine: what was built is built anew. Raises InputError."""
        ...
