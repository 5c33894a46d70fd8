"""The front door: what `zoo.create` returns, and what it refuses."""

from __future__ import annotations

import copy
import pathlib
import pickle

import pytest
import torch
from torch import nn

import blocks
import zoo
from blocks.context import Context
from zoo.build.builder import build, check
from zoo.errors import InputError, ProblemsError, SpecError
from zoo.pretrained import target
from zoo.testing.isolation import own_registrations

NET = {
    "schema": "zoo.spec/1",
    "spec": {
        "input": {"kind": "image", "size": 32},
        "num_classes": 5,
        "stem": {"block": "conv_stack", "convs": [{"kernel_size": 4, "stride": 4, "norm": "batch_norm"}]},
        "dims": [16, 32],
        "depths": [1, 2],
        "downsample": {"block": "conv_stack", "convs": [{"kernel_size": 2, "stride": 2}]},
        "layer": [
            {"residual": ["layer_norm", {"block": "depthwise_conv", "kernel_size": 3}], "scale": 0.5},
            {"residual": ["layer_norm", {"block": "mlp", "ratio": 2}]},
        ],
        "head": {"block": "linear_head", "norm": "layer_norm"},
    },
}
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> zoo.Backbone:
    torch.manual_seed(0)
    return zoo.create(NET)


def test_a_model_is_in_eval_mode_and_knows_its_spec(model: zoo.Backbone) -> None:
    assert not model.training
    assert model(X).shape == (2, 5)
    assert model.digest == zoo.spec(NET).digest
    assert (model.num_classes, model.num_features, model.head_hidden_size) == (5, 32, 32)


def test_state_dict_paths_are_a_function_of_the_spec(model: zoo.Backbone) -> None:
    names = set(model.state_dict())
    assert {"stem.0.conv.weight", "stages.1.downsample.0.conv.weight", "stages.1.layers.1.0.1.conv.weight"} <= names
    assert {"stages.0.layers.0.0.scale", "stages.0.layers.0.1.1.fc1.weight", "head.classifier.bias"} <= names


def test_features_head_and_pre_logits_compose(model: zoo.Backbone) -> None:
    features = model.forward_features(X)
    assert features.shape == (2, 32, 4, 4)
    torch.testing.assert_close(model.forward_head(features), model(X))
    pre = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(model.get_classifier()(pre), model(X))


def test_feature_maps_have_the_widths_and_strides_that_are_told() -> None:
    model = zoo.create(NET, features_only=True, out_indices=(0, -1))
    maps = model(X)
    assert [tuple(map.shape) for map in maps] == [(2, 16, 8, 8), (2, 32, 4, 4)]
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([16, 32], [4, 8])
    assert set(model.state_dict()) <= set(zoo.create(NET).state_dict())


def test_without_a_classifier_features_are_pooled_or_a_map() -> None:
    assert zoo.create(NET, num_classes=0)(X).shape == (2, 32)
    assert zoo.create(NET, global_pool="")(X).shape == (2, 32, 4, 4)


def test_channels_size_and_rates_are_arguments() -> None:
    model = zoo.create(NET, in_chans=5, img_size=64, drop_rate=0.3, drop_path_rate=0.2)
    assert model(torch.zeros(1, 5, 64, 64)).shape == (1, 5)
    assert model.head.drop == 0.3
    assert model.spec.drop_path_rate == 0.2


def test_dtype_and_device_are_arguments() -> None:
    assert zoo.create(NET, dtype=torch.bfloat16)(X.bfloat16()).dtype == torch.bfloat16
    assert all(parameter.is_meta for parameter in zoo.create(NET, device="meta").parameters())


def test_the_stream_is_channels_last(model: zoo.Backbone) -> None:
    assert model.forward_features(X).is_contiguous(memory_format=torch.channels_last)


def test_no_module_is_empty(model: zoo.Backbone) -> None:
    assert not [name for name, module in model.named_modules() if isinstance(module, (nn.Identity, nn.Sequential))]


def test_train_and_deploy_form_agree(model: zoo.Backbone) -> None:
    for module in model.modules():
        if hasattr(module, "running_mean"):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    with torch.no_grad():
        torch.testing.assert_close(zoo.deploy(model)(X), model(X), rtol=1e-5, atol=1e-5)
    assert "running_mean" not in str(zoo.deploy(model).state_dict().keys())


def test_copies_and_pickles_give_the_same_output(model: zoo.Backbone) -> None:
    with torch.no_grad():
        expected = model(X)
        assert torch.equal(copy.deepcopy(model)(X), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(X), expected)


def test_weights_are_saved_and_loaded_strictly(model: zoo.Backbone, tmp_path) -> None:
    zoo.save(model, tmp_path / "net.safetensors")
    again = zoo.create(NET, weights=tmp_path / "net.safetensors")
    with torch.no_grad():
        assert torch.equal(again(X), model(X))
    state = model.state_dict() | {"head.classifier.bias": torch.full((5,), float("nan"))}
    with pytest.raises(ProblemsError, match=r"head\.classifier\.bias"):
        zoo.create(NET, weights=state)


@pytest.mark.parametrize("name", ["unet_nano", "starnet_nano"])
def test_a_net_is_built_once_to_take_its_weights(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.save(zoo.create(name), tmp_path / "model.safetensors")
    built: list[str] = []
    monkeypatch.setattr(target, "build", lambda spec: built.append(spec.name) or build(spec))
    zoo.create(name, weights=tmp_path / "model.safetensors")
    assert built == [name]


def test_the_head_may_begin_with_a_spread_of_its_own() -> None:
    torch.manual_seed(0)
    table = zoo.spec("unireplknet_nano").plain()
    table["spec"]["init"] = {"weight": "torch", "head_std": 0.5}
    model = zoo.create(table)
    assert abs(model.head.classifier.weight.std() - 0.5) < 0.05
    assert not model.head.classifier.bias.any()
    assert model.stages[1].downsample.get_submodule("0.conv").weight.std() > 0.02


def test_biases_may_begin_as_torch_draws_them() -> None:
    torch.manual_seed(0)
    table = zoo.spec("unireplknet_nano").plain()
    table["spec"]["init"] = {"bias": "torch", "head_std": 0.02}
    model = zoo.create(table)
    for layer in model.stages.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)) and layer.bias is not None:
            reach = layer.weight[0].numel() ** -0.5
            assert 0.5 * reach < layer.bias.abs().max() <= reach
    assert not model.head.classifier.bias.any()


def test_a_law_of_linear_layers_leaves_convolutions_as_torch_makes_them() -> None:
    torch.manual_seed(0)
    table = zoo.spec("unireplknet_nano").plain()
    table["spec"]["init"] = {"weight": "trunc_normal", "layers": "linear"}
    model = zoo.create(table)
    conv, linear = model.stages[1].downsample.get_submodule("0.conv"), model.head.classifier
    bound = conv.weight[0].numel() ** -0.5
    assert 0.9 * bound < conv.weight.abs().max() <= bound
    assert linear.weight.std() < 0.03 and not linear.bias.any()


def test_a_law_of_convolutions_may_hold_for_linear_layers_too() -> None:
    torch.manual_seed(0)
    table = zoo.spec("van_nano").plain()
    spread = zoo.create(table).get_submodule("stages.2.layers.0.1.1.fc1").weight.std()
    assert abs(spread / (2 / 256) ** 0.5 - 1) < 0.05
    table["spec"]["init"]["weight"] = "fan_out"
    assert zoo.create(table).get_submodule("stages.2.layers.0.1.1.fc1").weight.std() < 0.95 * spread


def test_the_same_seed_gives_the_same_model() -> None:
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        with torch.no_grad():
            outputs.append(zoo.create(NET)(X))
    assert torch.equal(*outputs)


def changed(**values: object) -> dict:
    spec = copy.deepcopy(NET)
    spec["spec"].update(values)
    return spec


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        (
            changed(layer={"residual": [{"block": "attention", "num_heads": 3}]}),
            "stages.0.layers.0.0.0\n    block `attention` cannot be built here: ",
        ),
        (
            changed(downsample="none"),
            "stages.1\n    expected width 32, as `dims` says; found width 16 after its last layer",
        ),
        (changed(input={"kind": "image", "size": 2}), "the forward pass fails here"),
    ],
)
def test_a_spec_that_cannot_run_names_the_place(spec: dict, part: str) -> None:
    with pytest.raises(SpecError) as caught:
        check(zoo.spec(spec))
    assert part in str(caught.value)


def test_billions_of_parameters_are_not_allocated() -> None:
    with pytest.raises(
        SpecError, match=r"expected at most 4,000,000,000 parameters; found [0-9,]+; next: pass max_params="
    ):
        zoo.create(NET, {"dims": [16, 40000]})


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            {"out_indices": (5,), "features_only": True},
            "expected the number of last levels, 1 to 2, or levels from -2 to 1; found [5]",
        ),
        ({"form": "deplyo"}, "expected `train` or `deploy`; found `deplyo`; nearest `deploy`"),
        ({"at": "stages.0"}, "expected `swap` together with `at`"),
    ],
)
def test_a_wrong_argument_is_a_sentence(arguments: dict, part: str) -> None:
    with pytest.raises(InputError) as caught:
        zoo.create(NET, **arguments)
    assert part in str(caught.value)


def test_an_unknown_name_has_a_nearest() -> None:
    with pytest.raises(zoo.UnknownModelError, match="nearest `convformer_s18`"):
        zoo.create("convfrmer_s18")


def test_ctx_is_handed_through() -> None:
    ctx = Context()
    zoo.create("moe_vit_nano").train()(torch.randn(2, 1, 32, 32), ctx)
    assert len(ctx.losses) == len(ctx.reports) == 3
    assert float(ctx.total_loss().detach()) > 0


def test_a_block_that_says_nothing_of_first_values_begins_as_its_constructor_makes_it() -> None:
    class Inner(torch.nn.Module):
        def __init__(self, dim: int):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((dim,), 3.0))
            self.register_buffer("count", torch.tensor(7.0))

    with own_registrations():

        @blocks.block("begins", kind="act")
        class Begins(torch.nn.Module):
            def __init__(self, dim: int, *, start: float = 2.0):
                super().__init__()
                self.scale = torch.nn.Parameter(torch.full((dim,), start))
                self.inner = Inner(dim)

            def forward(self, x):
                return x * self.scale[0] * self.inner.weight[0]

        act = zoo.create("gmlp_nano", swap={"act": {"block": "begins", "start": 0.5}})
        found = next(module for module in act.modules() if isinstance(module, Begins))
        assert found.scale.tolist() == [0.5] * len(found.scale)
        assert found.inner.weight.tolist() == [3.0] * len(found.scale) and float(found.inner.count) == 7.0


def test_a_block_whose_beginning_nobody_remembers_says_what_to_write() -> None:
    from blocks.first_values import forget_arguments
    from zoo.build.builder import build
    from zoo.build.init import materialise

    with own_registrations():

        @blocks.block("forgets", kind="act")
        class Forgets(torch.nn.Module):
            def __init__(self, dim: int):
                super().__init__()
                self.scale = torch.nn.Parameter(torch.ones(dim))

            def forward(self, x):
                return x * self.scale[0]

        spec = zoo.spec("gmlp_nano", {"**.<act>": "forgets"})
        net = build(spec)
        materialise(copy.deepcopy(net), spec.init)  # a copy remembers
        forget_arguments(net)
        with pytest.raises(blocks.BlockError) as caught:
            materialise(net, spec.init)
        assert str(caught.value) == (
            "block `local/forgets@1`: 1 error\n    expected first values for its own `scale`; found no method that gives them; "
            "next: give the block a `reset_parameters(self)`, and call it at the end of `__init__`"
        )


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "mambavision_nano", "efficientvit_m0", "convformer_nano"]
)
def test_a_swap_of_mixers_leaves_what_changes_the_width(name: str) -> None:
    before, after = zoo.create(name, device="meta"), zoo.create(name, swap={"token_mixer": "pooling"}, device="meta")
    for old, new in zip(before.stages, after.stages, strict=True):
        assert repr(old.downsample) == repr(new.downsample)
    assert sum(getattr(module, "block_id", "") == "core/pooling@1" for module in after.modules()) >= sum(
        len(stage.layers) for stage in before.stages
    )


def test_a_swap_goes_where_its_path_leads() -> None:
    wider = {"block": "conv", "kernel_size": 5, "stride": 2}
    spec = zoo.create("mambavision_nano", swap={"token_mixer": wider}, at="stages.1.downsample", device="meta").spec
    assert spec.tree["stages"][1]["downsample"]["kernel_size"] == 5


def test_a_role_that_the_model_does_not_have_is_answered_by_those_that_it_has() -> None:
    with pytest.raises(SpecError) as caught:
        zoo.create("resnet50", swap={"token_mixer": "pooling"}, device="meta")
    assert str(caught.value) == (
        "resnet50: 1 error\n  swap: <token_mixer>\n    resnet50 has no token mixer; its roles are `act`, `norm` or `whole`"
    )
