"""The load of any net, counted in one pass on meta. `python -m zoo.measure.load_counter` writes those of the core's models."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from blocks.packing import Packed
from zoo.build.builder import build
from zoo.build.deploy import deploy
from zoo.build.inputs import meta_inputs
from zoo.measure.counted import Counted
from zoo.measure.load import SHIPPED, Load
from zoo.measure.op_counter import REDUCTIONS, Composites, Work
from zoo.specs.model import Spec

FEW_CHANNELS = 16
"""Channels in a group below which a grouped convolution is no dense one for each group."""
LARGE_KERNEL = 7
"""The largest side of a depthwise kernel that is not large."""
FEW_ROWS = 4
"""Rows of a matrix below which its product is bound by the memory of the weights."""
TRANSCENDENTAL = {
    "gelu", "silu", "sigmoid", "exp", "erf", "tanh", "softplus", "log_sigmoid_forward", "elu", "log", "sin", "cos", "pow", "softmax",
    "_softmax", "_safe_softmax", "_log_softmax", "logsumexp", "rsqrt", "sqrt", "mish", "log1p", "expm1", "logaddexp",
}  # fmt: skip
POOLS = {
    "avg_pool2d", "max_pool2d_with_indices", "avg_pool3d", "_adaptive_avg_pool2d", "upsample_bilinear2d", "upsample_bicubic2d",
    "upsample_nearest2d", "grid_sampler_2d",
}  # fmt: skip
COPIES = {"clone", "copy_", "copy"}


def load_of(net: nn.Module, form: str = "train", batch: int = 1) -> Load:
    """The load of a train form's net on meta, in the form asked for."""
    if form == "deploy":
        net = deploy(net)
    work = Kinds(packs=form == "deploy")
    with torch.no_grad(), work, Composites(work):
        net.eval()(*meta_inputs(net.spec, batch))  # type: ignore[arg-type]
    amounts = dict(work.amounts)
    amounts["weight_bytes"] = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    amounts["operations"] = sum(row[0] for row in work.ops.values())
    return Load(views=work.views, **amounts)


class Kinds(Work):
    """Work by the kinds of a `Load`; `packs`: products that are large enough are those of packed weights, as on a CPU."""

    def __init__(self, packs: bool) -> None:
        super().__init__()
        self.packs = packs
        self.amounts: dict[str, int] = defaultdict(int)

    def counted(self, func: Any, args: Any, kind: str, elements: int, flops: int) -> None:
        name = func._overloadpacket.__name__
        if kind == "convolution":
            self._convolution(args, elements, flops)
        elif kind == "matmul":
            self._product([one for one in args if isinstance(one, Tensor)][-2:], elements, flops)
        elif kind in ("attention", "fft", "scan"):
            self.amounts[kind] += flops
        elif kind in ("elementwise", "moved"):
            self._elements(name, args, kind, elements)

    def _convolution(self, args: Any, elements: int, flops: int) -> None:
        x, weight, dilation, transposed, groups = args[0], args[1], args[5], args[6], args[8]
        sides = weight.shape[2:]
        self.amounts["convolutions"] += 1
        self.amounts["convolution_traffic"] += x.numel() + elements
        if transposed:
            kind = "transposed"
        elif groups > 1 and weight.shape[0] == groups and weight.shape[1] == 1:
            large = "large_depthwise" if max(sides) > LARGE_KERNEL else "depthwise"
            kind = "dilated_depthwise" if max(dilation) > 1 else large
        elif groups > 1:
            kind = "grouped" if min(weight.shape[1], weight.shape[0] // groups) < FEW_CHANNELS else "convolution"
        else:
            kind = "pointwise" if math.prod(sides) == 1 else "convolution"
        self.amounts[kind] += flops

    def _product(self, factors: list[Tensor], elements: int, flops: int) -> None:
        self.amounts["products"] += 1
        if len(factors) < 2 or min(one.ndim for one in factors) < 2:
            kind, read = "vector", 0
        else:
            left, right = factors
            alone = left.ndim == 2 or left.shape[0] == 1
            kind = "batched" if not alone else "vector" if left.shape[-2] < FEW_ROWS else "matmul"
            read = left.numel() + (0 if alone else right.numel())
            if kind == "matmul" and self.packs and flops >= 2 * Packed.least_work:
                kind = "packed"
        self.amounts["packed_traffic" if kind == "packed" else "matmul_traffic"] += read + elements
        self.amounts[kind] += flops

    def _elements(self, name: str, args: Any, kind: str, elements: int) -> None:
        inputs = [one.numel() for one in args if isinstance(one, Tensor)]
        most = max([elements, *inputs])
        if self.inside == "attention":
            self.amounts["softmax"] += elements
        elif "norm" in name and name in REDUCTIONS:
            kind = "layer_normalised" if "layer" in name or "rms" in name or "group" in name else "batch_normalised"
            self.amounts[kind] += elements
        elif name in POOLS:
            window = math.prod(args[1]) if name in ("avg_pool2d", "max_pool2d_with_indices") else 1
            self.amounts["pooled"] += max(elements * window, *inputs)
        elif name.rstrip("_") in TRANSCENDENTAL:
            self.amounts["transcendental"] += elements
        elif name in COPIES:
            self.amounts["copied"] += elements
        elif kind == "moved":
            self.amounts["moved"] += elements
        else:
            self.amounts["elements"] += most


def _both_forms(spec: Spec) -> dict[str, Load]:
    return {form: load_of(build(spec), form) for form in ("train", "deploy")}


LOADS = Counted(SHIPPED, _both_forms)

if __name__ == "__main__":
    sys.exit(LOADS.main())
