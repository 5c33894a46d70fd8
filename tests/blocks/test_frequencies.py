"""Mixers in other domains: Haar transforms, Fourier transforms, graphs along the axes; against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import blocks
from blocks.conv.wavelet_mixing import haar
from tests.blocks.test_fuse_forms import difference, randomised


def test_a_haar_transform_keeps_lengths_and_constants() -> None:
    x = torch.randn(2, 3, 6, 8)
    low, high = haar(x)
    torch.testing.assert_close(low.square().sum() + high.square().sum(), x.square().sum())
    low, high = haar(torch.ones(1, 2, 4, 4))
    assert torch.equal(low, torch.full((1, 2, 2, 2), 2.0)) and not high.any()


def test_the_subbands_of_a_channel_stand_side_by_side() -> None:
    rows = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).expand(1, 1, 2, 2)  # changes from row to row only
    x = torch.cat([rows, rows.transpose(2, 3)], 1)
    _, high = haar(x)
    assert high.flatten().tolist() == [2, 0, 0, 0, 2, 0]


@pytest.mark.parametrize("levels", [1, 3])
def test_norms_of_wavelet_mixing_fold_into_transposed_convolutions(levels: int) -> None:
    mixer = randomised(blocks.get("wavelet_mixing")(8, levels=levels, drop=0.5))
    assert difference(mixer, torch.randn(2, 8, 16, 8).double()) <= 1e-12


def test_a_map_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a map of \(12, 8\) cannot be halved 3 times; 8 must divide it$"):
        blocks.get("wavelet_mixing")(8, levels=3)(torch.randn(1, 8, 12, 8))


def test_a_frequency_filter_weighs_the_spectrum_by_what_it_reads_off_it() -> None:
    mixer, x = (
        randomised(blocks.get("frequency_filter")(6, num_blocks=2)).double(),
        torch.randn(2, 6, 5, 6, dtype=torch.float64),
    )
    spectrum = torch.fft.rfft2(x, norm="ortho")
    hidden = spectrum
    for number in "12":
        weight, bias = (torch.complex(*getattr(mixer, name + number)) for name in "wb")
        hidden = torch.block_diag(*weight).T @ hidden.flatten(2) + bias.flatten()[:, None]
        hidden = hidden.unflatten(2, spectrum.shape[2:])
        if number == "1":
            hidden = torch.complex(F.silu(hidden.real), F.silu(hidden.imag))
    mask = torch.complex(*(F.softshrink(part, 0.01) for part in (hidden.real, hidden.imag)))
    torch.testing.assert_close(mixer(x), x + torch.fft.irfft2(mask * spectrum, s=(5, 6), norm="ortho"))


@pytest.mark.parametrize("size", [(6, 4), (5, 7)])
def test_a_graph_conv_looks_along_rows_and_columns_for_what_is_near(size: tuple[int, int]) -> None:
    mixer, x = (
        randomised(blocks.get("axial_graph_conv")(4, step=2)).double().eval(),
        torch.randn(2, 4, *size, dtype=torch.float64),
    )
    H, W = size
    most = torch.zeros_like(x)
    for b in range(2):
        far = [
            (x[b, :, i, j] - x[b, :, (i - -(-H // 2)) % H, (j - -(-W // 2)) % W]).abs().sum()
            for i in range(H)
            for j in range(W)
        ]
        bound = torch.stack(far).mean() - torch.stack(far).std()
        for i in range(H):
            for j in range(W):
                others = [x[b, :, (i - s) % H, j] for s in range(0, H, 2)] + [
                    x[b, :, i, (j - s) % W] for s in range(0, W, 2)
                ]
                near = [other - x[b, :, i, j] for other in others if (other - x[b, :, i, j]).abs().sum() < bound]
                most[b, :, i, j] = torch.stack([*near, torch.zeros(4, dtype=torch.float64)]).amax(0)
    torch.testing.assert_close(mixer(x), mixer.mix(torch.cat([x, most], 1)))


@pytest.mark.parametrize("axis", ["vertical", "horizontal"])
def test_raster_mixing_sees_the_channels_of_a_raft_along_one_axis(axis: str) -> None:
    mixer, x = blocks.get("raster_mixing")(6, axis=axis, raft=2, input_size=(4, 3)), torch.randn(2, 6, 4, 3)
    image = x if axis == "vertical" else x.transpose(2, 3)
    expected = torch.empty_like(image)
    for c in range(3):
        for place in range(image.shape[3]):
            column = torch.cat([image[:, c, :, place], image[:, c + 3, :, place]], 1)
            expected[:, [c, c + 3], :, place] = mixer.fc2(F.gelu(mixer.fc1(column))).unflatten(1, (2, -1))
    torch.testing.assert_close(mixer(x), expected if axis == "vertical" else expected.transpose(2, 3))


def test_token_attentions_skip_their_scores_with_the_values() -> None:
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    softmax = randomised(blocks.get("token_attention")(6, 4)).double()
    q, k, v = softmax.qkv(x).chunk(3, -1)
    torch.testing.assert_close(softmax(x), v + softmax.proj((q @ k.mT * 6**-0.5).softmax(-1) @ v))
    performer = randomised(blocks.get("token_performer")(6, 4)).double()
    k, q, v = performer.kqv(x).chunk(3, -1)
    q, k = (torch.exp(t @ performer.w.T - t.square().sum(-1, keepdim=True) / 2) / 2**0.5 for t in (q, k))
    scores = q @ k.mT
    expected = v + performer.proj(scores @ v / (scores.sum(-1, keepdim=True) + 1e-8))
    torch.testing.assert_close(performer(x), expected)


def test_random_features_are_orthogonal_and_frozen() -> None:
    w = blocks.get("token_performer")(8, 8).w
    assert not w.requires_grad
    torch.testing.assert_close(w @ w.T, 4 * torch.eye(4))
