"""LAWCAT against its equation as a sum over all earlier tokens."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from blocks.linear_attention.lawcat import Lawcat


def test_lawcat_is_a_mean_of_values_that_fade():
    torch.manual_seed(0)
    mixer, x = Lawcat(12, num_heads=2, num_kv_heads=1, eps=1e-12).double(), torch.randn(1, 11, 12).double()
    torch.nn.init.normal_(mixer.q_conv1d.weight)
    torch.nn.init.normal_(mixer.k_conv1d.weight)
    q, k = (
        F.elu(F.conv1d(F.pad(proj(x).mT, (3, 0)), conv.weight, groups=conv.groups).mT) + 1
        for proj, conv in ((mixer.q_proj, mixer.q_conv1d), (mixer.k_proj, mixer.k_conv1d))
    )
    v, gates = mixer.v_proj(x)[0], F.logsigmoid(mixer.gk_proj(x))[0].cumsum(0) / 16
    heads = []
    for head in (slice(0, 6), slice(6, 12)):
        rows = []
        for t in range(11):
            weights = torch.stack(
                [(q[0, t, head] * (gates[t, head] - gates[s, head]).exp() * k[0, s]).sum() for s in range(t + 1)]
            )
            rows.append((weights / weights.sum()) @ v[: t + 1])
        heads.append(torch.stack(rows))
    torch.testing.assert_close(mixer(x)[0], mixer.o_proj(torch.cat(heads, 1)), rtol=0, atol=1e-9)


@torch.no_grad()
def test_lawcat_begins_with_the_maps_of_the_attention_it_replaces():
    mixer, x = Lawcat(12, num_heads=2).double(), torch.randn(2, 7, 12).double()
    mixer.gk_proj[1].weight.zero_()
    mixer.gk_proj[1].bias.fill_(60.0)  # gates that keep all
    q, k, v = (proj(x).unflatten(-1, (2, 6)) for proj in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    scores = torch.einsum("bthd,bshd->bhts", F.elu(q) + 1, F.elu(k) + 1).tril()
    y = torch.einsum("bhts,bshd->bthd", scores / scores.sum(-1, keepdim=True), v)
    torch.testing.assert_close(mixer(x), mixer.o_proj(y.flatten(2)), rtol=0, atol=1e-5)
