"""What a class token knows, told to every pixel of a map. Paper: arXiv:2103.13413 (DPT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blocks.chain import as_stream, as_tokens
from blocks.registry import block
from blocks.registry.slots import Act, slot


@block(
    "token_readout",
    kind="merge",
    abilities=("causal", "any_resolution"),
    paper="arXiv:2103.13413",
    covers=("readout_projection", "reassemble"),
)
class TokenReadout(nn.Module):
    """y_i = act(W [x_i; t] + b), t the first of the tokens that x is the map of: DPT's readout operation of the kind "project".

    tokens (B, L, C), L the pixels of the map and the tokens before them, and the map (B, C, H, W) -> (B, C, H, W). Raises ValueError for two
    widths.
    """

    def __init__(self, dims: tuple[int, ...], *, act: Act | None = slot("gelu")):
        super().__init__()
        if len(dims) != 2 or dims[0] != dims[1]:
            raise ValueError(f"tokens and their map have one width; here come {', '.join(map(str, dims))}")
        self.out_dim = dims[0]
        self.proj = nn.Linear(2 * dims[0], dims[0])
        self.act = act(dims[0]) if act is not None else None

    def forward(self, tokens: Tensor, grid: Tensor) -> Tensor:
        x = as_tokens(grid)
        first = as_tokens(tokens)[:, :1].expand(-1, x.shape[1], -1)
        y = self.proj(torch.cat((x, first), -1))
        return as_stream(y if self.act is None else self.act(y), grid)
