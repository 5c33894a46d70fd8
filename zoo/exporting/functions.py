"""Functions of torch in the operators that graph runtimes fuse: while a net is recorded, each call of one is written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from blocks.ops.graph.sizes import chunks_of, in_chunks, in_sequence, length_of
from blocks.ops.recorded import fixed
from zoo.exporting import spectra

CHUNK = 64
"""Steps of a sequence that are compared with one another at once."""


class WrittenOut(TorchFunctionMode):
    """While it is on, the functions of `TABLE` are computed by what stands there, with the same results up to rounding."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        written = TABLE.get(func)
        outputs = written(*args, **kwargs) if written is not None else NotImplemented
        return func(*args, **kwargs) if outputs is NotImplemented else outputs


def rms_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """weight * x / sqrt(mean x^2 + eps), over the last axis."""
    if len(normalized_shape) != 1:
        return NotImplemented
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return y if weight is None else y * weight


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(scale q k^T + mask) v, with the scale on the queries: torch's exporter multiplies queries and keys by its root."""
    if is_causal or dropout_p or enable_gqa or (attn_mask is not None and not attn_mask.is_floating_point()):
        return NotImplemented
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = (q * scale) @ k.transpose(-2, -1)
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ v


def mean(x: Tensor, dim: Any = None, keepdim: bool = False, **rest: Any) -> Tensor:
    """The mean of each map (B, C, H, W) as a pooling, which runtimes compute in the layout of their convolutions."""
    axes = tuple(dim) if isinstance(dim, (tuple, list)) else ()
    if x.ndim != 4 or sorted(axis % 4 for axis in axes) != [2, 3] or any(value is not None for value in rest.values()):
        return NotImplemented
    y = F.adaptive_avg_pool2d(x, 1)
    return y if keepdim else y.flatten(1)


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """weight * (x - m) / sqrt(v + eps) + bias with the moments of all of a map (B, C, H, W), which are means of its poolings."""
    if num_groups != 1 or x.ndim != 4:
        return NotImplemented
    centred = x - F.adaptive_avg_pool2d(x, 1).mean(1, keepdim=True)
    scale = (F.adaptive_avg_pool2d(centred * centred, 1).mean(1, keepdim=True) + eps) ** -0.5
    y = centred * (scale if weight is None else scale * weight.view(-1, 1, 1))
    return y if bias is None else y + bias.view(-1, 1, 1)


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """The same over axes whose sizes are numbers: those of a shape that was asked for are values of the graph."""
    return F.layer_norm(x, fixed(x)[x.ndim - len(normalized_shape) :], weight, bias, eps)


def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """(…, L, …) -> (…, n, …, size): windows of `size` values every `step` along an axis, of any length."""
    axis = dimension % x.ndim
    last = length_of(x, axis) - size + 1
    whole = (slice(None),) * axis
    return torch.stack([x[(*whole, slice(first, last + first, step))] for first in range(size)], -1)


def permute(x: Tensor, *dims: Any) -> Tensor:
    """Axes in another order, counted from the front."""
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    return x.permute([axis % x.ndim for axis in order])


def movedim(x: Tensor, source: Any, destination: Any) -> Tensor:
    """Axes at other places, counted from the front."""
    before, after = (
        [axis % x.ndim for axis in ([axes] if isinstance(axes, int) else axes)] for axes in (source, destination)
    )
    return x.movedim(before, after)


def sort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """Values in order and their places. In a graph the first of equals stays first; small whole numbers are compared as wide ones."""
    wide = x if x.is_floating_point() or x.dtype == torch.int64 else x.to(torch.int64)
    values, places = wide.sort(dim, descending)
    return torch.return_types.sort((values.to(x.dtype), places))  # type: ignore[attr-defined]


def argsort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """The places of `sort`."""
    return sort(x, dim, descending).indices  # type: ignore[no-any-return]


def adaptive_avg_pool2d(x: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """y = R x C^T with the means of rows R and of columns C, for maps (B, C, H, W) whose cells are not of one size: graphs pool by one."""
    if x.ndim != 4:
        return NotImplemented
    grid = [output_size] * 2 if isinstance(output_size, int) else list(output_size)
    sizes = [int(size) for size in x.shape[2:]]
    wanted = [size if cells is None else cells for size, cells in zip(sizes, grid, strict=True)]
    if all(size % cells == 0 for size, cells in zip(sizes, wanted, strict=True)):
        return NotImplemented
    rows, columns = (means_of_cells(size, cells).to(x) for size, cells in zip(sizes, wanted, strict=True))
    return rows @ x @ columns.T


def means_of_cells(size: int, cells: int) -> Tensor:
    """M (cells, size): M x is the mean of each cell of `size` values, cell i being those from floor(i size / cells) to ceil((i + 1) size / cells)."""
    matrix = torch.zeros(cells, size, dtype=torch.float64)
    for cell in range(cells):
        first, behind = cell * size // cells, -(-(cell + 1) * size // cells)
        matrix[cell, first:behind] = 1 / (behind - first)
    return matrix


def bincount(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How many there are of each whole number from 0 to the largest (N,): comparisons with all of them, added."""
    if weights is not None or minlength:
        return NotImplemented
    most: Any = x.max() + 1  # a number of the graph
    return (x[:, None] == torch.arange(most)).to(torch.int64).sum(0)


def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """x with the rows of a source added at the places (N,), of which some may be the same, along an axis."""
    shape = [1] * source.ndim
    shape[dim] = -1
    return x.scatter_add(dim, index.view(shape).expand_as(source), source if alpha == 1 else alpha * source)


def full(size: Any, fill_value: Any, *, dtype: torch.dtype | None = None, **rest: Any) -> Tensor:
    """The same number everywhere, whole where it is whole: torch's exporter makes it a float."""
    kinds = {bool: torch.bool, int: torch.int64}
    kind = (
        fill_value.dtype if isinstance(fill_value, Tensor) else kinds.get(type(fill_value))
    )  # of a size it is a tensor
    return torch.full(size, fill_value, dtype=dtype or kind, **rest)


def where(condition: Tensor, *choices: Any) -> Any:
    """One or the other, whole where both are whole: torch's exporter makes a number a float. Of truths by logic, as ONNX Runtime wants it."""
    if len(choices) != 2 or torch.result_type(*choices).is_floating_point:
        return NotImplemented
    kind = torch.result_type(*choices)
    if kind == torch.bool:
        return (condition & choices[0]) | (~condition & choices[1])
    return torch.where(condition, *(x if isinstance(x, Tensor) else torch.tensor(x, dtype=kind) for x in choices))


def cummax(x: Tensor, dim: int) -> Any:
    """The largest so far along an axis, m_t = max_{s <= t} x_s, and the last place where it was met."""
    largest = largest_so_far(x, dim)
    shape = [1] * x.ndim
    shape[dim] = -1
    steps = torch.arange(length_of(x, dim % x.ndim), device=x.device).view(shape)
    places = largest_so_far(torch.where(x == largest, steps, torch.zeros_like(steps)), dim)
    return torch.return_types.cummax((largest, places))  # type: ignore[attr-defined]


def largest_so_far(x: Tensor, dim: int) -> Tensor:
    """max_{s <= t} x_s: within chunks of at most `CHUNK` steps, and over the chunks before, each a maximum under a triangle."""
    least = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    y = x.unsqueeze(0).movedim(dim % x.ndim + 1, 1)
    length = length_of(y)
    steps, count = chunks_of(length, CHUNK)
    y = in_chunks(y, length, steps, count)
    step, chunk = torch.arange(steps, device=x.device), torch.arange(count, device=x.device)
    rest = [1] * (y.ndim - 3)
    later, not_before = (
        (step > step.unsqueeze(1)).view(steps, steps, *rest),
        (chunk >= chunk.unsqueeze(1)).view(count, count, *rest),
    )
    within = y.unsqueeze(2).masked_fill(later, least).amax(3)
    before = within[:, :, -1].unsqueeze(1).masked_fill(not_before, least).amax(2)
    largest = in_sequence(torch.maximum(within, before.unsqueeze(2)), length)
    return largest.movedim(1, dim % x.ndim + 1).squeeze(0)


def cumsum(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """The sum so far along an axis, of truths how many there were: ONNX adds numbers alone."""
    return x.to(torch.int64).cumsum(dim, dtype=dtype) if x.dtype == torch.bool else x.cumsum(dim, dtype=dtype)


def searchsorted(
    sequence: Tensor, values: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Tensor | None = None
) -> Tensor:  # fmt: skip
    """How many of a sorted sequence (…, N) are less than each value, or with `right` not more: comparisons with all of them, added."""
    if sorter is not None or not isinstance(values, Tensor):
        return NotImplemented
    ahead, each = sequence.unsqueeze(-2), values.unsqueeze(-1)
    counted = ahead <= each if right or side == "right" else ahead < each
    return counted.to(torch.int32 if out_int32 else torch.int64).sum(-1)


def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1 = 2 t / (1 - t) with t = tanh(x / 2), which keeps its digits near 0."""
    t = (x.clamp(max=0.5) / 2).tanh()
    return torch.where(x < 0.5, 2 * t / (1 - t), x.exp() - 1)


def xlogy(x: Tensor, y: Tensor) -> Tensor:
    """x log y, and 0 where x is 0."""
    return torch.where(x == 0, torch.zeros_like(x), x * y.log())


TABLE: dict[Any, Callable[..., Any]] = {
    **spectra.TABLE,
    torch.bincount: bincount,
    torch.Tensor.bincount: bincount,
    torch.Tensor.index_add: index_add,
    torch.index_add: index_add,
    torch.full: full,
    torch.where: where,
    torch.cumsum: cumsum,
    torch.Tensor.cumsum: cumsum,
    torch.cummax: cummax,
    torch.Tensor.cummax: cummax,
    torch.searchsorted: searchsorted,
    torch.expm1: expm1,
    torch.Tensor.expm1: expm1,
    torch.special.xlogy: xlogy,
    torch.xlogy: xlogy,
    F.rms_norm: rms_norm,
    torch.rms_norm: rms_norm,
    F.scaled_dot_product_attention: attention,
    F.group_norm: group_norm,
    F.layer_norm: layer_norm,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
    torch.Tensor.permute: permute,
    torch.Tensor.movedim: movedim,
    torch.Tensor.sort: sort,
    torch.Tensor.argsort: argsort,
    torch.Tensor.unfold: unfold,
    torch.Tensor.mean: mean,
    torch.mean: mean,
}
