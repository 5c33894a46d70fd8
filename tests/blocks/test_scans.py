"""Sequence mixers on images and volumes: scans, both directions, and every such mixer in a net of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import blocks
import zoo
from blocks.context import Context
from blocks.primitives.multi_scan import MultiScan

ROUTES = ["thw", "thw_reversed", "hwt", "hwt_reversed", "wth", "twh", "htw", "wht_reversed"]
LOOKS_NOWHERE = ("identity", "activator")
"""Mixers of the causal kind that look at no other position."""
PARAMS: dict[str, dict[str, Any]] = {
    "rwkv7": {"first": True},
    "causal_conv": {"kernel_size": 15},
    "gated_short_conv": {"kernel_size": 15},
    "sequence_conv": {"kernel_size": 15},
}
"""What a mixer must be told in a net whose width changes, or in order to see as far as the whole map."""


def sequence_mixers() -> list[str]:
    names = blocks.list_blocks(kind="token_mixer", ability="causal")
    return [name for name in names if name not in LOOKS_NOWHERE and "/" not in name]


def call(name: str) -> dict[str, Any]:
    params = blocks.describe(name).params
    return {"block": name, **PARAMS.get(name, {}), **({"causal": True} if "causal" in params else {})}


@pytest.mark.parametrize("around", [{"view": "scan_2d"}, None], ids=["scan_2d", "bidirectional"])
@pytest.mark.parametrize("name", sequence_mixers())
def test_every_sequence_mixer_stands_in_a_net_of_images_and_sees_all_of_it(name, around):
    mixer = {"bidirectional": [call(name)]} if around is None else {"within": [call(name)], **around}
    torch.manual_seed(0)
    net = zoo.create("convformer_nano", swap={"token_mixer": mixer})
    layer = net.get_submodule("stages.1.layers.0.0.1")
    # sixteen images, since of one `lmu` sees only the tokens that its relu lets through
    x = torch.randn(16, 64, 5, 3, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    for row, column in ((0, 0), (4, 2)):
        (seen,) = torch.autograd.grad(y[:, :, row, column].square().sum(), x, retain_graph=True)
        assert bool((seen.abs().sum((0, 1)) > 0).all())


@pytest.mark.parametrize("around", [{"within": ["rwkv7"], "view": "scan_2d"}, {"bidirectional": ["rwkv7"]}])
def test_first_values_go_from_layer_to_layer_of_a_net_of_images(around):
    torch.manual_seed(0)
    net, x = zoo.create("vim_nano", swap={"token_mixer": around}), torch.randn(2, 1, 32, 32)
    first, last = (net.get_submodule(f"stages.0.layers.{index}.0.1").state_dict() for index in (0, 3))
    assert [any("v_lora" in name for name in state) for state in (first, last)] == [False, True]
    assert net(x).shape == (2, 10)


def test_causal_mixer_by_itself_is_still_refused_in_a_net_of_images():
    with pytest.raises(zoo.SpecError, match="`mamba2` is causal"):
        zoo.create("convformer_nano", swap={"token_mixer": "mamba2"})


def volume() -> Tensor:
    """2 videos of 4 frames, as (B * T, C, H, W)."""
    return torch.randn(8, 5, 3, 6, generator=torch.Generator().manual_seed(1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("routes", [[route] for route in ROUTES] + [ROUTES])
def test_scan_comes_back_to_the_frames(routes):
    view = MultiScan(frames=4, routes=routes)
    y, memo = view.enter(volume())
    assert y.shape == (2 * len(routes), 60, 6) and view.inner_size((5, 3)) == (60,)
    torch.testing.assert_close(view.exit(y, memo), volume())


def test_frames_may_have_an_axis_of_their_own():
    apart = volume().unflatten(0, (2, 4)).transpose(1, 2)
    (y, memo), (flat, _) = MultiScan().enter(apart), MultiScan(frames=4).enter(volume())
    assert torch.equal(y, flat) and MultiScan().inner_size((4, 5, 3)) == (60,)
    torch.testing.assert_close(MultiScan().exit(y, memo), apart)


def test_routes_name_their_axes_from_the_slowest_to_the_fastest():
    numbered = torch.arange(8.0).view(2, 1, 2, 2)  # frame, row, column
    y, _ = MultiScan(frames=2, routes=["thw", "hwt", "wth_reversed"]).enter(numbered)
    orders = [[0, 1, 2, 3, 4, 5, 6, 7], [0, 4, 1, 5, 2, 6, 3, 7], [7, 5, 3, 1, 6, 4, 2, 0]]
    assert y[:, :, 0].tolist() == orders


def test_one_frame_is_an_image():
    view, plain = MultiScan(routes=["thw", "thw_reversed"]), blocks.get("scan_2d")(routes=["row", "row_reversed"])
    assert torch.equal(view.enter(volume())[0], plain.enter(volume())[0])


def test_a_broken_video_is_refused(refused):
    with refused("8 images are no whole number of videos of 3 frames"):
        MultiScan(frames=3).enter(volume())


@pytest.mark.parametrize("shared", [False, True])
def test_both_directions_are_averaged(shared):
    torch.manual_seed(0)
    layer, x = blocks.get("bidirectional")(32, parts=["mamba"], shared=shared), torch.randn(2, 7, 32)
    back = layer.there if shared else layer.back
    torch.testing.assert_close(layer(x), (layer.there(x) + back(x.flip(1)).flip(1)) / 2)
    rows = x[:, :6].unflatten(1, (3, 2)).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(rows).permute(0, 2, 3, 1).flatten(1, 2), layer(x[:, :6]))


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_turned_with_the_tokens(side):
    torch.manual_seed(0)
    layer, x = blocks.get("bidirectional")(32, parts=["mamba"]), torch.randn(2, 7, 32)
    padded, mask = torch.full((2, 12, 32), 9.0), torch.zeros(2, 12, dtype=torch.bool)
    real = slice(5, None) if side == "left" else slice(None, 7)
    padded[:, real], mask[:, real] = x, True
    torch.testing.assert_close(layer(padded, Context(mask=mask))[:, real], layer(x), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_packed_sequences_are_turned_one_by_one():
    torch.manual_seed(0)
    layer, x = blocks.get("bidirectional")(32, parts=["mamba"]), torch.randn(1, 12, 32)
    packed = layer(x, Context(cu_seqlens=torch.tensor([0, 5, 12])))
    torch.testing.assert_close(packed, torch.cat([layer(x[:, :5]), layer(x[:, 5:])], 1), rtol=1e-4, atol=1e-6)


def test_both_directions_refuse_a_state(refused):
    with refused("a sequence cannot be continued here (ctx.state): it sees the future, whose state nobody knows"):
        blocks.get("bidirectional")(32, parts=["mamba"])(torch.zeros(1, 3, 32), Context(state={}))


def test_ways_back_read_only_what_ways_back_have_written():
    torch.manual_seed(0)
    first, later = (
        blocks.get("bidirectional")(64, parts=[{"block": "rwkv7", "first": is_first}]) for is_first in (True, False)
    )
    later.there.get_submodule("0").path, x = "later", torch.randn(2, 9, 64)
    ctx, there, back = Context(), Context(), Context()
    y = later(first(x, ctx), ctx)
    z = (first.there(x, there) + first.back(x.flip(1), back).flip(1)) / 2
    expected = (later.there(z, there) + later.back(z.flip(1), back).flip(1)) / 2
    torch.testing.assert_close(y, expected)
