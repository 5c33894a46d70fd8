"""Workers of `pytest -n` share the cores: each has its part of them in torch, and so have the processes that it starts."""

from __future__ import annotations

import os

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

if WORKERS > 1:  # OpenMP reads it once, when torch is imported: before any test is
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))
