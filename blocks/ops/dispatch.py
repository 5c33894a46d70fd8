"""Which implementation of an op runs: chosen at every call by what the tensors are, or forced.

An op is a name with implementations, one per backend. All of them take and return the same.

    reference   the formula, step by step, in the dtype of its arguments; only when forced
    eager       plain torch, for every device and dtype
    native      C++ on a CPU, where a compiler built it (blocks.ops.native)
    triton      CUDA
    trace       one torch op, of which counters and export see shapes and FLOPs, whatever runs in it
    graph       operators that every runtime has, for whoever writes a graph; only when forced (blocks.ops.graph)

`trace` runs where torch looks on (counting, compiling, exporting, meta tensors) and where a gradient is wanted, as the
owner of the backward pass. Inside it one of the three before does the work. An op without it is plain torch throughout.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from blocks.ops.autocast import autocasts, device_type
from blocks.registry.errors import BlockError, Problem, listed, nearest

FASTEST_FIRST = ("triton", "native", "eager")
GRAPH = "graph"
TRANSFORMED = "torch.func transforms"

Implementation = TypeVar("Implementation", bound=Callable[..., Any])
Refusal = Callable[..., str]
"""Asked about the tensors of a call: why a backend cannot take it, as a part of a sentence; "" when it can."""


class Choice(NamedTuple):
    """The `backend` that computes, why (`reason`), and what to call (`run`)."""

    backend: str
    reason: str
    run: Callable[..., Any]


_known: dict[str, dict[str, Callable[..., Any]]] = {}
_refusals: dict[tuple[str, str], Refusal] = {}
_forced: ContextVar[str | None] = ContextVar("blocks.ops.backend", default=None)
_heard: ContextVar[Counter[tuple[str, str, str]] | None] = ContextVar("blocks.ops.explain", default=None)


def implements(op: str, backend: str, unless: Refusal | None = None) -> Callable[[Implementation], Implementation]:
    """Decorator: the function is what `backend` runs for `op`, unless `unless(*tensors)` says why it cannot.

    Autocast does not reach into it: what it computes in follows from its arguments, on every backend alike.
    """

    def register(function: Implementation) -> Implementation:
        @functools.wraps(function)
        def alone(*arguments: Any, **options: Any) -> Any:
            device = device_type(*arguments)
            if not autocasts(device):
                return function(*arguments, **options)
            with torch.autocast(device, enabled=False):
                return function(*arguments, **options)

        _known.setdefault(op, {})[backend] = alone
        if unless is not None:
            _refusals[op, backend] = unless
        return cast(Implementation, alone)

    return register


def implementation(op: str, *tensors: Tensor | None) -> Callable[..., Any]:
    """What runs for `op` on these tensors, here and now.

    Raises BlockError when the forced backend does not have the op or cannot take the tensors. While torch.compile traces,
    force does not count: a compiled graph is no place for a choice that ends with a `with`.
    """
    backends = _known[op]
    if torch.compiler.is_dynamo_compiling():
        return backends.get("trace") or backends["eager"]
    choice = choose(op, *tensors)
    if (heard := _heard.get()) is not None:
        heard[op, choice.backend, choice.reason] += 1
    return choice.run


def choose(op: str, *tensors: Tensor | None) -> Choice:
    """The backend for these tensors with its reason; raises BlockError as `implementation` does."""
    backends, forced = _known[op], _forced.get()
    watched = watcher(*tensors)
    if forced == GRAPH:
        return Choice(GRAPH, "forced", _able(op, GRAPH, *tensors))
    if not forced and is_transformed():
        name = "reference" if "reference" in backends else "eager"
        return Choice(name, f"plain torch, since {TRANSFORMED}", backends[name])
    if "trace" in backends and (forced == "trace" or (watched and forced != "reference")):
        name = forced if forced in FASTEST_FIRST else ""
        return Choice("trace", watched or "forced", functools.partial(backends["trace"], backend=name))
    if watched and not forced:
        return Choice("eager", f"plain torch, since {watched}", backends["eager"])
    name, reason = (forced, "forced") if forced else fastest(op, *tensors)
    run = _able(op, name, *tensors) if forced else backends[name]
    if "trace" in backends and name != "reference" and wants_gradient(*tensors):
        run = functools.partial(backends["trace"], backend=name)
    return Choice(name, reason, run)


def fastest(op: str, *tensors: Tensor | None) -> tuple[str, str]:
    """(backend, why not a faster one): the first of FASTEST_FIRST that can take the tensors."""
    refused: list[str] = []
    for name in FASTEST_FIRST:
        if name in _known[op]:
            why_not = refusal(op, name, *tensors)
            if not why_not:
                return name, "; ".join(refused)
            refused.append(f"not {name}: {why_not}")
    raise BlockError(f"op `{op}`", Problem("", "a backend that can take the call", "; ".join(refused)))


def refusal(op: str, backend: str, *tensors: Tensor | None) -> str:
    """Why `backend` cannot run `op` on these tensors; "" when it can."""
    unless = _refusals.get((op, backend))
    return unless(*tensors) if unless else ""


def kernel(op: str, backend: str, *tensors: Tensor | None) -> Callable[..., Any]:
    """What, inside a trace, `backend` runs for `op`; with "", what is forced or else the fastest that can."""
    forced = _forced.get()
    name = backend or (forced if forced in FASTEST_FIRST else "") or fastest(op, *tensors)[0]
    return _able(op, name, *tensors)


def _able(op: str, backend: str, *tensors: Tensor | None) -> Callable[..., Any]:
    """The implementation of that name. Raises BlockError when there is none, or none for these tensors."""
    backends = _known[op]
    if backend not in backends:
        raise BlockError(f"op `{op}`", Problem("", listed(sorted(backends)), f"the forced backend `{backend}`"))
    if why_not := refusal(op, backend, *tensors):
        raise BlockError(f"op `{op}`", Problem("", f"a call that the forced backend `{backend}` can take", why_not))
    return backends[backend]


def watcher(*tensors: Tensor | None) -> str:
    """What looks on while an op is called, and has to see one torch op rather than a kernel; "" when nothing does."""
    if torch.compiler.is_compiling():
        return "torch compiles or exports"
    if torch.jit.is_tracing():
        return "torch.jit traces"
    if torch._C._len_torch_dispatch_stack():
        return "a torch dispatch mode counts or traces"
    if is_transformed():
        return TRANSFORMED
    for tensor in tensors:
        if tensor is not None and tensor.is_meta:
            return "meta tensors"
        if tensor is not None and type(tensor) not in (Tensor, torch.nn.Parameter):
            return f"a tensor is a {type(tensor).__name__}"
    return ""


def is_transformed() -> bool:
    """Whether torch.func transforms what is computed: vmap, grad, jvp and their like know torch's own ops, and no gradients of others."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


def is_observed() -> bool:
    """Whether something looks on, or chooses backends, or autocast is on: else a layer on a CPU may call its kernel by itself."""
    return bool(_forced.get() or _heard.get() is not None or watcher() or torch.is_autocast_enabled("cpu"))


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether a gradient may be asked of an op on these tensors. A recorded trace may be trained, whatever the mode it is recorded in."""
    if torch.jit.is_tracing():
        return True
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Forces one backend for every op called inside. Raises BlockError for a name that no op has."""
    names = sorted({backend for backends in _known.values() for backend in backends})
    if name not in names:
        raise BlockError("blocks.ops.backend", Problem("", listed(names), f"`{name}`", nearest(name, names)))
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Calls an op, a block or a model and says on which backend its ops ran and why, one line per kind of call.

    blocks.ops.explain(model, image) -> "selective_scan on native, 24 calls; not triton: the tensors are on cpu"
    """
    heard: Counter[tuple[str, str, str]] = Counter()
    token = _heard.set(heard)
    try:
        function(*args, **kwargs)
    finally:
        _heard.reset(token)
    return "\n".join(
        f"{op} on {name}, {count} call{'s' * (count > 1)}" + (f"; {reason}" if reason else "")
        for (op, name, reason), count in heard.items()
    )
