"""Early exits: gates that read how sure a classifier is, and the answer of the first that lets a sample go. Paper: arXiv:2310.09163 (JEI-DNN).

N is here the number of samples, n the number of exits before the last, K the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.ops.masks import mean_over
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.wiring.merges import one_width


class ExitGate(nn.Module):
    """g = w [max p, H(p), p_1 - p_2, H(p^2 / sum p^2)] + b: the logit of leaving, of logits (…, K) -> (…, 1), p their softmax.

    p_1 and p_2 are the two largest, H is the entropy in nats. No gradient flows into the logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = Dense(4, 1)

    def forward(self, logits: Tensor) -> Tensor:
        return self.linear(certainty(logits.detach()))


@block(
    "early_exit",
    kind="merge",
    layout="BLC",
    abilities=("noncausal", "1d"),
    paper="arXiv:2310.09163",
    covers=("jei_dnn",),
)
class EarlyExit(nn.Module):
    """The logits of the first classifier whose gate lets a sample go; the last one's for whom none does.

    n + 1 x (B, K), or (B, L, K) -> the same shape. With g_l = sigmoid of gate l, exit l is taken with P_l = max(0, min(g_l, 1 - sum_{j<l} g_j)),
    the last with what is left; in eval a sample leaves at the first l whose share of what is left, P_l / prod_{j<l} (1 - a_j), reaches
    `threshold`. In training y = log sum_l P_l softmax(z_l), what is to be expected of all exits, and where the slot `classes` of ctx holds the
    classes of the samples, (B,) numbers, `ctx.losses` gets `exit_loss` and `gate_loss` with `cost`. `ctx.reports` gets under the path of the
    block exits (n + 1,), the share of samples that leaves at each. Gates begin at g = 1 / (n + 1). All classifiers are run: what leaving early
    saves is up to who runs the layers one by one. Raises ValueError for several widths, and for fewer than two classifiers or classes.
    """

    path = ""

    def __init__(
        self,
        dims: tuple[int, ...],
        *,
        threshold: Annotated[float, Meta(gt=0, le=1)] = 0.5,
        cost: Annotated[float, Meta(ge=0, extra_json_schema={"added": "0.1"})] = 0.7,
    ):
        super().__init__()
        self.out_dim, self.threshold, self.cost = one_width(dims), threshold, cost
        if len(dims) < 2 or self.out_dim < 2:
            raise ValueError(f"two classifiers of two classes are the fewest; there are {len(dims)} of {self.out_dim}")
        self.gates = nn.ModuleList(ExitGate() for _ in dims[1:])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for linear in (module for module in self.gates.modules() if isinstance(module, nn.Linear)):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.constant_(linear.bias, -math.log(len(self.gates)))

    def forward(self, *logits: Tensor, ctx: Context | None = None) -> Tensor:
        answers = torch.stack(logits, -2)
        gates = torch.cat([gate(z) for gate, z in zip(self.gates, logits[:-1], strict=True)], -1)
        shares = exit_shares(gates)
        levels = exit_levels(shares, self.threshold)
        if ctx is not None:
            taken = F.one_hot(levels.flatten(), len(logits)).to(gates.dtype)
            real = ctx.mask.bool().flatten() if ctx.mask is not None and logits[0].ndim == 3 else None
            ctx.reports[self.path] = {"exits": mean_over(taken, real)}
        if self.training:
            if ctx is not None and logits[0].ndim == 2 and (classes := list(ctx.read("classes").values())):
                early, late = exit_loss(logits[:-1], classes[-1]), gate_loss(logits, gates, classes[-1], self.cost)
                ctx.losses[self.path] = {"exits": early, "gates": late}
            left = 1 - shares.sum(-1, keepdim=True)
            expected = (torch.cat([shares, left], -1).unsqueeze(-1) * answers.softmax(-1)).sum(-2)
            return expected.clamp_min(torch.finfo(expected.dtype).tiny).log()
        return answers.gather(-2, levels[..., None, None].expand(*levels.shape, 1, answers.shape[-1])).squeeze(-2)


def certainty(logits: Tensor) -> Tensor:
    """(…, K) -> (…, 4): the largest probability, the entropy, the margin of the two largest, the entropy of the squares made to sum to 1."""
    p = logits.softmax(-1)
    first, second = p.topk(2, -1).values.unbind(-1)
    squares = p.square()
    sharp = squares / squares.sum(-1, keepdim=True)
    return torch.stack([first, entropy(p), first - second, entropy(sharp)], -1)


def entropy(p: Tensor) -> Tensor:
    """- sum p log p over the last axis, in nats; 0 log 0 is 0."""
    return -torch.special.xlogy(p, p).sum(-1)


def exit_shares(gates: Tensor) -> Tensor:
    """P_l of gate logits (…, n), each gate's sigmoid as far as anything is left."""
    g = gates.sigmoid()
    left = 1 - (g.cumsum(-1) - g)
    return torch.minimum(g, left).clamp_min(0)


def exit_levels(shares: Tensor, threshold: float = 0.5) -> Tensor:
    """Of shares (…, n): the first l with a_l = min(1, P_l / prod_{j<l} (1 - a_j)) >= threshold, n where there is none."""
    left, level = torch.ones_like(shares[..., 0]), torch.full(shares.shape[:-1], shares.shape[-1], device=shares.device)
    for number, share in reversed(list(enumerate(_conditional(shares, left)))):
        level = torch.where(share >= threshold, number, level)
    return level


def exit_loss(logits: Sequence[Tensor], targets: Tensor) -> Tensor:
    """mean_{i,l} L_il, the cross entropies of the exits without the last, n x (N, K): the loss that their classifiers are trained by.

    Upstream weighs sample i at exit l by P_il sum_l L_il / sum_l P_il L_il, which cancels in the sum over l, and in its gradient.
    """
    return torch.stack([F.cross_entropy(z, targets) for z in logits]).mean()


def gate_loss(logits: Sequence[Tensor], gates: Tensor, targets: Tensor, cost: float) -> Tensor:
    """mean_{i,l} BCE(g_il, [l >= e_i]), e_i = argmin_l L_il + cost (l + 1) / (n + 1): a gate is to let go whom a later layer does not pay for.

    `logits` (n + 1) x (N, K), `gates` (N, n) logits of g. `cost`, in nats, is what running all layers costs, each of which costs alike here.
    """
    losses = torch.stack([F.cross_entropy(z.detach(), targets, reduction="none") for z in logits], -1)
    spent = torch.arange(1, len(logits) + 1, device=losses.device, dtype=losses.dtype) / len(logits)
    best = (losses + cost * spent).argmin(-1, keepdim=True)
    wanted = torch.arange(gates.shape[-1], device=gates.device) >= best
    return F.binary_cross_entropy_with_logits(gates, wanted.to(gates.dtype))


def _conditional(shares: Tensor, left: Tensor) -> list[Tensor]:
    """a_l of each exit: its share of what the exits before have left."""
    taken = []
    for share in shares.unbind(-1):
        taken.append((share / left).clamp(0, 1))
        left = left * (1 - taken[-1])
    return taken
