"""RWKV's channel mixer against the authors' code."""

from __future__ import annotations

import torch

from blocks.context import Context
from blocks.linear_attention.rwkv_channel_mix import RwkvChannelMix


@torch.no_grad()
def test_rwkv_channel_mix_equals_upstream_whole_and_token_by_token(golden):
    case = golden("layer_rwkv7_channel_mix")
    mixer = RwkvChannelMix(32, hidden_dim=96).to(case.dtype)
    mixer.load_state_dict(case.state | {"x_k": case.state["x_k"].flatten()})
    x, ctx = case.inputs["x"], Context(state={})
    case.check(mixer(x))
    case.check(torch.cat([mixer(token, ctx) for token in x.split(1, 1)], 1))
