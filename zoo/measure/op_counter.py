"""All that a forward pass computes, operation by operation: counted on meta, with torch's own formulas, beside the blocks' own.

Two counts are taken in one pass. The operations are counted by the formulas of `torch.utils.flop_counter`, ours for scans and FFTs
among them. The analytic count knows nothing of operations: it adds up what each layer and block says of itself (`macs`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, register_flop_formula

from blocks.ops.flops import kind_of

aten = torch.ops.aten

EXACT = ("matmul", "convolution", "attention")
"""Classes that are counted in MACs, and on which all counters agree exactly."""
FLOP_CLASSES = ("scan", "fft")
"""Classes of their own, in FLOPs."""

KIND: dict[Any, str] = {
    aten.mm: "matmul", aten.addmm: "matmul", aten.bmm: "matmul", aten.baddbmm: "matmul",
    aten.convolution: "convolution", aten._convolution: "convolution",
    aten._scaled_dot_product_flash_attention_for_cpu: "attention", aten._scaled_dot_product_flash_attention: "attention",
    aten._scaled_dot_product_efficient_attention: "attention", aten._scaled_dot_product_cudnn_attention: "attention",
    aten._scaled_dot_product_fused_attention_overrideable: "attention", aten._scaled_dot_product_attention_math: "attention",
    aten.scaled_dot_product_attention: "attention",
    aten._fft_r2c: "fft", aten._fft_c2r: "fft", aten._fft_c2c: "fft",
}  # fmt: skip

REDUCTIONS = {
    "mean", "sum", "amax", "amin", "max", "min", "var_mean", "var", "cumsum", "_softmax", "_log_softmax", "softmax", "logsumexp",
    "native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "batch_norm",
    "_native_batch_norm_legit", "_safe_softmax", "_fused_rms_norm", "cudnn_batch_norm", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices",
    "_adaptive_avg_pool2d", "adaptive_max_pool2d", "linalg_vector_norm", "topk", "sort", "argsort", "upsample_nearest2d", "_unsafe_index",
    "upsample_bilinear2d", "upsample_bicubic2d", "index_add", "scatter_add", "bincount", "prod", "argmax", "floor_divide", "gelu", "hardtanh", "hardswish",
    "log_sigmoid_forward", "grid_sampler_2d",
    "_embedding_bag", "_embedding_bag_forward_only", "searchsorted", "cummax", "argmin", "any",
}  # fmt: skip
"""Work of a few operations an element: listed with element-wise work, and never called nothing."""

MOVES = {
    "copy_", "clone", "_to_copy", "cat", "stack", "index_select", "gather", "embedding", "constant_pad_nd", "roll", "flip", "im2col",
    "index", "fill_", "zero_", "empty", "empty_like", "zeros", "zeros_like", "new_zeros", "new_empty", "new_ones", "ones", "full",
    "arange", "linspace", "empty_strided", "new_empty_strided", "full_like", "ones_like", "scalar_tensor", "repeat", "scatter", "index_put",
    "slice_scatter", "pixel_unshuffle", "unsafe_split", "tril", "triu", "tril_indices", "nonzero", "new_full", "scatter_", "index_put_", "zero",
    "copy", "channel_shuffle", "expand_copy", "complex", "_reshape_copy", "select_scatter", "col2im", "meshgrid", "lift_fresh", "detach_",
    "reflection_pad2d", "eye",
}  # fmt: skip
"""Operations that move data and compute nothing."""


@register_flop_formula([aten._fft_r2c, aten._fft_c2r, aten._fft_c2c])
def _fft_flops(shape: Any, dim: Any, *args: Any, out_shape: Any = None, **_: Any) -> int:
    """5 n log2 n for a complex transform of n points, half of it where one side is real (Cooley and Tukey, 1965)."""
    complex_both = len(args) == 2 and isinstance(args[1], bool) and shape == out_shape
    larger = max(shape, out_shape, key=math.prod)
    points = math.prod(larger[axis] for axis in dim)
    return int((5 if complex_both else 2.5) * math.prod(larger) * math.log2(max(points, 2)))


class Work(TorchDispatchMode):
    """Counts while it is active. `ops[name]` is [calls, elements of the outputs, FLOPs]; `paths` the FLOPs by module and class; `views`
    how many operations give another view of memory."""

    def __init__(self, watch_memory: bool = False) -> None:
        super().__init__()
        self.ops: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        self.kinds: dict[str, str] = {}
        self.paths: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.elements: dict[str, int] = defaultdict(int)
        self.uncounted: dict[str, int] = defaultdict(int)
        self.written_bytes = self.peak_bytes = self.views = 0
        self.open: list[str] = []
        self.inside = ""
        self.watch_memory = watch_memory
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        counted = packet in flop_registry
        if not counted and func.is_view is False and func._can_decompose():
            with self:
                result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
        result = func(*args, **kwargs)
        if func.is_view or packet in (aten._unsafe_view, aten.as_strided_):
            self.views += 1
            return result
        if self.inside == "group norm" and packet is aten.clone:
            return result  # some releases of torch copy a channels_last map here on meta, which no CPU does
        if packet is aten._to_copy and args[0].device != result.device:
            return result  # a table of constants, which is brought to its device once and not in each pass
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        elements = sum(output.numel() for output in outputs)
        kind = KIND.get(packet) or (kind_of(packet) or "scan" if counted else _kind(func))
        if self.inside == "attention" and kind == "matmul":
            kind = "attention"  # on meta it is taken apart
        if self.watch_memory:
            self._watch(outputs)
        if kind == "view":
            return result
        self.written_bytes += sum(output.numel() * output.element_size() for output in outputs)
        name = f"{func.namespace}.{packet.__name__}"
        row = self.ops[name]
        row[0] += 1
        row[1] += elements
        self.kinds[name] = kind
        flops = int(flop_registry[packet](*args, **kwargs, out_val=result)) if counted else 0
        self.counted(func, args, kind, elements, flops)
        if counted:
            row[2] += flops
            for path in self.open:
                self.paths[path][kind] += flops
        elif kind == "unknown":
            self.uncounted[name] += 1
        else:
            self.elements[kind] += elements
        return result

    def counted(self, func: Any, args: Any, kind: str, elements: int, flops: int) -> None:
        """What else a derived class counts of an operation that is no view: the elements of its outputs are told, and its FLOPs."""

    def _watch(self, outputs: list[Tensor]) -> None:
        """Bytes of all storages that the pass made and still holds."""
        for output in outputs:
            storage = output.untyped_storage()
            self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._live = {key: (ref, size) for key, (ref, size) in self._live.items() if not ref.expired()}
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._live.values()))


def _kind(func: Any) -> str:
    """The kind of an operation without a formula: element-wise, moving, a view, or unknown."""
    name = func._overloadpacket.__name__
    if torch.Tag.pointwise in func.tags or name in REDUCTIONS:
        return "elementwise"
    if name in MOVES:
        return "moved"
    if not any("Tensor" in str(result.type) for result in func._schema.returns):
        return "view"
    bare = name.rstrip("_")
    return (
        "elementwise"
        if bare in REDUCTIONS
        else "moved"
        if bare in MOVES
        else "view"
        if func.namespace == "prim"
        else "unknown"
    )


COMPOSITES = {F.scaled_dot_product_attention: "attention", F.group_norm: "group norm"}
"""Functions that torch takes apart before operations are seen, in another way from release to release."""


class Composites(TorchFunctionMode):
    """Tells `work` inside which of `COMPOSITES` it counts."""

    def __init__(self, work: Work):
        super().__init__()
        self.work = work

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in COMPOSITES:
            return func(*args, **(kwargs or {}))
        self.work.inside = COMPOSITES[func]
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.work.inside = ""


@contextmanager
def modules_open(work: Work, names: dict[nn.Module, str]) -> Iterator[dict[str, dict[str, int]]]:
    """Tells `work` which modules are running, and gives the analytic counts: {path: {class: MACs, or FLOPs of scans}}."""
    work_by_path: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def enter(module: nn.Module, inputs: Any) -> None:
        if module in names:
            work.open.append(names[module])
            for kind, count in said(module, inputs).items():
                for path in dict.fromkeys(work.open):
                    work_by_path[path][kind] += count

    def leave(module: nn.Module, *_: Any) -> None:
        if module in names:
            work.open.pop()

    hooks = [
        torch.nn.modules.module.register_module_forward_pre_hook(enter),
        torch.nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        with Composites(work):
            yield work_by_path
    finally:
        for hook in hooks:
            hook.remove()


def said(module: Any, inputs: Any) -> dict[str, int]:
    """What a layer or block says of its own work, beside that of the layers in it."""
    if not inputs or not isinstance(inputs[0], Tensor):
        return {}
    if hasattr(module, "macs"):
        if getattr(module, "kind", "") == "merge":
            return module.macs(*(tuple(x.shape) for x in inputs if isinstance(x, Tensor)))  # type: ignore[no-any-return]
        shape = tuple(inputs[0].shape)
        counts: dict[str, int] = (
            module.macs(shape, inputs[1]) if getattr(module, "cross", False) else module.macs(shape)
        )
        return counts
    count = next((COUNT[base] for base in type(module).__mro__ if base in COUNT), None)
    return count(module, inputs[0]) if count else {}


def conv_macs(conv: Any, x: Tensor) -> dict[str, int]:
    """Outputs times taps: B H' W' C_out (C_in / groups) k k."""
    if conv.padding == "same":
        return {"convolution": x.shape[0] * math.prod(x.shape[2:]) * conv.weight.numel()}
    sides = zip(x.shape[2:], conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True)
    out = [(side + 2 * pad - dilation * (size - 1) - 1) // stride + 1 for side, size, stride, pad, dilation in sides]
    return {"convolution": x.shape[0] * math.prod(out) * conv.weight.numel()}


def transposed_conv_macs(conv: Any, x: Tensor) -> dict[str, int]:
    """Inputs times taps: B H W C_in (C_out / groups) k k."""
    return {"convolution": x.shape[0] * math.prod(x.shape[2:]) * conv.weight.numel()}


def linear_macs(linear: Any, x: Tensor) -> dict[str, int]:
    """Rows times C_in C_out."""
    return {"matmul": x.numel() // linear.in_features * linear.weight.numel()}


COUNT: dict[type, Callable[[Any, Tensor], dict[str, int]]] = {
    nn.Conv1d: conv_macs,
    nn.Conv2d: conv_macs,
    nn.Conv3d: conv_macs,
    nn.ConvTranspose2d: transposed_conv_macs,
    nn.Linear: linear_macs,
}
