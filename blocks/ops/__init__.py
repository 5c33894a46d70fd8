"""The numeric kernels behind the blocks: each a reference that is obviously right, and faster forms of the same.

with blocks.ops.backend("reference"):
    ...  # every op called here runs on its reference
blocks.ops.explain(model, x)  # on which backend each op runs, and why
"""

from __future__ import annotations

from blocks.ops import delta_rule, linear_recurrence, selective_scan  # noqa: F401  (an op is known once imported)
from blocks.ops.dispatch import backend, explain

__all__ = ["backend", "explain"]
