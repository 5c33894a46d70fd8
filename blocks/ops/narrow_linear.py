"""A linear map whose weights are narrower than what they are multiplied with: int8 with a scale for each group, or bfloat16.

A product with few rows, as in decoding, takes as long as the reading of its weights: half as many bytes are half the time.
R rows, I inputs, O outputs, G = ceil(I / GROUP) groups of inputs.
"""

from __future__ import annotations

import ctypes
import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops import native
from blocks.ops.dispatch import implementation, implements, wants_gradient
from blocks.ops.native.call import addresses, unfit

OP = "narrow_linear"
GROUP = 64
"""Inputs that share a scale: 4 bytes for 64."""
LARGEST = 127
"""Codes are in [-127, 127], so that a weight and its negative are equally far off."""
FEW = 16
"""Rows up to which weights are widened in registers; for more of them into cache, as many outputs at once as a panel has."""

Form = Literal["int8", "bfloat16"]
FORMS: tuple[Form, ...] = ("int8", "bfloat16")


def narrowed(weight: Tensor, form: Form) -> tuple[Tensor, Tensor | None]:
    """(codes, scales) of a weight (O, I): int8 (O, I) and float32 (O, G), or bfloat16 and None.

    scale = max |w| / 127 of a group, code = round(w / scale) to the nearest, halves to the even one: off by half a scale at most. A group
    of zeros has the scale 0. Raises ValueError for numbers that are not finite, and for a weight that is no matrix."""
    if weight.ndim != 2:
        raise ValueError(f"a weight to be narrowed should be a matrix (O, I); found {tuple(weight.shape)}")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("a weight to be narrowed should be finite; found inf or nan in it")
    if form == "bfloat16":
        return weight.to(torch.bfloat16), None
    outputs, inputs = weight.shape
    groups = math.ceil(inputs / GROUP)
    padded = F.pad(weight.double(), (0, groups * GROUP - inputs)).view(outputs, groups, GROUP)
    scales = (padded.abs().amax(-1) / LARGEST).float()
    steps = padded / scales.double().masked_fill(scales == 0, 1).unsqueeze(-1)
    codes = steps.round().clamp(-LARGEST, LARGEST).to(torch.int8).view(outputs, groups * GROUP)[:, :inputs]
    return codes.contiguous(), scales


def widened(weight: Tensor, scales: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weights (O, I) that the codes stand for."""
    if scales is None:
        return weight.to(dtype)
    return weight.to(dtype) * scales.to(dtype).repeat_interleave(GROUP, 1)[:, : weight.shape[1]]


def narrow_linear(x: Tensor, weight: Tensor, scales: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + bias, with W = `widened(weight, scales)`.

    x (..., I), weight (O, I), scales (O, G) or None, bias (O,) -> (..., O) in the dtype of x. Any size but I may be 0. The native form
    sums in float32: an output of up to `FEW` rows is the same for any number of threads and of other rows. Raises ValueError for
    shapes that do not fit."""
    outputs, inputs = weight.shape
    expected = {
        "x": (x, (*x.shape[:-1], inputs)),
        "scales": (scales, (outputs, math.ceil(inputs / GROUP))),
        "bias": (bias, (outputs,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"`{name}` has shape {tuple(tensor.shape)}; for weights of shape {(outputs, inputs)} it should be {shape}"
            )
    y: Tensor = implementation(OP, x, weight, scales, bias)(x, weight, scales, bias)
    return y


@implements(OP, "reference")
def reference(x: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None) -> Tensor:
    """The sum over the inputs, in the dtype of x."""
    y = (x.unsqueeze(-2) * widened(weight, scales, x.dtype)).sum(-1)
    return y if bias is None else y + bias.to(x.dtype)


@implements(OP, "eager")
def eager(x: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None) -> Tensor:
    """torch's product with the weights as they are when widened: as fast as float32 at best."""
    return F.linear(x, widened(weight, scales, x.dtype), None if bias is None else bias.to(x.dtype))


def refusal(x: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None) -> str:
    """Why the kernel cannot run here, "" when it can; the library is looked for, and built, last."""
    if why_not := unfit(x.dtype, x, weight, scales, bias):
        return why_not
    if weight.dtype != (torch.bfloat16 if scales is None else torch.int8):
        return f"the weights are {str(weight.dtype).removeprefix('torch.')}"
    if wants_gradient(x, scales, bias):
        return "a gradient is wanted, and it has none"
    return native.missing(OP)


@implements(OP, "native", unless=refusal)
def natively(x: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None) -> Tensor:
    """Few rows as their weights are read, many with weights that wait in cache."""
    return NativeLayer(weight, scales, bias)(x)


class Layer(ctypes.Structure):
    """`struct Layer` of linear.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("weight", "scales", "bias")] + [
        (name, ctypes.c_int64) for name in ("inputs", "outputs", "bytes")
    ]


class NativeLayer:
    """The native form of one layer: what it takes microseconds to find out, and a product of one row may not cost.

    Calls from several threads at once are safe. It holds the tensors that it reads."""

    def __init__(self, weight: Tensor, scales: Tensor | None, bias: Tensor | None):
        self.outputs, self.inputs = weight.shape
        self.held = (
            weight.contiguous(),
            None if scales is None else scales.float().contiguous(),
            None if bias is None else bias.float().contiguous(),
        )
        names = dict(zip(("weight", "scales", "bias"), self.held, strict=True))
        size = self.held[0].element_size()
        self.layer = Layer(**addresses(names), inputs=self.inputs, outputs=self.outputs, bytes=size)
        self.address = ctypes.addressof(self.layer)
        library = native.library(OP)
        self.linear = library.linear_layer  # type: ignore[union-attr]
        self.linear.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2

    def __call__(self, x: Tensor) -> Tensor:
        """`narrow_linear` of x (..., I) in float32."""
        x, shape = x.contiguous(), (*x.shape[:-1], self.outputs)
        rows = x.numel() // self.inputs
        y = x.new_empty(shape)
        self.linear(self.address, x.data_ptr(), y.data_ptr(), rows, torch.get_num_threads())
        return y
