"""Recurrent language models token by token and head by head, from the papers' equations and the published names of their weights.

Slow and plain on purpose: what these say, the models must say. `weights` is a state dict in the names of the family's first key rules,
`ids` is (L,); each function gives logits (L, vocabulary). Equations: GLA arXiv:2312.06635 (4) and section 4.4, RetNet arXiv:2307.08621 (5),
Gated DeltaNet arXiv:2412.06464 (10), RWKV-7 arXiv:2503.14456 section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
Mixer = Callable[[dict[str, Tensor], Tensor, int], Tensor]


def below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def rms(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def layers_of(weights: Weights, prefix: str) -> Iterator[dict[str, Tensor]]:
    i = 0
    while layer := below(weights, f"{prefix}{i}."):
        yield layer
        i += 1


def transformer(weights: Weights, ids: Tensor, num_heads: int, mixer: Mixer) -> Tensor:
    """Pre-norm residuals around a mixer and a SwiGLU, as all models of fla-org/flash-linear-attention have them."""
    x = weights["model.embeddings.weight"][ids]
    for layer in layers_of(weights, "model.layers."):
        x = x + mixer(below(layer, "attn."), rms(x, layer["attn_norm.weight"]), num_heads)
        y = rms(x, layer["mlp_norm.weight"])
        gate, up = y @ layer["mlp.gate_proj.weight"].T, y @ layer["mlp.up_proj.weight"].T
        x = x + (F.silu(gate) * up) @ layer["mlp.down_proj.weight"].T
    return rms(x, weights["model.norm.weight"]) @ weights["lm_head.weight"].T


def heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1))


def projected(w: Weights, x: Tensor, num_heads: int) -> list[Tensor]:
    """Queries, keys and values, (L, heads, channels of a head)."""
    return [heads(x @ w[f"{name}_proj.weight"].T, num_heads) for name in "qkv"]


def gated_norm(w: Weights, o: Tensor, x: Tensor, norm: str) -> Tensor:
    """Each head of `o` normed, times silu of a gate made from x; then the output projection."""
    gate = heads(x @ w["g_proj.weight"].T, o.shape[1])
    return (rms(o, w[norm]) * F.silu(gate)).flatten(1) @ w["o_proj.weight"].T


def outer_products(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """S_t = diag(decay_t) S_{t-1} + k_t v_t^T; o_t = S_t^T q_t / sqrt(K)."""
    out = torch.empty_like(v)
    for h in range(q.shape[1]):
        S = q.new_zeros(q.shape[2], v.shape[2])
        for t in range(len(q)):
            S = decay[t, h].unsqueeze(-1) * S + torch.outer(k[t, h], v[t, h])
            out[t, h] = S.T @ q[t, h] / math.sqrt(q.shape[2])
    return out


def gla(w: dict[str, Tensor], x: Tensor, num_heads: int) -> Tensor:
    q, k, v = projected(w, x, num_heads)
    logit = x @ w["gk_proj.0.weight"].T @ w["gk_proj.1.weight"].T + w["gk_proj.1.bias"]
    decay = heads(torch.sigmoid(logit) ** (1 / 16), num_heads)
    return gated_norm(w, outer_products(q, k, v, decay), x, "g_norm_swish_gate.weight")


def rotated(x: Tensor) -> Tensor:
    """Channel pairs (i, i + K/2) turned by t / 10000^(2i/K)."""
    half = x.shape[-1] // 2
    angle = torch.outer(torch.arange(len(x)).to(x), 10000.0 ** (-torch.arange(half).to(x) / half)).unsqueeze(1)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


def retention(w: dict[str, Tensor], x: Tensor, num_heads: int) -> Tensor:
    q, k, v = projected(w, x, num_heads)
    decay = (1 - 2.0 ** (-5 - torch.arange(num_heads).to(x))).expand(len(x), num_heads).unsqueeze(-1)
    return gated_norm(w, outer_products(rotated(q), rotated(k), v, decay), x, "g_norm_swish_gate.weight")


def short_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel sees itself and the positions before; then silu. `kernel` is (channels, 1, width), its last tap now."""
    width = kernel.shape[-1]
    padded = torch.cat([x.new_zeros(width - 1, x.shape[1]), x])
    return F.silu(torch.stack([(padded[t : t + width] * kernel[:, 0].T).sum(0) for t in range(len(x))]))


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def gated_delta(w: dict[str, Tensor], x: Tensor, num_heads: int) -> Tensor:
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T."""
    q, k, v = (
        heads(short_conv(x @ w[f"{name}_proj.weight"].T, w[f"{name}_conv1d.weight"]), num_heads) for name in "qkv"
    )
    q, k = unit(q), unit(k)
    a = torch.exp(-w["A_log"].exp() * F.softplus(x @ w["a_proj.weight"].T + w["dt_bias"]))
    b = torch.sigmoid(x @ w["b_proj.weight"].T)
    out = torch.empty_like(v)
    for h in range(num_heads):
        S = q.new_zeros(q.shape[2], v.shape[2])
        for t in range(len(x)):
            S = a[t, h] * (S - b[t, h] * torch.outer(k[t, h], k[t, h] @ S)) + b[t, h] * torch.outer(k[t, h], v[t, h])
            out[t, h] = S.T @ q[t, h] / math.sqrt(q.shape[2])
    return gated_norm(w, out, x, "o_norm.weight")


def rwkv7(weights: Weights, ids: Tensor) -> Tensor:
    """In the names of BlinkDL/RWKV-LM."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = norm(weights["emb.weight"][ids], "blocks.0.ln0")
    first: Tensor | None = None
    for i, layer in enumerate(layers_of(weights, "blocks.")):
        mixed, first = time_mix(below(layer, "att."), norm(x, f"blocks.{i}.ln1"), first)
        x = x + mixed
        y = norm(x, f"blocks.{i}.ln2")
        key = (y + (before(y) - y) * layer["ffn.x_k"][0, 0]) @ layer["ffn.key.weight"].T
        x = x + key.relu().square() @ layer["ffn.value.weight"].T
    return norm(x, "ln_out") @ weights["head.weight"].T


def before(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def time_mix(w: dict[str, Tensor], x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
    """S_t = S_{t-1} (diag(w_t) - c_t^T (a_t c_t)) + v_t^T k_t, S of (values, keys). Returns the output and the first layer's values."""
    num_heads = len(w["r_k"])
    xr, xw, xk, xv, xa, xg = (x + (before(x) - x) * w[f"x_{name}"][0, 0] for name in "rwkvag")
    r, k, v = xr @ w["receptance.weight"].T, xk @ w["key.weight"].T, xv @ w["value.weight"].T
    decay = torch.exp(-math.exp(-0.5) * torch.sigmoid(w["w0"][0, 0] + torch.tanh(xw @ w["w1"]) @ w["w2"]))
    a = torch.sigmoid(w["a0"][0, 0] + xa @ w["a1"] @ w["a2"])
    if first is None:
        first = v
    else:
        v = v + (first - v) * torch.sigmoid(w["v0"][0, 0] + xv @ w["v1"] @ w["v2"])
    c = F.normalize(heads(k * w["k_k"][0, 0], num_heads), dim=-1)
    k = k * (1 + (a - 1) * w["k_a"][0, 0])
    r, k, v, decay, a = (heads(y, num_heads) for y in (r, k, v, decay, a))
    out = torch.empty_like(v)
    for h in range(num_heads):
        S = x.new_zeros(v.shape[2], k.shape[2])
        for t in range(len(x)):
            S = S * decay[t, h] - torch.outer(S @ c[t, h], a[t, h] * c[t, h]) + torch.outer(v[t, h], k[t, h])
            out[t, h] = S @ r[t, h]
    out = F.group_norm(out.flatten(1), num_heads, w["ln_x.weight"], w["ln_x.bias"], eps=r.shape[2] * 1e-5)
    out = heads(out, num_heads) + (r * w["r_k"] * k).sum(-1, keepdim=True) * v
    gate = torch.sigmoid(xg @ w["g1"]) @ w["g2"]
    return (out.flatten(1) * gate) @ w["output.weight"].T, first
