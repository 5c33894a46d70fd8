"""The third count: fvcore's tracer on real tensors, with our own handles for what it does not know. fvcore lives behind this file.

Its own handles leave out fused attention and count element-wise layers; here every operation that multiplies matrices has one, and
nothing else is counted.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blocks.moe.dispatch import traced_as_run

Handle = Callable[[list[Any], list[Any]], Counter[str]]


def fvcore_macs(model: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """MACs by class (matmul, convolution, attention) of a forward pass in eval mode, traced. Needs memory for the model."""
    from fvcore.nn import FlopCountAnalysis

    handles = {f"aten::{name}": _handle(kind, formula) for name, (kind, formula) in FORMULAS.items()}
    handles |= {"aten::einsum": _summed, "aten::_convolution": _convolved_either_way, "aten::lstm": _remembered}
    with warnings.catch_warnings(), torch.no_grad(), traced_as_run():
        warnings.simplefilter("ignore")
        analysis = FlopCountAnalysis(model.eval(), inputs)
        analysis.clear_op_handles().set_op_handle(**handles)
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        total: Counter[str] = Counter()
        for op, macs in analysis.by_operator().items():
            total[KINDS[op]] += int(macs)
    return {kind: total[kind] for kind in ("matmul", "convolution", "attention")}


def _summed(inputs: list[Any], outputs: list[Any]) -> int:
    """einsum of two tensors: the product of the sizes of all letters."""
    terms = inputs[0].toIValue().replace(" ", "").partition("->")[0].split(",")
    shapes = [_shape(value) for value in inputs[1].node().inputs()]
    sizes = {
        letter: size
        for term, shape in zip(terms, shapes, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    return math.prod(sizes.values())


def _remembered(inputs: list[Any], outputs: list[Any]) -> int:
    """A recurrence: every matrix of the weights meets every position."""
    matrices = [_shape(value) for value in inputs[2].node().inputs()]
    return math.prod(_shape(inputs[0])[:2]) * sum(math.prod(shape) for shape in matrices if len(shape) == 2)


def _handle(kind: str, formula: Callable[..., int]) -> Any:
    def count(inputs: list[Any], outputs: list[Any]) -> int:
        return formula([_shape(value) for value in inputs], _shape(outputs[0]))

    return count


def _shape(value: Any) -> list[int]:
    """The shape of a traced tensor; nothing for what is none."""
    kind = value.type()
    sizes = kind.sizes() if kind.isSubtypeOf(torch._C.TensorType.get()) else None
    return list(sizes) if sizes is not None else []


def _product(inputs: list[list[int]], out: list[int]) -> int:
    """(..., n, k) x (..., k, m): each output is a sum of k products."""
    return math.prod(out) * inputs[0][-1]


def _added(inputs: list[list[int]], out: list[int]) -> int:
    return math.prod(out) * inputs[1][-1]


def _convolved(inputs: list[list[int]], out: list[int]) -> int:
    """Each output is a sum over the kernel (C_in / groups, k, ...)."""
    return math.prod(out) * math.prod(inputs[1][1:])


def _transposed(inputs: list[list[int]], out: list[int]) -> int:
    """Each input goes into the kernel (C_out / groups, k, ...)."""
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _convolved_either_way(inputs: list[Any], outputs: list[Any]) -> int:
    """A convolution, or a transposed one, which the seventh argument says."""
    shapes = [_shape(value) for value in inputs[:2]]
    return (_transposed if inputs[6].toIValue() else _convolved)(shapes, _shape(outputs[0]))


def _attended(inputs: list[list[int]], out: list[int]) -> int:
    """Scores and sums: every query meets every key."""
    query, key, value = inputs[:3]
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


FORMULAS: dict[str, tuple[str, Callable[..., int]]] = {
    "linear": ("matmul", _product), "matmul": ("matmul", _product), "mm": ("matmul", _product), "bmm": ("matmul", _product),
    "addmm": ("matmul", _added), "baddbmm": ("matmul", _added),
    "_convolution": ("convolution", _convolved), "conv1d": ("convolution", _convolved), "conv2d": ("convolution", _convolved),
    "_convolution_mode": ("convolution", _convolved), "conv_transpose2d": ("convolution", _transposed),
    "scaled_dot_product_attention": ("attention", _attended),
}  # fmt: skip
KINDS = {name: kind for name, (kind, _) in FORMULAS.items()} | {"einsum": "matmul", "lstm": "matmul"}
