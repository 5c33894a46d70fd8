"""One compiled net for the sizes of the example, and another, made when it is first wanted, for all other sizes.

A net that is compiled for any size is slower at each: so the one that is measured and chosen is compiled for the example's alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from torch import Tensor

from zoo.runtimes.signature import Signature

Compiled = TypeVar("Compiled")


class BySize(Generic[Compiled]):
    """`make(True)` compiles for the example, `make(False)` for any size."""

    def __init__(self, signature: Signature, make: Callable[[bool], Compiled]):
        self.signature, self._make = signature, make
        self._lock = threading.Lock()
        self._example = tuple(one.example for one in signature.inputs)
        self._ours: Compiled | None = make(True)
        self._others: Compiled | None = None

    def of(self, arrays: tuple[Tensor, ...]) -> Compiled:
        """The one for tensors of these sizes."""
        example = self._example
        if self._ours is not None and all(x.shape == shape for x, shape in zip(arrays, example, strict=False)):
            return self._ours
        if self._others is None:
            with self._lock:
                if self._others is None:
                    self._others = self._make(False)
        return self._others

    def close(self) -> None:
        self._ours = self._others = None
        self._make = _closed


def _closed(_: bool) -> NoReturn:
    raise RuntimeError("the deployed model was closed")
