"""What is asked of every block, whatever it promises: shape, layout, dtype, building on meta, gradient, determinism, stable names, copies."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any, cast

import torch
from torch import Tensor, nn

from blocks.annealing import anneal
from blocks.chain import channels
from blocks.context import Context
from blocks.registry.calls import complete_call
from blocks.registry.schema import Issue
from zoo.testing.block_cases import BATCH, NUM_CLASSES, Subject, perturbed
from zoo.testing.outcomes import ConformanceFailure, NotApplicable, require, require_close, require_equal

KEEP_SHAPE = ("token_mixer", "channel_mixer", "norm", "act", "view")
CHANGE_SIZE = ("stem", "downsample", "pool", "whole")
STREAM = (*KEEP_SHAPE, "stem", "downsample", "linear", "wiring", "embed")
"""Kinds whose output is a stream like their input, which others take up."""


def schema(subject: Subject) -> None:
    """The signature is a schema, and every default fits it."""
    issues: list[Issue] = []
    complete_call(subject.call, (), {}, issues)
    wrong = [f"`{'.'.join(map(str, issue.path))}`: expected {issue.expected}; found {issue.found}" for issue in issues]
    require(not wrong, "the defaults do not fit their own bounds: " + "; ".join(wrong))


def builds(subject: Subject) -> None:
    """The constructor takes its defaults in every space of input."""
    for space in subject.spaces:
        subject.build(space)


def shape(subject: Subject) -> None:
    """The output has the shape that the kind asks for, and `out_dim` says its width."""
    for space in subject.spaces:
        module, x = subject.build(space), subject.input(space)
        with torch.no_grad():
            for output in subject.outputs(module, x):
                require(
                    bool(output.isfinite().all()), f"the output for {space} of shape {tuple(x.shape)} is not finite"
                )
            y = subject.run(module, x)
        require_shape(subject, module, x, y)
    if "out_dim" in subject.info.supplied and subject.info.kind in ("token_mixer", "channel_mixer"):
        _width_asked_for(subject)


def require_shape(subject: Subject, module: nn.Module, x: Tensor, y: Tensor) -> None:
    """The law of each kind for input `x` and output `y`."""
    kind, shapes = subject.info.kind, f"{tuple(x.shape)} became {tuple(y.shape)}"
    if kind in KEEP_SHAPE:
        require(x.shape == y.shape, f"a block of kind {kind} keeps the shape; {shapes}")
    elif kind == "head":
        law = (BATCH, x.shape[1], NUM_CLASSES) if getattr(module, "per_token", False) else (BATCH, NUM_CLASSES)
        names = "(B, L, num_classes)" if len(law) == 3 else "(B, num_classes)"
        require(y.shape == law, f"a head gives {names} = {law}; {shapes}")
    elif kind in ("linear", "wiring", "embed", "stem", "downsample"):
        width = getattr(module, "out_dim", subject.in_dim)
        require(y.ndim >= 3 and channels(y) == width, f"the output should have out_dim = {width} channels; {shapes}")
        if kind not in CHANGE_SIZE and not subject.takes_ids:
            same = y.shape[2:] == x.shape[2:] if x.ndim > 3 else y.shape[:2] == x.shape[:2]
            require(same, f"a block of kind {kind} keeps rows, columns and length; {shapes}")
    elif not subject.meets:
        require(y.shape[0] == BATCH or kind == "router", f"the batch should stay the first axis; {shapes}")


def _width_asked_for(subject: Subject) -> None:
    space, width = subject.spaces[0], 96
    module, x = subject.build(space, out_dim=width), subject.input(space)
    with torch.no_grad():
        y = subject.run(module, x)
    stated = getattr(module, "out_dim", None)
    require(
        channels(y) == width == stated,
        f"asked for out_dim = {width}, the block gives {channels(y)} channels and says out_dim = {stated}",
    )


def layout(subject: Subject) -> None:
    """An image in channels_last leaves in channels_last, and an image in any other memory order gives the same."""
    if "image" not in subject.spaces or subject.info.kind not in STREAM:
        raise NotApplicable("no image passes through it")
    module, x = subject.lived_in("image"), subject.input("image")
    with torch.no_grad():
        y = subject.run(module, x)
        require(
            y.ndim == 4, f"an image should leave as an image (B, C, H, W); {tuple(x.shape)} became {tuple(y.shape)}"
        )
        require(
            _seen_as_tokens(y),
            f"a channels_last image left with strides {y.stride()}; the next block would copy it to see (B, H*W, C)",
        )
        require_close(subject.run(module, x.contiguous()), y, 1e-5, "an image that is contiguous, not channels_last")


def _seen_as_tokens(y: Tensor) -> bool:
    """Whether (B, H*W, C) with neighbouring channels is a view: channels_last, or rows cut out of such memory."""
    return y.stride(1) == 1 and (y.shape[2] == 1 or y.stride(2) == y.shape[3] * y.stride(3))


def dtype(subject: Subject) -> None:
    """float32 in, float32 out; bfloat16 in, bfloat16 out; finite both times."""
    if subject.takes_ids:
        raise NotApplicable("its input is token numbers")
    for space in subject.spaces:
        for kind in (torch.float32, torch.bfloat16):
            module = subject.build(space).to(kind)
            with torch.no_grad():
                y = subject.run(module, subject.input(space).to(kind))
            require(y.dtype == kind or not y.is_floating_point(), f"{kind} {space} in, {y.dtype} out")
            require(bool(y.isfinite().all()), f"the output for {space} in {kind} is not finite")


def meta(subject: Subject) -> None:
    """Built on meta nothing is allocated, and the forward pass gives the shapes that it gives on the CPU."""
    for space in subject.spaces:
        module, x = subject.build(space, device="meta"), subject.input(space)
        astray = [name for name, tensor in _all_tensors(module) if tensor.device.type != "meta"]
        require(not astray, f"built on meta, {_quoted(astray)} took memory all the same")
        with torch.no_grad():
            expected = [tuple(y.shape) for y in subject.outputs(subject.lived_in(space), x)]
            with torch.device("meta"):
                shapes = [tuple(y.shape) for y in subject.outputs(module, x.to("meta"))]
        require(shapes[:1] == expected[:1], f"on meta {space} gives {shapes[0]}, on the CPU {expected[0]}")


def loading(subject: Subject) -> None:
    """Built on the CPU == built on meta and loaded: bit-equal, non-persistent buffers included."""
    for space in subject.spaces:
        original = perturbed(subject.build(space))
        loaded = subject.build(space, device="meta").to_empty(device="cpu")
        _spoil(loaded)
        loaded.load_state_dict(original.state_dict(), assign=True)
        for module in loaded.modules():
            if hasattr(module, "reset_buffers"):
                module.reset_buffers()  # type: ignore[operator]
        for name, buffer in original.named_buffers():
            require_equal(
                loaded.get_buffer(name),
                buffer,
                f"buffer `{name}` after building on meta, loading and `reset_buffers()`",
            )
        x = subject.input(space)
        with torch.no_grad():
            require_equal(
                subject.run(loaded.eval(), x),
                subject.run(original, x),
                f"the output for {space} after building on meta and loading",
            )


@torch.no_grad()
def _spoil(module: nn.Module) -> None:
    """Fresh memory holds anything: make it hold what cannot go unseen."""
    for _, tensor in _all_tensors(module):
        tensor.fill_(math.nan if tensor.is_floating_point() or tensor.is_complex() else 1)


def gradient(subject: Subject) -> None:
    """The gradient reaches every parameter that asks for it, in the middle of training, and the input; not that of a router, which may go by
    a key, and not what the block says is `unreached`. It comes from the outputs and from what is left in ctx for later blocks."""
    module = perturbed(subject.build(subject.spaces[0])).train()
    anneal(module, 0.5)
    sources: dict[str, Tensor] = {
        name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    x = subject.input(subject.spaces[0])
    if x.is_floating_point() and subject.info.kind != "router":
        sources["the input"] = x.requires_grad_()
    if not sources:
        raise NotApplicable("it has neither parameters nor an input that takes a gradient")
    ctx = Context()
    given = subject.outputs(module, x, ctx)
    if not any(y.is_floating_point() for y in given):
        raise NotApplicable("its output is whole numbers")
    outputs = [y for y in [*given, *(left for slot in ctx.slots.values() for left in slot.values())] if y.requires_grad]
    require(bool(outputs), "the output carries no gradient at all")
    generator = torch.Generator().manual_seed(5)
    loss = sum((y * torch.randn(y.shape, generator=generator)).sum() for y in outputs) + ctx.total_loss()
    gradients = torch.autograd.grad(loss, list(sources.values()), allow_unused=True)  # type: ignore[arg-type]
    alone = getattr(type(module), "unreached", ())
    unreached = [
        name
        for name, grad in zip(sources, gradients, strict=True)
        if name not in alone and (grad is None or not grad.any())
    ]
    require(not unreached, f"no gradient reaches {_quoted(unreached)}")
    broken = [
        name for name, grad in zip(sources, gradients, strict=True) if grad is not None and not grad.isfinite().all()
    ]
    require(not broken, f"the gradient of {_quoted(broken)} is not finite")


def determinism(subject: Subject) -> None:
    """Two passes are bit-equal, two builds under one seed are too, and a pass leaves its input and the module as they were."""
    for space in subject.spaces:
        module, x = subject.lived_in(space), subject.input(space)
        before, input_before = {name: tensor.clone() for name, tensor in _all_tensors(module)}, x.clone()
        with torch.no_grad():
            first, second = subject.run(module, x), subject.run(module, x)
        require_equal(second, first, f"two passes of the same {space}")
        require_equal(x, input_before, "the input after the pass")
        for name, tensor in _all_tensors(module):
            require_equal(tensor, before[name], f"`{name}` after a pass in eval mode")
        builds = [dict(_all_tensors(subject.build(space, seed=3))) for _ in range(2)]
        for name, tensor in builds[0].items():
            require_equal(builds[1][name], tensor, f"`{name}` in two builds under one seed")


def names(subject: Subject) -> None:
    """The names and shapes of the state dict are those that were published, whichever space of input it is built for."""
    shapes = header(subject)
    if subject.headers is None:
        raise NotApplicable("no names are published for blocks of one's own")
    published = subject.headers.get(subject.info.id)
    hint = "`python -m zoo.testing.headers` writes them"
    require(published is not None, f"no names are published for it; next: {hint}")
    missing = sorted(set(published) - set(shapes))  # type: ignore[arg-type]
    new = sorted(set(shapes) - set(published))  # type: ignore[arg-type]
    require(
        not missing,
        f"the state dict no longer has {_quoted(missing)}" + (f"; it has {_quoted(new)} instead" if new else ""),
    )
    require(not new, f"the state dict has {_quoted(new)} beside its published names")
    for name, expected in published.items():  # type: ignore[union-attr]
        require(shapes[name] == list(expected), f"`{name}` has shape {shapes[name]}; published is {list(expected)}")


def header(subject: Subject) -> dict[str, list[int]]:
    """Name -> shape of the state dict. Raises ConformanceFailure when it depends on the layout of the input."""
    by_space = {space: _shapes(subject.build(space, device="meta")) for space in subject.spaces}
    first = by_space[subject.spaces[0]]
    for space, shapes in by_space.items():
        if shapes != first:
            names = sorted(name for name in {*first, *shapes} if first.get(name) != shapes.get(name))
            raise ConformanceFailure(
                f"parameter shapes depend on the layout: {_quoted(names)} differ between {subject.spaces[0]} and {space}"
            )
    return first


def _shapes(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def copies(subject: Subject) -> None:
    """A deep copy and a pickled copy give the same, bit by bit."""
    space = subject.spaces[0]
    module, x = subject.lived_in(space), subject.input(space)
    with torch.no_grad():
        expected = subject.run(module, x)
        require_equal(subject.run(copy.deepcopy(module), x), expected, "the output of a deep copy")
        require_equal(subject.run(_pickled(module), x), expected, "the output of a pickled copy")


def nothing(subject: Subject) -> None:
    """No samples, no tokens or no pixels give an output of as many, and no NaN in gradients and statistics; or a ValueError says no."""
    for space in subject.spaces:
        x = subject.input(space)
        emptied = [x[:0], x[:, :0]] if x.ndim < 4 else [x[:0], x[:, :, :0], x[:, :, :0, :0]]
        if subject.meets:
            emptied = [x[:0]]
        for z in emptied:
            for training in (False, True):
                _require_nothing(subject, subject.build(space).train(training), z.clone())


def _require_nothing(subject: Subject, module: nn.Module, x: Tensor) -> None:
    """What is asked of one input without a number in it."""
    what = f"an input of shape {tuple(x.shape)}{' in training' if module.training else ''}"
    if x.is_floating_point():
        x.requires_grad_(module.training)
    ctx = Context()
    try:
        y = subject.run(module, x, ctx)
    except ValueError as refusal:
        require(bool(str(refusal)), f"{what} is refused without a word")
        return
    if not x.shape[0] and subject.info.kind != "router" and not subject.meets:
        require(y.shape[0] == 0, f"{what} became {tuple(y.shape)}")
    elif subject.info.kind in KEEP_SHAPE:
        require_shape(subject, module, x, y)
    require(not y.is_floating_point() or bool(y.isfinite().all()), f"{what} gives an output that is not finite")
    loss = y.sum() + ctx.total_loss()
    if module.training and loss.requires_grad:
        loss.backward()
    tensors = {**{name: p.grad for name, p in module.named_parameters()}, **dict(module.named_buffers())}
    spoilt = [name for name, tensor in tensors.items() if tensor is not None and not tensor.isfinite().all()]
    require(not spoilt, f"{what} leaves NaN in {_quoted(spoilt)}")


def _pickled(module: nn.Module) -> nn.Module:
    try:
        return cast(nn.Module, pickle.loads(pickle.dumps(module)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # which of them depends on the Python
        raise ConformanceFailure(f"worker processes need it pickled, and it cannot be: {error}") from None


def _all_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    parameters: list[tuple[str, Tensor]] = list(module.named_parameters())
    return parameters + list(module.named_buffers())


def _quoted(words: list[Any]) -> str:
    return ", ".join(word if " " in word else f"`{word}`" for word in words)
