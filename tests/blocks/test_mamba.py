"""Mamba in one and in two directions: upstream's outputs, state, padding, initialisation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import blocks
from blocks.context import Context
from blocks.primitives.views import Tokens
from blocks.ssm.bidirectional_mamba import BidirectionalMamba
from blocks.ssm.mamba import Mamba


def x(length: int = 21) -> torch.Tensor:
    return torch.randn(2, length, 32, generator=torch.Generator().manual_seed(3))


def test_mixer_equals_upstream_whole_and_continued(golden):
    case = golden("layer_mamba_mixer")
    mixer = Mamba(32, state_dim=8).to(case.dtype)
    mixer.load_state_dict(case.state)
    inputs, ctx = case.inputs["hidden_states"], Context(state={})
    with torch.no_grad():
        case.check(mixer(inputs))
        lengths = [9] + [1] * 28
        case.check(torch.cat([mixer(part, ctx) for part in inputs.split(lengths, 1)], 1))
    conv, h = ctx.state[""]
    case.check(h, "state.0.recurrent")
    torch.testing.assert_close(conv, case.data["state.0.conv"][..., 1:].to(case.dtype), rtol=0, atol=2e-5)


@pytest.mark.parametrize("lengths", [[1] * 21, [20, 1], [3, 18]])
def test_whole_equals_any_split(lengths):
    mixer, ctx = Mamba(32), Context(state={})
    with torch.no_grad():
        parts = [mixer(part, ctx) for part in x().split(lengths, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), mixer(x()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mixer", [Mamba, BidirectionalMamba])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(mixer, side):
    mixer, tokens = mixer(32), x(12)
    real = slice(5, None) if side == "left" else slice(None, 12)
    padded = torch.full((2, 17, 32), 7.0)
    padded[:, real] = tokens
    mask = torch.zeros(2, 17, dtype=torch.bool)
    mask[:, real] = True
    with torch.no_grad():
        found = mixer(padded, Context(mask=mask))[:, real]
        torch.testing.assert_close(found, mixer(tokens), rtol=1e-4, atol=1e-6)


def test_initial_steps_and_decays_are_those_of_the_paper():
    mixer = Mamba(64)
    steps = F.softplus(mixer.dt_proj.bias)
    assert steps.min() >= 0.9e-3 and steps.max() <= 1.1e-1 and steps.log().std() > 1
    torch.testing.assert_close(mixer.A_log[5].exp(), torch.arange(1.0, 17))
    assert mixer.D.eq(1).all() and mixer.dt_proj.weight.abs().max() <= 0.5


def test_names_are_those_of_the_public_checkpoint():
    names = ["A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias"]
    names += ["x_proj.weight", "dt_proj.weight", "dt_proj.bias", "out_proj.weight"]
    assert list(Mamba(32).state_dict()) == names


def test_mask_of_another_shape_is_refused(refused):
    with refused("ctx.mask has shape (2, 20); the tokens here are (B, L) = (2, 21)"):
        Mamba(32)(x(), Context(mask=torch.ones(2, 20, dtype=torch.bool)))


def test_packed_sequences_equal_separate_ones_whole_and_continued():
    mixer, tokens = Mamba(32), x(21)[:1]
    lengths, border = [4, 1, 16], torch.tensor([0, 4, 5, 21])
    with torch.no_grad():
        alone = torch.cat([mixer(part) for part in tokens.split(lengths, 1)], 1)
        torch.testing.assert_close(mixer(tokens, Context(cu_seqlens=border)), alone, rtol=1e-4, atol=1e-6)
        ctx = Context(cu_seqlens=torch.tensor([0, 3, 3, 13]), state={})
        first = mixer(torch.cat([tokens[:, :3], tokens[:, 5:15]], 1), ctx)
        ctx.cu_seqlens = torch.tensor([0, 1, 2, 8])
        rest = mixer(torch.cat([tokens[:, 3:5], tokens[:, 15:]], 1), ctx)
        parts = [first[:, :3], rest[:, :2], first[:, 3:], rest[:, 2:]]
        torch.testing.assert_close(torch.cat(parts, 1), alone, rtol=1e-4, atol=1e-6)


def test_packed_sequences_are_refused_by_the_bidirectional_mixer(refused):
    with refused("packed sequences (ctx.cu_seqlens) are not supported here; pad them and give ctx.mask"):
        BidirectionalMamba(32)(x(), Context(cu_seqlens=torch.tensor([0, 21])))


def test_bidirectional_mixer_cannot_continue_a_sequence(refused):
    with refused(
        "a sequence cannot be continued here (ctx.state): bidirectional_mamba sees the future; `mamba` does not"
    ):
        BidirectionalMamba(32)(x(), Context(state={}))


def test_bidirectional_is_half_the_sum_of_two_mambas():
    mixer, there, back = BidirectionalMamba(32), Mamba(32), Mamba(32)
    state = mixer.state_dict()
    there.load_state_dict({key: value for key, value in state.items() if "_b" not in key})
    shared = {key: state[key] for key in ("in_proj.weight", "out_proj.weight")}
    back.load_state_dict(shared | {key.replace("_b", ""): value for key, value in state.items() if "_b" in key})
    with torch.no_grad():
        expected = (there(x()) + back(x().flip(1)).flip(1)) / 2
        torch.testing.assert_close(mixer(x()), expected, rtol=1e-4, atol=1e-6)


def test_reversed_branches_reverse_the_output():
    mixer, mirrored = BidirectionalMamba(32), BidirectionalMamba(32)
    state = mixer.state_dict()
    swap = {"A_log": "A_b_log", "A_b_log": "A_log", "D": "D_b", "D_b": "D"}
    for part in ("conv1d", "x_proj", "dt_proj"):
        for key in [key for key in state if key.startswith(f"{part}.")]:
            other = key.replace(part, f"{part}_b")
            swap |= {key: other, other: key}
    mirrored.load_state_dict({swap.get(key, key): value for key, value in state.items()})
    with torch.no_grad():
        torch.testing.assert_close(mirrored(x().flip(1)).flip(1), mixer(x()), rtol=1e-4, atol=1e-6)


def test_vim_from_these_blocks_equals_upstream(vim):
    state, view = dict(vim.state), Tokens(192, cls_token="middle", positions=True, keep="cls")
    mixers = []
    for layer in range(24):
        prefix = f"layers.{layer}.mixer."
        mixers.append(BidirectionalMamba(192))
        mixers[-1].load_state_dict({key[len(prefix) :]: state[key] for key in state if key.startswith(prefix)})
    view.load_state_dict({key: state[key] for key in ("cls_token", "pos_embed")})

    def norm(tokens: torch.Tensor, key: str) -> torch.Tensor:
        return F.rms_norm(tokens, (192,), state[f"{key}.weight"], 1e-5)

    with torch.no_grad():
        patches = F.conv2d(vim.inputs["image"], state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 16)
        tokens, memo = view.enter(patches)
        for layer, mixer in enumerate(mixers):
            tokens = tokens + mixer(norm(tokens, f"layers.{layer}.norm"))
        cls = norm(view.exit(tokens, memo), "norm_f")[:, 0]
        found, expected = F.linear(cls, state["head.weight"], state["head.bias"]), vim.data["output"]
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_causal_mamba_within_a_scan_sees_the_whole_image():
    mixer = blocks.get("within")(32, parts=["mamba"], view={"block": "scan_2d"})
    image = torch.randn(1, 32, 4, 3).requires_grad_()
    (seen,) = torch.autograd.grad(mixer(image)[0, :, 0, 0].square().sum(), image)
    assert seen.abs().sum(1).gt(0).all()
