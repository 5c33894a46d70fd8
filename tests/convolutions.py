"""`python -m tests.convolutions [--list] [--part K/N]`: outputs and gradients of every convolution that a registered model has, on this CPU.

Convolutions of images and of sequences (channels in and out, kernel, stride, padding, dilation, groups) and the sides of the maps that
they meet are collected from all models on meta, those that are called as functions among them. Each is run as the model would train it,
with channels last in memory, and contiguous, for batches of 1, 2 and 3, on its own maps, on maps of 1, 2 and 3 pixels, of one and two
strides, where the kernel fits, and, with a stride, on such of which one row or column is left, in float32 and bfloat16; outputs and
gradients are compared with those of float64. Convolutions go in batches to processes of their own, so that one that ends its process is
found, and by halves named.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import math
import operator
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

PER_PROCESS = 48
BOUNDS = {"float32": 1e-4, "bfloat16": 3e-2}
LAYOUTS = ("channels last", "contiguous")
MOST_NUMBERS, MOST_MACS, MOST_SIDE = 2**20, 2**26, 128
"""The largest map that is tried: numbers that are read, multiplications, pixels of a side; a larger one is halved until it fits."""

LONG = 13
"""Rows of a map of which one column is left, and the other way round."""

UNWRITTEN = {"MALLOC_PERTURB_": "165", "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TOP_PAD_": str(2**28)}
"""What glibc reads: new memory is full of a pattern, so that what a kernel does not write is no zero by chance."""

Shape = list[Any]
"""[in, out, [kernel], [stride], [padding], [dilation], groups, [[height, width], ...]]; of a sequence each size has one number."""


def shapes_of(name: str) -> list[Shape]:
    """The convolutions of one model, each with the one map of a call, at the model's own input size."""
    import torch
    from torch import nn
    from torch.overrides import TorchFunctionMode

    import zoo
    from zoo.build.builder import build
    from zoo.build.inputs import meta_inputs

    spec = zoo.spec(name)
    model = build(spec)
    shapes: set[str] = set()

    def note(dim: int, weight: Any, sizes: Any, groups: int, x: Any) -> None:
        kernel = list(weight.shape[2:])
        sides = [size if isinstance(size, str) else list(_each(size, len(kernel))) for size in sizes]
        shapes.add(json.dumps([dim, weight.shape[0], kernel, *sides, groups, [list(x.shape[2:])]]))

    def note_module(conv: Any, inputs: Any, _: Any) -> None:
        note(conv.in_channels, conv.weight, (conv.stride, conv.padding, conv.dilation), conv.groups, inputs[0])

    class Calls(TorchFunctionMode):
        """Notes convolutions that are called as functions, those inside the modules among them."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.conv1d, torch.conv2d):
                call = CALL.bind(*args, **(kwargs or {}))
                call.apply_defaults()
                x, weight, _, *sizes, groups = call.arguments.values()
                note(x.shape[1], weight, sizes, groups, x)
            return func(*args, **(kwargs or {}))

    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            module.register_forward_hook(note_module)
    with torch.no_grad(), Calls():
        model(*meta_inputs(spec))
    return [json.loads(shape) for shape in sorted(shapes)]


def _call(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> None:
    """The arguments of `torch.conv1d` and `torch.conv2d`, which have no signature of their own."""


CALL = inspect.signature(_call)


def _each(size: Any, axes: int) -> tuple[int, ...]:
    """A size for each axis, which torch lets be told once for all."""
    sizes = (size,) if isinstance(size, int) else tuple(size)
    return sizes * axes if len(sizes) == 1 else sizes


@functools.cache
def collected() -> tuple[Shape, ...]:
    """Those of all registered models, each once, with all the maps that it meets."""
    from zoo import catalog

    sides: dict[str, set[tuple[int, ...]]] = {}
    for name in catalog.entries():
        for *conv, maps in shapes_of(name):
            sides.setdefault(json.dumps(conv), set()).update(map(tuple, maps))
    return tuple([*json.loads(conv), sorted(map(list, maps))] for conv, maps in sides.items())


def tried_maps(shape: Shape) -> list[tuple[int, ...]]:
    """The maps of a shape, each made smaller until it is small enough to try, and tiny ones; none that the kernel does not fit."""
    *_, kernel, stride, padding, dilation, _, maps = shape
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    borders = {"same": [span - 1 for span in spans], "valid": [0] * len(spans)}
    added = borders[padding] if isinstance(padding, str) else [2 * p for p in padding]
    least = [span - border for span, border in zip(spans, added, strict=True)]
    tiny = {(side,) * len(kernel) for side in (1, 2, 3)} | {tuple(times * step for step in stride) for times in (1, 2)}
    axes = range(len(kernel)) if max(stride) > 1 and len(kernel) > 1 else ()
    thin = {tuple(LONG if axis == along else max(1, least[axis]) for axis in axes) for along in axes}
    sizes = tiny | thin | {smaller(shape, *size) for size in maps}
    return sorted(size for size in sizes if all(map(operator.ge, size, least)))


def smaller(shape: Shape, *size: int) -> tuple[int, ...]:
    dim, out_dim, kernel, stride, _, _, groups, _ = shape
    work = dim * out_dim * math.prod(kernel) / groups / math.prod(stride)
    while max(size) > 1 and (
        dim * math.prod(size) > MOST_NUMBERS or work * math.prod(size) > MOST_MACS or max(size) > MOST_SIDE
    ):
        size = tuple((side + 1) // 2 for side in size)
    return size


def problems(shape: Shape) -> list[str]:
    """What is wrong with a convolution of this shape: bounds that errors in units of the result's norm exceed."""
    import torch
    from torch import nn

    from blocks.conv.conv import use_right_gradients

    dim, out_dim, kernel, stride, padding, dilation, groups, _ = shape
    sizes: Any = (tuple(size) if isinstance(size, list) else size for size in (kernel, stride, padding, dilation))
    kind: Any = nn.Conv2d if len(kernel) == 2 else nn.Conv1d
    exact = kind(dim, out_dim, *sizes, groups, bias=False).double()
    convs = {}
    for dtype in BOUNDS:
        convs[dtype] = nn.Sequential(kind(dim, out_dim, kernel, stride, padding, dilation, groups, bias=False))
        convs[dtype][0].load_state_dict(exact.state_dict())
        use_right_gradients(convs[dtype])
        convs[dtype].to(getattr(torch, dtype))
    wrong = []
    for size in tried_maps(shape):
        for batch in (1, 2, 3):
            x = torch.randn(batch, dim, *size, dtype=torch.float64)
            right = results(exact, x.requires_grad_())
            for dtype, bound in BOUNDS.items():
                for layout in LAYOUTS:
                    conv, narrow = laid(convs[dtype], x.detach().to(getattr(torch, dtype)), layout)
                    values = results(conv, narrow.requires_grad_())
                    for what, value, exact_value in zip(("y", "x", "weight"), values, right, strict=True):
                        error = float((value.double() - exact_value).norm() / (exact_value.norm() + 1e-30))
                        if not error <= bound:
                            wrong.append(f"{what} {size} batch {batch} {dtype} {layout}: {error:.2g}")
    return wrong


def laid(conv: Any, x: Any, layout: str) -> tuple[Any, Any]:
    """The convolution and its input in a layout; of sequences only the input has two, as linear layers leave theirs with channels last."""
    import torch

    if x.ndim == 3:
        return conv, x.transpose(1, 2).contiguous().transpose(1, 2) if layout == "channels last" else x.contiguous()
    order = torch.channels_last if layout == "channels last" else torch.contiguous_format
    return conv.to(memory_format=order), x.contiguous(memory_format=order)


def results(conv: Any, x: Any) -> tuple[Any, ...]:
    """(output, gradient of the input, of the weight), for weights that follow from the number of outputs alone."""
    import torch

    y = conv(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
    return (y.detach(), *torch.autograd.grad((y * weights).sum(), (x, *conv.parameters())))


def child() -> None:
    """Reads shapes from standard input, and writes one line for each: what is wrong with it."""
    for shape in json.load(sys.stdin):
        print(json.dumps(problems(shape)), flush=True)


def tried(shapes: list[Shape]) -> Iterator[tuple[Shape, list[str]]]:
    """Each shape with what is wrong with it; what ends a process is tried in halves until it is one shape."""
    run = subprocess.run(
        [sys.executable, "-c", "from tests.convolutions import child; child()"],
        input=json.dumps(shapes), capture_output=True, text=True, env=os.environ | UNWRITTEN,
    )  # fmt: skip
    if run.returncode == 0:
        yield from zip(shapes, map(json.loads, run.stdout.splitlines()), strict=True)
    elif len(shapes) == 1:
        yield shapes[0], [f"the process ended with {run.returncode}: {run.stderr.strip()[-200:]}"]
    else:
        middle = len(shapes) // 2
        yield from tried(shapes[:middle])
        yield from tried(shapes[middle:])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.convolutions", description=__doc__)
    parser.add_argument("--list", action="store_true", help="the shapes alone")
    parser.add_argument("--part", default="0/1", help="K/N: the K-th of N parts of the shapes")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    shapes = list(collected()[part::parts])
    print(f"{len(shapes)} convolutions, {sum(len(shape[-1]) for shape in shapes)} with their maps", flush=True)
    if options.list:
        print("\n".join(map(json.dumps, shapes)))
        return 0
    crashes = wrong = 0
    for begin in range(0, len(shapes), PER_PROCESS):
        for shape, faults in tried(shapes[begin : begin + PER_PROCESS]):
            if faults:
                crashes, wrong = (crashes + 1, wrong) if faults[0].startswith("the process") else (crashes, wrong + 1)
                print(json.dumps(shape), *faults, sep="\n    ", flush=True)
        print(f"{min(begin + PER_PROCESS, len(shapes))} of {len(shapes)} tried", file=sys.stderr, flush=True)
    print(f"{len(shapes)} convolutions: {crashes} crashes, {wrong} wrong results or gradients")
    return int(crashes + wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
