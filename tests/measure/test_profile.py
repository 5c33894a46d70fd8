"""Profiles: three counts that agree exactly, rows that add up, data that ships."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import blocks.ops
import zoo
from blocks.moe.smear_router import SmearRouter
from tests.models.thin import thin, with_zeros
from tests.sampled import sampled
from zoo import catalog, cli
from zoo.build.builder import build
from zoo.build.inputs import meta_input
from zoo.catalog.published import published_spec
from zoo.measure.fvcore_counts import fvcore_macs
from zoo.measure.op_counter import EXACT, FLOP_CLASSES
from zoo.measure.parts import parts, parts_of
from zoo.measure.profile import Profile, profile
from zoo.measure.profiles import cost_of, costs
from zoo.measure.published import agrees, published
from zoo.testing.applicable import APPLIES, CONFORMANCE
from zoo.testing.models import unequal_experts
from zoo.testing.published import read

ENTRIES = catalog.entries().values()
FIRST = [min((e for e in ENTRIES if e.family == family), key=lambda e: e.params).name for family in zoo.list_modules()]
ALL = zoo.list_models()
TRACED = 100_000_000
"""Parameters up to which fvcore traces a whole model: it needs real tensors, and of larger ones fewer layers are traced."""


def check_counts(name: str, form: Any) -> None:
    """The blocks' own count is that of the operations, and of torch's counter."""
    found = profile(name, form=form)
    assert {kind: found.analytic[kind] for kind in EXACT} == found.by_class
    assert [found.analytic[kind] for kind in FLOP_CLASSES] == [found.scan_flops, found.fft_flops]
    assert found.complete, found.uncounted
    net = build(published_spec(name))
    net = zoo.deploy(net) if form == "deploy" else net
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(meta_input(net.spec))
    assert counter.get_total_flops() == found.flops + found.scan_flops + found.fft_flops


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", sampled(FIRST))
def test_blocks_operations_and_torch_count_alike(name: str, form: str) -> None:
    check_counts(name, form)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", [name for name in ALL if name not in FIRST])
def test_blocks_operations_and_torch_count_alike_in_every_model(name: str, form: str) -> None:
    check_counts(name, form)


def check_traced(name: str) -> None:
    spec = thin(name, TRACED)
    net = with_zeros(spec)
    if any(hasattr(module, "rows_range") for module in net.modules()):
        pytest.skip("how many rows its experts take follows from the input: the profile says the fewest and the most")
    if unequal_experts(net):
        pytest.skip("what its experts cost follows from the input: the profile counts the widest")
    if any(isinstance(module, SmearRouter) for module in net.modules()):
        pytest.skip("fvcore cannot trace a net that is called with merged parameters")
    x = torch.zeros_like(meta_input(spec), device="cpu")
    assert fvcore_macs(net, x) == profile(spec).by_class


@pytest.mark.parametrize("name", sampled(name for name in ALL if name.endswith("_nano")))
def test_fvcore_counts_alike_on_real_tensors(name: str) -> None:
    check_traced(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if not name.endswith("_nano")])
def test_fvcore_counts_every_model_alike(name: str) -> None:
    check_traced(name)


@pytest.mark.parametrize("form", ["train", "deploy"])
@pytest.mark.parametrize("name", sampled(FIRST))
def test_shipped_profiles_are_those_of_today(name: str, form: str) -> None:
    assert costs()[name][form] == cost_of(name, form), "run `python -m zoo.measure.profiles`"


def test_every_model_ships_its_profiles() -> None:
    assert list(costs()) == ALL
    assert all(catalog.entry(name).macs == forms["train"].macs for name, forms in costs().items())


@pytest.mark.parametrize("name", sampled(FIRST))
def test_shipped_parts_are_those_of_today(name: str) -> None:
    assert parts()[name] == parts_of(profile(name)), "run `python -m zoo.measure.parts`"


def test_every_model_ships_its_parts_which_add_up_to_its_profile() -> None:
    assert list(parts()) == ALL
    for name, found in parts().items():
        whole, places = costs()[name]["train"], found.stages.values()
        work = sum(value for kind, value in found.classes.items() if kind not in FLOP_CLASSES)
        assert [sum(place.params for place in places), sum(place.macs for place in places), work] == [
            whole.params, whole.macs, whole.macs
        ], name  # fmt: skip


def test_parts_of_a_chain_that_have_names_are_places_and_what_is_in_them_is_none() -> None:
    rows = [row.path for row in profile("mobilenetv4_conv_medium").blocks if row.path.startswith("stages.0.")]
    assert rows == ["stages.0.layers.0.exp", "stages.0.layers.0.pwl"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in FIRST])
def test_parts_of_every_model_are_those_of_today(name: str) -> None:
    assert parts()[name] == parts_of(profile(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in FIRST])
def test_every_shipped_profile_is_that_of_today(name: str) -> None:
    assert costs()[name] == {form: cost_of(name, form) for form in ("train", "deploy")}


def test_every_model_that_others_published_is_held_against_their_figures() -> None:
    own = {name for name in ALL if not name.endswith("_nano")}
    assert own == set(published())


def test_counts_are_the_published_ones_or_near_and_it_is_said_why() -> None:
    for name, printed in published().items():
        counted = costs()[name][printed.form]
        same = agrees(printed.params, counted.params) and agrees(printed.macs, counted.macs)
        assert same or printed.differs, name
        for text, count in ((printed.params, counted.params), (printed.macs, counted.macs)):
            share = 1 if agrees(text, count) else count / {"M": 1e6, "G": 1e9}[text[-1]] / float(text[:-1])
            assert share == pytest.approx(1, abs=0.07), name


def test_reasons_are_given_only_where_figures_differ() -> None:
    differing = {
        one.source
        for name, one in published().items()
        if not (agrees(one.params, costs()[name][one.form].params) and agrees(one.macs, costs()[name][one.form].macs))
    }
    assert differing == {one.source for one in published().values() if one.differs}


def test_every_block_says_what_it_computes() -> None:
    """The check `macs` is held by `tests/blocks/test_conformance.py`; it applies to all, for none is without `macs` where there is work."""
    table = read(pathlib.Path(__file__).parents[2] / CONFORMANCE)
    assert {identity for identity, row in table.items() if row["checks"]["macs"] != APPLIES} == set()


@pytest.fixture(scope="module")
def vit() -> Profile:
    return profile("vit_tiny_patch16_224")


def test_flops_are_twice_the_macs_and_classes_add_up(vit: Profile) -> None:
    assert vit.flops == 2 * vit.macs and sum(vit.by_class.values()) == vit.macs
    layers, heads, length, width = 12, 3, 197, 64
    assert vit.by_class["attention"] == layers * 2 * heads * length**2 * width


def test_rows_of_operations_and_of_outer_blocks_add_up(vit: Profile) -> None:
    assert sum(row.flops for row in vit.ops) == vit.flops
    outer = [row for row in vit.blocks if row.path in ("stem", "head") or row.path.count(".") == 4]
    assert sum(row.macs for row in outer) == vit.macs
    assert vit.blocks[-1].shape == [1, 1000]


def test_work_grows_with_the_batch_and_weights_do_not() -> None:
    one, four = profile("starnet_s050"), profile("starnet_s050", (4, 3, 224, 224))
    assert (four.macs, four.weight_bytes) == (4 * one.macs, one.weight_bytes)
    assert four.activation_bytes >= 4 * one.activation_bytes


def test_a_built_model_is_profiled_as_it_is_and_left_alone() -> None:
    net = zoo.create("starnet_nano", num_classes=3)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert profile(net).macs == profile(zoo.spec("starnet_nano", {"num_classes": 3})).macs
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_any_module_can_be_profiled() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
    found = profile(net, (1, 3, 4, 4))
    assert found.by_class == {"matmul": 1280, "convolution": 16 * 8 * 27, "attention": 0}
    assert found.elements == 128 and found.params == 8 * 27 + 8 + 1280 + 10


def test_memory_held_at_one_time_is_that_of_the_largest_step() -> None:
    net = nn.Sequential(nn.Linear(10, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 10, bias=False))
    assert profile(net, (1, 10)).peak_activation_bytes == 2 * 1000 * 4


def test_a_group_norm_counts_alike_in_every_memory_format() -> None:
    norm, x = nn.GroupNorm(2, 8), torch.zeros(1, 8, 5, 5)
    planes, rows = (profile(norm, x.to(memory_format=kind)) for kind in (torch.contiguous_format, torch.channels_last))
    assert (planes.elements, planes.activation_bytes) == (rows.elements, rows.activation_bytes)


def test_experts_that_a_token_does_not_meet_are_not_active() -> None:
    found = profile("moe_vit_nano")
    assert found.active_params < found.params == catalog.entry("moe_vit_nano").params


def test_an_operation_that_nobody_counts_is_named() -> None:
    class Sorting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.qr(x)[0]

    found = profile(Sorting(), (4, 4))
    assert not found.complete and found.uncounted == {"aten.linalg_qr": 1}


def test_ffts_are_a_class_of_their_own() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.irfft(torch.fft.rfft(x), n=x.shape[-1])

    found = profile(Spectrum(), (2, 256))
    assert found.fft_flops == 2 * 2.5 * 2 * 256 * 8 and found.macs == 0 and found.complete


class Multiplications(TorchDispatchMode):
    """Products, sums and exponentials of every element, as they are done."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        if name in ("mul", "add", "exp", "sum"):
            inputs = [arg.numel() for arg in args if isinstance(arg, torch.Tensor)]
            elements = max([*inputs, result.numel()])
            self.count += elements if elements >= self.size else 0
        elif name in ("bmm", "mm", "baddbmm", "addcmul"):
            self.count += 2 * (result.numel() if name == "addcmul" else args[-2].numel())
        return result


def test_the_count_of_a_scan_is_what_its_reference_does() -> None:
    batch, dim, length, state = 1, 4, 6, 8
    u, delta = torch.rand(batch, dim, length), torch.rand(batch, dim, length)
    A, B, C = -torch.rand(dim, state), torch.rand(batch, state, length), torch.rand(batch, state, length)
    from blocks.ops.selective_scan import selective_scan

    with blocks.ops.backend("reference"), torch.no_grad(), Multiplications(dim * state) as done:
        selective_scan(u, delta, A, B, C)
    assert 6 <= done.count / (batch * dim * length * state) <= 9


def test_the_command_prints_totals_rows_and_three_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", "moe_vit_nano", "--by", "stage", "--check"]) == 0
    text = capsys.readouterr().out
    assert "5,689,824 (11,379,648 FLOPs)" in text and "stages.0" in text and "all agree" in text
    assert cli.main(["profile", "starnet_nano", "--form", "deploy", "--json", "--batch", "2"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["input"][0] == 2 and data["form"] == "deploy" and math.isclose(data["flops"], 2 * data["macs"])


@pytest.mark.parametrize(
    ("printed", "count", "same"),
    [("4.4M", 4_437_000, True), ("4.3M", 4_437_000, False), ("0.80G", 782_000_000, False), ("", 7, True)],
)
def test_printed_figures_are_compared_in_their_last_digit(printed: str, count: int, same: bool) -> None:
    assert agrees(printed, count) is same


@pytest.mark.parametrize("name", ["gla_nano", "rwkv7_nano"])
def test_each_token_of_a_recurrent_model_takes_the_same(name: str) -> None:
    found = zoo.profile(name)
    assert found.per_token is not None
    assert found.per_token.macs * found.per_token.length == found.macs
    assert zoo.profile(name, input=(1, 300)).per_token.macs == found.per_token.macs  # type: ignore[union-attr]
    assert found.per_token.state_bytes == 4 * zoo.create(name, device="meta").state_size(129)


def test_a_token_of_a_transformer_takes_more_behind_more_tokens() -> None:
    near, far = (zoo.profile("llama_nano", input=(1, length)).per_token for length in (64, 128))
    assert near is not None and far is not None
    assert far.macs > near.macs and far.state_bytes > near.state_bytes


def test_a_model_of_images_has_no_cost_of_a_token() -> None:
    assert zoo.profile("gmlp_nano").per_token is None


@pytest.mark.parametrize(
    ("router", "rows"),
    [
        # 64 tokens, 4 experts: room for 20 tokens in each; one choice of each token
        ({"block": "switch_router", "num_experts": 4, "k": 1, "capacity": 1.25}, (20, 64)),
        # room for 16 of the 2 x 64 choices in each
        ({"block": "priority_router", "num_experts": 4, "k": 2, "capacity": 0.5}, (32, 64)),
        ({"block": "relu_router", "num_experts": 4, "k": 2}, (0, 256)),
        ({"block": "zero_expert_router", "num_experts": 4, "zero_experts": 1, "k": 2}, (64, 128)),
    ],
)
def test_routers_that_drop_make_the_macs_a_range(router: dict[str, object], rows: tuple[int, int]) -> None:
    found = zoo.profile("moe_vit_nano", details=False)
    assert found.macs_range is None
    changed = zoo.profile(zoo.spec("moe_vit_nano", {"**.<router>": router}))
    assert changed.macs_range is not None
    model = zoo.create(zoo.spec("moe_vit_nano", {"**.<router>": router}), device="meta")
    moes = [module for module in model.modules() if type(module).__name__ == "Moe"]
    per_row = sum(p.numel() for p in moes[0].experts[0].parameters() if p.ndim > 1)
    expected = round(64 * float(moes[0].router.k))
    fixed = changed.macs - len(moes) * per_row * expected
    assert changed.macs_range == tuple(fixed + len(moes) * per_row * count for count in rows)


def test_the_next_token_of_a_net_with_learned_positions_is_counted_without_its_values() -> None:
    step = zoo.profile("entropy_guided_nano").per_token
    assert step is not None and step.macs > 0
