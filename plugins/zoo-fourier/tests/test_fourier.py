"""What the conformance checks cannot know: the formulas, and the authors' names."""

import pytest
import torch
from torch import nn
from zoo_fourier.fnet_mixer import FnetMixer
from zoo_fourier.global_filter import GlobalFilter

import zoo
from zoo.measure.published import agrees, published


def test_the_filter_is_a_circular_convolution() -> None:
    size, dim = (6, 5), 3
    mixer = GlobalFilter(dim, input_size=size).double()
    x = torch.randn(2, dim, *size, dtype=torch.float64)
    spectrum = torch.view_as_complex(mixer.complex_weight.detach())
    kernel = torch.fft.irfft2(spectrum, s=size, dim=(0, 1), norm="backward")
    expected = torch.zeros_like(x)
    for i in range(size[0]):
        for j in range(size[1]):
            expected += kernel[i, j].view(1, dim, 1, 1) * x.roll((i, j), (2, 3))
    with torch.no_grad():
        assert torch.allclose(mixer(x), expected, atol=1e-12)


def test_the_fnet_mixer_is_two_matrices() -> None:
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    angle = [2 * torch.pi * torch.outer(torch.arange(n), torch.arange(n)).double() / n for n in (6, 4)]
    tokens, channels = (torch.complex(a.cos(), -a.sin()) for a in angle)
    expected = torch.einsum("lm,bmc,cd->bld", tokens, x.to(torch.complex128), channels).real
    assert torch.allclose(FnetMixer()(x), expected, atol=1e-12)


class Layer(nn.Module):
    """x + MLP(LN(filter(LN(x)))), under the authors' names."""

    def __init__(self, dim: int, side: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.filter = nn.Module()
        self.filter.complex_weight = nn.Parameter(torch.randn(side, side // 2 + 1, dim, 2) * 0.02)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor, side: int) -> torch.Tensor:
        spectrum = torch.fft.rfft2(self.norm1(x).unflatten(1, (side, side)), dim=(1, 2), norm="ortho")
        y = torch.fft.irfft2(
            spectrum * torch.view_as_complex(self.filter.complex_weight), s=(side, side), dim=(1, 2), norm="ortho"
        )
        return x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(y.flatten(1, 2)))))


class Reference(nn.Module):
    """GFNet of the paper, written out; names as in the authors' code."""

    def __init__(self, dim: int, depth: int, patch: int, size: int, channels: int, classes: int):
        super().__init__()
        self.side = size // patch
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(channels, dim, patch, patch)
        self.pos_embed = nn.Parameter(torch.randn(1, self.side**2, dim) * 0.02)
        self.blocks = nn.ModuleList(Layer(dim, self.side) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        for layer in self.blocks:
            x = layer(x, self.side)
        return self.head(self.norm(x).mean(1))


@pytest.mark.parametrize(
    ("name", "form"), [("gfnet_nano", (64, 4, 4, 32, 1, 10)), ("gfnet_ti", (256, 12, 16, 224, 3, 1000))]
)
def test_outputs_equal_the_paper_written_out(name: str, form: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs = Reference(*form).eval()
    ours = zoo.create(f"fourier/{name}", weights=theirs.state_dict(), source="official")
    x = torch.randn(2, form[4], form[3], form[3])
    with torch.no_grad():
        expected = theirs(x)
        assert float((ours(x) - expected).abs().max() / expected.abs().max()) <= 1e-5


@pytest.mark.parametrize("name", ["gfnet_ti", "gfnet_xs", "gfnet_s", "gfnet_b"])
def test_figures_are_those_of_the_paper(name: str) -> None:
    entry, printed = zoo.info(f"fourier/{name}"), published()[f"fourier/{name}"]
    assert agrees(printed.params, entry.params) and agrees(printed.macs, entry.macs)
