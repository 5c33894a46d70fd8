"""The child process of `zoo pin`: `python -m zoo.artifacts.convert MODEL RULES DTYPE CHECKPOINT OUT`.

It alone opens a pickle that others made, with no more memory, time and disk than a file of that size and a model of that size can ask
for. Problems go to stdout as JSON, with exit code 2.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from zoo import catalog
from zoo.errors import ProblemsError
from zoo.factory import create
from zoo.weights.load import save_weights
from zoo.weights.shards import is_index

ROOM_BYTES = 2**30
CPU_S, CPU_S_PER_BYTE = 300, 1e-6
"""Processor time of all threads: a thousand times what a conversion takes."""
MOST_TOLD = 1_000


def main(model: str, rules: str, dtype: str, checkpoint: str, out: str) -> int:
    try:
        save_weights(create(model, weights=checkpoint, source=rules, dtype=getattr(torch, dtype)), out)
    except ProblemsError as error:
        print(json.dumps([problem._asdict() for problem in error.problems[:MOST_TOLD]]))
        return 2
    return 0


def confine(model: str, checkpoint: Path) -> None:
    """Bounds this process, whatever the checkpoint makes it do: addresses where Linux tells how many there are by now, processor time,
    the size of a file, no dump of the memory. Nothing where the system knows no such bounds."""
    try:
        import resource
    except ImportError:  # Windows
        return
    parts = checkpoint.parent.iterdir() if is_index(checkpoint.name) else [checkpoint]
    read = sum(part.stat().st_size for part in parts if part.is_file())
    parameter_bytes = 8 * catalog.entry(model).params
    _bound(resource.RLIMIT_CPU, int(time.process_time() + CPU_S + CPU_S_PER_BYTE * (read + parameter_bytes)))
    _bound(resource.RLIMIT_FSIZE, 2 * parameter_bytes + ROOM_BYTES // 16)
    _bound(resource.RLIMIT_CORE, 0)
    if (now := Path("/proc/self/statm")).is_file():
        pages = int(now.read_text().split()[0])
        _bound(resource.RLIMIT_AS, pages * resource.getpagesize() + ROOM_BYTES + 4 * (read + parameter_bytes))


def _bound(kind: int, most: int) -> None:
    """No more than `most`, nor than was allowed before."""
    import resource

    before = resource.getrlimit(kind)[1]
    most = most if before == resource.RLIM_INFINITY else min(most, before)
    resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    confine(sys.argv[1], Path(sys.argv[4]))
    sys.exit(main(*sys.argv[1:]))
