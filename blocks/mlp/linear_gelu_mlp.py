"""A perceptron that is linear for some of the tokens, so that encrypted inference can merge its two maps there.

Paper: arXiv:2211.13955 (MPCViT+). Upstream: PKU-SEC-Lab/mpcvit.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import run
from blocks.context import Context
from blocks.places import refuse_places
from blocks.registry import block
from blocks.registry.errors import SizeError
from blocks.registry.slots import Linear, slot


@block(
    "linear_gelu_mlp",
    kind="channel_mixer",
    layout="BLC",
    abilities=("noncausal",),
    paper="arXiv:2211.13955",
    covers=("mpcvit_plus",),
)
class LinearGeluMlp(nn.Module):
    """y = beta z + (1 - beta) relu(z), z = W_2 (beta gelu(u) + (1 - beta) u), u = W_1 x, beta of each token 1 or 0.

    (B, L, C) -> (B, L, C) for the one L it was built for. beta (1, L, 1) stands in the state, since a search has found it, and is not
    trained. It begins as `beta`, again and again over the tokens. W_1 widens by `ratio`. Raises SizeError for another length.
    """

    one_grid = True

    def __init__(
        self,
        dim: int,
        *,
        ratio: Annotated[float, Meta(gt=0)] = 4.0,
        beta: Annotated[list[Annotated[int, Meta(ge=0, le=1)]], Meta(min_length=1)] = [1],  # noqa: B006
        linear: Linear = slot("dense"),
        input_size: tuple[int, ...] = (14, 14),
    ):
        super().__init__()
        self.pattern, self.input_size = tuple(beta), tuple(input_size)
        self.beta = nn.Parameter(torch.empty(1, math.prod(self.input_size), 1), requires_grad=False)
        self.fc1 = linear(dim, int(ratio * dim), bias=True)
        self.fc2 = linear(int(ratio * dim), dim, bias=True)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        kinds = [self.pattern[token % len(self.pattern)] for token in range(self.beta.shape[1])]
        self.beta.copy_(torch.tensor(kinds, dtype=self.beta.dtype).view_as(self.beta))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_places(self, ctx)
        if x.shape[1] != self.beta.shape[1]:
            raise SizeError(
                f"this linear_gelu_mlp was built for {self.beta.shape[1]} tokens and meets {x.shape[1]}; "
                "build the model with that input size"
            )
        beta = self.beta.to(x.dtype)
        u = run(self.fc1, x, ctx)
        z = run(self.fc2, torch.lerp(u, F.gelu(u), beta), ctx)
        return torch.lerp(F.relu(z), z, beta)

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.fc1.absorb_input(scale, shift))  # type: ignore[operator]
