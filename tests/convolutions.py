"""`python -m tests.convolutions [--list] [--part K/N]`: gradients of every shape of convolution that a registered model has, on this CPU.

Shapes (channels in and out, kernel, stride, padding, dilation, groups, side of the map) are collected from all models on meta. Each is
run as the model would train it, in channels_last, and in contiguous memory, for batches of 1, 2 and 3, on its own map and on maps of
1, 2 and 3 pixels where the kernel fits, in float32 and bfloat16; outputs and gradients are compared with those of float64. Shapes go
in batches to processes of their own, so that one that ends its process is found, and by halves named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

PER_PROCESS = 24
BOUNDS = {"float32": 1e-4, "bfloat16": 3e-2}
MOST_NUMBERS = 2**22
"""Numbers in the largest map that is tried; of a larger one a smaller map is."""

Shape = list[Any]
"""[in, out, [kernel], [stride], [padding], [dilation], groups, [height, width]]."""


def shapes_of(name: str) -> list[Shape]:
    """Of the convolutions of one model, at its own input size."""
    import torch
    from torch import nn

    import zoo

    model = zoo.create(name, device="meta").eval()
    found: set[str] = set()

    def seen(conv: Any, inputs: Any, _: Any) -> None:
        shape = [
            conv.in_channels, conv.out_channels, *(list(map(int, side)) for side in (conv.kernel_size, conv.stride, conv.padding, conv.dilation)),
            conv.groups, list(inputs[0].shape[-2:]),
        ]  # fmt: skip
        found.add(json.dumps(shape))

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(seen)
    with torch.no_grad():
        given = model.spec.input
        sides = given.size if isinstance(given.size, (tuple, list)) else (given.size, given.size)
        model(torch.empty(1, given.channels, *sides, device="meta"))
    return [json.loads(text) for text in sorted(found)]


def collected() -> list[Shape]:
    """Of all registered models of images, without repetition."""
    from zoo import catalog

    found: dict[str, Shape] = {}
    for name, entry in catalog.entries().items():
        if entry.task == "image-classification":
            found |= {json.dumps(shape): shape for shape in shapes_of(name)}
    return list(found.values())


def maps(shape: Shape) -> Iterator[tuple[int, int]]:
    """The map of a shape, made smaller until it is small enough to try, and tiny ones."""
    channels, _, kernel, _, padding, dilation, _, own = shape
    height, width = own
    while channels * height * width > MOST_NUMBERS or max(height, width) > 128:
        height, width = (height + 1) // 2, (width + 1) // 2
    least = [d * (k - 1) + 1 - 2 * p for k, p, d in zip(kernel, padding, dilation, strict=True)]
    sizes = {(height, width), (1, 1), (2, 2), (3, 3)}
    yield from sorted(size for size in sizes if size[0] >= least[0] and size[1] >= least[1])


def problems(shape: Shape) -> list[str]:
    """What is wrong with a convolution of this shape: bounds that errors in units of the result's norm exceed."""
    import torch
    from torch import nn

    from blocks.conv.conv import take_strided_pixels

    dim, out_dim, kernel, stride, padding, dilation, groups, _ = shape
    given = dim, out_dim, tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), groups
    exact = nn.Conv2d(*given, bias=False).double()
    wrong = []
    for size in maps(shape):
        for batch in (1, 2, 3):
            x = torch.randn(batch, dim, *size, dtype=torch.float64)
            right = results(exact, x.requires_grad_())
            for dtype, bound in BOUNDS.items():
                conv = nn.Sequential(nn.Conv2d(*given, bias=False))
                conv[0].load_state_dict(exact.state_dict())
                take_strided_pixels(conv)
                conv.to(getattr(torch, dtype))
                for layout in (torch.channels_last, torch.contiguous_format):
                    laid = x.detach().to(getattr(torch, dtype)).contiguous(memory_format=layout).requires_grad_()
                    for what, one, other in zip(
                        ("y", "x", "weight"), results(conv.to(memory_format=layout), laid), right, strict=True
                    ):
                        error = float((one.double() - other).norm() / (other.norm() + 1e-30))
                        if not error <= bound:
                            wrong.append(f"{what} {size} batch {batch} {dtype} {layout}: {error:.2g}")
    return wrong


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
        input=json.dumps(shapes), capture_output=True, text=True,
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
    shapes = collected()[part::parts]
    print(f"{len(shapes)} shapes", flush=True)
    if options.list:
        print("\n".join(map(json.dumps, shapes)))
        return 0
    wrong = {"crashes": 0, "wrong gradients": 0}
    for begin in range(0, len(shapes), PER_PROCESS):
        for shape, found in tried(shapes[begin : begin + PER_PROCESS]):
            if found:
                wrong["crashes" if found[0].startswith("the process") else "wrong gradients"] += 1
                print(json.dumps(shape), *found, sep="\n    ", flush=True)
    print(f"{len(shapes)} shapes: " + ", ".join(f"{count} {name}" for name, count in wrong.items()))
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
