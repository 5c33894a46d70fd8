"""Miras against its equations (arXiv:2504.13173, section 5): a loop over tokens in which autograd takes the gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.context import Context
from blocks.linear_attention.miras import SHARPNESS, SMOOTH, Miras

KINDS = ["moneta", "yaad", "memora"]


def mixer_of(kind: str, chunk: int = 5) -> Miras:
    torch.manual_seed(3)
    mixer = Miras(12, kind=kind, num_heads=2, ratio=2, chunk=chunk, rank=4).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return mixer


def loss(kind: str, error: Tensor, delta: Tensor) -> Tensor:
    """Moneta's l_3, eq. 11 with the smooth sign and absolute value; Yaad's Huber loss, eq. 14; Memora's l_2."""
    if kind == "memora":
        return 0.5 * error.square().sum()
    if kind == "moneta":  # the loss whose derivative is 3 sign(e) |e|^2, both smooth
        return (error * (3 * torch.tanh(SHARPNESS * error) * (error.square() + SMOOTH)).detach()).sum()
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error.square(), delta * (size - 0.5 * delta)).sum()


def weights(kind: str, A: Tensor) -> Tensor:
    """phi: eq. 24 with q = 4, the identity, eq. 21."""
    if kind == "moneta":
        return A / (A.pow(4).sum() + SMOOTH).sqrt()
    return A if kind == "yaad" else A.shape[-1] * torch.softmax(A, -1)


def remembered(mixer: Miras, x: Tensor) -> Tensor:
    """The outputs for one sample x (L, C), token by token and head by head."""
    kind = mixer.kind
    parts = []
    for proj, conv in mixer._maps():
        padded = F.pad(proj(x).T, (conv.kernel_size[0] - 1, 0))
        parts.append(F.silu(F.conv1d(padded.unsqueeze(0), conv.weight, groups=conv.groups))[0].T.unflatten(-1, (2, 6)))
    q, k, v = parts
    q, k = (part / (part.square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
    alpha, eta = (maps(x).sigmoid().unflatten(-1, (2, 6)) for maps in (mixer.alpha_proj, mixer.eta_proj))
    delta = eta if mixer.delta_proj is None else F.softplus(mixer.delta_proj(x)).unflatten(-1, (2, 6))
    heads = []
    for head in range(2):
        gamma, beta = mixer.norm_weight[head], mixer.norm_bias[head]

        def memory(W_1: Tensor, W_2: Tensor, key: Tensor, gamma: Tensor = gamma, beta: Tensor = beta) -> Tensor:
            return key + F.layer_norm(W_1 @ F.gelu(W_2.T @ key), (6,), gamma, beta, mixer.eps)

        A_1, A_2 = mixer.first[head], mixer.second[head]
        outputs = []
        for t in range(len(x)):
            if t % mixer.chunk == 0:
                held = A_1, A_2
            W = [weights(kind, A).detach().requires_grad_() for A in held]
            error = memory(*W, k[t, head].detach()) - v[t, head].detach()
            slopes = torch.autograd.grad(loss(kind, error, delta[t, head].detach()), W)
            A_1, A_2 = (
                alpha[t, head][:, None] * A - eta[t, head][:, None] * slope
                for A, slope in zip((A_1, A_2), slopes, strict=True)
            )
            outputs.append(memory(weights(kind, A_1), weights(kind, A_2), q[t, head]))
        heads.append(torch.stack(outputs))
    y = F.rms_norm(torch.stack(heads, 1), (6,), mixer.o_norm.weight, mixer.eps)
    return mixer.o_proj((y * F.silu(mixer.g_proj(x)).unflatten(-1, (2, 6))).flatten(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_is_taught_as_the_paper_says(kind: str) -> None:
    mixer, x = mixer_of(kind), torch.randn(2, 17, 12).double()
    expected = torch.stack([remembered(mixer, sample) for sample in x])
    torch.testing.assert_close(mixer(x), expected, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[17], [5, 12], [3, 4, 10], [1] * 17, [7, 1, 1, 8]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_any_split_gives_the_whole(kind: str, pieces: list[int]) -> None:
    mixer, x, ctx = mixer_of(kind), torch.randn(2, 17, 12).double(), Context(state={})
    found = torch.cat([mixer(part, ctx) for part in x.split(pieces, 1)], 1)
    torch.testing.assert_close(found, mixer(x), rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_other_lengths_go_on_by_themselves(kind: str) -> None:
    mixer, x, state = mixer_of(kind), torch.randn(2, 17, 12).double(), dict[str, Any]()
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[1, 8:] = False
    mixer(x[:, :11], Context(state=state, mask=mask))
    rest = torch.stack([x[0, 11:17], x[1, 8:14]])
    found = mixer(rest, Context(state=state))
    torch.testing.assert_close(found[0], mixer(x)[0, 11:], rtol=0, atol=1e-10)
    torch.testing.assert_close(found[1], mixer(x)[1, 8:14], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    mixer, x = mixer_of(kind, 3), torch.randn(1, 7, 12).double().requires_grad_()
    assert torch.autograd.gradcheck(mixer, (x,), eps=1e-6, atol=1e-5)
