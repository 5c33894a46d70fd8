"""Neurons against a loop over steps and neurons; the attention of spikes against products of lists; a border against torch's own padding."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from blocks import get
from blocks.context import Context
from blocks.folding import fuse
from zoo.testing.block_cases import perturbed


def naive_spikes(values: list[float], tau: float, threshold: float) -> list[float]:
    v, spikes = 0.0, []
    for x in values:
        v += (x - v) / tau
        spikes.append(float(v >= threshold))
        v = 0.0 if spikes[-1] else v
    return spikes


def test_a_neuron_leaks_adds_up_and_fires() -> None:
    x = 2 * torch.randn(3, 9, 2, dtype=torch.float64)
    y = get("lif")(tau=3.0, threshold=0.6)(x)
    for sample in range(3):
        for channel in range(2):
            assert y[sample, :, channel].tolist() == naive_spikes(x[sample, :, channel].tolist(), 3.0, 0.6)


def test_an_image_is_one_step_of_a_clip() -> None:
    x = 2 * torch.randn(2, 4, 5, 5)
    lif = get("lif")()
    assert torch.equal(lif(x), lif(x.unsqueeze(2)).squeeze(2))


def test_padding_leaves_the_membrane_as_it_is() -> None:
    x = 2 * torch.randn(1, 6, 3)
    mask = torch.tensor([[True, False, True, True, False, True]])
    lif = get("lif")()
    assert torch.equal(lif(x, Context(mask=mask))[mask], lif(x[:, mask[0]])[0])


def test_the_gradient_of_a_spike_is_that_of_a_steep_sigmoid() -> None:
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    get("lif")()(x).sum().backward()
    share = torch.sigmoid(4 * (x.detach() / 2 - 1))
    assert torch.allclose(x.grad, 4 * share * (1 - share) / 2)


def test_spike_attention_multiplies_keys_and_values_first() -> None:
    mixer = get("spike_attention")(8, num_heads=2).eval()
    x = 4 * torch.randn(2, 8, 3, 3, 3)
    q, k, v = (mixer.fire(frames_through(part, x)) for part in (mixer.q, mixer.k, mixer.v))
    seen = torch.zeros_like(q)
    for head in (slice(0, 4), slice(4, 8)):
        keys, values = (y[:, head].flatten(3) for y in (k, v))
        scores = torch.einsum("bctl,bdtl->btcd", keys, values)
        seen[:, head] = torch.einsum("bctl,btcd->bdtl", q[:, head].flatten(3), scores).unflatten(3, (3, 3))
    assert torch.allclose(mixer(x), frames_through(mixer.proj, mixer.fire_out(seen)), atol=1e-6)


def frames_through(part: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([part(x[:, :, step]) for step in range(x.shape[2])], 2)


def test_the_border_of_rep_conv_is_the_image_of_zero() -> None:
    conv = perturbed(get("rep_conv")(4)).eval()
    x = torch.randn(2, 4, 5, 5)
    y = conv.norm(F.conv2d(F.pad(x, (1, 1, 1, 1)), conv.first.weight))
    assert torch.allclose(conv(x), conv.norm_out(conv.last(conv.spatial(y))), atol=1e-5)
    assert torch.allclose(fuse(conv)(x), conv(x), atol=1e-5)
