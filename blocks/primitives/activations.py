"""Activations: functions of each number on its own; star_relu alone has parameters."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import may_overwrite
from blocks.registry import block

EVERYWHERE = ("causal", "noncausal", "any_resolution")


class Pointwise(nn.Module):
    """Base of the activations without parameters: any shape -> the same shape."""

    def __init__(self) -> None:
        super().__init__()


@block("relu", kind="act", abilities=EVERYWHERE)
class Relu(Pointwise):
    """y = max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def over(self, x: Tensor) -> Tensor:
        """The same, written over x."""
        return F.relu_(x)


@block("relu6", kind="act", abilities=EVERYWHERE)
class Relu6(Pointwise):
    """y = min(max(x, 0), 6)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x)

    def over(self, x: Tensor) -> Tensor:
        """The same, written over x."""
        return F.relu6(x, inplace=True)


@block("squared_relu", kind="act", abilities=EVERYWHERE, paper="arXiv:2109.08668", covers=("relu2",))
class SquaredRelu(Pointwise):
    """y = max(x, 0)^2."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


@block("silu", kind="act", abilities=EVERYWHERE, paper="arXiv:1702.03118", covers=("swish",))
class Silu(Pointwise):
    """y = x * sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


@block("sigmoid", kind="act", abilities=EVERYWHERE)
class Sigmoid(Pointwise):
    """y = 1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


@block("tanh", kind="act", abilities=EVERYWHERE)
class Tanh(Pointwise):
    """y = tanh(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


@block("log", kind="act", abilities=EVERYWHERE)
class Log(Pointwise):
    """y = ln max(x, 1e-20)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp_min(1e-20).log()


@block("leaky_relu", kind="act", abilities=EVERYWHERE, covers=("lrelu",))
class LeakyRelu(nn.Module):
    """y = max(x, 0) + slope * min(x, 0).

    Any shape -> the same shape.
    """

    def __init__(self, *, slope: Annotated[float, Meta(gt=0, lt=1)] = 0.01):
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)

    def over(self, x: Tensor) -> Tensor:
        """The same, written over x."""
        return F.leaky_relu_(x, self.slope)


@block("clip", kind="act", abilities=EVERYWHERE)
class Clip(nn.Module):
    """y = min(max(x, low), high).

    Any shape -> the same shape.
    """

    def __init__(self, *, low: float = 0.0, high: float = 1.0):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


@block("hard_swish", kind="act", abilities=EVERYWHERE, paper="arXiv:1905.02244", covers=("hswish", "hardswish"))
class HardSwish(Pointwise):
    """y = x * min(max(x + 3, 0), 6) / 6."""

    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(x)


@block("hard_sigmoid", kind="act", abilities=EVERYWHERE, paper="arXiv:1905.02244", covers=("hsigmoid", "hardsigmoid"))
class HardSigmoid(Pointwise):
    """y = min(max(slope * x + 1/2, 0), 1), as a rule with a slope of 1/6."""

    def __init__(self, *, slope: Annotated[float, Meta(gt=0, extra_json_schema={"added": "0.1"})] = 1 / 6):
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(x) if self.slope == 1 / 6 else (self.slope * x + 0.5).clamp(0, 1)


@block("gelu", kind="act", abilities=EVERYWHERE, paper="arXiv:1606.08415")
class Gelu(nn.Module):
    """y = x * Phi(x), Phi the normal distribution function: by the error function, or by its tanh approximation.

    Any shape -> the same shape.
    """

    def __init__(self, *, approximate: Literal["tanh"] | None = None):
        super().__init__()
        self.approximate = approximate or "none"

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)

    def over(self, x: Tensor) -> Tensor:
        """The same, written over x where nobody needs x."""
        if may_overwrite(x):
            y: Tensor = torch.ops.aten.gelu_(x, approximate=self.approximate)
            return y
        return F.gelu(x, approximate=self.approximate)


@block("star_relu", kind="act", abilities=EVERYWHERE, paper="arXiv:2210.13452")
class StarRelu(nn.Module):
    """y = scale * max(x, 0)^2 + bias, both of them one learned number, shape (1,).

    Any shape -> the same shape. `scale` and `bias` are the values at first. The paper's 0.8944 and -0.4472 keep mean 0
    and variance 1 of normal input; its code starts from 1 and 0, as here.
    """

    def __init__(self, *, scale: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.initial = scale, bias
        self.scale = nn.Parameter(torch.empty(1))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale, self.initial[0])
        nn.init.constant_(self.bias, self.initial[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.relu(x).square() + self.bias


@block("multiply", kind="act", abilities=EVERYWHERE)
class Multiply(nn.Module):
    """y = factor * x, by a number that is not learned.

    Any shape -> the same shape.
    """

    def __init__(self, *, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor
