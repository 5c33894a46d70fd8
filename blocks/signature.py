"""The arguments of a block: what a spec or a person gives, as the annotations of its constructor want it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from torch import nn

from blocks.first_values import ARGUMENTS, is_on_meta, orphans
from blocks.registry.errors import BlockError, Problem
from blocks.registry.schema import fits, shown, signature_params, words
from blocks.registry.slots import NONE, Place, Slot
from blocks.registry.words import short_name

NO_CHANNELS = "a ratio, an expansion or heads leave it no channels; a larger width, or more of it, would"


def checked_init(cls: Any) -> Callable[..., None]:
    """`cls.__init__` that checks and converts what a person passes, so `Mlp(64, act="gelu")` works and `ratio="4"` is refused."""
    init = cls.__init__
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        arguments = dict(bound.arguments)
        del arguments[next(iter(arguments))]
        if type(self) is not cls:  # a subclass passes what it likes to its parent
            init(self, *args, **kwargs)
            return
        _begin(self, cls, typed(cls, arguments, Place()))

    return __init__


def made(cls: Any, arguments: dict[str, Any], place: Place) -> nn.Module:
    """A block from the values of a spec, converted once; its slots are bound to `place`."""
    module: nn.Module = cls.__new__(cls)
    _begin(module, cls, typed(cls, arguments, place))
    return module


def _begin(module: nn.Module, cls: Any, converted: dict[str, Any]) -> None:
    """Runs the block's own constructor. Defaults that are slots stay shared templates: they hold no module."""
    _check_bounds(cls, converted)
    with _told_of_no_channels():
        cls.__init__.__wrapped__(module, **converted)
        _refuse_empty(module)
    if not hasattr(cls, "reset_parameters") and any(is_on_meta(part) for part in orphans(module).values()):
        module.__dict__[ARGUMENTS] = converted


def typed(cls: type, arguments: dict[str, Any], place: Place) -> dict[str, Any]:
    """Spec values as the constructor's annotations want them: structs, tuples, slots bound to `place`."""
    hints = _hints(cls)

    def slot_hook(kind: type, value: Any) -> Any:
        if kind is Slot:
            return value if isinstance(value, Slot) else Slot(value, place)
        raise NotImplementedError  # msgspec's word for a type that is not ours to convert

    out = {}
    for key, value in arguments.items():
        hint = hints.get(key)
        if hint is None or value is None or isinstance(value, Slot):
            out[key] = value
            continue
        try:
            out[key] = msgspec.convert(_without_none(value), hint, dec_hook=slot_hook)
        except msgspec.ValidationError as error:
            raise BlockError("", _mismatch(cls, key, value, error)) from None
    return out


def _mismatch(cls: Any, key: str, value: Any, error: Exception) -> Problem:
    """The sentence for a value that a constructor does not take, in the words of the schema."""
    param = signature_params(cls, cls.kind)[0].get(key)
    where = f"{short_name(cls.block_id)}.{key}"
    return Problem(where, words(param.schema) if param else "", shown(value) if param else str(error))


def _without_none(value: Any) -> Any:
    if value == NONE:
        return None
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items()}
    return value


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(inspect.unwrap(cls.__init__), include_extras=True)


@contextlib.contextmanager
def _told_of_no_channels() -> Iterator[None]:
    """torch's words for convolutions of no channels, and Python's for what is divided by none of them, as a sentence."""
    try:
        yield
    except ArithmeticError as error:
        raise ValueError(f"{NO_CHANNELS} ({error})") from error
    except ValueError as error:
        if str(error) != "groups must be a positive integer":
            raise
        raise ValueError(f"{NO_CHANNELS} (a convolution of none)") from error


def _refuse_empty(module: nn.Module) -> None:
    """Raises ValueError for a block with a parameter without values: it would add nothing, or fail when it runs."""
    for name, parameter in module.named_parameters():
        if not parameter.numel():
            raise ValueError(f"{NO_CHANNELS} (`{name}` would be {tuple(parameter.shape)})")


def _check_bounds(cls: Any, arguments: dict[str, Any]) -> None:
    """Floats must be finite: the one bound that msgspec does not know."""
    for key, value in arguments.items():
        if isinstance(value, float) and not fits(value, {"type": "number"}):
            raise BlockError("", Problem(f"{cls.__name__}.{key}", "a finite float", repr(value)))
