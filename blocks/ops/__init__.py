"""The numeric kernels behind the blocks: each a reference that is obviously right, and faster forms of the same.

with blocks.ops.backend("reference"):
    ...  # every op called here runs on its reference
blocks.ops.explain(model, x)  # on which backend each op runs, and why
"""

from __future__ import annotations

from blocks.ops import (  # noqa: F401  (an op is known once its module is imported)
    causal_conv1d,
    delta_rule,
    linear_recurrence,
    long_conv,
    narrow_linear,
    selective_scan,
)
from blocks.ops.dispatch import backend, explain

__all__ = ["backend", "explain"]
