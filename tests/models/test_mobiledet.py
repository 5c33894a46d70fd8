"""MobileDets against a slow net of plain functions, written from arXiv:2004.14525, section 3 and appendix, and the heads of SSDLite.

A row of a net is one layer: its kind, kernel, stride, factor of its expansion, channels, and `+` where it adds what came in. Kinds: `d` mixes
pixels within channels, `i` widens before that, `f` widens by the convolution that mixes, `t` mixes between two narrower layers, whose widths
are stated in the place of the factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import zoo

NETS = {
    "mobiledet_cpu": """d 3 1 1 8 | i 3 2 4 16 | i 3 2 8 32, i 3 1 4 32 +, i 3 1 4 32 +, i 3 1 4 32 +
        | i 5 2 8 72, i 3 1 8 72 +, i 5 1 4 72 +, i 3 1 4 72 + | i 3 1 8 72, i 3 1 8 72 +, i 3 1 8 72 +, i 3 1 8 72 +
        | i 5 2 8 104, i 5 1 4 104 +, i 5 1 4 104 +, i 3 1 4 104 + | i 3 1 8 144""",
    "mobiledet_dsp": """d 3 1 1 24 | f 3 2 4 32, f 3 1 4 32 +, i 3 1 4 32 +, t 3 1 8x24 32 +
        | f 3 2 8 64, i 3 1 4 64 +, f 3 1 4 64 +, f 3 1 4 64 + | f 3 2 8 120, i 3 1 4 120 +, i 3 1 8 120 +, i 3 1 8 120 +
        | f 3 1 8 144, i 3 1 8 144 +, i 3 1 8 144 +, i 3 1 8 144 +
        | i 3 2 4 160, i 3 1 4 160 +, f 3 1 4 160 +, t 3 1 120x120 160 + | i 3 1 8 240""",
    "mobiledet_edgetpu": """t 3 1 8x16 16 | f 3 2 8 16, f 3 1 4 16 +, f 3 1 8 16 +, f 3 1 4 16 +
        | f 5 2 8 40, f 3 1 4 40 +, f 3 1 4 40 +, f 3 1 4 40 + | i 3 2 8 72, i 3 1 8 72 +, f 3 1 4 72 +, f 3 1 4 72 +
        | i 5 1 8 96, i 5 1 8 96 +, i 3 1 8 96 +, i 3 1 8 96 + | i 5 2 8 120, i 3 1 8 120 +, i 5 1 4 120 +, i 3 1 8 120 +
        | i 5 1 8 384""",
    "mobiledet_gpu": """t 3 1 8x8 16 | f 3 2 8 32, t 3 1 8x8 32 +, t 3 1 8x8 32 +, t 3 1 8x8 32 +
        | f 3 2 8 64, f 3 1 8 64 +, f 3 1 8 64 +, f 3 1 4 64 + | f 3 2 8 128, f 3 1 4 128 +, f 3 1 4 128 +, f 3 1 4 128 +
        | f 3 1 8 128, f 3 1 8 128 +, f 3 1 8 128 +, f 3 1 8 128 + | f 3 2 4 128, f 3 1 4 128 +, f 3 1 4 128 +, f 3 1 4 128 +
        | i 3 1 8 384""",
}
STEM = {"mobiledet_cpu": 16}
EXTRA = ((256, 512), (128, 256), (128, 256), (64, 128))
RATIOS = (1.0, 2.0, 0.5, 3.0, 0.3333)


def turn(key: str) -> tuple[int, str]:
    """When a tensor is used: stem, stages, further levels, classes, boxes; within them as they stand."""
    parts = ("stem", "stages", "graph.level", "graph.class", "graph.box")
    place = next(i for i, part in enumerate(parts) if key.startswith(part))
    return place, key.split(".")[1] if place > 1 else ""


class Slow:
    """A net of functions, which takes the tensors of ours one after the other and holds them against the shapes that it asks for."""

    def __init__(self, name: str, state: dict[str, Tensor]):
        self.name = name
        keys = sorted((key for key in state if not key.endswith("num_batches_tracked")), key=turn)
        self.tensors: Iterator[Tensor] = (state[key] for key in keys)
        self.swish: Callable[[Tensor], Tensor] = lambda x: x * (x + 3).clamp(0, 6) / 6
        self.act = self.swish if name == "mobiledet_cpu" else F.relu6

    def take(self, *shape: int) -> Tensor:
        tensor = next(self.tensors)
        assert tensor.shape == shape
        return tensor

    def conv(
        self, x: Tensor, out: int, k: int, s: int = 1, act: bool = True, deep: bool = False, head: bool = False
    ) -> Tensor:
        """TensorFlow's border, kernel, norm, activation."""
        weight = self.take(out, 1 if deep else x.shape[1], k, k)
        missing = [max((math.ceil(n / s) - 1) * s + k - n, 0) for n in x.shape[2:]]
        (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in missing)
        y = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, stride=s, groups=out if deep else 1)
        scale, shift, mean, variance = (self.take(out)[:, None, None] for _ in range(4))
        y = (y - mean) / (variance + (1e-3 if head else 1e-2)).sqrt() * scale + shift
        return (F.relu6 if head else self.act)(y) if act else y

    def squeezed(self, x: Tensor) -> Tensor:
        hidden = max(8, int(x.shape[1] / 4 / 8 + 0.5) * 8)
        summary = x.mean((2, 3)) @ self.take(hidden, x.shape[1]).T + self.take(hidden)
        gate = self.act(summary) @ self.take(x.shape[1], hidden).T + self.take(x.shape[1])
        return x * gate.sigmoid()[..., None, None]

    def layer(self, x: Tensor, kind: str, k: str, s: str, factor: str, out: str, *adds: str) -> Tensor:
        wide = x.shape[1] * int(factor) if "x" not in factor else 0
        y, kernel, stride = x, int(k), int(s)
        if kind == "t":
            first, last = map(int, factor.split("x"))
            y = self.conv(self.conv(y, first, 1), last, kernel, stride)
        elif kind == "f":
            y = self.conv(y, wide, kernel, stride)
        else:
            y = self.conv(y, wide, 1) if kind == "i" else y
            y = self.conv(y, wide, kernel, stride, deep=True)
            y = self.squeezed(y) if self.name == "mobiledet_cpu" else y
        y = self.conv(y, int(out), 1, act=False)
        return x + y if adds else y

    def levels(self, x: Tensor) -> list[Tensor]:
        x, ends = self.conv(x, STEM.get(self.name, 32), 3, 2), []
        for stage in NETS[self.name].split("|"):
            for row in stage.split(","):
                x = self.layer(x, *row.split())
            ends.append(x)
        levels = [ends[4], ends[6]]
        for inner, outer in EXTRA:
            y = self.conv(levels[-1], inner, 1, head=True)
            levels.append(self.conv(self.conv(y, inner, 3, 2, deep=True, head=True), outer, 1, head=True))
        return levels

    def maps(self, levels: list[Tensor], values: int) -> list[Tensor]:
        """Of each level what is said of its boxes: (boxes of all pixels, values)."""
        found = []
        for i, level in enumerate(levels):
            width = level.shape[1]
            y, boxes = self.conv(level, width, 3, deep=True, head=True), 3 if i == 0 else 6
            weight, bias = self.take(boxes * values, width, 1, 1), self.take(boxes * values)
            found.append(F.conv2d(y, weight, bias).permute(0, 2, 3, 1).reshape(-1, values))
        return found

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.levels(x)
        classes, moves = self.maps(levels, 91), self.maps(levels, 4)
        assert next(self.tensors, None) is None
        boxes = [
            moved(*pair, x.shape[2])
            for pair in zip(defaults([y.shape[2] for y in levels]), torch.cat(moves), strict=True)
        ]
        return torch.stack(boxes), torch.cat(classes)[:, 1:].sigmoid()


def defaults(sides: list[int]) -> list[tuple[float, float, float, float]]:
    """(x, y, w, h) as shares of a square picture (arXiv:1512.02325, section 2.2)."""
    found, scales = [], [0.2 + 0.15 * k for k in range(6)] + [1.0]
    for k, side in enumerate(sides):
        shapes = [(scales[k], r) for r in RATIOS] + [((scales[k] * scales[k + 1]) ** 0.5, 1.0)]
        shapes = shapes if k else [(0.1, 1.0), (0.2, 2.0), (0.2, 0.5)]
        for row in range(side):
            for column in range(side):
                found += [((column + 0.5) / side, (row + 0.5) / side, s * r**0.5, s / r**0.5) for s, r in shapes]
    return found


def moved(default: tuple[float, float, float, float], move: Tensor, size: int) -> Tensor:
    x, y, w, h = default
    ty, tx, th, tw = move
    x, y, w, h = x + tx * w / 10, y + ty * h / 10, w * (tw / 5).exp(), h * (th / 5).exp()
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2)) * size


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "mobiledet_cpu" else pytest.mark.slow) for name in NETS]
)
def test_a_net_is_the_slow_one(name: str) -> None:
    torch.manual_seed(0)
    model = zoo.create(name).double().eval()
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    for key, buffer in model.named_buffers():
        if key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif key.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    x = torch.randn(1, 3, 160, 160, dtype=torch.float64)
    with torch.no_grad():
        found = model(x)
        boxes, scores = Slow(name, model.state_dict())(x)
    torch.testing.assert_close(found["boxes"][0].T, boxes, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found["scores"][0].T, scores, rtol=1e-9, atol=1e-9)
