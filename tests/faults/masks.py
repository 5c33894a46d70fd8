"""Faults of padding, empty batches and language models."""

from tests.faults.catalogue import fault


def _mixture(router):
    from blocks.moe.moe import Moe

    return Moe(16, router={"block": router, "num_experts": 4}, expert={"block": "gated_mlp", "hidden_dim": 24}).train()


@fault("S41", "high", "balance and z losses of routers are those of the real tokens")
def losses_count_padding():
    import torch

    from blocks.context import Context

    bad = []
    for router in (
        "topk_router",
        "grouped_router",
        "hyper_router",
        "bilevel_router",
        "switch_router",
        "zero_expert_router",
    ):
        torch.manual_seed(0)
        moe, x = _mixture(router).double(), torch.randn(2, 9, 16, dtype=torch.float64)
        plain, masked = Context(), Context(mask=torch.arange(16).expand(2, -1) < 9)
        moe(x, plain)
        moe(torch.cat([x, torch.full((2, 7, 16), 5.0, dtype=torch.float64)], 1), masked)
        if abs(plain.total_loss() - masked.total_loss()) > 1e-9:
            bad.append(router)
    return f"padding changes the losses of {', '.join(bad)}" if bad else None


@fault("S52", "medium", "the losses of a batch of no samples are 0")
def losses_of_an_empty_batch():
    import torch

    from blocks.context import Context

    bad = []
    for router in ("topk_router", "switch_router", "expert_choice_router", "grouped_router", "zero_expert_router"):
        ctx = Context()
        _mixture(router)(torch.zeros(0, 9, 16), ctx)
        if ctx.total_loss() != 0:
            bad.append(router)
    return f"losses that are not 0: {', '.join(bad)}" if bad else None


@fault("S09", "high", "a mask is obeyed by a mixer, or refused")
def mask_ignored():
    import torch

    from blocks.chain import run
    from blocks.construct import construct
    from blocks.context import Context
    from blocks.registry.slots import Place

    bad = []
    for name in (
        "mambavision_mixer",
        "cosine_attention",
        "random_mixing",
        "spatial_gating_mlp",
        "attention",
        "linear_attention",
    ):
        torch.manual_seed(0)
        place = Place(path="subject", num_classes=10, stage_dims=(64,), failed=[], sizes=lambda: (24,))
        mixer = construct(name, place, 64, 64).double().eval()
        for parameter in mixer.parameters():
            torch.nn.init.normal_(parameter, 0, 0.3)
        x, mask = torch.randn(1, 24, 64, dtype=torch.float64), (torch.arange(24) < 15)[None]
        try:
            first, second = (run(mixer, y, Context(mask=mask)) for y in (x, x.masked_fill(~mask[..., None], 37.0)))
        except ValueError:
            continue
        if (first - second)[mask].abs().max() > 1e-9:
            bad.append(name)
    return f"a mask is ignored in silence by {', '.join(bad)}" if bad else None


@fault("S47", "medium", "odd arguments of generate are understood, or refused with a sentence")
def generate_odd_arguments():
    import numpy
    import torch

    import zoo

    model, bad = zoo.create("gla_nano"), []
    ids = torch.tensor([list(b"Return ")])
    for said in (
        {"stop": numpy.int64(10)},
        {"stop": torch.tensor(10)},
        {"top_k": 2.5, "temperature": 1.0},
        {"temperature": 1e-45},
        {"ids": ids.to(torch.uint8)},
        {"ids": [[1, 2]]},
        {"attention_mask": torch.ones_like(ids)},
    ):
        try:
            model.generate(**{"ids": ids, "max_new_tokens": 3, **said})
        except zoo.InputError:
            pass
        except Exception as error:
            bad.append(f"{', '.join(said)}: {type(error).__name__}")
    return "; ".join(bad) or None
