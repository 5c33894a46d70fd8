"""What the command line and the front door cost before any model is built, in fresh interpreters, beside bare Python."""

from __future__ import annotations

import subprocess
import sys

from tests.benchmarks.harness import Comparison, compare

PROGRAMS = {
    "python": "pass",
    "zoo.list_models()": "import zoo; zoo.list_models()",
    "zoo.list_blocks()": "import blocks; blocks.list_blocks()",
    "import torch": "import torch",
    "import torch, zoo": "import torch, zoo",
    "torch, zoo.create": "import torch, zoo; zoo.create",
}


def run(rounds: int = 15) -> Comparison:
    """Seconds of each program, interpreter start included."""
    return compare({name: _program(text) for name, text in PROGRAMS.items()}, rounds)


def _program(text: str) -> object:
    def work() -> None:
        subprocess.run([sys.executable, "-c", text], check=True)

    return work
