"""The numeric kernels behind the blocks: each a reference that is obviously right, and a fast form in plain torch.

with blocks.ops.backend("reference"):
    ...  # every op called here runs on its reference
"""

from __future__ import annotations

from blocks.ops import linear_attention, selective_scan  # noqa: F401  (an op is known once its module is imported)
from blocks.ops.dispatch import backend

__all__ = ["backend"]
