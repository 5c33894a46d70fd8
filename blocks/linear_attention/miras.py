"""Miras: a memory that is a small network, taught by one step of descent for each token; Moneta, Yaad and Memora. Paper: arXiv:2504.13173.

There is no code of the authors; the equations are those of section 5. D is here the width of a head, M that of the hidden layer of its
memory, H the number of heads, k the kernel of the short convolutions.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.attention.heads import split_heads
from blocks.attention.rotary import positions_after
from blocks.chain import run
from blocks.context import Context
from blocks.linear_attention.delta_net import of_length_one
from blocks.recurrent import Recurrent, State, depthwise, gated_norm, short_conv, short_conv_macs, zero_padding
from blocks.registry import block
from blocks.registry.slots import Linear, slot

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]

SHARPNESS, SMOOTH = 10.0, 1e-6
"""The sign of an error is tanh(SHARPNESS e), and |e| is sqrt(e^2 + SMOOTH), as the paper's remark 5 has them."""
FORGETTING, LEARNING = 4.0, -2.0
"""The biases of alpha and eta at the start of training, before the sigmoid."""


@block(
    "miras",
    kind="token_mixer",
    layout="BLC",
    abilities=("causal", "step", "any_resolution", "1d"),
    paper="arXiv:2504.13173",
    covers=("moneta", "yaad", "memora", "test_time_memorization"),
)
class Miras(Recurrent):
    """y = W_o (norm_h(M_t(q_t)) silu(W_g x)), M(k) = k + LN(W_1 gelu(W_2 k)) per head, W = phi(A), A_t = alpha_t A_{t-1} - eta_t grad l(M(k_t), v_t).

    q, k, v = silu(conv(W x)), q and k of length 1. Moneta: l = |e|_3^3 for the error e, W = A / |A|_4^2. Yaad: l is Huber's loss
    of each channel, quadratic up to delta_t, W = A. Memora: l = |e|^2 / 2, W = c softmax(A) over the hidden channels, c = M, so that log W is
    what fades. alpha, eta = sigmoid(U V x + b) and delta = softplus(U V x + b) are of each channel, and act on the row of W_1 and the
    column of W_2 of that channel; V has `rank` rows. Gradients are those at the memory of the last multiple of `chunk` tokens, alpha and phi act
    at every token. (B, L, C) -> (B, L, C). The state holds the last inputs of the convolutions (B, C, k - 1), A of both layers (B, H, D, M), A
    as it was at the chunk's start, and the number of tokens (B,). Raises ValueError when heads do not divide.
    A memory that learns moves what it learns from: at first values a change of 1e-9 grows along 128 tokens to 1e-7 in Memora and Moneta, to
    1e-5 in Yaad, whose outputs in float32 are therefore off by some thousandths, and up to 7 hundredths, there.
    """

    no_decay = ("first", "second", "norm_weight", "norm_bias")

    def __init__(
        self,
        dim: int,
        *,
        kind: Literal["moneta", "yaad", "memora"] = "yaad",
        num_heads: Count | None = None,
        head_dim: Count | None = None,
        ratio: Count = 4,
        chunk: Count = 16,
        rank: Count = 32,
        kernel_size: Count = 4,
        eps: Positive = 1e-5,
        linear: Linear = slot("dense"),
    ):
        super().__init__()
        self.kind, self.chunk, self.eps = kind, chunk, eps
        self.num_heads, self.head_dim = split_heads(dim, num_heads, head_dim)
        width = self.num_heads * self.head_dim
        self.q_proj, self.k_proj, self.v_proj, self.g_proj = (linear(dim, width, bias=False) for _ in range(4))
        self.q_conv1d, self.k_conv1d, self.v_conv1d = (depthwise(width, kernel_size) for _ in range(3))
        self.alpha_proj, self.eta_proj = (low_rank(dim, rank, width) for _ in range(2))
        self.delta_proj = low_rank(dim, rank, width) if kind == "yaad" else None
        shape = self.num_heads, self.head_dim, ratio * self.head_dim
        self.first, self.second = (nn.Parameter(torch.empty(shape)) for _ in range(2))
        self.norm_weight, self.norm_bias = (nn.Parameter(torch.empty(shape[:2])) for _ in range(2))
        self.o_norm = nn.RMSNorm(self.head_dim, eps=eps)
        self.o_proj = linear(width, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.first, std=self.first.shape[2] ** -0.5)
        nn.init.normal_(self.second, std=self.second.shape[1] ** -0.5)
        nn.init.ones_(self.norm_weight)
        nn.init.zeros_(self.norm_bias)
        for maps, value in ((self.alpha_proj, FORGETTING), (self.eta_proj, LEARNING)):
            nn.init.constant_(maps.get_parameter("1.bias"), value)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The convolutions; for each chunk of c tokens three products for the gradients, two c times as large for the memories, two to read."""
        B, L, _ = shape
        sizes = [self.chunk] * (L // self.chunk) + ([L % self.chunk] if L % self.chunk else [])
        products = sum(5 * c + 2 * c * c for c in sizes)
        convolved = short_conv_macs(B, L, self.q_conv1d, self.k_conv1d, self.v_conv1d)
        return {"convolution": convolved, "matmul": B * self.first.numel() * products}

    def state_size(self, length: int = 0) -> int:
        width = self.num_heads * self.head_dim
        return 3 * width * (self.q_conv1d.kernel_size[0] - 1) + 4 * self.first.numel() + 1

    def mix(self, x: Tensor, state: State | None, mask: Tensor | None, ctx: Context | None) -> tuple[Tensor, State]:
        *before, A_1, A_2, C_1, C_2, seen = state or (None,) * 8
        wide = torch.promote_types(x.dtype, torch.float32)
        parts, convs = [], []
        for (proj, conv), held in zip(self._maps(), before, strict=True):
            y, last = short_conv(run(proj, x, ctx), conv, held, mask)
            parts.append(self._by_head(y.to(wide)))
            convs.append(last)
        q, k, v = of_length_one(parts[0]), of_length_one(parts[1]), parts[2]
        log_decay = zero_padding(F.logsigmoid(self._rates(self.alpha_proj, x, wide)), mask)
        rate = zero_padding(self._rates(self.eta_proj, x, wide).sigmoid(), mask)
        delta = rate if self.delta_proj is None else F.softplus(self._rates(self.delta_proj, x, wide))
        where, after = positions_after(x, seen, mask)
        now = Memory(*(_start(A, first, x, wide) for A, first in ((A_1, self.first), (A_2, self.second))))
        then = now if C_1 is None else Memory(C_1.to(wide), C_2.to(wide))
        tokens = [part.transpose(1, 2) for part in (q, k, v, log_decay, rate, delta)]  # (B, H, L, D)
        outputs, begin = [], 0
        for size in self._pieces(where, int(x.shape[1]), seen is not None):
            piece = slice(begin, begin + size)
            fresh = where[:, begin] % self.chunk == 0
            if mask is not None:
                fresh = fresh & mask[:, begin]
            then = Memory(*(torch.where(fresh.view(-1, 1, 1, 1), A, C) for A, C in zip(now, then, strict=True)))
            y, now = self._piece([part[:, :, piece] for part in tokens], now, then)
            outputs.append(y)
            begin += size
        y = torch.cat(outputs, 2).transpose(1, 2) if outputs else v
        y = gated_norm(y, self._by_head(run(self.g_proj, x, ctx)), self.o_norm)
        return run(self.o_proj, y.flatten(2).to(x.dtype), ctx), (*convs, *now, *then, after)

    def _maps(self) -> tuple[tuple[nn.Module, nn.Conv1d], ...]:
        return (self.q_proj, self.q_conv1d), (self.k_proj, self.k_conv1d), (self.v_proj, self.v_conv1d)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim))

    def _rates(self, maps: nn.Module, x: Tensor, wide: torch.dtype) -> Tensor:
        return self._by_head(maps(x).to(wide))

    def _pieces(self, where: Tensor, length: int, continued: bool) -> list[int]:
        """How many tokens are taken at once: those up to the next multiple of `chunk`, where all samples agree on it, or one."""
        begins = {int(count) % self.chunk for count in where[:, 0].tolist()} if continued and length > 1 else {0}
        if len(begins) > 1:
            return [1] * length
        lead = min(-next(iter(begins), 0) % self.chunk, length)
        whole, rest = divmod(length - lead, self.chunk)
        return [size for size in (lead, *[self.chunk] * whole, rest) if size]

    def _piece(self, tokens: list[Tensor], now: Memory, then: Memory) -> tuple[Tensor, Memory]:
        """(M_t(q_t) of the tokens, each (B, H, c, D), of one chunk; A behind them)."""
        q, k, v, log_decay, rate, delta = tokens
        W_1, W_2 = self._weights(then)
        u = k @ W_2
        a = F.gelu(u)
        z = self._spread(a, -1) @ W_1.transpose(-1, -2)
        y, scaled, deviation = self._normed(z)
        slope = self._slope(k + y - v, delta) * self.norm_weight.to(z.dtype).unsqueeze(1)
        slope = (slope - slope.mean(-1, keepdim=True) - scaled * (slope * scaled).mean(-1, keepdim=True)) / deviation
        back = (slope @ W_1) * gelu_slope(u)
        total = log_decay.cumsum(2)
        lag = (total.unsqueeze(3) - total.unsqueeze(2)).transpose(-1, -2)  # (B, H, t, D, i)
        size = lag.shape[-1]
        earlier = torch.ones(size, size, dtype=torch.bool, device=lag.device).tril().unsqueeze(1)
        damped = lag.masked_fill(~earlier, -torch.inf).exp()
        memories = []
        for A, written, hidden in ((now.first, rate * slope, a), (now.second, rate * k, back)):
            rows = (damped * written.transpose(-1, -2).unsqueeze(2)).flatten(2, 3)
            memories.append(total.exp().unsqueeze(-1) * A.unsqueeze(2) - (rows @ hidden).unflatten(2, (size, -1)))
        V_1, V_2 = self._weights(Memory(*memories))
        shown = self._spread(F.gelu(q.unsqueeze(-2) @ V_2).transpose(-1, -2), -2)
        y, _, _ = self._normed((V_1 @ shown).squeeze(-1))
        return q + y, Memory(*(memory[:, :, -1] for memory in memories))

    def _weights(self, memory: Memory) -> Memory:
        """phi of both layers (…, D, M); of Memora's first what the norm behind it leaves."""
        if self.kind == "yaad":
            return memory
        if self.kind == "memora":
            first, second = (A.shape[-1] * A.softmax(-1) for A in memory)
            return Memory(first - first.mean(-2, keepdim=True), second)
        return Memory(*(A / (A.pow(4).sum((-1, -2), keepdim=True) + SMOOTH).sqrt() for A in memory))

    def _spread(self, hidden: Tensor, axis: int) -> Tensor:
        """What the hidden layer has of its own, of Memora. All weights of both layers are near 1 there, so that W_1 gelu(W_2 k) is one large number in
        all channels, which the norm behind it takes out, and float32 would lose its digits over: W_1 goes without the mean of its rows,
        whose sums are 0 then, and the hidden layer without its mean. The outputs are the same."""
        return hidden - hidden.mean(axis, keepdim=True) if self.kind == "memora" else hidden

    def _slope(self, error: Tensor, delta: Tensor) -> Tensor:
        """The loss's derivative by M(k)."""
        if self.kind == "yaad":
            return torch.minimum(torch.maximum(error, -delta), delta)
        return error if self.kind == "memora" else 3 * torch.tanh(SHARPNESS * error) * (error.square() + SMOOTH)

    def _normed(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(LN z, z without mean and of deviation 1, its deviation), z (B, H, c, D)."""
        centred = z - z.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
        scaled = centred / deviation
        weight, bias = (part.to(z.dtype).unsqueeze(1) for part in (self.norm_weight, self.norm_bias))
        return scaled * weight + bias, scaled, deviation

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.o_proj.absorb_output(scale, shift))  # type: ignore[operator]


class Memory(NamedTuple):
    """Both layers of a memory, W_1 and the transpose of W_2, (B, H, D, M) or with an axis of tokens before D."""

    first: Tensor
    second: Tensor


def low_rank(dim: int, rank: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, rank, bias=False), nn.Linear(rank, out_dim))


def gelu_slope(x: Tensor) -> Tensor:
    """The derivative of x Phi(x)."""
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _start(A: Tensor | None, first: Tensor, x: Tensor, wide: torch.dtype) -> Tensor:
    return first.to(wide).expand(x.shape[0], *first.shape) if A is None else A.to(wide)
