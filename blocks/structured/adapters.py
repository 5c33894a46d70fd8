"""Linear maps with low-rank updates that a task, an example or a token chooses: MTLoRA, Poly and MHR, Phatgoose and GLIDER.

Papers: arXiv:2403.20320 (MTLoRA), arXiv:2202.13914 (Poly), arXiv:2211.03831 (MHR), arXiv:2402.05859 (Phatgoose), arXiv:2410.07172
(GLIDER). S is the number of skills or experts, P of splits, R the rank.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.moe.keys import given_key
from blocks.primitives.linears import EVERYWHERE
from blocks.registry import block

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]


class Adapted(nn.Module):
    """y = W x + b + update(x): what adapters share. (B, C, H, W), (B, L, C) or (B, C) -> the same with `out_dim` channels."""

    def __init__(self, dim: int, out_dim: int | None, bias: bool):
        super().__init__()
        self.dim, self.out_dim = dim, out_dim or dim
        self.weight = nn.Parameter(torch.empty(self.out_dim, dim))
        self.register_parameter("bias", nn.Parameter(torch.empty(self.out_dim)) if bias else None)
        self.bias: nn.Parameter | None

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -(self.dim**-0.5), self.dim**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def update(self, rows: Tensor, ctx: Context | None) -> Tensor:
        """(B, L, C) -> (B, L, out_dim)."""
        raise NotImplementedError  # each adapter has its own; this class is their common part

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        rows = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x.unsqueeze(1) if x.ndim == 2 else x
        y = F.linear(rows, self.weight, self.bias) + self.update(rows, ctx)
        if x.ndim == 4:
            return y.transpose(1, 2).unflatten(2, x.shape[2:])
        return y.squeeze(1) if x.ndim == 2 else y


@block("task_lora", kind="linear", abilities=EVERYWHERE, paper="arXiv:2403.20320", covers=("mtlora",))
class TaskLora(Adapted):
    """y = W x + b + scale B_t A_t x for an example of task t, A (tasks + 1, R, in), B (tasks + 1, out, R): MTLoRA's `matrix`.

    Row 0 of A and B is the update that tasks share, for examples of no task; rows 1 on are those of tasks, without the shared one.
    The task of each example, (B,) or (B, L) numbers from 0 (none) on, is given in ctx under the slot `key`:
    `Context(slots={"task": {"": ids}})`. A starts even within 1 / sqrt(in), B at 0.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        rank: Count = 4,
        num_tasks: Count = 1,
        scale: Positive = 1.0,
        task_scale: Positive | None = None,
        key: str = "task",
        bias: bool = True,
    ):
        super().__init__(dim, out_dim, bias)
        self.scales = scale, task_scale or scale
        self.key = key
        self.lora_a = nn.Parameter(torch.empty(num_tasks + 1, rank, dim))
        self.lora_b = nn.Parameter(torch.empty(num_tasks + 1, self.out_dim, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.uniform_(self.lora_a, -(self.dim**-0.5), self.dim**-0.5)
        nn.init.zeros_(self.lora_b)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The map, and the updates of all tasks, of which one is taken."""
        rows = math.prod(shape) // self.dim
        return {"matmul": rows * (self.weight.numel() + self.lora_a.numel() + self.lora_b.numel())}

    def update(self, rows: Tensor, ctx: Context | None) -> Tensor:
        tasks = len(self.lora_a)
        chosen = F.one_hot(given_key(ctx, self.key, rows, tasks).view(rows.shape[:2]), tasks).to(rows.dtype)
        scales = chosen.new_tensor([self.scales[0]] + [self.scales[1]] * (tasks - 1))
        inner = torch.einsum("blc,trc->bltr", rows, self.lora_a) * (chosen * scales).unsqueeze(-1)
        return torch.einsum("bltr,tor->blo", inner, self.lora_b)


@block("skilled_lora", kind="linear", abilities=EVERYWHERE, paper="arXiv:2211.03831", covers=("mhr", "poly"))
class SkilledLora(Adapted):
    """y = W x + b + alpha / R (x A) B, A and B sums of S skills, weighed by what the example's task has learned.

    w = sigmoid(module_logits[task]) (P, S), divided by its sum over skills + 1e-8; of A each of P pieces of the input has weights of its
    own, of B each of P pieces of the output. Poly has one split. `lora_a` (S, P, in / P, R), `lora_b` (S, R, P, out / P),
    `module_logits` (tasks, P S). Tasks, (B,) numbers from 0 on, stand in ctx under the slot `key`. MHR-z trains `module_logits`
    alone; MHR-mu first averages skills (`average`). Raises ValueError when splits do not divide a width.
    """

    EPS = 1e-8

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        rank: Count = 4,
        skills: Count = 4,
        splits: Count = 1,
        num_tasks: Count = 1,
        alpha: Positive = 16.0,
        key: str = "task",
        bias: bool = True,
    ):
        super().__init__(dim, out_dim, bias)
        for width in (dim, self.out_dim):
            if width % splits:
                near = min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - splits))
                raise ValueError(f"splits {splits} does not divide {width} channels; the nearest that does is {near}")
        self.scale, self.splits, self.key = alpha / rank, splits, key
        self.module_logits = nn.Parameter(torch.empty(num_tasks, splits * skills))
        self.lora_a = nn.Parameter(torch.empty(skills, splits, dim // splits, rank))
        self.lora_b = nn.Parameter(torch.empty(skills, rank, splits, self.out_dim // splits))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.uniform_(self.module_logits, -1e-3, 1e-3)
        nn.init.uniform_(self.lora_a, -(self.dim**-0.5), self.dim**-0.5)
        nn.init.zeros_(self.lora_b)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The map and one pair of factors for each position; and the sums over skills, once for each example."""
        rows, rank = math.prod(shape) // self.dim, self.lora_a.shape[-1]
        mixed = shape[0] * (self.lora_a.numel() + self.lora_b.numel())
        return {"matmul": rows * (self.weight.numel() + rank * (self.dim + self.out_dim)) + mixed}

    def weights(self, tasks: Tensor) -> Tensor:
        """(B, P, S) of tasks (B,)."""
        w = self.module_logits[tasks].unflatten(-1, (self.splits, -1)).sigmoid()
        return w / (w.sum(-1, keepdim=True) + self.EPS)

    def update(self, rows: Tensor, ctx: Context | None) -> Tensor:
        numbers = given_key(ctx, self.key, rows, len(self.module_logits)).view(rows.shape[:2])
        tasks = numbers[:, 0] if rows.shape[1] else numbers.new_zeros(len(rows))
        w = self.weights(tasks).to(rows.dtype)
        A = torch.einsum("bps,spir->bpir", w, self.lora_a).flatten(1, 2)
        B = torch.einsum("bps,srpo->brpo", w, self.lora_b).flatten(2)
        return rows @ A @ B * self.scale

    @torch.no_grad()
    def average(self) -> None:
        """Every skill becomes the mean of all, before MHR-mu trains on."""
        for factor in (self.lora_a, self.lora_b):
            factor.copy_(factor.mean(0, keepdim=True).expand_as(factor))


@block("routed_lora", kind="linear", abilities=EVERYWHERE, paper="arXiv:2410.07172", covers=("glider", "phatgoose"))
class RoutedLora(Adapted):
    """y = W x + b + alpha / R sum_e w_e B_e A_e x over the k experts of a token with the largest p, w = p / (their sum + 1e-6).

    p = softmax(W_r n / sqrt(in) + g), n = x standardised over the channels. g (S,) is a global bias for the whole text, in GLIDER the
    scaled cosines of its description with the experts', read from the slot `bias_key` of ctx where it stands there. `lora_a`
    (S, R, in), `lora_b` (S, out, R), `gate` (S, in). Raises ValueError when k exceeds S.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        rank: Count = 4,
        num_experts: Count = 4,
        k: Count = 2,
        alpha: Positive = 1.0,
        bias_key: str = "routing_bias",
        bias: bool = True,
    ):
        super().__init__(dim, out_dim, bias)
        if k > num_experts:
            raise ValueError(
                f"k = {k} experts cannot be chosen among {num_experts}; the nearest that can is {num_experts}"
            )
        self.k, self.scale, self.bias_key = k, alpha / rank, bias_key
        self.gate = nn.Parameter(torch.empty(num_experts, dim))
        self.lora_a = nn.Parameter(torch.empty(num_experts, rank, dim))
        self.lora_b = nn.Parameter(torch.empty(num_experts, self.out_dim, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.uniform_(self.gate, -(self.dim**-0.5), self.dim**-0.5)
        nn.init.uniform_(self.lora_a, -(self.dim**-0.5), self.dim**-0.5)
        nn.init.zeros_(self.lora_b)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The map, the scores, and the updates of all experts, of which k count."""
        parts = self.weight, self.gate, self.lora_a, self.lora_b
        return {"matmul": math.prod(shape) // self.dim * sum(part.numel() for part in parts)}

    def scores(self, rows: Tensor, ctx: Context | None) -> Tensor:
        """(B, L, S) the logits, in float32 at least."""
        wide = torch.promote_types(rows.dtype, torch.float32)
        normed = F.layer_norm(rows.to(wide), (self.dim,))
        logits = F.linear(normed, self.gate.to(wide)) * self.dim**-0.5
        told = list(ctx.read(self.bias_key).values()) if ctx is not None else []
        return logits + told[-1].to(logits) if told else logits

    def update(self, rows: Tensor, ctx: Context | None) -> Tensor:
        best, chosen = self.scores(rows, ctx).softmax(-1).topk(self.k, -1)
        best = best / (best.sum(-1, keepdim=True) + 1e-6)
        w = torch.zeros(*rows.shape[:2], len(self.gate), dtype=best.dtype, device=rows.device).scatter(-1, chosen, best)
        inner = torch.einsum("blc,erc->bler", rows, self.lora_a) * w.to(rows.dtype).unsqueeze(-1)
        return torch.einsum("bler,eor->blo", inner, self.lora_b) * self.scale
