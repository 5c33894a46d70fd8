"""The last step to the deploy form on a CPU: weights in the layout that oneDNN computes in, activations inside its kernels.

Otherwise oneDNN brings the weights of every convolution and linear layer into its blocked layout at every call, which at a batch
of one takes as long as the arithmetic of a wide layer. Here each layer keeps a second copy in that layout, made at the first call,
again when weights change, and when the input has another shape, or torch other threads, twice in a row: for prompts of any length
it would be made for each, and used once. Where it does not apply (gradients, other devices and dtypes, autocast, compiling,
exporting) a packed layer computes as any other; names and values of the state stay the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from blocks.chain import Chain
from blocks.conv.conv import Conv, GroupedDilated, Strided, StridedPointwise, is_strided_pointwise, strided_pixels
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
"""The kernels' names by activation block; gelu has two formulas and is told apart in `post_of`."""


Kernel = Callable[[Tensor], Tensor]


class Ready(NamedTuple):
    """What was made of a layer's weights, of which, and for what: oneDNN's layout depends on the number of threads and on the
    input's shape, and for another computes two to three times as long."""

    weight: Tensor
    version: int | None
    bias: Tensor | None
    threads: int
    shape: torch.Size
    kernel: Kernel


class Packed(nn.Module):
    """Part of a packed layer: when the packed weights may be used, and keeping them up to date."""

    least_work = 2**24
    """Multiplications from which on packed weights save more than the 10 to 15 us that the call of their kernel costs more."""
    many_outputs = 2**16
    """Outputs from which on a pass of its own for the activation costs more than that."""
    by_threads = False
    """Whether both hold for one thread, and for each further one as much again."""

    plain: type[nn.Module]
    """The class that it had before."""
    act: nn.Module | None
    act_name: str
    """Where the activation stood beside it."""
    post: Post
    least: float
    """Numbers in the smallest input for which that is so, at one thread."""
    ready: Ready | None
    other: tuple[torch.Size, int] | None
    """Shape and threads that it is not ready for, and that the last such call had."""

    def start(self, plain: type[nn.Module]) -> None:
        self.plain, self.act, self.act_name = plain, None, ""
        self.post, self.ready, self.other = NOTHING, None, None
        self.least = self.least_input()

    def take(self, name: str, act: nn.Module, post: Post) -> None:
        """Computes the activation that follows under this name, too."""
        self.act, self.act_name, self.post = act, name, post
        self.least = self.least_input()

    def kernel_for(self, x: Tensor) -> Kernel | None:
        """The packed computation, or None where the ordinary one is to be taken.

        Runs at every call with cold caches, where each question takes near a microsecond: the cheap ones, and those that
        spare the others, come first. Under dynamo and a tracer the shape must not even be looked at.
        """
        if type(x) is not Tensor or torch.compiler.is_dynamo_compiling() or torch._C._is_tracing():
            return None
        threads = torch.get_num_threads()
        if (
            x.numel() < self.least * (threads if self.by_threads else 1)
            or not self.takes(x)
            or x.dtype is not torch.float32
            or not x.is_cpu
            or torch.is_autocast_enabled("cpu")
            or (torch.is_grad_enabled() and x.requires_grad)
        ):
            return None
        ready, parameters = self.ready, self._parameters
        is_ready = ready is not None and ready.shape == x.shape and ready.threads == threads
        if not is_ready and ready is not None and self.other != (x.shape, threads):
            self.other = (x.shape, threads)
            return None
        if (
            not is_ready
            or ready is None
            or ready.weight is not parameters["weight"]
            or ready.bias is not parameters["bias"]
            or (ready.version is not None and ready.version != ready.weight._version)
        ):
            ready = self.ready = self._prepare(x)
        return None if ready is None or (torch.is_grad_enabled() and ready.weight.requires_grad) else ready.kernel

    def _prepare(self, x: Tensor) -> Ready | None:
        weight: Any = self._parameters["weight"]
        if not weight.is_cpu or weight.dtype is not torch.float32:
            return None
        version = None if weight.is_inference() else weight._version
        return Ready(
            weight, version, self._parameters["bias"], torch.get_num_threads(), x.shape, self.pack(x, weight.detach())
        )

    def least_input(self) -> float:
        """`least` of this layer and its activation."""
        outputs = self.least_work / self._parameters["weight"][0].numel()  # type: ignore[index]
        if self.act is not None:
            outputs = min(outputs, self.many_outputs)
        return outputs / self.growth

    def takes(self, x: Tensor) -> bool:
        """Whether oneDNN's kernel reads inputs that lie in memory as this one does."""
        return True

    @property
    def growth(self) -> float:
        """Numbers in the output for each in the input."""
        raise NotImplementedError  # convolutions and linear layers have their own; this class is their common part

    def pack(self, x: Tensor, weight: Tensor) -> Kernel:
        """The computation with weights in the layout for inputs like x."""
        raise NotImplementedError  # convolutions and linear layers have their own; this class is their common part

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"ready": None, "other": None}  # packed tensors are opaque: nothing can copy them


def acted(y: Tensor, act: nn.Module) -> Tensor:
    """The activation of outputs of the ordinary computation, which nobody else holds: written over them where it can be."""
    kind: Any = type(act)
    out: Tensor = kind.over(act, y) if hasattr(kind, "over") else act(y)
    return out


class PackedConv(Packed, Conv):
    """A convolution with packed weights; (B, C, H, W) in channels_last, as `Conv`."""

    strided: bool

    def start(self, plain: type[nn.Module]) -> None:
        self.strided = is_strided_pointwise(self)
        super().start(plain)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel_for(x)
        if kernel is not None:
            return kernel(x)
        parameters, stride = self._parameters, self.stride  # asking the module for its weight takes a microsecond
        if self.strided:
            x, stride = strided_pixels(x, stride), (1, 1)
        y = F.conv2d(x, parameters["weight"], parameters["bias"], stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]
        act = self._modules.get("act")
        return y if act is None else acted(y, act)

    def least_input(self) -> float:
        return 0.0 if self._is_steep() else super().least_input()

    @property
    def growth(self) -> float:
        return self.out_channels / self.in_channels / math.prod(self.stride)

    def pack(self, x: Tensor, weight: Tensor) -> Kernel:
        border = (LEVEL - STEEP) // 2 if self._is_steep() else 0
        shape = [int(side) + border for side in self.padding], self.stride, self.dilation, self.groups
        packed = torch.ops.mkldnn._reorder_convolution_weight(F.pad(weight, [border] * 4), *shape, list(x.shape))
        compute, bias, post = torch.ops.mkldnn._convolution_pointwise.default, self.bias, self.post
        return lambda x: compute(x, packed, bias, *shape, *post)

    def _is_steep(self) -> bool:
        depthwise = self.groups == self.in_channels == self.out_channels and self.dilation == (1, 1)
        steep = depthwise and self.kernel_size == (STEEP, STEEP)
        return steep and torch.backends.cpu.get_cpu_capability() == "AVX512"


class PackedLinear(Packed, nn.Linear):
    """A linear layer with packed weights; channels last, whatever stands before them, as `nn.Linear`.

    Unpacked it runs in a matrix product that packs as it goes, so packing saves a twentieth of its time where a convolution saves a
    fifth or more.
    """

    least_work, many_outputs, by_threads = 2**25, 2**18, True

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel_for(x)
        if kernel is not None:
            return kernel(x)
        parameters = self._parameters
        y = F.linear(x, parameters["weight"], parameters["bias"])  # type: ignore[arg-type]
        act = self._modules.get("act")
        return y if act is None else acted(y, act)

    def takes(self, x: Tensor) -> bool:
        return x.ndim > 1 and x.is_contiguous()

    @property
    def growth(self) -> float:
        return self.out_features / self.in_features

    def pack(self, x: Tensor, weight: Tensor) -> Kernel:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, x.numel() // self.in_features)
        compute, bias, post = torch.ops.mkldnn._linear_pointwise.default, self.bias, self.post
        return lambda x: compute(x, packed, bias, *post)


class PackedDense(PackedLinear, Dense):
    """A linear layer with packed weights; any layout, as `Dense`."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return super().forward(x)


def available() -> bool:
    """Whether this torch has oneDNN with the packing ops."""
    names = ("_convolution_pointwise", "_reorder_convolution_weight", "_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


FORWARDS = nn.Conv2d.forward, StridedPointwise.forward, GroupedDilated.forward, Strided.forward
PACKED_LINEAR: dict[type, Any] = {nn.Linear: PackedLinear, Dense: PackedDense}


def pack(model: nn.Module) -> nn.Module:
    """Turns the plain convolutions and linear layers of a model in eval mode into packed ones, in place; returns it."""
    if not available():
        return model
    for module in list(model.modules()):
        plain = type(module)
        if plain.forward in FORWARDS and _is_plain(module):
            module.__class__ = PackedConv
            module.start(plain)  # type: ignore[operator]
        elif plain in PACKED_LINEAR:
            module.__class__ = PACKED_LINEAR[plain]
            module.start(plain)  # type: ignore[operator]
    for module in list(model.modules()):
        if isinstance(module, (Chain, Residual)):
            _take_activations(module)
    return model


def unpacked(model: nn.Module) -> nn.Module:
    """A model of plain layers around the same tensors, with activations where they stood; the model itself where nothing is packed."""
    if not any(isinstance(module, Packed) for module in model.modules()):
        return model
    tensors = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for owner in [module for module in twin.modules() if isinstance(module, (Chain, Residual))]:
        parts, owner._modules = owner._modules, {}
        for name, part in parts.items():
            owner._modules[name] = part
            if isinstance(part, Packed) and part.act is not None:
                owner._modules[part.act_name] = part.act
    for layer in [module for module in twin.modules() if isinstance(module, Packed)]:
        plain = layer.plain
        for name in ("plain", "act", "act_name", "post", "ready", "other", "least", "strided"):
            layer.__dict__.pop(name, None)
        layer._modules.pop("act", None)
        layer.__class__ = plain  # type: ignore[assignment]
    return twin


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
            before.take(name, part, post)
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
