"""From a filled call to a module: values get their Python types, slots learn their place, the builder's own arguments are supplied."""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch
from torch import nn

from blocks import registry
from blocks.calls import expand
from blocks.chain import Chain, StandIn, run
from blocks.errors import BlockError, Problem
from blocks.schema import Issue, fits, shown, words
from blocks.slots import NONE, Place, Slot


def construct(call: Any, place: Place, dim: int, out_dim: int | None = None, **supplied: Any) -> nn.Module | None:
    """The module of a call for `dim` input channels: None for "none", a Chain for a list.

    `out_dim` is the width asked for; it is handed to the first block that can change width and ignored by the others.
    Raises BlockError with the place when the constructor refuses, unless `place.failed` collects.
    """
    if call is None or call == NONE:
        return None
    if isinstance(call, list):
        return build_chain(call, place, dim, out_dim, **supplied)
    issues: list[Issue] = []
    table, _ = expand(call, (), issues)
    if table is None:
        raise BlockError(place.path, [Problem("", *issue[1:]) for issue in issues])
    cls = registry.get(table["block"])
    width = table.get("out_dim", out_dim)
    if width is not None and width < 1:
        raise ValueError(f"{NO_CHANNELS} (its `{table['block']}` of {dim} channels would give {width})")
    known: dict[str, Any] = {
        "dim": dim,
        "out_dim": width,
        "depth_index": place.depth_index,
        "num_classes": place.num_classes,
        "drop_path": place.drop_path,
        "stage_dims": place.stage_dims,
        **supplied,
    }
    info = registry.describe(table["block"])
    arguments = {key: value for key, value in known.items() if key in info.supplied and value is not None}
    if "input_size" in info.supplied and "input_size" not in arguments and place.sizes is not None:
        arguments["input_size"] = place.sizes()
    arguments |= {key: value for key, value in table.items() if key not in ("block", "name", "out_dim")}
    return _make(cls, arguments, place, dim, width)


def _make(cls: type, arguments: dict[str, Any], place: Place, dim: int, out_dim: int | None) -> nn.Module:
    try:
        module = cls(**typed(cls, arguments, place))
    except BlockError:
        raise
    except (ValueError, TypeError, RuntimeError) as refusal:
        problem = Problem(place.path, found=f"block `{registry.info_of(cls).name}` cannot be built here: {refusal}")
        if place.failed is None:
            raise BlockError("", problem) from refusal
        place.failed.append(problem)
        return StandIn(dim, out_dim or dim)
    module.path = place.path
    return module


def build_chain(calls: list[Any], place: Place, dim: int, out_dim: int | None = None, **supplied: Any) -> Chain:
    """A chain of parts, each built for the width, and if it asks the size, that the ones before it leave."""
    chain = Chain()
    width = dim
    for step, call in enumerate(calls):
        name = step_name(call, step)
        asked = None if out_dim == width else out_dim
        sizes = functools.partial(_size_after, list(chain.children()), dim, place.sizes) if place.sizes else None
        part = construct(call, place.at(name, sizes=sizes), width, asked, **supplied)
        if part is not None:
            chain.add_module(name, part)
            width = getattr(part, "out_dim", width)
    chain.out_dim = width
    return chain


def _size_after(parts: list[nn.Module], dim: int, sizes: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """The size that `parts` leave of an input of `dim` channels and `sizes()`: found by running them."""
    size = sizes()
    if not parts:
        return size
    device = next((parameter.device for part in parts for parameter in part.parameters()), None)
    with torch.no_grad():
        x = torch.empty((1, dim, *size) if len(size) == 2 else (1, *size, dim), device=device)
        for part in parts:
            x = run(part, x)
    return tuple(x.shape[2:]) if x.ndim == 4 else (x.shape[1],)


def step_name(call: Any, position: int) -> str:
    """The path step of a part: its explicit name, else its position counting `none`."""
    return call["name"] if isinstance(call, dict) and "name" in call else str(position)


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
    param = registry.info_of(cls).params.get(key)
    where = f"{cls.block_id.removeprefix('core/').removesuffix('@1')}.{key}"
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
        converted = typed(cls, arguments, Place())
        _check_bounds(cls, converted)
        # defaults that are slots stay shared templates: they hold no module
        with _told_of_no_channels():
            init(self, **converted)
            _refuse_empty(self)
        if not hasattr(cls, "reset_parameters") and any(_is_on_meta(part) for part in orphans(self).values()):
            self.__dict__[ARGUMENTS] = converted

    return __init__


NO_CHANNELS = "a ratio, an expansion or heads leave it no channels; a larger width, or more of it, would"


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


ARGUMENTS = "_made_with"
"""The attribute of a block on meta that has no way of its own to begin anew: what its constructor was given. It lives in the block, since
arguments may hold modules of the same net, which a table of ours would keep alive for ever."""


def orphans(block: nn.Module) -> dict[str, nn.Module]:
    """By path, the block and the modules in it that hold parameters or buffers and have no `reset_parameters`; other blocks see to
    themselves."""
    return {path: part for path, part in _own_parts(block, "") if part._parameters or part._buffers}


def _own_parts(block: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    yield path, block
    for name, child in block.named_children():
        if not hasattr(child, "block_id") and not hasattr(child, "reset_parameters"):
            yield from _own_parts(child, f"{path}.{name}".lstrip("."))


def _is_on_meta(part: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in (*part.parameters(False), *part.buffers(False)))


def made_again(module: nn.Module) -> nn.Module | None:
    """A block as its constructor makes it, on the CPU, for one that was made on meta; None when nobody remembers how."""
    arguments = module.__dict__.get(ARGUMENTS)
    if arguments is None:
        return None
    with torch.device("cpu"):
        made: nn.Module = type(module)(**arguments)
    return made


def forget_arguments(net: nn.Module) -> None:
    """For a net that has its values: what its blocks remembered in order to begin anew goes."""
    for module in net.modules():
        module.__dict__.pop(ARGUMENTS, None)


def _check_bounds(cls: Any, arguments: dict[str, Any]) -> None:
    """Floats must be finite: the one bound that msgspec does not know."""
    for key, value in arguments.items():
        if isinstance(value, float) and not fits(value, {"type": "number"}):
            raise BlockError("", Problem(f"{cls.__name__}.{key}", "a finite float", repr(value)))
