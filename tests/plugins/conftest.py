"""Commands and snippets run where certain packages are installed."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.artifacts.conftest import hub as hub

ROOT = pathlib.Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run_in() -> Run:
    """`run_in(site, "-c", code)` or `run_in(site, "-m", "zoo", ...)`: this Python, with the packages of `site`."""

    def run(site: pathlib.Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {key: value for key, value in os.environ.items() if key != "ZOO_PLUGINS"}
        paths = os.pathsep.join([str(site), str(ROOT)])
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=240, check=False,
            env={**known, "PYTHONPATH": paths, **environment},
        )  # fmt: skip

    return run
