"""Make a published state dict fit a changed model, and say for each tensor what was done.

Let `tensors` be the published weights (already checked against the published header) and `expected` the header of the
changed model. In this order, a tensor is
- dropped or new below a path in `swapped`: the block there is another one, equal names mean nothing;
- kept if its name and shape are unchanged;
- resampled if its block has a method `resize_table(name, tensor, expected_shape)` and that returns a tensor;
- dropped, and new in the model, if it is below `head` and has another shape (another `num_classes`), or exists on one
  side only (a head with no classifier);
- summed if it is the (O, I, kh, kw) kernel of a convolution below `stem` and the model takes 1 channel:
  w'[:, 0] = sum_i w[:, i]; for any other number J it is repeated and rescaled: w'[:, j] = w[:, j mod I] * I / J,
  which leaves the answer to an image of equal channels unchanged up to the incomplete last repeat (as timm does);
- resampled if it is a position table, (N, dim) or (1, N, dim) with N = side^2 or 1 + side^2 (a class token, first, is
  kept as it is), or a square relative table (side^2, heads): bicubic with antialiasing between the two grids.
  A table is known by `pos` or `relative` in the last part of its name: a matrix of another width looks just the same.
Everything else that differs is an error: no rule of adaptation covers it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Literal, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from zoo.errors import Problem, nearest
from zoo.weights.header import form
from zoo.weights.refusals import TensorsError

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


def adapt(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[Sequence[int], object]],
    *,
    subject: str,
    head: Sequence[str] = ("head.",),
    stem: Sequence[str] = ("stem.",),
    swapped: Sequence[str] = (),
    model: nn.Module | None = None,
) -> tuple[dict[str, Tensor], AdaptReport]:
    """The tensors for the changed model, and the report; the rules are those at the top of this file.

    `head`, `stem` and `swapped` are name prefixes. `model` (may be on meta) is asked for `resize_table` methods.
    Tensors reported as `new` are not in the result: the caller initialises them and loads with
    `load_state(model, result, subject, keep=report.names("new"))`.
    Raises WeightsError naming every tensor that no rule covers; nothing is adapted then."""
    problems: list[Problem] = []
    changes: list[Change] = []
    result: dict[str, Tensor] = {}
    lost = [name for name in tensors if name not in expected]
    added = [name for name in expected if name not in tensors]
    for name, (shape, dtype) in expected.items():
        outcome = _fit(name, tensors.get(name), tuple(shape), tuple(head), tuple(stem), tuple(swapped), model)
        if outcome is None:
            problems.append(_unfit(name, tensors.get(name), str(form(shape, dtype)), lost))
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
    model: nn.Module | None,
) -> _Outcome | None:
    """What becomes of one tensor of the changed model; None if no rule covers it."""
    if name.startswith(swapped):
        return _Outcome("new", None, f"{shape} of the block that was put in")
    if tensor is not None and tuple(tensor.shape) == shape:
        return _Outcome("kept", tensor, "")
    step = "" if tensor is None else f"{tuple(tensor.shape)} -> {shape}"
    if tensor is not None and (table := _resized_by_block(model, name, tensor, shape)) is not None:
        return _Outcome("resampled", table, f"{step} by its block")
    if name.startswith(head):
        return _Outcome("new", None, f"{shape} of the changed head")
    if tensor is None:
        return None
    if name.startswith(stem) and _differs_in_channels(tensor, shape):
        action: Action = "summed" if shape[1] == 1 else "repeated"
        return _Outcome(action, _input_channels(tensor, shape[1]), step)
    if any(mark in name.rsplit(".", 1)[-1] for mark in ("pos", "relative")):
        resampled = _resampled_table(tensor, shape)
        return resampled if resampled is None else _Outcome("resampled", resampled, f"{step}, bicubic")
    return None


def _unfit(name: str, tensor: Tensor | None, expected: str, lost: list[str]) -> Problem:
    if tensor is None:
        return Problem(name, expected, "none", nearest(name, lost[:1000]))
    advice = "name its block in `swapped` to start it anew, or give the block a method `resize_table`"
    return Problem(name, expected, f"{form(tensor.shape, tensor.dtype)}, which no rule adapts", next=advice)


def _resized_by_block(model: nn.Module | None, name: str, tensor: Tensor, shape: Shape) -> Tensor | None:
    """The answer of the module that owns the tensor, if it has `resize_table`; it may decline with None."""
    if model is None:
        return None
    path, _, own_name = name.rpartition(".")
    resize = getattr(model.get_submodule(path), "resize_table", None)
    table = resize(own_name, tensor, shape) if callable(resize) else None
    return table if isinstance(table, Tensor) and tuple(table.shape) == shape else None


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


def _resampled_table(table: Tensor, shape: Shape) -> Tensor | None:
    """A table on a square grid, brought to another square grid; None if one of the two is not square."""
    old = tuple(table.shape)
    if len(old) != len(shape) or len(old) not in (2, 3) or old[-1] != shape[-1] or old[:-2] != shape[:-2]:
        return None
    if len(old) == 3 and old[0] != 1:
        return None
    for tokens in (0, 1):
        sides = isqrt(old[-2] - tokens), isqrt(shape[-2] - tokens)
        if sides[0] ** 2 == old[-2] - tokens and sides[1] ** 2 == shape[-2] - tokens and min(sides) >= 1:
            return _resample(table.reshape(old[-2], old[-1]), tokens, sides).reshape(shape).to(table.dtype)
    return None


def _resample(table: Tensor, tokens: int, sides: tuple[int, int]) -> Tensor:
    """(tokens + old^2, dim) -> (tokens + new^2, dim) in float32."""
    old, new = sides
    kept, grid = table[:tokens].float(), table[tokens:].float()
    image = grid.T.reshape(1, -1, old, old)
    image = nn.functional.interpolate(image, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([kept, image.reshape(grid.shape[1], -1).T])
