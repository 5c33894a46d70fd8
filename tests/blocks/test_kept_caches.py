"""Attentions whose caches keep less than all: short vectors, few keys, the tokens that were looked at; against their authors' code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.attention.compressed_cache_attention import CompressedCacheAttention
from blocks.attention.hip_attention import HipAttention, hip_mask
from blocks.attention.latent_attention import LatentAttention
from blocks.attention.pruned_cache_attention import PrunedCacheAttention, kept_tokens
from blocks.attention.rotary import Rope
from blocks.context import Context
from blocks.linear_attention.efficient_attention import two_softmaxes

PIECES = [[21], [1] * 21, [5, 16], [20, 1]]


def tokens(length: int = 21, dim: int = 64) -> Tensor:
    return torch.randn(2, length, dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@torch.no_grad()
def test_a_cache_of_short_vectors_gives_what_its_authors_get(golden):
    case = golden("layer_cskv")
    given = case.about["config"]
    mixer = CompressedCacheAttention(
        given["hidden_size"],
        num_heads=4,
        num_kv_heads=2,
        k_rank=given["k_compressed_dim"],
        v_rank=given["v_compressed_dim"],
        window=given["q_window_size"],
        prefill="exact",
        rope=Rope(),
    ).to(case.dtype)
    names = {
        "q_proj": "q",
        "o_proj": "proj",
        "k_proj_a": "k_a",
        "k_proj_b": "k_b",
        "v_proj_a": "v_a",
        "v_proj_b": "v_b",
    }
    mixer.load_state_dict({f"{names[key.split('.')[0]]}.weight": value for key, value in case.state.items()})
    x, state = case.inputs["hidden_states"], {}
    first = case.about["prefill"]
    parts = [mixer(part, Context(state=state)) for part in x.split([first] + [1] * (x.shape[1] - first), 1)]
    case.check(torch.cat(parts, 1))
    kept = state[""]
    case.check(kept[0].unflatten(-1, (2, -1)).transpose(1, 2), "compressed_keys")
    case.check(kept[1].unflatten(-1, (2, -1)).transpose(1, 2), "compressed_values")


@torch.no_grad()
def test_a_compressed_cache_sees_its_window_as_it_is_and_what_is_before_made_again():
    torch.manual_seed(0)
    mixer, x = CompressedCacheAttention(64, num_heads=2, k_rank=3, v_rank=5, window=4).double(), tokens()
    q = mixer.q(x).unflatten(-1, (2, 32))
    (k, c), (v, d) = mixer.k_a(x).split([64, 6], -1), mixer.v_a(x).split([64, 10], -1)
    again_k, again_v = mixer.k_b(c), mixer.v_b(d)
    y = torch.zeros(2, 21, 2, 32, dtype=torch.float64)
    for t in range(21):
        own = t // 4 * 4
        keys = torch.cat([again_k[:, :own], k[:, own : t + 1]], 1).unflatten(-1, (2, 32))
        values = torch.cat([again_v[:, :own], v[:, own : t + 1]], 1).unflatten(-1, (2, 32))
        weights = (torch.einsum("bhd,bnhd->bnh", q[:, t], keys) * 32**-0.5).softmax(1)
        y[:, t] = torch.einsum("bnh,bnhd->bhd", weights, values)
    torch.testing.assert_close(mixer(x), mixer.proj(y.flatten(2)))


@torch.no_grad()
def test_a_search_from_coarse_to_fine_keeps_the_keys_that_its_authors_keep(golden):
    case = golden("op_hip_mask")
    given = case.about["arguments"]
    q, k, v = (case.data[f"in.{name}"].unsqueeze(1) for name in "qkv")
    seen = torch.arange(1, 49).unsqueeze(0)
    kept = hip_mask(
        q,
        k,
        seen,
        mask_k=given["mask_k"],
        coarse=given["w_start"],
        least=given["n_patches"],
        scale_up=given["scale_up"],
    )
    assert torch.equal(kept[0, 0].long(), case.data["mask"])
    q, k, v = (part.to(case.dtype) for part in (q, k, v))
    case.check(F.scaled_dot_product_attention(q, k, v, attn_mask=kept).squeeze(1))


@torch.no_grad()
@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_hip_attention_keeps_few_keys_whatever_the_pieces(pieces):
    torch.manual_seed(0)
    mixer, x = HipAttention(64, num_heads=2, mask_k=6, coarse=4, least=2, rope=Rope()).double(), tokens()
    state = {}
    found = torch.cat([mixer(part, Context(state=state)) for part in x.split(pieces, 1)], 1)
    torch.testing.assert_close(found, mixer(x))
    q, k, _, _ = mixer._queries_keys_values(x, None)
    kept = hip_mask(q.transpose(1, 2), k.transpose(1, 2), torch.arange(1, 22).expand(2, -1), **mixer.search)
    assert kept[:, :, -1].sum(-1).max() <= 6 and bool(kept.any(-1).all()) and not bool(kept.triu(1).any())


@torch.no_grad()
def test_heads_keep_the_tokens_that_spatten_keeps(golden):
    case = golden("op_spatten_prune")
    given = case.about["arguments"]
    for layer in ("0", "1"):
        importance = case.inputs[f"scores.{layer}"].sum((0, 2))
        kept = kept_tokens(
            importance, given["start_size"], given["important_size"], given["recent_size"], given["num_coming"]
        )
        for part in ("key", "value"):
            given_part = case.inputs[f"{part}.{layer}"]
            case.check(given_part.gather(2, kept[None, ..., None].expand(-1, -1, -1, 4)), f"{part}.{layer}_kept")


@torch.no_grad()
@pytest.mark.parametrize("importance", ["scores", "weights"])
@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_a_pruned_cache_drops_what_was_looked_at_least(pieces, importance):
    torch.manual_seed(0)
    mixer = PrunedCacheAttention(64, num_heads=2, start=2, important=3, recent=4, importance=importance).double()
    x, state = tokens(), {}
    found = torch.cat([mixer(part, Context(state=state)) for part in x.split(pieces, 1)], 1)
    q, k, v = (part.unflatten(-1, (2, 32)) for part in (mixer.q(x), *mixer.kv(x).chunk(2, -1)))
    expected = torch.zeros(2, 21, 2, 32, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            held, sums = [], torch.zeros(21, dtype=torch.float64)
            for t in range(21):
                rows = kept_tokens(sums[held].unsqueeze(0), 2, 3, 4)[0] if held else []
                held = [held[i] for i in rows] + [t]
                scores = k[b, held, h] @ q[b, t, h] * 32**-0.5
                sums[held] += scores if importance == "scores" else scores.softmax(0)
                expected[b, t, h] = scores.softmax(0) @ v[b, held, h]
    torch.testing.assert_close(found, mixer.proj(expected.flatten(2)))
    assert sum(part[0].numel() for part in state[""]) == mixer.state_size(21) == mixer.state_size(1000)


@torch.no_grad()
def test_latent_attention_is_that_of_deepseek_v3(golden):
    case = golden("layer_latent_attention")
    mixer = LatentAttention(
        32, num_heads=4, q_rank=16, kv_rank=12, nope_dim=8, rope_dim=8, v_dim=12, rope=Rope(pairs="neighbours")
    ).to(case.dtype)
    mixer.load_state_dict({key.removeprefix("self_attn."): value for key, value in case.state.items()})
    case.check(mixer(case.inputs["hidden_states"]))


@torch.no_grad()
def test_attention_of_two_softmaxes_gathers_by_keys_and_spreads_by_queries():
    q, k, v = (tokens(9, 8).unsqueeze(1) * scale for scale in (1, 2, 3))
    expected = torch.zeros_like(v)
    for t in range(9):
        for c in range(8):
            context = (k[..., c].exp().unsqueeze(-1) * v).sum(2) / k[..., c].exp().sum(2, keepdim=True)
            share = q[:, :, t, c].exp() / q[:, :, t].exp().sum(-1)
            expected[:, :, t] += share.unsqueeze(-1) * context * 8**-0.5
    torch.testing.assert_close(two_softmaxes(q, k, v), expected)
