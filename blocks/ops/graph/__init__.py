"""Ops as graphs: the `graph` backend, which says the same with the operators that every runtime has.

with blocks.ops.graph.exporting("onnx"):
    ...  # what torch.onnx, torch.jit or torch.export records in here holds no op of ours but the loops

A recurrence is a matrix product within a chunk of steps and another one between chunks; lengths may be free, since a chunk is
no longer than the sequence and the last one is filled up in the graph. What cannot be a product is one of two loops
(blocks.ops.graph.loops), written for whoever records.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blocks.ops.dispatch import GRAPH, backend
from blocks.ops.graph import convolutions, recurrences, scans  # noqa: F401  (they register themselves)
from blocks.ops.graph.loops import Loops, looping
from blocks.ops.recorded import free_lengths

__all__ = ["exporting"]


@contextmanager
def exporting(loops: Loops = "unrolled", dynamic: bool = False) -> Iterator[None]:
    """Inside, every op runs as a graph, with `loops` in the form that the recorder knows.

    Unless `dynamic`, lengths are those of this call, whatever is recorded; then steps that need no filling up are not filled.
    """
    with backend(GRAPH), looping(loops), free_lengths(dynamic):
        yield
