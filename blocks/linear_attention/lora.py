"""Low-rank maps with an activation between, as RWKV makes its gates and decays."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class Lora(nn.Module):
    """W_2 act(W_1 x) + b. Their names are positions in `lora`, among which upstream counts the activation."""

    def __init__(
        self, dim: int, out_dim: int, rank: int, act: Literal["tanh", "sigmoid"] | None = None, bias: bool = True
    ):
        super().__init__()
        self.act = act
        self.lora = nn.ModuleDict({"0": nn.Linear(dim, rank, bias=False), "2": nn.Linear(rank, out_dim, bias=bias)})

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.lora.values()
        h = first(x)
        if self.act is not None:
            h = h.tanh() if self.act == "tanh" else h.sigmoid()
        y: Tensor = second(h)
        return y
