"""Buffers that grow by small steps, and therefore stay in float32 whatever the rest of a net is converted to.

In bfloat16 a bias of 0.5 that moves by 0.001 stands still, and running moments stop where a step is less than half of what their
eight bits resolve; in float16 a weight that begins at 1e-8 is 0 for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type of an accumulator in a net of `dtype`: float32, or `dtype` if that is wider."""
    return torch.promote_types(dtype, torch.float32)


class Accumulating(nn.Module):
    """Base of modules with such buffers, named in `accumulators`. They are made by `accumulator`.

    `.to(torch.bfloat16)`, `.half()` and their like move them to the device that is asked for and leave their values as they are.
    """

    accumulators: tuple[str, ...] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = {name: self._buffers.get(name) for name in self.accumulators}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self._buffers.get(name)
            if buffer is not None and after is not None and after.dtype != wide(after.dtype):
                self._buffers[name] = buffer.to(after.device, wide(after.dtype))
        return self


def accumulator(*size: int) -> Tensor:
    """A buffer of zeros for small steps."""
    return torch.zeros(size, dtype=wide(torch.get_default_dtype()))


def accumulators_of(net: nn.Module) -> set[str]:
    """State-dict names of all buffers of a net that stay in float32."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, module in net.named_modules()
        if isinstance(module, Accumulating)
        for name in module.accumulators
        if module._buffers.get(name) is not None
    }
