"""Ops of ours in a graph of ONNX: what is recorded as one node becomes a Scan, and calls that the exporter does not know their parts.

The loops of `blocks.ops.graph` are recorded as nodes of the domain `zoo_graph`; `with_loops` puts the standard's Scan in their place,
so that the file holds nothing that a runtime would have to be taught.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from blocks.ops.graph import exporting
from blocks.ops.graph.loops import Loops
from blocks.ops.recorded import fixed

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

DOMAIN = "zoo_graph"
OPSET = 17
"""The oldest opset of ONNX for which the loops are recorded."""

RANK = 4
"""Axes of all that a loop takes and keeps at one of its steps."""


class Body(NamedTuple):
    """One step of a loop: what it takes, the state first, nodes (operator, inputs, output), what it gives, the state first.

    `outside` are the inputs of the recorded node, by their places, that are the same at every step.
    """

    takes: tuple[str, ...]
    nodes: tuple[tuple[str, tuple[str, ...], str], ...]
    gives: tuple[str, ...]
    outside: dict[str, int]


BODIES = {
    "scan_steps": Body(
        ("h", "step", "x", "B", "C"),
        (
            ("Mul", ("step", "A"), "exponent"),
            ("Exp", ("exponent",), "decay"),
            ("Mul", ("decay", "h"), "decayed"),
            ("Mul", ("B", "x"), "written"),
            ("Add", ("decayed", "written"), "after"),
            ("MatMul", ("C", "after"), "y"),
        ),
        ("after", "y"),
        {"A": 4},
    ),
    "carried": Body(
        ("S", "decay", "written"),
        (
            ("Mul", ("decay", "S"), "decayed"),
            ("Add", ("decayed", "written"), "after"),
            ("Identity", ("S",), "before"),
        ),
        ("after", "before"),
        {},
    ),
    "delta_chunks": Body(
        ("S", "writes", "of_state", "shown", "kept", "total"),
        (
            ("MatMul", ("of_state", "S"), "read"),
            ("Add", ("writes", "read"), "w"),
            ("MatMul", ("shown", "S"), "seen"),
            ("Mul", ("total", "S"), "decayed"),
            ("MatMul", ("kept", "w"), "written"),
            ("Add", ("decayed", "written"), "after"),
        ),
        ("after", "w", "seen"),
        {},
    ),
}
"""What `blocks.ops.graph.loops` says of each loop, in the operators of ONNX."""


@contextmanager
def recorded_ops(loops: Loops = "onnx", dynamic: bool = False, is_free: bool = False) -> Iterator[None]:
    """Inside, torch.onnx.export and torch.jit.trace (`loops` "onnx", "script") and torch.export ("unrolled", "scan") see standard ops.

    With `dynamic` lengths of sequences stay free; otherwise they are those of the example. `is_free`: that other axes are, the batch.
    After torch.onnx.export comes `with_loops`.
    """
    with ExitStack() as stack:
        if loops == "onnx":
            _register_symbols()
        stack.enter_context(exporting(loops, dynamic))
        stack.enter_context(StandardCalls(is_free or dynamic))
        yield


class StandardCalls(TorchFunctionMode):
    """Calls of torch that exporters refuse or, where `is_free`, take for calls of fixed sizes, in calls that they know."""

    def __init__(self, is_free: bool):
        super().__init__()
        self.is_free = is_free

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        replaced = _OF_FREE_SIZES.get(function) if self.is_free else None
        return (replaced or _REPLACED.get(function, function))(*args, **(kwargs or {}))


def _attention(
    query: Tensor, key: Tensor, value: Tensor, *args: Any, enable_gqa: bool = False, **kwargs: Any
) -> Tensor:
    """Attention whose keys and values (B, G, M, K) are there once for each head."""
    if enable_gqa:
        heads = fixed(query)[1]
        key, value = _of_each_head(key, heads), _of_each_head(value, heads)
    return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)


def _of_each_head(x: Tensor, heads: int) -> Tensor:
    """(B, G, M, K) -> (B, H, M, K)."""
    groups = fixed(x)[1]
    return x if groups == heads else x.unsqueeze(2).expand(-1, -1, heads // groups, -1, -1).flatten(1, 2)


def _unflatten(x: Tensor, dim: int, sizes: Any) -> Tensor:
    """The axis `dim` in several. Recorded, by the sizes of all axes: the exporter takes those of torch.unflatten for fixed ones."""
    dim = dim % x.ndim
    return x.reshape(
        *(x.shape[axis] for axis in range(dim)), *sizes, *(x.shape[axis] for axis in range(dim + 1, x.ndim))
    )


def _flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from `start_dim` to `end_dim` in one."""
    start, end = start_dim % x.ndim, end_dim % x.ndim
    return x.reshape(*(x.shape[axis] for axis in range(start)), -1, *(x.shape[axis] for axis in range(end + 1, x.ndim)))


def _squeeze(x: Tensor, dim: int | None = None) -> Tensor:
    """Without the axis `dim`, which is of size 1. Recorded, since the exporter asks in the graph whether it is."""
    if dim is None or fixed(x)[dim] != 1:
        return x.squeeze() if dim is None else x.squeeze(dim)
    return x.select(dim, 0)


def _turned(x: Tensor) -> Tensor:
    """x^T of the last two axes, as `x.mT` says it."""
    return x.transpose(-2, -1)


_REPLACED: dict[Callable[..., Any], Callable[..., Any]] = {
    Tensor.mT.__get__: _turned,  # type: ignore[attr-defined]
    F.scaled_dot_product_attention: _attention,
}
_OF_FREE_SIZES: dict[Callable[..., Any], Callable[..., Any]] = {
    Tensor.unflatten: _unflatten,
    Tensor.flatten: _flatten,
    Tensor.squeeze: _squeeze,
}


@functools.cache
def _register_symbols() -> None:
    """The loops become nodes of our domain in torch's exporter."""

    def scan_steps(g: Any, step: Any, x: Any, B: Any, C: Any, A: Any, state: Any) -> Any:
        y, last = g.op(f"{DOMAIN}::scan_steps", step, x, B, C, A, state, outputs=2)
        return y.setType(step.type()), last.setType(state.type())

    def carried(g: Any, decay: Any, written: Any, state: Any) -> Any:
        before, last = g.op(f"{DOMAIN}::carried", decay, written, state, outputs=2)
        return before.setType(written.type()), last.setType(state.type())

    def delta_chunks(g: Any, writes: Any, of_state: Any, shown: Any, kept: Any, total: Any, state: Any) -> Any:
        inputs = writes, of_state, shown, kept, total, state
        w, seen, last = g.op(f"{DOMAIN}::delta_chunks", *inputs, outputs=3)
        return w.setType(writes.type()), seen.setType(writes.type()), last.setType(state.type())

    for symbol in (scan_steps, carried, delta_chunks):
        torch.onnx.register_custom_op_symbolic(f"zoo::{symbol.__name__}", symbol, OPSET)


def with_loops(model: ModelProto) -> ModelProto:
    """The model with a Scan for each node of our domain, changed in place. It knows no domain but the standard's then, if it knew ours."""
    kinds = _element_types(model)
    nodes = list(model.graph.node)
    if not any(node.domain == DOMAIN for node in nodes):
        return model
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.append(_scan(node, kinds) if node.domain == DOMAIN else node)
    kept = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def _element_types(model: ModelProto) -> dict[str, int]:
    """The element types that are known, by name of value; a recurrence of unknown type is of float32."""
    known = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    kinds = {value.name: value.type.tensor_type.elem_type for value in known}
    return kinds | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _scan(node: NodeProto, kinds: dict[str, int]) -> NodeProto:
    """The Scan that does what a node of ours says: its last input is the state, its last output the last state."""
    from onnx import TensorProto, helper

    prefix = node.output[0]
    kind = next((kinds[name] for name in (*node.input, *node.output) if kinds.get(name)), TensorProto.FLOAT)
    loop = BODIES[node.op_type]
    outside = {own: node.input[at] for own, at in loop.outside.items()}
    along = [name for name in node.input[:-1] if name not in outside.values()]
    return helper.make_node(
        "Scan",
        [node.input[-1], *along],
        [node.output[-1], *node.output[:-1]],
        name=f"{prefix}/scan",
        body=_body(loop, prefix, kind, outside),
        num_scan_inputs=len(along),
    )


def _body(loop: Body, prefix: str, kind: int, outside: dict[str, str]) -> GraphProto:
    """The graph of one step, its names made unique by a prefix; those `outside` are of the graph around it."""
    from onnx import helper

    def named(name: str) -> str:
        return outside.get(name) or f"{prefix}/{name}"

    nodes = [helper.make_node(op, [named(one) for one in names], [named(output)]) for op, names, output in loop.nodes]
    takes, gives = (
        [helper.make_tensor_value_info(named(name), kind, [None] * RANK) for name in names]
        for names in (loop.takes, loop.gives)
    )
    return helper.make_graph(nodes, f"{prefix}/body", takes, gives)
