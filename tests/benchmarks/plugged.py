"""What twenty installed plugins with 400 blocks and 500 models add to listing everything, in fresh interpreters."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile

from tests.benchmarks.harness import Comparison, compare
from tests.plugins.packages import install
from tests.plugins.test_listing import many

LISTING = "import zoo, blocks; zoo.list_models(); blocks.list_blocks(); zoo.plugins()"


def run(rounds: int = 15) -> Comparison:
    """Seconds of a listing without and with them, interpreter start included."""
    with tempfile.TemporaryDirectory() as folder:
        site = install(many(), pathlib.Path(folder))
        with_them = f"import sys; sys.path.insert(0, {str(site)!r}); {LISTING}"
        return compare({"no plugin": _program(LISTING), "20 plugins": _program(with_them)}, rounds)


def _program(text: str) -> object:
    def work() -> None:
        subprocess.run([sys.executable, "-c", text], check=True)

    return work
