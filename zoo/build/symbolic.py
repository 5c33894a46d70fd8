"""Symbolic tracing by `torch.fx`, on which feature extraction of torchvision and quantisation of torch stand.

A tracer follows one pass with values that it does not know. A model is opened down to the modules that compute without asking for
sizes; a module that decides by the sizes or the number of axes of its input is one node of the graph, and so are the few functions
that tell an image from tokens. Nobody has to list them: the model tells the tracer, whichever it is, when the trace reaches it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.fx import Proxy, Tracer

from blocks.chain import per_channel
from blocks.context import Context
from blocks.heads.pool import pooled

FUNCTIONS = (per_channel, pooled)
"""Functions that look at the number of axes, as those of `blocks.chain` do: each is one node."""

IsLeaf = Callable[[nn.Module, str], bool]


@contextmanager
def opened(tracer: Any) -> Iterator[None]:
    """Within it the tracer takes every module whole that cannot be followed, and knows no ctx at such modules."""
    leaf, arg = tracer.is_leaf_module, tracer.create_arg
    tracer.is_leaf_module = _Leaves(leaf)
    tracer.create_arg = lambda value: None if isinstance(value, Context) else arg(value)
    tracer._autowrap_function_ids |= {id(function) for function in FUNCTIONS}
    try:
        yield
    finally:
        tracer.is_leaf_module, tracer.create_arg = leaf, arg


def called(module: nn.Module, method: str, *args: Any) -> Any:
    """`module.method(*args)`; one node in a trace."""
    proxy = next((value for value in args if isinstance(value, Proxy)), None)
    if proxy is None:
        return getattr(module, method)(*args)
    tracer: Any = proxy.tracer
    owner = tracer.create_proxy("get_attr", tracer.path_of_module(module), (), {})
    return tracer.create_proxy("call_method", method, (owner, *args), {})


class _Leaves:
    """`is_leaf_module` of a tracer, and of every module that cannot be followed."""

    def __init__(self, asked: IsLeaf):
        self.asked = asked
        self.known: dict[nn.Module, bool] = {}

    def __call__(self, module: nn.Module, path: str) -> bool:
        if module not in self.known:
            reads = getattr(module, "reads", None) is not None  # from ctx, which only the whole model has
            self.known[module] = self.asked(module, path) or not (reads or self._is_followed(module))
        return self.known[module]

    def _is_followed(self, module: nn.Module) -> bool:
        """Whether a trace of the module alone comes to its end."""
        parameters = list(inspect.signature(module.forward).parameters.values())
        fixed = {
            parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty
        }
        try:
            _Trial(self).trace(module, fixed)
        except Exception:  # whatever a forward pass says of values that are not there
            return False
        return True


class _Trial(Tracer):
    def __init__(self, leaves: _Leaves):
        super().__init__(autowrap_functions=FUNCTIONS, param_shapes_constant=True)
        self.is_leaf_module = leaves  # type: ignore[method-assign, assignment]
