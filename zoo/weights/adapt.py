"""Make a published state dict fit a changed model, and say for each tensor what was done.

Let `tensors` be the published weights (already checked against the published header) and `expected` the header of the
changed model. In this order, a tensor is
- dropped or new below a path in `swapped`: the block there is another one, equal names mean nothing;
- resampled if its block has a method `resize_table(name, tensor, expected_shape, old)` and that returns another tensor: `old` is
  the block it comes from, which knows for which rows and columns it was built (14 x 14 cells are as many as 28 x 7). A method
  without `old` is asked only about tensors of another shape;
- kept if its name and shape are unchanged;
- dropped, and new in the model, if it is below `head` and has another shape (another `num_classes`), or exists on one
  side only (a head with no classifier);
- summed if it is the (O, I, kh, kw) kernel of a convolution below `stem` and the model takes 1 channel:
  w'[:, 0] = sum_i w[:, i]; for any other number J it is repeated and rescaled: w'[:, j] = w[:, j mod I] * I / J,
  which leaves the answer to an image of equal channels unchanged up to the incomplete last repeat (as timm does);
- resampled if it is a position table, (N, dim) or (1, N, dim), or a relative table (N, heads) of a model that is not ours: bicubic
  with antialiasing between the two grids, which a model of timm's tells in `patch_embed.grid_size` and `window_size`. What
  stands before the grid (a class token) is kept. Where neither model tells, N is side^2 or 1 + side^2. A table is known by
  `pos` or `relative` in the last part of its name: a matrix of another width looks just the same.
Everything else that differs is an error: no rule of adaptation covers it. So is a block with `one_grid`, which has a weight for each
position, where its `input_size` has as many cells in other rows and columns.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isqrt
from typing import Any, Literal, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from zoo.errors import Problem, nearest
from zoo.weights.errors import TensorsError
from zoo.weights.header import shape_and_type

Action = Literal["kept", "resampled", "summed", "repeated", "dropped", "new"]
Shape = tuple[int, ...]


class Change(msgspec.Struct, frozen=True):
    """`detail` says why, or from what to what."""

    name: str
    action: Action
    detail: str = ""


class AdaptReport(msgspec.Struct, frozen=True):
    """What `adapt` did with every tensor. `str(report)` is a table of sentences; what was kept is only counted."""

    subject: str
    changes: tuple[Change, ...]

    def names(self, action: Action) -> list[str]:
        return [change.name for change in self.changes if change.action == action]

    def __str__(self) -> str:
        shown = [change for change in self.changes if change.action != "kept"]
        lines = [f"{self.subject}: {len(self.names('kept'))} tensors kept, {len(shown)} changed"]
        width = max((len(change.name) for change in shown), default=0)
        lines += [f"  {change.action:<9}  {change.name:<{width}}  {change.detail}".rstrip() for change in shown]
        return "\n".join(lines)


class _Outcome(NamedTuple):
    action: Action
    tensor: Tensor | None
    detail: str


_DECLINED = _Outcome("kept", None, "")
"""The answer of a block that has `resize_table` and leaves the tensor as it is: nobody else guesses then."""


def adapt(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[Sequence[int], object]],
    *,
    subject: str,
    head: Sequence[str] = ("head.",),
    stem: Sequence[str] = ("stem.",),
    swapped: Sequence[str] = (),
    model: nn.Module | None = None,
    before: nn.Module | None = None,
) -> tuple[dict[str, Tensor], AdaptReport]:
    """The tensors for the changed model, and the report; the rules are those at the top of this file.

    `head`, `stem` and `swapped` are name prefixes. `model` is asked for `resize_table` methods; `before` is the model that the
    tensors belong to. Either may be on meta.
    Tensors reported as `new` are not in the result: the caller initialises them and loads with
    `load_state(model, result, subject, keep=report.names("new"))`.
    Raises WeightsError naming every tensor that no rule covers; nothing is adapted then."""
    problems = list(_other_grids(model, before, (*head, *swapped)))
    changes: list[Change] = []
    result: dict[str, Tensor] = {}
    lost = [name for name in tensors if name not in expected]
    added = [name for name in expected if name not in tensors]
    for name, (shape, dtype) in expected.items():
        resize = functools.partial(_by_its_owner, model, before, name)
        outcome = _fit(name, tensors.get(name), tuple(shape), tuple(head), tuple(stem), tuple(swapped), resize)
        if outcome is None:
            problems.append(_unfit(name, tensors.get(name), str(shape_and_type(shape, dtype)), lost))
            continue
        changes.append(Change(name, outcome.action, outcome.detail))
        if outcome.tensor is not None:
            result[name] = outcome.tensor
        elif name in tensors:
            changes.append(Change(name, "dropped", f"the published tensor has shape {tuple(tensors[name].shape)}"))
    for name in lost:
        if name.startswith((*head, *swapped)):
            changes.append(Change(name, "dropped", "the changed model has no such tensor"))
        else:
            near = nearest(name, added[:1000])
            problems.append(Problem(name, found="a tensor that the changed model does not have", nearest=near))
    if problems:
        raise TensorsError(subject, problems)
    return result, AdaptReport(subject, tuple(changes))


def _fit(
    name: str,
    tensor: Tensor | None,
    shape: Shape,
    head: tuple[str, ...],
    stem: tuple[str, ...],
    swapped: tuple[str, ...],
    resize: Callable[[Tensor, Shape], _Outcome | None],
) -> _Outcome | None:
    """What becomes of one tensor of the changed model; None if no rule covers it."""
    if name.startswith(swapped):
        return _Outcome("new", None, f"{shape} of the block that was put in")
    step = "" if tensor is None else f"{tuple(tensor.shape)} -> {shape}"
    resized = resize(tensor, shape) if tensor is not None else None
    if resized is not None and resized is not _DECLINED:
        return resized
    if tensor is not None and tuple(tensor.shape) == shape:
        return _Outcome("kept", tensor, "")
    if name.startswith(head):
        return _Outcome("new", None, f"{shape} of the changed head")
    if tensor is None:
        return None
    if name.startswith(stem) and _differs_in_channels(tensor, shape):
        action: Action = "summed" if shape[1] == 1 else "repeated"
        return _Outcome(action, _input_channels(tensor, shape[1]), step)
    if resized is not _DECLINED and _is_table(name) and (resampled := _resampled_square(tensor, shape)) is not None:
        return _Outcome("resampled", resampled, f"{step}, bicubic")
    return None


def _other_grids(model: nn.Module | None, before: nn.Module | None, anew: tuple[str, ...]) -> Iterator[Problem]:
    """The blocks whose weights stand for positions of another grid, which the shapes do not show: 14 x 14 cells are as many as 28 x 7."""
    for path, block in model.named_modules() if model is not None else ():
        if not getattr(block, "one_grid", False) or f"{path}.".startswith(anew):
            continue
        size, old = block.input_size, getattr(_submodule(before, path), "input_size", None)
        if old is not None and old != size and math.prod(old) == math.prod(size):
            expected, found = (f"weights of {' x '.join(map(str, grid))} positions" for grid in (size, old))
            yield Problem(path, expected, found, next="a picture size with as many rows and columns, or first weights")


def _is_table(name: str) -> bool:
    return any(mark in name.rsplit(".", 1)[-1] for mark in ("pos", "relative"))


def _unfit(name: str, tensor: Tensor | None, expected: str, lost: list[str]) -> Problem:
    if tensor is None:
        return Problem(name, expected, "none", nearest(name, lost[:1000]))
    advice = "name its block in `swapped` to start it anew, or give the block a method `resize_table`"
    return Problem(name, expected, f"{shape_and_type(tensor.shape, tensor.dtype)}, which no rule adapts", next=advice)


def _by_its_owner(
    model: nn.Module | None, before: nn.Module | None, name: str, tensor: Tensor, shape: Shape
) -> _Outcome | None:
    """The tensor for the grid of the module that owns it, from the grid of the one that it comes from; None where nobody knows.

    A block of ours has `resize_table`, which may decline; a model of timm's tells both grids.
    """
    path, _, own_name = name.rpartition(".")
    owner, old = _submodule(model, path), _submodule(before, path)
    step = f"{tuple(tensor.shape)} -> {shape}"
    resize = getattr(owner, "resize_table", None)
    if callable(resize):
        knows_grids = "old" in inspect.signature(resize).parameters
        if not knows_grids and tuple(tensor.shape) == shape:
            return None
        table = resize(own_name, tensor, shape, old=old) if knows_grids else resize(own_name, tensor, shape)
        fits = isinstance(table, Tensor) and tuple(table.shape) == shape and table is not tensor
        return _Outcome("resampled", table, f"{step} by its block") if fits else _DECLINED
    grids = _told_grid(old, own_name), _told_grid(owner, own_name)
    if not _is_table(name) or grids[0] is None or grids[1] is None or grids[0] == grids[1]:
        return None
    tokens = tensor.shape[-2] - math.prod(grids[0])
    if tensor.ndim not in (2, 3) or tokens < 0 or math.prod(shape[:-1]) != tokens + math.prod(grids[1]):
        return None
    rows = tensor.reshape(-1, tensor.shape[-1])
    table = _resample(rows, tokens, grids[0], grids[1]).reshape(shape).to(tensor.dtype)
    return _Outcome("resampled", table, f"{step}, bicubic")


def _told_grid(owner: Any, name: str) -> tuple[int, int] | None:
    """Rows and columns of a table, as a model of timm's tells them: of patches, or of the distances within a window."""
    if "relative" in name:
        window = getattr(owner, "window_size", None)
        return (2 * window[0] - 1, 2 * window[1] - 1) if isinstance(window, tuple) and len(window) == 2 else None
    grid = getattr(getattr(owner, "patch_embed", None), "grid_size", None)
    return (grid[0], grid[1]) if isinstance(grid, tuple) and len(grid) == 2 else None


def _submodule(model: nn.Module | None, path: str) -> nn.Module | None:
    """The module at `path`, None where the model has another structure."""
    for step in path.split(".") if path else ():
        model = model._modules.get(step) if model is not None else None
    return model


def _differs_in_channels(tensor: Tensor, shape: Shape) -> bool:
    old = tuple(tensor.shape)
    return len(old) == len(shape) == 4 and old[0] == shape[0] and old[2:] == shape[2:] and min(old[1], shape[1]) >= 1


def _input_channels(kernel: Tensor, channels: int) -> Tensor:
    """(O, I, kh, kw) -> (O, channels, kh, kw), computed in float32."""
    wide = kernel.float()
    if channels == 1:
        return wide.sum(1, keepdim=True).to(kernel.dtype)
    taken = torch.arange(channels) % kernel.shape[1]
    return (wide[:, taken] * (kernel.shape[1] / channels)).to(kernel.dtype)


def _resampled_square(table: Tensor, shape: Shape) -> Tensor | None:
    """A table on a square grid, brought to another square grid; None if one of the two is not square."""
    old = tuple(table.shape)
    if len(old) != len(shape) or len(old) not in (2, 3) or old[-1] != shape[-1] or old[:-2] != shape[:-2]:
        return None
    if len(old) == 3 and old[0] != 1:
        return None
    for tokens in (0, 1):
        sides = isqrt(old[-2] - tokens), isqrt(shape[-2] - tokens)
        if sides[0] ** 2 == old[-2] - tokens and sides[1] ** 2 == shape[-2] - tokens and min(sides) >= 1:
            rows = table.reshape(old[-2], old[-1])
            return _resample(rows, tokens, (sides[0],) * 2, (sides[1],) * 2).reshape(shape).to(table.dtype)
    return None


def _resample(table: Tensor, tokens: int, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(tokens + h*w, dim) -> (tokens + H*W, dim) in float32, (h, w) and (H, W) being `old` and `new`."""
    kept, grid = table[:tokens].float(), table[tokens:].float()
    image = grid.T.reshape(1, -1, *old)
    image = nn.functional.interpolate(image, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([kept, image.reshape(grid.shape[1], -1).T])
