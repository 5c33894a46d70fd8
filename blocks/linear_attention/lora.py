"""Low-rank maps with an activation between, as RWKV makes its gates and decays."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class Lora(nn.Module):
    """W_2 act(W_1 x) + b. Both are named as positions of `lora`, the activation's included, as upstream."""

    def __init__(
        self, dim: int, out_dim: int, rank: int, act: Literal["tanh", "sigmoid"] | None = None, bias: bool = True
    ):
        super().__init__()
        between = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, None: nn.Identity}[act]()
        self.lora = nn.Sequential(nn.Linear(dim, rank, bias=False), between, nn.Linear(rank, out_dim, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lora(x)
        return y
