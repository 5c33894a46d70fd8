"""The short causal depthwise convolution that stands before most recurrences, with its activation and its state."""

from __future__ import annotations

from blocks.ops.causal_conv1d import native  # noqa: F401  (it registers itself)
from blocks.ops.causal_conv1d.conv import causal_conv1d, conv_state

__all__ = ["causal_conv1d", "conv_state"]
