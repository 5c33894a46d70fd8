"""Weights that a small net of coordinates gives: of whole maps, of channels, and of kernels that depend on what they are laid over.

Paper: arXiv:2401.17948 (Terminator, HyperZ.Z.W operator). H is the height of a map, K the hidden width of a net, N the number of places.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.primitives.linears import Dense
from blocks.primitives.positions import resized_grid
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.tables import Table
from blocks.wiring.merges import one_width

Count = Annotated[int, Meta(ge=1)]
FREQUENCY, SHAPE = 2000.0, 6.0
"""Of first values: sines of places turn by 2 pi FREQUENCY g, g drawn from a gamma distribution of shape SHAPE / (layer + 1)."""


def places(*sides: int) -> Tensor:
    """(N, d) every place of a grid row by row, each axis from -1 to 1."""
    axes = [torch.linspace(-1, 1, side, dtype=torch.float64) for side in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


class SlowNet(nn.Module):
    """z_0 = sin(F_0 p), z_i = sin(F_i p) * (W_i z_{i-1} + b_i) + bias_p, i = 1 … layers; y_p = W z + b.

    `bias` (1, N, 1), a number for each place -> (N, out_dim). A derived net scales its layers by what is `shown` to it.
    """

    def __init__(self, sides: tuple[int, ...], out_dim: int, hidden_dim: int, layers: int):
        super().__init__()
        self.filters = nn.ModuleList(Dense(len(sides), hidden_dim) for _ in range(layers + 1))
        self.linears = nn.ModuleList(Dense(hidden_dim, hidden_dim) for _ in range(layers))
        self.output = Dense(hidden_dim, out_dim)
        self.table = Table(places, sides)

    @torch.no_grad()
    def draw(self) -> None:
        """First values: high frequencies, lower ones in later layers, and an output whose spread does not depend on N."""
        for layer, linear in enumerate(self.filters):
            linear.reset_parameters()  # type: ignore[operator]
            shape = torch.full_like(linear.weight, SHAPE / (layer + 1))  # type: ignore[arg-type]
            linear.weight.mul_(2 * math.pi * FREQUENCY * torch._standard_gamma(shape))  # type: ignore[operator, union-attr]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        for linear in self.linears:
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="linear")  # type: ignore[arg-type]
            nn.init.ones_(linear.bias)  # type: ignore[arg-type]
        nn.init.kaiming_uniform_(self.output.weight, nonlinearity="linear")
        self.output.weight.mul_(self.table.values.shape[0] ** -0.5)
        nn.init.zeros_(self.output.bias)

    def forward(self, bias: Tensor, shown: Tensor | None = None) -> Tensor:
        at = self.table.like(bias)
        z = self.filters[0](at).sin()
        for i, linear in enumerate(self.linears):
            z = self.scaled(i, self.filters[i + 1](at).sin() * linear(z) + bias[0], shown)
        return self.output(z)  # type: ignore[no-any-return]

    def scaled(self, layer: int, z: Tensor, shown: Tensor | None) -> Tensor:
        """What a layer hands on."""
        return z


class Placed(nn.Module):
    """A block whose net of coordinates is made for one size of map."""

    no_decay = ("bias",)

    def __init__(self, out_dim: int, hidden_dim: int, layers: int, input_size: tuple[int, ...]):
        super().__init__()
        self.input_size = tuple(input_size)
        self.net = SlowNet(self.input_size, out_dim, hidden_dim, layers)
        self.bias = nn.Parameter(torch.empty(1, math.prod(self.input_size), 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.net.draw()
        nn.init.zeros_(self.bias)

    def values(self, x: Tensor) -> Tensor:
        """(C, H, W). Raises SizeError for another size than the one that it was built for."""
        size = tuple(x.shape[2:])
        if size != self.input_size:
            raise SizeError(
                f"these coordinates are for inputs of size {self.input_size} and meet {size}; build the model with that input size"
            )
        y: Tensor = self.net(self.bias)
        return y.unflatten(0, size).permute(2, 0, 1)

    def resize_table(
        self, name: str, tensor: Tensor, expected_shape: tuple[int, ...], old: Placed | None = None
    ) -> Tensor | None:
        """The numbers of the places of another image size, for this one."""
        if name != "bias" or tensor.ndim != 3:
            return None
        return resized_grid(tensor, self.input_size, old.input_size if old is not None else None)


@block(
    "hyper_product",
    kind="embed",
    layout="BCHW",
    abilities=("noncausal", "2d"),
    paper="arXiv:2401.17948",
    covers=("hyperzzw",),
)
class HyperProduct(Placed):
    """y = x * W, W the values of a net of coordinates at each place, for each channel.

    (B, C, H, W) -> the same shape, for the one size it was built for; `resize_table` fits the net to another image size.
    """

    def __init__(self, dim: int, *, hidden_dim: Count = 64, layers: Count = 2, input_size: tuple[int, ...] = (32, 32)):
        super().__init__(dim, hidden_dim, layers, input_size)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.values(x)


@block("pixel_scores", kind="pool", layout="BCHW", abilities=("noncausal", "2d"), paper="arXiv:2401.17948")
class PixelScores(Placed):
    """y = m W m, m the mean of the channels at each pixel and W the values of a net of coordinates there.

    (B, C, H, W) -> (B, 1, H, W), for the one size it was built for.
    """

    out_dim = 1

    def __init__(self, dim: int, *, hidden_dim: Count = 64, layers: Count = 2, input_size: tuple[int, ...] = (32, 32)):
        super().__init__(1, hidden_dim, layers, input_size)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        return mean * self.values(mean) * mean


@block(
    "channel_scores",
    kind="pool",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2401.17948",
)
class ChannelScores(nn.Module):
    """y = m W m, m the mean of each channel and W the values of a net of one coordinate, the number of the channel.

    (B, C, H, W) -> (B, C, 1, 1).
    """

    no_decay = ("bias",)

    def __init__(self, dim: int, *, hidden_dim: Count = 32, layers: Count = 2):
        super().__init__()
        self.net = SlowNet((dim,), 1, hidden_dim, layers)
        self.bias = nn.Parameter(torch.empty(1, dim, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.net.draw()
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return mean * self.net(self.bias).unsqueeze(-1) * mean


class ContextNet(SlowNet):
    """A `SlowNet` whose layers are brought to length and scaled by what a map shows: z <- (z + share z / |z|) * (V_i c_p + v_i).

    |z| is taken over the places, for each hidden channel, and no gradient goes through the first z; c is what the batch shows at p.
    """

    share = 0.1

    def __init__(self, side: int, dim: int, hidden_dim: int, layers: int):
        super().__init__((side, side), dim, hidden_dim, layers)
        self.side = side
        self.reduce = Dense(dim, hidden_dim)
        self.mix = Dense(hidden_dim, hidden_dim)
        self.scales = nn.ModuleList(Dense(hidden_dim, hidden_dim) for _ in range(layers))

    def draw(self) -> None:
        super().draw()
        self.reduce.reset_parameters()
        self.mix.reset_parameters()
        for linear in self.scales:
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="linear")  # type: ignore[arg-type]
            nn.init.ones_(linear.bias)  # type: ignore[arg-type]

    def shown(self, x: Tensor) -> Tensor:
        """(N, K): the means of the cells of a grid as fine as the kernel, mixed, of all samples of the batch."""
        cells = F.adaptive_avg_pool2d(x, self.side).flatten(2).transpose(1, 2)
        return F.gelu(self.mix(self.reduce(cells).mean(0)))

    def scaled(self, layer: int, z: Tensor, shown: Tensor | None) -> Tensor:
        return (z.detach() + self.share * F.normalize(z, dim=0)) * self.scales[layer](shown)  # type: ignore[no-any-return]


@block(
    "hyper_conv",
    kind="merge",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2401.17948",
    covers=("dynamic_kernel",),
)
class HyperConv(nn.Module):
    """y_c = W_c(z) * x_c: each channel of the second map has its own k x k kernel, the values of a net of coordinates at its taps.

    z and x (B, C, H, W) -> (B, C, H, W). Layers of the net are scaled by what z shows on the mean of all samples: an output depends on
    its batch. Raises ValueError for several widths and an even kernel.
    """

    no_decay = ("bias",)

    def __init__(self, dims: tuple[int, ...], *, kernel_size: Count = 3, hidden_dim: Count = 32, layers: Count = 2):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no centre; the nearest that has is {kernel_size + 1}")
        self.out_dim, self.kernel_size = one_width(dims), kernel_size
        self.net = ContextNet(kernel_size, self.out_dim, hidden_dim, layers)
        self.bias = nn.Parameter(torch.empty(1, kernel_size**2, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.net.draw()
        nn.init.zeros_(self.bias)

    def macs(self, *shapes: tuple[int, ...]) -> dict[str, int]:
        return {"convolution": math.prod(shapes[-1]) * self.kernel_size**2}

    def forward(self, context: Tensor, x: Tensor) -> Tensor:
        if type(x) is Tensor and not x.numel():
            return x
        side = self.kernel_size
        kernel = self.net(self.bias, self.net.shown(context)).T.reshape(self.out_dim, 1, side, side)
        return F.conv2d(x, kernel, padding=side // 2, groups=self.out_dim)


@block("map_product", kind="merge", layout="BCHW", abilities=("noncausal", "2d"), paper="arXiv:2401.17948")
class MapProduct(nn.Module):
    """y_c = x_c z_c, the product of two matrices: rows of the first map times columns of the second, channel by channel.

    Two of (B, C, H, H) -> (B, C, H, H). Raises ValueError for several widths, and for maps that are no squares.
    """

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        self.out_dim = one_width(dims)

    def macs(self, *shapes: tuple[int, ...]) -> dict[str, int]:
        return {"matmul": math.prod(shapes[0]) * shapes[1][-1]}

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        if x.shape[-1] != z.shape[-2] or x.shape[-2:] != z.shape[-2:]:
            raise ValueError(f"maps of {tuple(x.shape[2:])} and {tuple(z.shape[2:])} pixels are no squares of one size")
        return x @ z
