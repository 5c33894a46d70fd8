"""S6, the selective scan of Mamba: h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t, y_t = C_t h_t, a state per channel.

Paper: arXiv:2312.00752. Upstream (state-spaces/mamba, Apache-2.0) is followed in signature and layout. A is exact
(zero-order hold), B is the Euler step, as upstream. Every backend costs O(B L D N) and, for a gradient, O(B L D) memory.

In these files D is the number of channels, N the size of a channel's state, G the number of groups of channels that
share B and C, K = D / G, S the number of sequences: the samples, or what is packed into one.
"""

from __future__ import annotations

from blocks.ops.selective_scan import native, triton  # noqa: F401  (they register themselves)
from blocks.ops.selective_scan.scan import selective_scan

__all__ = ["selective_scan"]
