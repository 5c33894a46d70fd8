"""The hidden state mixer, and the head that reads what it leaves in ctx."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import blocks
import zoo
from blocks.context import Context
from blocks.folding import fuse
from tests.blocks.test_fuse_forms import randomised


def image(dim: int = 8, *size: int) -> Tensor:
    return torch.randn(2, dim, *(size or (5, 3)), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_mixer_gathers_mixes_and_reads_out() -> None:
    mixer, x = randomised(blocks.get("hsm_ssd")(8, state_dim=3, writes="hidden")).double(), image()
    b, c, dt = mixer.conv(mixer.bcdt_proj(x)).flatten(2).chunk(3, 1)
    h = torch.einsum("bnl,bcl->bnc", (dt + mixer.A[:, None]).softmax(-1) * b, x.flatten(2))
    u, z = mixer.hz_proj(h).chunk(2, -1)
    h = mixer.out_proj(u * torch.nn.functional.silu(z) + u * mixer.D)
    ctx = Context()
    torch.testing.assert_close(mixer(x, ctx), torch.einsum("bnl,bnc->bcl", c, h).view(2, 8, 5, 3))
    torch.testing.assert_close(ctx.read("hidden")[""], h)


def test_the_part_that_cancels_is_dropped_at_deploy() -> None:
    mixer = randomised(blocks.get("hsm_ssd")(8, state_dim=3)).double()
    deployed = fuse(mixer)
    assert "A" not in deployed.state_dict()
    torch.testing.assert_close(deployed(image()), mixer(image()))


def head(**params: object) -> torch.nn.Module:
    return randomised(
        blocks.get("state_fusion_head")(8, num_classes=5, stage_dims=(4, 8), reads="hidden", **params)
    ).double()


def context() -> Context:
    """Two layers of stage 0 and one of stage 1 have written."""
    generator = torch.Generator().manual_seed(2)
    ctx = Context()
    for path, dim in (("stages.0.layers.0.1.1", 4), ("stages.0.layers.1.1.1", 4), ("stages.1.layers.0.1.1", 8)):
        ctx.write("hidden", path, torch.randn(2, 3, dim, generator=generator, dtype=torch.float64))
    return ctx


def test_head_fuses_the_last_state_of_each_stage_and_the_map() -> None:
    module, ctx, x = head(), context(), image()
    states = [ctx.read("hidden")["stages.0.layers.1.1.1"], ctx.read("hidden")["stages.1.layers.0.1.1"]]
    features = [norm(h).mean(1) for norm, h in zip(module.norms, [*states, x.flatten(2).mT], strict=True)]
    logits = [layer(feature) for layer, feature in zip(module.classifier, features, strict=True)]
    expected = sum(weight * part for weight, part in zip(module.weights.softmax(0), logits, strict=True))
    torch.testing.assert_close(module(x, ctx), expected)
    torch.testing.assert_close(module(x, ctx, pre_logits=True), torch.cat(features, 1))


@pytest.mark.parametrize("distilled", [False, True])
def test_deploy_form_of_the_head_is_one_linear_map(distilled: bool) -> None:
    module = head(distilled=distilled)
    deployed = fuse(module)
    assert deployed.classifier.weight.shape == (5, 20)
    torch.testing.assert_close(deployed(image(), context()), module(image(), context()))


def test_eps_is_that_of_the_norms() -> None:
    assert {norm.eps for norm in head(eps=1e-3).norms} == {1e-3}


def test_a_head_that_finds_no_states_says_where_they_come_from() -> None:
    model = zoo.create("efficientvim_nano")
    features = model.forward_features(torch.randn(1, 1, 32, 32)).clone()  # a copy carries none
    with pytest.raises(ValueError) as error:
        model.forward_head(features)
    assert str(error.value) == (
        "this head reads `hidden` of 3 stages and finds it of 0; every stage needs a writer, and forward_features and "
        "forward_head, called one by one, the same ctx"
    )


def test_parts_of_a_forward_pass_share_the_ctx_of_the_caller() -> None:
    model, x, ctx = zoo.create("efficientvim_nano"), torch.randn(2, 1, 32, 32), Context()
    with torch.no_grad():
        torch.testing.assert_close(model.forward_head(model.forward_features(x, ctx), ctx=ctx), model(x))


def test_passes_leave_nothing_to_each_other() -> None:
    model, x = zoo.create("efficientvim_nano"), torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        first = model(x)
        model(x[:1])
        assert torch.equal(model(x), first)
