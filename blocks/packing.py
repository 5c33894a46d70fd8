"""The last step to the deploy form on a CPU: weights in the layout that oneDNN computes in, activations inside its kernels.

Otherwise oneDNN brings the weights of every convolution and linear layer into its blocked layout at every call, which at a batch
of one takes as long as the arithmetic of a wide layer. Here each layer keeps a second copy in that layout, made at the
first call and again when the weights change. Where it does not apply (gradients, other devices and dtypes, autocast, compiling,
exporting) a packed layer computes as any other; names and values of the state stay the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from blocks.chain import Chain
from blocks.conv.conv import Conv
from blocks.primitives.linears import Dense
from blocks.wiring.residual import Residual

STEEP, LEVEL = 13, 15
"""oneDNN's depthwise kernel for AVX-512 unrolls up to 13 x 13, which is then larger than the instruction cache; from 14 x 14 on
it loops. 13 x 13 with a border of zeros, as 15 x 15, takes less than half the time (`tests/benchmarks`, kernels)."""

Post = tuple[str, list[float], str]
"""What oneDNN does to the outputs before it writes them: name, numbers, and which formula of it."""

NOTHING: Post = ("none", [], "")
POSTS: dict[str, Post] = {
    "core/relu@1": ("relu", [], ""),
    "core/relu6@1": ("hardtanh", [0.0, 6.0], ""),
    "core/silu@1": ("swish", [], ""),
    "core/sigmoid@1": ("sigmoid", [], ""),
    "core/tanh@1": ("tanh", [], ""),
    "core/hard_swish@1": ("hardswish", [], ""),
}
"""By activation block; gelu has two formulas and is told apart in `post_of`."""


class Packed(nn.Module):
    """Part of a packed layer: when the packed weights may be used, and keeping them up to date."""

    weight: Any
    act: nn.Module | None
    post: Post
    packed: Tensor | None
    packed_from: tuple[int, int] | None

    def start(self) -> None:
        self.act, self.post, self.packed, self.packed_from = None, NOTHING, None, None

    def take(self, act: nn.Module, post: Post) -> None:
        """Computes the activation that follows, too."""
        self.act, self.post = act, post

    def applies(self, x: Tensor) -> bool:
        weight = self.weight
        return (
            type(x) is Tensor
            and x.device.type == weight.device.type == "cpu"
            and x.dtype == weight.dtype == torch.float32
            and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and not torch.is_autocast_enabled("cpu")
        )

    def weights_for(self, x: Tensor) -> Tensor:
        """The packed weights, made anew when the parameter is another or has been written to."""
        version = 0 if self.weight.is_inference() else self.weight._version
        source = (self.weight.data_ptr(), version)
        if self.packed is None or self.packed_from != source:
            self.packed, self.packed_from = self.pack(x), source
        return self.packed

    def pack(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None, "packed_from": None}  # packed tensors are opaque: nothing can copy them


class PackedConv(Packed, Conv):
    """A convolution with packed weights; (B, C, H, W) in channels_last, as `Conv`."""

    def forward(self, x: Tensor) -> Tensor:
        if self.applies(x):
            shape = self._padding(), self.stride, self.dilation, self.groups
            y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self.weights_for(x), self.bias, *shape, *self.post)
            return y
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return y if self.act is None else self.act(y)

    def pack(self, x: Tensor) -> Tensor:
        border = self._border()
        weight = F.pad(self.weight.detach(), [border] * 4)
        shape = self._padding(), self.stride, self.dilation, self.groups
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *shape, list(x.shape))
        return packed

    def _border(self) -> int:
        """Zeros round the kernel, where a larger one is faster."""
        steep = self.kernel_size == (STEEP, STEEP) and self.groups == self.in_channels == self.out_channels
        plain = self.dilation == (1, 1) and torch.backends.cpu.get_cpu_capability() == "AVX512"
        return (LEVEL - STEEP) // 2 if steep and plain else 0

    def _padding(self) -> list[int]:
        border = self._border()
        return [int(side) + border for side in self.padding]


class PackedDense(Packed, Dense):
    """A linear layer with packed weights; any layout, as `Dense`."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return self._rows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self._rows(x)

    def _rows(self, x: Tensor) -> Tensor:
        if x.ndim > 1 and x.is_contiguous() and self.applies(x):
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weights_for(x), self.bias, *self.post)
            return y
        y = F.linear(x, self.weight, self.bias)
        return y if self.act is None else self.act(y)

    def pack(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), rows)
        return packed


def available() -> bool:
    """Whether this torch has oneDNN with the packing ops."""
    names = ("_convolution_pointwise", "_reorder_convolution_weight", "_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def pack(model: nn.Module) -> nn.Module:
    """Turns the plain convolutions and linear layers of a model in eval mode into packed ones, in place; returns it."""
    if not available():
        return model
    for module in list(model.modules()):
        if type(module).forward is nn.Conv2d.forward and _is_plain(module):
            module.__class__ = PackedConv
            module.start()  # type: ignore[operator]
        elif type(module) in (nn.Linear, Dense):
            module.__class__ = PackedDense
            module.start()  # type: ignore[operator]
    for module in list(model.modules()):
        if isinstance(module, (Chain, Residual)):
            _take_activations(module)
    return model


def _is_plain(conv: Any) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _take_activations(owner: nn.Module) -> None:
    """Moves an activation that follows a packed layer into it. Both kinds of owner run their parts one after the other."""
    before: nn.Module | None = None
    for name, part in list(owner._modules.items()):
        if name == "shortcut" or part is None:
            continue
        post = post_of(part)
        if post is not None and isinstance(before, Packed) and before.act is None:
            before.take(part, post)
            del owner._modules[name]
            continue
        before = part


def post_of(act: nn.Module) -> Post | None:
    """How oneDNN spells an activation, or None for one that it does not know."""
    identity = getattr(act, "block_id", "")
    if identity == "core/gelu@1":
        return ("gelu", [], str(getattr(act, "approximate", "none")))
    return POSTS.get(identity)


if available():

    @register_flop_formula(torch.ops.mkldnn._convolution_pointwise)
    def _convolution_flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return int(conv_flop_count(x, weight, out_shape, transposed=False))

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _linear_flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        rows = 1
        for size in x[:-1]:
            rows *= size
        return 2 * rows * int(weight[0]) * int(weight[1])
