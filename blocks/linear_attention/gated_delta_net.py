"""Gated DeltaNet: a state that forgets at a rate made from the token, and of which what a key holds is replaced.

Paper: arXiv:2412.06464. Names of the state are those of fla-org/flash-linear-attention (MIT). H is here the number of heads,
K and V the widths of a key and a value, k the kernel of the short convolutions.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import check_divides, split_heads
from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.delta_net import of_length_one
from blocks.ops.delta_rule import delta_rule
from blocks.recurrent import Recurrent, State, depthwise, gated_norm, short_conv, short_conv_macs, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot
from blocks.ssm.mamba2 import reset_rates

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]


class Maps(NamedTuple):
    """What is made from the tokens, each (B, L, width), and the last inputs of the convolutions."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor
    b: Tensor
    a: Tensor
    kept: State


@block(
    "gated_delta_net",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2412.06464",
    covers=("gated_deltanet", "gated_delta_product", "gated_deltaproduct"),
)
class GatedDeltaNet(Recurrent):
    """y = W_o (norm_h(S_t^T q_t / sqrt(K)) silu(W_g x)), S_t = a_t S_{t-1} + beta_t k_t (v_t - a_t S_{t-1}^T k_t)^T.

    a = exp(-exp(A_log) softplus(W_a x + dt_bias)), beta = sigmoid(W_b x), doubled with `neg_eigval`; q, k and v are
    silu(conv(W x)), q and k of length 1. (B, L, C) -> (B, L, C). A value is `expand_v` keys wide. `num_v_heads` heads of values
    share the `num_heads` of queries and keys in neighbouring groups; without a value there are as many. The state holds the
    last inputs of the convolutions (B, width, k - 1) of q, k and v and S (B, H, K, V). With `joint`, as in Qwen3-Next, two maps give
    all: rows [q | k | v | g] and [b | a] for each head of keys, v, g, b and a of its values side by side; one convolution runs over
    [q | k | v]. With several `householders` a token writes as often, each time with a key, a value and a beta of its own, and forgets
    once (Gated DeltaProduct, arXiv:2502.10297). Raises ValueError when heads do not divide, and for several of `joint`.
    """

    no_decay = ("A_log", "dt_bias")

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        num_v_heads: Count | None = None,
        expand_v: Positive = 2.0,
        kernel_size: Count = 4,
        neg_eigval: bool = False,
        bias: bool = False,
        eps: Positive = 1e-5,
        linear: Linear = slot("dense"),
        joint: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        householders: Annotated[int, Meta(ge=1, extra_json_schema={"added": "0.1"})] = 1,
    ):
        super().__init__()
        if joint and householders > 1:
            raise ValueError(
                "`joint` maps, as in Qwen3-Next, make one key of a token; leave out `joint` or `householders`"
            )
        self.householders = householders
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        self.num_v_heads, self.neg_eigval = num_v_heads or self.num_heads, neg_eigval
        check_divides("num_heads", self.num_heads, "num_v_heads", self.num_v_heads)
        self.value_dim = int(expand_v * self.head_dim)
        keys, values = self.num_heads * self.head_dim, self.num_v_heads * self.value_dim
        self.joint = joint
        if joint:
            self.in_proj_qkvz = linear(dim, 2 * keys + 2 * values, bias=bias)
            self.in_proj_ba = nn.Linear(dim, 2 * self.num_v_heads, bias=False)
        else:
            self.q_proj = linear(dim, keys, bias=bias)
            self.k_proj = linear(dim, householders * keys, bias=bias)
            self.v_proj = linear(dim, householders * values, bias=bias)
            self.a_proj = nn.Linear(dim, self.num_v_heads, bias=False)
            self.b_proj = nn.Linear(dim, householders * self.num_v_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(self.num_v_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.num_v_heads))
        if joint:
            self.conv1d = depthwise(2 * keys + values, kernel_size)
        else:
            self.q_conv1d = depthwise(keys, kernel_size)
            self.k_conv1d = depthwise(householders * keys, kernel_size)
            self.v_conv1d = depthwise(householders * values, kernel_size)
            self.g_proj = linear(dim, values, bias=bias)
        self.o_norm = nn.RMSNorm(self.value_dim, eps=eps)
        self.o_proj = linear(values, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_rates(self.dt_bias, self.A_log)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Three convolutions, and 7 L num_v_heads K V operations of the decayed delta rule for each time that a token writes."""
        B, L, _ = shape
        convolved = short_conv_macs(B, L, *self._convs())
        written = self.householders * self.num_v_heads * self.head_dim * self.value_dim
        return {"convolution": convolved, "scan": 7 * B * L * written}

    def state_size(self, length: int = 0) -> int:
        kept = sum(conv.in_channels * (conv.kernel_size[0] - 1) for conv in self._convs())
        return kept + self.num_v_heads * self.value_dim * self.head_dim

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        inputs: list[Tensor | None] = [None] * len(self._convs()) if state is None else list(state[:-1])
        S = None if state is None else state[-1]
        q, k, v, gate, b, a, kept = (self._together if self.joint else self._apart)(x, inputs, mask)
        wide, n = torch.promote_types(x.dtype, torch.float32), self.householders
        beta = b.to(wide).sigmoid()
        log_decay = -torch.exp(self.A_log.to(wide)) * F.softplus(a.to(wide) + self.dt_bias.to(wide))
        beta = zero_padding(beta * 2 if self.neg_eigval else beta, mask)
        log_decay = zero_padding(log_decay, mask)
        if n > 1:
            q = q.repeat_interleave(n, 1)
            log_decay = F.pad(log_decay.unsqueeze(2), (0, 0, 0, n - 1)).flatten(1, 2)
        y, S = delta_rule(
            of_length_one(q.unflatten(-1, (-1, self.head_dim))),
            of_length_one(_in_turns(k, n).unflatten(-1, (-1, self.head_dim))),
            _in_turns(v, n).unflatten(-1, (-1, self.value_dim)),
            _in_turns(beta, n),
            log_decay,
            scale=self.head_dim**-0.5,
            initial_state=S,
            return_final_state=True,
        )
        y = y[:, n - 1 :: n]
        y = gated_norm(y, gate.unflatten(-1, (-1, self.value_dim)), self.o_norm)
        return run(self.o_proj, y.flatten(2).to(x.dtype)), (*kept, S)

    def _convs(self) -> list[nn.Conv1d]:
        return [self.conv1d] if self.joint else [self.q_conv1d, self.k_conv1d, self.v_conv1d]

    def _apart(self, x: Tensor, inputs: list[Tensor | None], mask: Tensor | None) -> Maps:
        """q, k, v behind their convolutions, the gate, b and a, all (B, L, width), and what the convolutions keep."""
        maps = zip((self.q_proj, self.k_proj, self.v_proj), self._convs(), inputs, strict=True)
        (q, q_kept), (k, k_kept), (v, v_kept) = (short_conv(run(m, x), conv, kept, mask) for m, conv, kept in maps)
        return Maps(q, k, v, run(self.g_proj, x), self.b_proj(x), self.a_proj(x), (q_kept, k_kept, v_kept))

    def _together(self, x: Tensor, inputs: list[Tensor | None], mask: Tensor | None) -> Maps:
        """The same, from the two maps and the one convolution of `joint`."""
        shared = self.num_v_heads // self.num_heads
        values = shared * self.value_dim
        by_head = run(self.in_proj_qkvz, x).unflatten(-1, (self.num_heads, -1))
        *qkv, gate = (part.flatten(2) for part in by_head.split([self.head_dim, self.head_dim, values, values], -1))
        convolved, kept = short_conv(torch.cat(qkv, -1), self.conv1d, inputs[0], mask)
        q, k, v = convolved.split([part.shape[-1] for part in qkv], -1)
        b, a = (part.flatten(2) for part in self.in_proj_ba(x).unflatten(-1, (self.num_heads, -1)).chunk(2, -1))
        return Maps(q, k, v, gate, b, a, (kept,))


def _in_turns(x: Tensor, count: int) -> Tensor:
    """(B, L, count * C) -> (B, L * count, C): what a token writes, one after the other."""
    return x.unflatten(-1, (count, -1)).flatten(1, 2) if count > 1 else x
