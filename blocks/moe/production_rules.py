"""Rules that compete for the entities of a scene: one rule is chosen, the entity that it acts on, and what it sees of another.

Paper: arXiv:2103.01937 (Neural Production Systems). Upstream: anirudh9119/neural_production_systems. N is the number of entities, R that of rules.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.context import Context
from blocks.ops.masks import refuse_state, token_mask
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.errors import SizeError

Count = Annotated[int, Meta(ge=1)]


@block(
    "production_rules",
    kind="token_mixer",
    layout="BLC",
    abilities=("noncausal", "1d"),
    paper="arXiv:2103.01937",
    covers=("neural_production_systems", "nps"),
)
class ProductionRules(nn.Module):
    """y_p = f_r, and 0 for all entities but p: of the rules that r with the largest q([x_1 | ... | x_N]) . k(e_r), of the entities that p with
    the largest q'(e_r) . k_p(x_p).

    (B, N, C) -> (B, N, C). e_r (R, rule_dim) is a learned vector of each rule, k_i a map of each entity, all scores are over sqrt(key_dim).
    Without `hidden_dim` f_r = W e_r. With it f_r = W_r relu(V_r [x_p | x_c] + v_r) + w_r, a perceptron of each rule that sees a context too,
    the entity c with the largest q''(x_p) . k''(x_c). In training choices are drawn, by a hard Gumbel softmax of `temperature`. Gradients of a
    choice are those of the softmax of its scores. Raises SizeError for another number of entities than it was built for, and ValueError for padding.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_rules: Count = 4,
        rule_dim: Count = 64,
        key_dim: Count = 32,
        hidden_dim: Count | None = None,
        temperature: Annotated[float, Meta(gt=0)] = 0.5,
        input_size: tuple[int, ...] = (4,),
    ):
        super().__init__()
        self.entities, self.key_dim, self.temperature = math.prod(input_size), key_dim, temperature
        self.rules = nn.Parameter(torch.empty(num_rules, rule_dim))
        self.rule_query = Dense(self.entities * dim, key_dim)
        self.rule_key = Dense(rule_dim, key_dim)
        self.entity_query = Dense(rule_dim, key_dim)
        self.entity_key = nn.Parameter(torch.empty(self.entities, dim, key_dim))
        self.entity_bias = nn.Parameter(torch.empty(self.entities, key_dim))
        self.hidden_dim = hidden_dim
        if hidden_dim is None:
            self.proj = Dense(rule_dim, dim)
        else:
            self.context_query, self.context_key = Dense(dim, key_dim), Dense(dim, key_dim)
            self.hidden = nn.Parameter(torch.empty(num_rules, 2 * dim, hidden_dim))
            self.hidden_bias = nn.Parameter(torch.empty(num_rules, hidden_dim))
            self.out = nn.Parameter(torch.empty(num_rules, hidden_dim, dim))
            self.out_bias = nn.Parameter(torch.empty(num_rules, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.rules)
        packed = [(self.entity_key, self.entity_bias)]
        if self.hidden_dim is not None:
            packed += [(self.hidden, self.hidden_bias), (self.out, self.out_bias)]
        for weight, bias in packed:
            nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)
            nn.init.zeros_(bias)

    def macs(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Scores and choices of one rule and one entity, keys of all entities, the perceptron of one rule."""
        B, N, C = shape
        R, rule_dim = self.rules.shape
        count = R * (self.key_dim + rule_dim) + N * (C + 1) * self.key_dim
        if self.hidden_dim is not None:
            count += N * (self.key_dim + 2 * C) + 3 * C * self.hidden_dim
        return {"matmul": B * count}

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        refuse_state(ctx, "which rules that see all entities cannot keep")
        if token_mask(x, ctx) is not None:
            raise ValueError("each entity has a map of its own here, so that none can be padding")
        if x.shape[1] != self.entities:
            raise SizeError(f"these rules are for {self.entities} entities and meet {x.shape[1]}")
        scores = self.rule_query(x.flatten(1)) @ self.rule_key(self.rules).T
        which = self.chosen(scores)
        rule = which @ self.rules
        keys = torch.baddbmm(self.entity_bias.unsqueeze(1), x.transpose(0, 1), self.entity_key).transpose(0, 1)
        primary = self.chosen((keys @ self.entity_query(rule).unsqueeze(-1)).squeeze(-1))
        change = self.proj(rule) if self.hidden_dim is None else self._applied(x, which, primary)
        return primary.unsqueeze(-1) * change.unsqueeze(1)

    def _applied(self, x: Tensor, which: Tensor, primary: Tensor) -> Tensor:
        """What the chosen rule makes of the primary entity and its context: (B, C)."""
        subject = (primary.unsqueeze(1) @ x).squeeze(1)
        scores = self.context_key(x) @ self.context_query(subject).unsqueeze(-1)
        context = self.chosen(scores.squeeze(-1))
        seen = torch.cat([subject, (context.unsqueeze(1) @ x).squeeze(1)], -1)
        r = which.argmax(-1)
        hidden = torch.baddbmm(self.hidden_bias[r].unsqueeze(1), seen.unsqueeze(1), self.hidden[r]).relu()
        y = torch.baddbmm(self.out_bias[r].unsqueeze(1), hidden, self.out[r]).squeeze(1)
        return y * which.gather(-1, r.unsqueeze(-1))  # 1, through which the choice of the rule has a gradient

    def chosen(self, scores: Tensor) -> Tensor:
        """(B, n) -> (B, n): 1 at the choice, 0 elsewhere."""
        scores = scores * self.key_dim**-0.5
        if self.training:
            return F.gumbel_softmax(scores, tau=self.temperature, hard=True)
        soft = scores.softmax(-1)
        hard = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(soft.dtype)
        return hard + (soft - soft.detach()) if soft.requires_grad else hard
