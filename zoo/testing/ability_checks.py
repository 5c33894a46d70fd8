"""What a block says of itself: abilities it declares, and folding that leaves its function as it was."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from blocks.chain import channels, per_channel
from blocks.context import Context
from blocks.folding import fuse
from zoo.testing.block_cases import BATCH, DIM, FROM_PIXELS, Subject
from zoo.testing.checks import require_shape
from zoo.testing.outcomes import (
    ConformanceFailure,
    NotApplicable,
    relative_error,
    require,
    require_close,
    require_equal,
)

SIZES = {"image": ((10, 6), (7, 9)), "tokens": ((60,), (63,)), "video": ((3, 10, 6), (5, 7, 9))}
PIXEL_SIZES = {"image": ((48, 32), (32, 64)), "tokens": ((60,), (63,)), "video": ((3, 48, 32), (5, 32, 64))}
BORDERS = (0, 63, 130)
"""Positions after which inputs are changed: the first, the last of a chunk of 64, one within a chunk."""


def declares(subject: Subject, ability: str) -> None:
    if ability not in subject.info.abilities:
        raise NotApplicable(f"it does not declare `{ability}`")


def causal(subject: Subject) -> None:
    """Outputs up to t do not change when inputs after t do."""
    declares(subject, "causal")
    require("tokens" in subject.spaces, f"it declares `causal`, and its layout {subject.info.layout} takes no tokens")
    trained = subject.lived_in("tokens", **_causal(subject, True))
    # rounding of a long convolution reaches back too: float32, which kernels of its own may have, is held to its own size
    for module, bound in ((copy.deepcopy(trained).double(), 1e-9), (trained, 1e-5)):
        for border in BORDERS:
            before, after = _outputs_around(subject, module, "tokens", border)
            error = _change(after, before, border)
            require(
                error <= bound,
                f"outputs up to {border} change by {error:.1e} when only inputs after {border} change: it sees the future",
            )


def _change(after: Tensor, before: Tensor, border: int) -> float:
    """max |after - before| up to `border`, relative to the size of all outputs: the first ones alone may be small."""
    difference = (after.double() - before.double())[:, : border + 1].abs().max().item()
    return difference / max(before.double().abs().max().item(), 1e-30)


def noncausal(subject: Subject) -> None:
    """Some output sees inputs after it; a block that looks at no other position at all is both causal and noncausal."""
    declares(subject, "noncausal")
    space, border = subject.spaces[0], 97
    module = copy.deepcopy(subject.lived_in(space, **_causal(subject, False))).double()
    before, after = _outputs_around(subject, module, space, border)
    if relative_error(after[:, : border + 1], before[:, : border + 1]) > 1e-12:
        return
    before, after = _outputs_around(subject, module, space, border, past=True)
    # rounding may move with the rows that are computed together
    sees_past = relative_error(after[:, border + 1 :], before[:, border + 1 :]) > 1e-12
    require(not sees_past, "it declares `noncausal`, and its outputs see only inputs before them: declare `causal`")


def _causal(subject: Subject, value: bool) -> dict[str, bool]:
    return {"causal": value} if "causal" in subject.info.params else {}


@torch.no_grad()
def _outputs_around(
    subject: Subject, module: nn.Module, space: str, border: int, past: bool = False
) -> tuple[Tensor, Tensor]:
    """Outputs (B, L, ...) before and after the inputs beyond `border` (or, with `past`, up to it) are replaced by others."""
    x, other = (_sequence(_as(subject.input(space, seed=seed), module)) for seed in (1, 2))
    head, tail = (other, x) if past else (x, other)
    changed = torch.cat([head[:, : border + 1], tail[:, border + 1 :]], 1)
    size = subject.input(space).shape
    outputs = [subject.run(module, _stream(sequence, size)) for sequence in (x, changed)]
    if subject.info.kind == "router" and len(outputs[0]) == BATCH * x.shape[1]:  # a row for each token of the batch
        outputs = [y.unflatten(0, x.shape[:2]) for y in outputs]
    return tuple(_sequence(y) for y in outputs)  # type: ignore[return-value]


def _as(x: Tensor, module: nn.Module) -> Tensor:
    """An input in the dtype of the module's parameters; token numbers and what meets no parameter as they are."""
    dtype = next((parameter.dtype for parameter in module.parameters()), x.dtype)
    return x.to(dtype) if x.is_floating_point() else x


def _sequence(x: Tensor) -> Tensor:
    """(B, C, H, W) row by row, and clips frame by frame, as (B, H*W, C); tokens as they are."""
    return x.flatten(2).transpose(1, 2) if x.ndim > 3 else x


def _stream(sequence: Tensor, size: torch.Size) -> Tensor:
    return sequence.unflatten(1, size[2:]).movedim(-1, 1) if len(size) > 3 else sequence


def any_resolution(subject: Subject) -> None:
    """The same weights take other sizes, and afterwards the first size as before."""
    declares(subject, "any_resolution")
    sizes = PIXEL_SIZES if subject.info.kind in FROM_PIXELS else SIZES
    for space in subject.spaces:
        module, x = subject.lived_in(space), subject.input(space)
        with torch.no_grad():
            expected = subject.run(module, x)
            for size in sizes[space]:
                other = subject.input(space, size)
                y = subject.run(module, other)
                require_shape(subject, module, other, y)
                require(bool(y.isfinite().all()), f"the output for {space} of size {size} is not finite")
            require_equal(subject.run(module, x), expected, f"{space} of the first size, after others")


def step(subject: Subject) -> None:
    """Whole == any split == token by token, the state carried in ctx."""
    declares(subject, "step")
    module, x = subject.lived_in("tokens", **_causal(subject, True)), subject.input("tokens", (24,))
    with torch.no_grad():
        whole = subject.run(module, x, Context())
        for lengths in ([1] * 24, [7, 17], [23, 1]):
            ctx = Context(state={})
            parts = [subject.run(module, part, ctx) for part in x.split(lengths, 1)]
            what = "token by token" if lengths[0] == 1 else f"in pieces of {lengths[0]} and {lengths[1]}"
            require_close(torch.cat(parts, 1), whole, 1e-4, f"24 tokens {what} against the whole")


def padding(subject: Subject) -> None:
    """What stands at padding changes, with `ctx.mask`, no output at a real token; or the mask is refused with a sentence."""
    if subject.info.kind == "view":
        raise NotApplicable("a view is not given ctx; where one is entered, masks are refused that it does not keep")
    if subject.meets:
        raise NotApplicable("no sequence passes through it")
    ways: list[dict[str, bool]] = [{"causal": True}, {"causal": False}] if "causal" in subject.info.params else [{}]
    for space, params in itertools.product(subject.spaces, ways):
        module, x = copy.deepcopy(subject.lived_in(space, **params)).double(), subject.input(space)
        x = x.double() if x.is_floating_point() else x
        length = x.shape[1] if subject.takes_ids else _sequence(x).shape[1]
        behind = (torch.arange(length) < length - length // 3).expand(BATCH, -1)
        for mask, side in ((behind, "behind"), (behind.flip(1), "before")):
            other = x.where(_stream_mask(mask, x), 1 if subject.takes_ids else 37.0)
            try:
                with torch.no_grad():
                    first, second = (
                        _real(subject, subject.run(module, y, Context(mask=mask)), mask) for y in (x, other)
                    )
            except ValueError as refusal:
                require(bool(str(refusal)), "it refuses `ctx.mask` without a word")
                continue
            error = relative_error(second, first)
            require(
                error <= 1e-12,
                f"what stands at padding {side} the {space} changes outputs at real tokens by {error:.1e}: obey `ctx.mask`, "
                "or refuse it with a ValueError",
            )


def _stream_mask(mask: Tensor, x: Tensor) -> Tensor:
    """(B, L) in the shape of ids (B, L), tokens (B, L, 1) or an image (B, 1, H, W)."""
    if x.ndim > 3:
        return mask.view(len(mask), 1, *x.shape[2:])
    return mask.view(*mask.shape, *[1] * (x.ndim - 2))


def _real(subject: Subject, y: Tensor, mask: Tensor) -> Tensor:
    """The rows of an output that belong to real tokens; all, where rows are no tokens."""
    y = _sequence(y)
    if y.shape[:2] == mask.shape:
        return y[mask]
    return y[mask.flatten()] if subject.info.kind == "router" and len(y) == mask.numel() else y


def packing(subject: Subject) -> None:
    """Sequences packed into one sample give, with `ctx.cu_seqlens`, what each gives alone; or they are refused with a sentence."""
    if "tokens" not in subject.spaces or subject.info.kind == "view":
        raise NotApplicable("no tokens pass through it")
    module, x = copy.deepcopy(subject.lived_in("tokens")).double(), subject.input("tokens")[:1]
    x = x.double() if x.is_floating_point() else x
    borders = (0, x.shape[1] // 3, x.shape[1])
    try:
        with torch.no_grad():
            packed = subject.run(module, x, Context(cu_seqlens=torch.tensor(borders)))
    except ValueError as refusal:
        require(bool(str(refusal)), "it refuses `ctx.cu_seqlens` without a word")
        return
    with torch.no_grad():
        parts = [subject.run(module, part) for part in x.split([borders[1], x.shape[1] - borders[1]], 1)]
    alone = torch.cat(parts, 0 if subject.info.kind == "router" and packed.shape[0] == x.shape[1] else 1)
    require_close(packed, alone, 1e-12, "packed sequences against each alone")


def cross(subject: Subject) -> None:
    """What stands in `ctx.memory` reaches the output."""
    declares(subject, "cross")
    space = subject.spaces[0]
    params = {"cross": True} if "cross" in subject.info.params else {}
    module, x = subject.lived_in(space, **params), subject.input(space)
    memories = [torch.randn(BATCH, 5, DIM, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    with torch.no_grad():
        first, second = (subject.run(module, x, Context(memory=memory)) for memory in memories)
    require_shape(subject, module, x, first)
    require(relative_error(first, second) > 0, "it declares `cross`, and another `ctx.memory` changes no output")


def folding(subject: Subject) -> None:
    """The deploy form equals the train form: 1e-9 relative in float64, 1e-5 in float32."""
    space = subject.spaces[0]
    module, x = subject.lived_in(space), subject.input(space)
    if not any(hasattr(part, "fuse") for part in module.modules()):
        raise NotApplicable("nothing in it has a `fuse`")
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        trained, inputs = copy.deepcopy(module).to(dtype), x.to(dtype) if x.is_floating_point() else x
        with torch.no_grad():
            require_close(
                subject.run(fuse(trained), inputs),
                subject.run(trained, inputs),
                bound,
                f"deploy form against train form in {dtype}",
            )


def affine(subject: Subject) -> None:
    """`as_affine` is the block, `absorb_output` and `absorb_input` are composition; a refusal leaves the block as it was."""
    space = subject.spaces[0]
    offered = [
        name for name in ("as_affine", "absorb_output", "absorb_input") if hasattr(subject.lived_in(space), name)
    ]
    if not offered:
        raise NotApplicable("it folds no affine map of its neighbours")
    module, x = copy.deepcopy(subject.lived_in(space)).double(), subject.input(space).double()
    with torch.no_grad():
        y = subject.run(module, x)
        for name in offered:
            _AFFINE[name](subject, module, x, y)


def _as_affine(subject: Subject, module: nn.Module, x: Tensor, y: Tensor) -> None:
    maps = module.as_affine()  # type: ignore[operator]
    if maps is not None:
        require_close(_mapped(x, *maps), y, 1e-9, "scale * x + shift of `as_affine()` against the block")


def _absorb_output(subject: Subject, module: nn.Module, x: Tensor, y: Tensor) -> None:
    maps = _affine_map(y)
    changed, absorbed = _after(module, "absorb_output", maps)
    require_close(subject.run(changed, x), _mapped(y, *maps) if absorbed else y, 1e-9, _told("absorb_output", absorbed))


def _absorb_input(subject: Subject, module: nn.Module, x: Tensor, y: Tensor) -> None:
    maps = _affine_map(x)
    changed, absorbed = _after(module, "absorb_input", maps)
    require_close(
        subject.run(changed, x),
        subject.run(module, _mapped(x, *maps)) if absorbed else y,
        1e-9,
        _told("absorb_input", absorbed),
    )


_AFFINE = {"as_affine": _as_affine, "absorb_output": _absorb_output, "absorb_input": _absorb_input}


def _after(module: nn.Module, method: str, maps: tuple[Tensor, Tensor]) -> tuple[nn.Module, bool]:
    changed = copy.deepcopy(module)
    answer = getattr(changed, method)(*maps)
    if not isinstance(answer, bool):
        raise ConformanceFailure(f"`{method}` answers {answer!r}; it should say True or False")
    return changed, answer


def _told(method: str, taken: bool) -> str:
    return f"the block after `{method}(scale, shift)` answered {taken}"


def _affine_map(x: Tensor) -> tuple[Tensor, Tensor]:
    """A random (scale, shift) for the channels of `x`."""
    width, generator = channels(x), torch.Generator().manual_seed(9)
    return 0.5 + torch.rand(width, generator=generator).to(x), torch.randn(width, generator=generator).to(x)


def _mapped(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x * per_channel(scale, x) + per_channel(shift, x)
