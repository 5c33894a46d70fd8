"""Convolution with kernels as long as the sequence, as a product of spectra: O(L log L), causal or to both sides.

Papers: Hyena, arXiv:2302.10866; Monarch Mixer, arXiv:2310.12109 (both sides); Orchid, arXiv:2402.18508 (a kernel per
sample). There is no native form: torch's Fourier transforms on CPUs are MKL's, and take nearly all of the time.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.ops.dispatch import implementation, implements
from blocks.ops.flops import flop_formula
from blocks.ops.selective_scan.steps import common_dtype, fast_dtype

OP = "long_conv"


def long_conv(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    kernel_back: Tensor | None = None,
    act: Literal["gelu"] | None = None,
) -> Tensor:
    """y_t = act(bias x_t + sum_{s <= t} kernel_{t-s} x_s + sum_{s >= t} kernel_back_{s-t} x_s).

    x (B, D, L); kernel and kernel_back (D, K), or (B, D, K) for kernels that depend on the input, K up to L; bias (D,)
    -> (B, D, L) in the dtype of x, computed in float32 at least but for `reference`. Without `kernel_back` it is causal.
    Of no steps there are kernels without taps.
    Raises ValueError when shapes do not fit.
    """
    _check_shapes(x, kernel, bias, kernel_back)
    run = implementation(OP, x, kernel, kernel_back)
    y: Tensor = run(x, kernel, kernel_back)
    if bias is not None:
        y = torch.addcmul(y, x, bias.to(x.dtype).unsqueeze(-1))
    return F.gelu(y) if act else y


def _check_shapes(x: Tensor, kernel: Tensor, bias: Tensor | None, kernel_back: Tensor | None) -> None:
    batch, channels, length = x.shape
    least = 1 if length else 0
    for name, tensor in {"kernel": kernel, "kernel_back": kernel_back}.items():
        if tensor is not None and (
            tuple(tensor.shape[:-1]) not in ((channels,), (batch, channels)) or not least <= tensor.shape[-1] <= length
        ):
            raise ValueError(
                f"`{name}` has shape {tuple(tensor.shape)}; for x of shape {tuple(x.shape)} it should be "
                f"({channels}, K) or ({batch}, {channels}, K) with K from {least} to {length}"
            )
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(f"`bias` has shape {tuple(bias.shape)}; for {channels} channels it should be ({channels},)")


@implements(OP, "reference")
def reference(x: Tensor, kernel: Tensor, kernel_back: Tensor | None) -> Tensor:
    """Lag by lag, in the dtype of its arguments."""
    length = x.shape[-1]
    y = torch.zeros_like(x, dtype=common_dtype(x, kernel, kernel_back))
    for lag, tap in enumerate(kernel.unbind(-1)):
        y = y + F.pad(tap.unsqueeze(-1) * x[..., : length - lag], (lag, 0))
    for lag, tap in enumerate(() if kernel_back is None else kernel_back.unbind(-1)):
        y = y + F.pad(tap.unsqueeze(-1) * x[..., lag:], (0, lag))
    return y.to(x.dtype)


@implements(OP, "eager")
def eager(x: Tensor, kernel: Tensor, kernel_back: Tensor | None) -> Tensor:
    """The product of spectra, long enough that nothing comes round to where it is read."""
    if not x.numel():  # torch has no Fourier transform of nothing
        return torch.zeros_like(x)
    dtype, size = fast_dtype(x, kernel, kernel_back), _size(x, kernel, kernel_back)
    spectrum = torch.fft.rfft(x.to(dtype), size) * _spectrum(kernel, kernel_back, dtype, size)
    return torch.fft.irfft(spectrum, size)[..., : x.shape[-1]].to(x.dtype)


def _spectrum(kernel: Tensor, kernel_back: Tensor | None, dtype: torch.dtype, size: int) -> Tensor:
    """The spectra of the kernel and, reversed in time, of the one that looks ahead."""
    spectrum = torch.fft.rfft(kernel.to(dtype), size)
    return spectrum if kernel_back is None else spectrum + torch.fft.rfft(kernel_back.to(dtype), size).conj_physical()


def _size(x: Tensor, kernel: Tensor, kernel_back: Tensor | None) -> int:
    longest = kernel.shape[-1] if kernel_back is None else max(kernel.shape[-1], kernel_back.shape[-1])
    return smooth(x.shape[-1] + longest - 1)


def smooth(least: int) -> int:
    """The smallest even number from `least` on with no prime factor above 5: what Fourier transforms are fast at."""
    sizes = [
        2**twos * 3**threes * 5**fives
        for fives in range(math.ceil(math.log(max(least, 2), 5)) + 1)
        for threes in range(math.ceil(math.log(max(least, 2), 3)) + 1)
        for twos in range(1, math.ceil(math.log2(max(least, 2))) + 1)
    ]
    return min(size for size in sizes if size >= least)


@implements(OP, "trace")
def trace(x: Tensor, kernel: Tensor, kernel_back: Tensor | None, backend: str = "") -> Tensor:
    """The op that torch sees."""
    return long_conv_op(x, kernel, kernel_back)


@torch.library.custom_op("zoo::long_conv", mutates_args=())
def long_conv_op(x: Tensor, kernel: Tensor, kernel_back: Tensor | None) -> Tensor:
    """`eager`, with its own backward pass: spectra are computed again rather than kept."""
    return eager(x, kernel, kernel_back).contiguous()


@long_conv_op.register_fake
def _(x, kernel, kernel_back):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)


@torch.library.custom_op("zoo::long_conv_backward", mutates_args=())
def long_conv_backward_op(
    grad: Tensor, x: Tensor, kernel: Tensor, kernel_back: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, kernel and kernel_back (empty where there is none): correlations with the gradient of y."""
    if not x.numel():
        back = x.new_empty(0) if kernel_back is None else torch.zeros_like(kernel_back)
        return torch.zeros_like(x), torch.zeros_like(kernel), back
    dtype, size = fast_dtype(x, kernel, kernel_back), _size(x, kernel, kernel_back)
    of_grad = torch.fft.rfft(grad.to(dtype), size)
    to_x = torch.fft.irfft(of_grad * _spectrum(kernel, kernel_back, dtype, size).conj_physical(), size)[
        ..., : x.shape[-1]
    ]
    product = of_grad * torch.fft.rfft(x.to(dtype), size).conj_physical()

    def lags(spectrum: Tensor, taps: Tensor) -> Tensor:
        summed = spectrum.sum(0) if taps.ndim == 2 else spectrum
        return torch.fft.irfft(summed, size)[..., : taps.shape[-1]].to(taps.dtype).contiguous()

    back = x.new_empty(0) if kernel_back is None else lags(product.conj_physical(), kernel_back)
    return to_x.to(x.dtype).contiguous(), lags(product, kernel), back


@long_conv_backward_op.register_fake
def _(grad, x, kernel, kernel_back):  # type: ignore[no-untyped-def]
    back = x.new_empty(0) if kernel_back is None else kernel_back.new_empty(kernel_back.shape)
    return x.new_empty(x.shape), kernel.new_empty(kernel.shape), back


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    x, kernel, kernel_back = ctx.saved_tensors
    to_x, to_kernel, to_back = long_conv_backward_op(grad, x, kernel, kernel_back)
    return to_x, to_kernel, None if kernel_back is None else to_back


long_conv_op.register_autograd(_backward, setup_context=_setup_context)


@flop_formula(torch.ops.zoo.long_conv, "fft")
def long_conv_flops(x, kernel, kernel_back, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """5/2 n log2 n for each transform of n real numbers, 6 for each product of two of its n/2 + 1 complex ones.

    n is the length and the longest kernel together, before it is rounded up to a size that is fast.
    """
    return _transforms_and_products(x, kernel, kernel_back, transforms=2, products=1)


@flop_formula(torch.ops.zoo.long_conv_backward, "fft")
def long_conv_backward_flops(grad, x, kernel, kernel_back, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Three transforms and two products per channel of a sample; two transforms for each kernel."""
    kernels = _transforms_and_products(x, kernel, kernel_back, transforms=0, products=0)
    return kernels + _transforms_and_products(x, kernel, kernel_back, transforms=3, products=2)


def _transforms_and_products(x, kernel, kernel_back, transforms: int, products: int) -> int:  # type: ignore[no-untyped-def]
    """FLOPs of so many per channel of a sample, and one transform per kernel."""
    taps = [shape for shape in (kernel, kernel_back) if shape is not None]
    size = x[-1] + max(shape[-1] for shape in taps) - 1
    transform = round(2.5 * size * math.log2(max(size, 2)))
    rows = x[0] * x[1]
    return (
        transform * (transforms * rows + sum(math.prod(shape[:-1]) for shape in taps))
        + products * 6 * (size // 2 + 1) * rows
    )
