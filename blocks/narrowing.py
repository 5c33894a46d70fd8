"""Weights of a deploy form kept in fewer bits than they are multiplied in: int8 with a scale for every 64 inputs, or bfloat16.

Decoding reads every weight once for each token, and takes as long as that. Activations stay in float32, and so do products. Each dense
linear map is narrowed, and the table of tokens, which a head may share; maps inside routers stay as they are, since their outputs
decide which expert reads a token, and so do small ones, whose call takes longer than their weights. The state has `codes` and `scales`
where `weight` stood.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.ops import native
from blocks.ops.dispatch import is_observed
from blocks.ops.narrow_linear import OP, Form, NativeLayer, narrow_linear, narrowed, refusal, widened
from blocks.primitives.linears import Dense
from blocks.primitives.token_embedding import TokenEmbedding, foreign_ids

LEAST = 2**12
"""Weights from which on reading fewer bytes saves more than the call of the kernel costs."""


class Narrow(nn.Module):
    """Part of a narrowed layer: `codes` (O, I) and `scales` (O, G), or None for bfloat16, in the place of its `weight`."""

    codes: Tensor
    scales: Tensor | None
    ready: NativeLayer | None
    read: tuple[Tensor | None, ...]
    """The tensors that `ready` was made of."""

    def start(self, form: Form) -> None:
        codes, scales = narrowed(self._parameters.pop("weight").detach(), form)  # type: ignore[union-attr]
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.ready, self.read = None, ()

    if not TYPE_CHECKING:  # to whom the layers below have a weight like any other

        @property
        def weight(self) -> Tensor:
            """The weights that the codes stand for, made anew for whoever reads them."""
            return widened(self.codes, self.scales, self.wide)

    @property
    def wide(self) -> torch.dtype:
        """What the weights are widened to: float32, or what the net was converted to."""
        tensor = self.codes if self.scales is None else self.scales
        return torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype

    def product(self, x: Tensor) -> Tensor:
        """x W^T + b, (..., I) -> (..., O)."""
        kernel = self.kernel_for(x)
        return kernel(x) if kernel is not None else narrow_linear(x, self.codes, self.scales, self._bias())

    def kernel_for(self, x: Tensor) -> Callable[[Tensor], Tensor] | None:
        """The native form, made ready for these weights; None where the op is to choose."""
        if torch.compiler.is_dynamo_compiling() or is_observed():
            return None
        if type(x) is not Tensor or x.dtype is not torch.float32 or not x.is_cpu or not x.numel():
            return None
        if torch.is_grad_enabled() and x.requires_grad:
            return None
        buffers = self._buffers
        read = buffers["codes"], buffers["scales"], self._bias()
        if self.ready is None or any(now is not then for now, then in zip(read, self.read, strict=True)):
            if refusal(x, *read):  # type: ignore[arg-type]
                return None
            self.ready, self.read = NativeLayer(*read), read  # type: ignore[arg-type]
        return self.ready

    def _bias(self) -> Tensor | None:
        return self._parameters.get("bias")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"ready": None, "read": ()}  # addresses are those of this module's tensors


class NarrowLinear(Narrow, nn.Linear):
    """y = W x + b along the last axis, as `nn.Linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class NarrowDense(NarrowLinear, Dense):
    """y = W x + b along the channels of any layout, as `Dense`."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return self.product(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.product(x)


class NarrowEmbedding(Narrow, TokenEmbedding):
    """y = scale * W[ids], as `TokenEmbedding`; `scores` are those of a narrowed linear map."""

    def forward(self, ids: Tensor) -> Tensor:
        codes = self._rows(ids)
        scales = None if self.scales is None else F.embedding(ids, self.scales).flatten(0, -2)
        x = widened(codes.flatten(0, -2), scales, self.wide).view(codes.shape)
        return x if self.scale == 1 else x * self.scale

    def scores(self, x: Tensor) -> Tensor:
        return self.product(x)

    def _rows(self, ids: Tensor) -> Tensor:
        try:
            return F.embedding(ids, self.codes)
        except IndexError:
            raise foreign_ids(ids, len(self.codes)) from None


FORWARDS: dict[Any, type[Narrow]] = {nn.Linear.forward: NarrowLinear, Dense.forward: NarrowDense}


def missing() -> str:
    """Why narrowed layers would run slower than float32 here, as a part of a sentence; "" where they run in their kernel."""
    return native.missing(OP)


def narrow(model: nn.Module, form: Form) -> nn.Module:
    """Narrows the linear maps and the tables of tokens of a model in eval mode, in place; returns it. Raises ValueError for weights
    that are not finite."""
    routers = {
        part for module in model.modules() if getattr(module, "kind", "") == "router" for part in module.modules()
    }
    for module in [module for module in model.modules() if module not in routers]:
        kind = NarrowEmbedding if type(module) is TokenEmbedding else FORWARDS.get(type(module).forward)
        weight = module._parameters.get("weight")
        if kind is not None and weight is not None and weight.numel() >= LEAST:
            module.__class__ = kind
            module.start(form)  # type: ignore[operator]
    return model
