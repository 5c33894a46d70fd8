"""Why a model cannot take an input, in terms of the input: what a block or torch says of tensors inside becomes a sentence about the picture.

It is asked once a pass has failed, and costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

from blocks.registry.errors import SizeError
from zoo.build.inputs import meta_input
from zoo.errors import InputError, Problem, ProblemsError
from zoo.specs.inputs import (
    AnyInput,
    FramesInput,
    Ids,
    ImageInput,
    Mask,
    Numbers,
    NumbersInput,
    SeriesInput,
    SpectrogramInput,
    TokenInput,
    VideoInput,
)
from zoo.specs.model import Spec
from zoo.specs.sizes import fixed_blocks

FOREIGN = (ValueError, RuntimeError, TypeError, AttributeError, IndexError)
"""What a pass may end with where its input is at fault: the word of a block, and what torch and Python say."""
TOO_SMALL = ("too small", "greater than actual input size", "should be less than", "non-zero size", "at least one")
"""How torch says that a kernel, a window or a border is larger than a map."""
NOTHING: Mapping[str, Any] = {}
IDS = (torch.int64, torch.int32)
"""The dtypes in which torch looks rows of a table up."""


def refuse(error: Exception, x: Any, model: Any, beside: Mapping[str, Any] = NOTHING) -> None:
    """Raises InputError where `x` is no input as `model.spec` says and its weights want it, or a picture of a size that it cannot take; and
    where what goes in `beside` it, by name, is something else than the spec says."""
    if isinstance(x, Proxy) or isinstance(error, ProblemsError):
        return
    problem = _of_kind(x, model) or _of_others(beside, x, model) or _of_size(error, x, model.spec)
    if problem is not None:
        raise InputError(model.spec.name, problem) from (None if _is_of_size(error) else error)


def _of_kind(x: Any, model: Any) -> Problem | None:
    """Another thing than a tensor, other numbers, another shape, or another device than the net has."""
    declared, weight = model.spec.input, next((each for each in model.parameters() if each.is_floating_point()), None)
    axes, is_tokens = axes_of(declared), isinstance(declared, TokenInput)
    kind = "whole numbers" if is_tokens else "pictures" if type(declared) is ImageInput else "numbers"
    wanted = f"{kind} ({', '.join(map(str, axes))})" if axes else kind
    if not isinstance(x, Tensor):
        step = "`torch.as_tensor(x)`" if hasattr(x, "__array__") else ""
        return Problem("", f"a tensor of {wanted}", f"`{type(x).__name__}`", next=step)
    if weight is not None and x.device != weight.device:
        device = str(weight.device)
        return Problem("", f"an input on `{device}`, where the model is", f"`{x.device}`", next=f"x.to({device!r})")
    if isinstance(declared, NumbersInput) and (x.ndim != len(declared.shape) or x.shape[-1] != declared.channels):
        return _other(f"numbers ({', '.join(map(str, declared.shape))})", x, "")
    if axes and (x.ndim != len(axes) or any(isinstance(n, int) and n != m for n, m in zip(axes, x.shape, strict=True))):
        other = type(declared) is ImageInput and x.ndim == len(axes)
        step = f"create it with `in_chans={x.shape[1]}`" if other else "x[None]" if x.ndim == len(axes) - 1 else ""
        return _other(wanted, x, step)
    if is_tokens:
        return None if x.dtype in IDS else _other(wanted, x, "x.long()")
    if weight is not None and x.dtype != weight.dtype:
        read = type(declared) is ImageInput and not x.is_floating_point()
        step = "`zoo.transform(model)` reads pictures" if read else "x.to(the dtype of the model)"
        return _other(f"{wanted} in {_name(weight.dtype)}, as the model is", x, step)
    return None


def _of_others(given: Mapping[str, Any], x: Tensor, model: Any) -> Problem | None:
    """`_of_kind` of what goes in beside `x`: also of another batch, and of other sizes than an example has, where `x` is as large as that."""
    weight = next((each for each in model.parameters() if each.is_floating_point()), x)
    as_example = x.shape[1:] == meta_input(model.spec).shape[1:]
    rows = model.spec.input.shape[0] if isinstance(model.spec.input, NumbersInput) else "batch"
    for declared in model.spec.inputs:
        y, where = given.get(declared.name), declared.name
        if y is None:
            continue
        free = [
            axis == rows and (axis == "batch" or not place) and x.ndim > 0 for place, axis in enumerate(declared.shape)
        ]
        sizes = [len(x) if is_free else axis for axis, is_free in zip(declared.shape, free, strict=True)]
        kind = "whole numbers" if isinstance(declared, Ids) else "truths" if isinstance(declared, Mask) else "numbers"
        wanted = f"{kind} ({', '.join(map(str, sizes))})"
        if not isinstance(y, Tensor):
            return Problem(where, f"a tensor of {wanted}", f"`{type(y).__name__}`", next="`torch.as_tensor(x)`")
        if y.device != weight.device:
            return Problem(where, f"an input on `{weight.device}`, where the model is", f"`{y.device}`")
        pairs = zip(free, sizes, y.shape, strict=False)
        if y.ndim != len(sizes) or any(n != m for is_free, n, m in pairs if as_example or is_free):
            return _other(wanted, y, "")._replace(where=where)
        if isinstance(declared, Ids) and y.dtype not in IDS:
            return _other(wanted, y, "x.long()")._replace(where=where)
        if isinstance(declared, Ids) and y.numel() and int(y.min()) < 0:
            return Problem(where, "whole numbers from 0 on", f"{int(y.min())} among them")
        if isinstance(declared, Numbers) and y.dtype != weight.dtype and (y.is_floating_point() or y.is_complex()):
            expected = f"{wanted} in {_name(weight.dtype)}, as the model is"
            return _other(expected, y, "x.to(the dtype of the model)")._replace(where=where)
    return None


def axes_of(declared: AnyInput) -> tuple[str | int, ...]:
    """The axes of an input, numbers where they are given and letters where they are free; none of numbers of any shape."""
    if isinstance(declared, TokenInput):
        return "B", "L"
    if isinstance(declared, SeriesInput):
        return (
            ("B", declared.features, "L") if isinstance(declared, SpectrogramInput) else ("B", "L", declared.features)
        )
    if isinstance(declared, NumbersInput):
        return ()
    if isinstance(declared, VideoInput):
        frames = ("frames", declared.channels) if isinstance(declared, FramesInput) else (declared.channels, "frames")
        return "B", *frames, "H", "W"
    return "B", declared.channels, "H", "W"


def _other(expected: str, x: Tensor, step: str) -> Problem:
    return Problem("", expected, f"{_name(x.dtype)} {tuple(x.shape)}", next=step)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_of_size(error: BaseException | None) -> bool:
    """Whether a block, or one in a node of a graph, says that it was built for another size."""
    return error is not None and (isinstance(error, SizeError) or _is_of_size(error.__cause__))


def _of_size(error: Exception, x: Tensor, spec: Spec) -> Problem | None:
    """A picture of another size than that of a net of one size, or of fewer pixels than a kernel has."""
    if x.ndim != 4 or not hasattr(spec.input, "size"):
        return None
    size = spec.input.size
    rows, columns = (size, size) if isinstance(size, int) else size[-2:]
    met = f"{x.shape[2]} x {x.shape[3]}"
    if _is_of_size(error):
        pair = f"({x.shape[2]}, {x.shape[3]})"
        ways = f"create it with `img_size={pair}`"
        if not fixed_blocks(spec):
            ways += f", or call `set_input_size({pair})`; with `dynamic_size=True` it takes any size"
        return Problem("", f"pictures of {rows} x {columns}", met, next=ways)
    smaller = x.shape[2] < rows or x.shape[3] < columns
    if smaller and any(words in str(error) for words in TOO_SMALL):
        return Problem("", f"larger pictures, such as its own of {rows} x {columns}", met)
    return None
