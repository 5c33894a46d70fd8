"""The native kernels do nothing that the sanitizers report."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import sanitizers


@pytest.mark.slow
@pytest.mark.skipif(sanitizers.compiler() is None, reason="there is no g++ with the sanitizers here")
def test_kernels_are_clean_under_the_sanitizers():
    command = [sys.executable, "-m", "tests.sanitizers", "--calls", "400"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
