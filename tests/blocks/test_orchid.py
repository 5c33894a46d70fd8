"""Orchid against its authors' code and its equation."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional as F

from blocks.context import Context
from blocks.linear_attention.orchid import Orchid

NAMES = {
    "conv1d_short": "short_filter", "fixed_conv_res": "residual_fn", "fixed_conv": "filter_fn", "conv_kernel_nn.nn_model2": "conditioning.frequency",
    "conv_kernel_nn.nn_model_": "conditioning.", "conv_kernel_nn.nn_model": "conditioning.time", "conv1d_ls.0": "conv", "norm_ls.0.norm_conv_kernel": "norm",
}  # fmt: skip


def ours(key: str) -> str:
    for theirs, name in NAMES.items():
        key = key.replace(theirs, name)
    return re.sub(r"implicit_filter\.1\.freq", "freq", key)


@torch.no_grad()
@pytest.mark.parametrize("name", ["layer_orchid", "layer_orchid_correlation"])
def test_orchid_equals_upstream(golden, name):
    case = golden(name)
    given = case.about["config"]
    kind = "magnitudes" if given["type"] == "absfreq" else "correlation"
    sizes = {"max_length": given["l_max"], "filter_dim": given["filter_order"], "position_dim": given["emb_dim"]}
    mixer = Orchid(given["d_model"], kind=kind, **sizes).to(case.dtype)
    mixer.load_state_dict({ours(key): value for key, value in case.state.items()})
    case.check(mixer(case.inputs["x"]))


def tokens(length: int) -> torch.Tensor:
    return torch.randn(2, length, 8, generator=torch.Generator().manual_seed(length)).double()


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 9, 16])
def test_the_kernel_of_a_sequence_is_convolved_in_a_circle(length):
    mixer, x = Orchid(8, max_length=16, kernel_size=1, residual=False).double(), tokens(length)
    u = mixer.in_linear(x)
    spectrum = mixer.conditioning(u[..., -8:].mT)
    kernel = mixer.filter_fn(length).T / length + torch.fft.irfft(spectrum, length)  # (B, C, L)
    out_gate, gate, v = mixer.short_filter(u.mT).chunk(3, 1)
    v, y = v * gate, torch.zeros(2, 8, length).double()
    for t in range(length):
        for s in range(length):
            y[..., t] += kernel[..., (t - s) % length] * v[..., s]
    y = (y + mixer.filter_fn.bias[:, None] * v) * out_gate
    torch.testing.assert_close(mixer(x), mixer.out_linear(y.mT), rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["magnitudes", "correlation"])
def test_a_shift_of_the_sequence_leaves_the_kernel_as_it_is(kind):
    mixer = Orchid(8, kind=kind, max_length=16).double()
    w = F.pad(tokens(8).mT, (4, 4))
    torch.testing.assert_close(mixer.conditioning(w), mixer.conditioning(w.roll(2, -1)), rtol=0, atol=1e-10)


@torch.no_grad()
def test_each_sample_is_a_circle_of_its_own_length():
    mixer, x = Orchid(8, max_length=16).double(), tokens(12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, :5] = False
    found = mixer(x, Context(mask=mask))
    torch.testing.assert_close(found[0], mixer(x)[0])
    torch.testing.assert_close(found[1, 5:], mixer(x[1:, 5:])[0])
    assert not mixer(x, Context(mask=torch.zeros_like(mask))).any()
