"""What timm's users expect of a model object, on ours."""

from __future__ import annotations

import copy
import io
import pathlib
import pickle
import types
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import InputError

NET = "convnext_tiny"
SMALL: dict[str, Any] = {"depths": [1, 2, 1, 1], "dims": [8, 16, 24, 32]}
VIT: dict[str, Any] = {"depths": [4], "dims": [64], "input.size": 64}
SWIN: dict[str, Any] = {"dims": [32, 64, 96, 128], "depths": [2, 2, 2, 2], "input.size": 224}
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> Any:
    torch.manual_seed(0)
    return zoo.create(NET, SMALL)


@pytest.fixture
def vit() -> Any:
    torch.manual_seed(0)
    return zoo.create("vit_tiny_patch16_224", VIT)


def test_intermediates_are_the_stages_and_the_features(net: Any) -> None:
    features, levels = net.forward_intermediates(X)
    assert [tuple(level.shape[1:]) for level in levels] == [(8, 16, 16), (16, 8, 8), (24, 4, 4), (32, 2, 2)]
    torch.testing.assert_close(features, net.forward_features(X))
    torch.testing.assert_close(net.forward_head(features), net(X))


def test_an_int_means_the_last_levels_and_a_list_picks(net: Any) -> None:
    every = net.forward_intermediates(X, intermediates_only=True)
    for indices, expected in ((2, every[2:]), ([0, -1], [every[0], every[3]]), ((1,), [every[1]])):
        found = net.forward_intermediates(X, indices=indices, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_positions_in_a_row_on_request(net: Any) -> None:
    maps, rows = (net.forward_intermediates(X, output_fmt=fmt, intermediates_only=True) for fmt in ("NCHW", "NLC"))
    assert torch.equal(rows[0], maps[0].flatten(2).transpose(1, 2))
    with pytest.raises(InputError, match="expected `NCHW` or `NLC`; found `NHWC`"):
        net.forward_intermediates(X, output_fmt="NHWC")


def test_stopping_early_runs_nothing_behind(net: Any) -> None:
    ran: list[int] = []
    for i, stage in enumerate(net.stages):
        stage.register_forward_hook(lambda *_, i=i: ran.append(i))
    net.forward_intermediates(X, indices=[1], stop_early=True, intermediates_only=True)
    assert ran == [0, 1]


def test_stopping_early_runs_no_layer_behind_of_a_transformer(vit: Any) -> None:
    ran: list[int] = []
    expected = vit.forward_intermediates(X, indices=[1], intermediates_only=True)
    for i, layer in enumerate(vit.stages[0].layers):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    last, levels = vit.forward_intermediates(X, indices=[0, 1], stop_early=True)
    assert ran == [0, 1]
    assert torch.equal(levels[1], expected[0]) and torch.equal(last, expected[0])


def test_the_norm_of_the_head_is_taken_where_the_width_is_its_own() -> None:
    net: Any = zoo.create(NET, {"head.norm_first": True})
    nn.init.constant_(net.head.norm.bias, 3.0)
    plain, normed = (net.forward_intermediates(X, norm=norm, intermediates_only=True) for norm in (False, True))
    assert torch.equal(plain[0], normed[0])
    torch.testing.assert_close(normed[3], net.head.norm(plain[3]))


def test_a_norm_behind_the_pooling_is_no_norm_of_levels(net: Any) -> None:
    nn.init.constant_(net.head.norm.bias, 3.0)
    plain, normed = (net.forward_intermediates(X, norm=norm, intermediates_only=True) for norm in (False, True))
    assert torch.equal(plain[3], normed[3])


def test_layers_of_a_plain_transformer_are_its_levels_as_in_timm(timm: types.ModuleType) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", depth=4).eval()
    ours = zoo.create("vit_tiny_patch16_224", {"depths": [4]}, weights=theirs.state_dict(), source="timm")
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.forward_intermediates(x, indices=[1, -1], intermediates_only=True)
        found = ours.forward_intermediates(x, indices=[1, -1], intermediates_only=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_pruning_leaves_what_the_levels_need(net: Any) -> None:
    expected = net.forward_intermediates(X, indices=[1], intermediates_only=True)[0]
    assert net.prune_intermediate_layers([0, 1]) == [0, 1]
    assert len(net.stages) == 2 and net.head is None
    torch.testing.assert_close(net(X), expected)


def test_the_only_stage_that_pruning_leaves_is_still_one_level() -> None:
    net: Any = zoo.create(NET, {"depths": [3, 1, 1, 1], "dims": [8, 16, 24, 32]})
    nn.init.ones_(net.stages[0].layers[2].get_parameter("0.scale"))
    expected = net.forward_intermediates(X, indices=[0], intermediates_only=True)[0]
    part: Any = zoo.create(net.spec, features_only=True, out_indices=[0], weights=net.state_dict())
    assert torch.equal(part(X)[0], expected)
    assert part.num_levels == 1 and part.feature_info.module_name() == ["stages.0"]


def test_reductions_are_those_of_the_strides_where_sizes_are_rounded() -> None:
    model = zoo.create("efficientvit_m0", device="meta")
    assert model.feature_info.reduction() == [16, 32, 64]
    assert model.pretrained_cfg["pool_size"] == (4, 4)


def test_pruning_a_transformer_cuts_layers(vit: Any) -> None:
    assert vit.prune_intermediate_layers(1) == [3]
    assert vit.prune_intermediate_layers([1]) == [1]
    assert len(vit.stages[0].layers) == 2


def test_features_only_of_a_transformer_gives_maps_of_its_last_layers() -> None:
    model = zoo.create("vit_tiny_patch16_224", VIT, features_only=True)
    assert [tuple(level.shape) for level in model(X)] == [(2, 64, 4, 4)] * 3
    assert model.feature_info.channels() == [64] * 3
    assert model.feature_info.reduction() == [16] * 3
    assert model.feature_info.module_name() == [f"stages.0.layers.{i}" for i in (1, 2, 3)]


def test_feature_info_speaks_as_timm_does(net: Any) -> None:
    info = net.feature_info
    assert info.channels() == [8, 16, 24, 32]
    assert info.reduction(-1) == 32
    assert info.module_name([0, 2]) == ["stages.0", "stages.2"]
    assert info[1]["num_chs"] == 16
    assert info.get_dicts(["reduction"], 0) == [{"reduction": 4}]
    assert len(info) == 4


def test_features_only_keeps_the_names_of_the_state() -> None:
    whole, part = zoo.create(NET, SMALL), zoo.create(NET, SMALL, features_only=True, out_indices=[0, 2])
    assert part.state_dict().keys() < whole.state_dict().keys()
    again = zoo.create(NET, SMALL, features_only=True, out_indices=[0, 2], weights=whole.state_dict())
    torch.testing.assert_close(again(X)[1], whole.forward_intermediates(X, [2], intermediates_only=True)[0])


def test_a_new_classifier_leaves_the_rest(net: Any) -> None:
    before = net.forward_features(X)
    kept = copy.deepcopy(net.head.norm.state_dict())
    net.reset_classifier(7, "max")
    assert (net.num_classes, net.spec.num_classes, net.head.pool) == (7, 7, "max")
    assert net(X).shape == (2, 7)
    assert torch.equal(net.forward_features(X), before)
    assert all(torch.equal(kept[name], value) for name, value in net.head.norm.state_dict().items())
    net.reset_classifier(0)
    assert (net(X).shape, net.get_classifier()) == ((2, 32), None)
    net.reset_classifier(3, "avg")
    assert net(X).shape == (2, 3)


def test_a_new_classifier_leaves_parameters_the_objects_that_they_are(net: Any) -> None:
    norm = net.head.norm.weight.requires_grad_(False)
    net.reset_classifier(7)
    assert net.head.norm.weight is norm and not norm.requires_grad
    assert net.get_classifier().weight.requires_grad


@pytest.mark.parametrize("name", ["efficientvim_m1_dist", "starnet_s050"])
def test_every_last_layer_is_drawn_anew(name: str) -> None:
    model: Any = zoo.create(name)
    before = {key: value.clone() for key, value in model.head.state_dict().items() if key.endswith("weight")}
    model.reset_classifier(1000)
    for key, value in model.head.state_dict().items():
        if key.startswith("classifier") and key.endswith("weight"):
            assert not torch.equal(value, before[key]), key


CHANGED = (
    "expected the layers of its spec; found a model that was deployed, pruned or changed by hand; next: do it before"
)


def test_a_deployed_head_cannot_change_its_classes() -> None:
    deployed = zoo.deploy(zoo.create("starnet_s050"))
    with pytest.raises(InputError, match=CHANGED):
        deployed.reset_classifier(7)
    deployed.reset_classifier(0, "")
    assert deployed(X).ndim == 4


def test_a_pruned_model_gets_no_classifier(net: Any) -> None:
    net.prune_intermediate_layers([1])
    with pytest.raises(InputError, match=CHANGED):
        net.reset_classifier(7)


def test_new_classes_have_no_names_of_old_ones() -> None:
    model = zoo.create("vim_nano", pretrained=True)
    model.reset_classifier(10)
    with pytest.raises(InputError, match="found a model of 10 classes without weights that name them"):
        zoo.labels(model)


def test_a_new_classifier_has_the_dtype_and_mode_of_the_model(net: Any) -> None:
    net.train().double().reset_classifier(3)
    assert net.get_classifier().weight.dtype == torch.float64 and net.head.training


def test_the_digest_follows_the_classifier(net: Any) -> None:
    before = net.digest
    net.reset_classifier(7)
    assert net.digest == zoo.create(NET, SMALL, num_classes=7, device="meta").digest != before


@pytest.mark.parametrize(("name", "changes"), [("vit_tiny_patch16_224", VIT), (NET, SMALL)])
def test_another_input_size_resamples_the_tables(name: str, changes: dict[str, Any]) -> None:
    model = zoo.create(name, changes)
    model.set_input_size(96)
    assert model.spec.input.size == 96
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)
    assert (
        model.state_dict().keys() == zoo.create(name, changes | {"input.size": 96}, device="meta").state_dict().keys()
    )


def test_another_input_size_of_shifted_windows() -> None:
    model = zoo.create("swin_tiny_patch4_window7_224", SWIN)
    model.set_input_size(256)
    assert model(torch.zeros(1, 3, 256, 256)).shape == (1, 1000)


def test_another_size_leaves_parameters_the_objects_that_they_are(vit: Any) -> None:
    vit.head.norm.weight.requires_grad_(False)
    vit.get_parameter("stages.0.view.pos_embed").requires_grad_(False)
    before = dict(vit.named_parameters())
    vit.set_input_size((96, 64))
    changed = [name for name, parameter in vit.named_parameters() if parameter is not before[name]]
    assert changed == ["stages.0.view.pos_embed"]
    assert [parameter.requires_grad for parameter in vit.parameters()] == [p.requires_grad for p in before.values()]
    assert vit(torch.zeros(1, 3, 96, 64)).shape == (1, 1000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_size_keeps_the_dtype(vit: Any, dtype: torch.dtype) -> None:
    vit.to(dtype).set_input_size(96)
    assert {parameter.dtype for parameter in vit.parameters()} == {dtype}
    assert vit(torch.zeros(1, 3, 96, 96, dtype=dtype)).shape == (1, 1000)


def test_a_model_without_memory_takes_another_size() -> None:
    model: Any = zoo.create("vit_tiny_patch16_224", VIT, device="meta")
    model.set_input_size(96)
    assert model(torch.zeros(1, 3, 96, 96, device="meta")).shape == (1, 1000)


def test_a_deployed_model_cannot_take_another_size(net: Any) -> None:
    net.prune_intermediate_layers(2, prune_head=False)
    net.stages = net.stages[:3]
    with pytest.raises(InputError, match="expected the layers of its spec; found a model that was deployed, pruned"):
        net.set_input_size(96)


def test_checkpointing_gives_the_same_gradients(net: Any) -> None:
    def gradients() -> list[torch.Tensor]:
        net.zero_grad()
        net(X).sum().backward()
        return [parameter.grad.clone() for parameter in net.parameters()]

    net.train()
    expected = gradients()
    net.set_grad_checkpointing()
    assert all(stage.grad_checkpointing for stage in net.stages)
    for found, wanted in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_drop_rates_reach_the_blocks_that_drop() -> None:
    model = zoo.create("vit_tiny_patch16_224", VIT, attn_drop_rate=0.1, proj_drop_rate=0.2)
    attention, mlp = (model.get_submodule(f"stages.0.layers.0.{branch}.1") for branch in (0, 1))
    assert (attention.attn_drop, attention.proj_drop, mlp.proj_drop) == (0.1, 0.2, 0.2)
    model.train()
    assert not torch.equal(model(X), model(X))
    assert torch.equal(model.eval()(X), model(X))


@pytest.mark.parametrize("rate", ["drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate"])
def test_a_rate_of_dropping_changes_no_digest(rate: str) -> None:
    plain, dropping = (zoo.create("vit_tiny_patch16_224", device="meta", **{rate: share}) for share in (0.0, 0.3))
    assert dropping.digest == plain.digest == zoo.info("vit_tiny_patch16_224").digest
    assert dropping.spec != plain.spec


def test_a_model_without_attention_drops_no_attention_weights() -> None:
    with pytest.raises(InputError, match="expected a model with a block that drops there"):
        zoo.create(NET, SMALL, attn_drop_rate=0.1)


def test_tables_of_positions_do_not_decay(vit: Any) -> None:
    assert vit.no_weight_decay() == {"stages.0.view.cls_token", "stages.0.view.pos_embed"}
    assert "stages.0.layers.0.1.1.D" in zoo.create("efficientvim_m1", device="meta").no_weight_decay()
    assert zoo.create("vim_nano", device="meta").no_weight_decay() > {"stages.0.layers.0.0.1.A_log"}


def test_timm_groups_our_parameters_by_depth(net: Any, timm: types.ModuleType) -> None:
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    groups = param_groups_layer_decay(net, weight_decay=0.05, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    scales = sorted({group["lr_scale"] for group in groups})
    assert scales[-1] == 1.0 and scales[0] == 0.5 ** (len(scales) - 1)
    assert len(param_groups_weight_decay(net, 0.05, no_weight_decay_list=net.no_weight_decay())) == 2


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_tiny", "swin_tiny_patch4_window7_224"])
def test_depths_are_those_of_timm(name: str, timm: types.ModuleType) -> None:
    """The groups by the number of weights in matrices at each learning rate, from stem to head, which is what names share."""
    from timm.optim import param_groups_layer_decay

    def decaying(groups: list[dict[str, Any]]) -> dict[float, int]:
        chosen = [group for group in groups if group["weight_decay"]]
        return {round(group["lr_scale"], 6): sum(p.numel() for p in group["params"] if p.ndim > 1) for group in chosen}

    with torch.device("meta"):
        theirs = timm.create_model(name)
    ours = zoo.create(name, device="meta")
    never = theirs.no_weight_decay() if hasattr(theirs, "no_weight_decay") else ()
    expected = decaying(param_groups_layer_decay(theirs, 0.05, never, layer_decay=0.7))
    assert decaying(zoo.param_groups(ours, 0.05, 0.7)) == expected
    assert decaying(param_groups_layer_decay(ours, 0.05, ours.no_weight_decay(), layer_decay=0.7)) == expected


def test_tokens_and_positions_of_a_transformer_learn_as_slowly_as_its_stem(vit: Any, timm: types.ModuleType) -> None:
    from timm.optim import param_groups_layer_decay

    for groups in (zoo.param_groups(vit, layer_decay=0.5), param_groups_layer_decay(vit, layer_decay=0.5)):
        scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
        names = ("stem.0.conv.weight", "stages.0.view.cls_token", "stages.0.view.pos_embed")
        assert {scale[id(vit.get_parameter(name))] for name in names} == {min(scale.values())}


def test_our_groups_hold_every_parameter_once_and_slow_down_with_depth(net: Any) -> None:
    groups = zoo.param_groups(net, weight_decay=0.1, layer_decay=0.5, lr=1.0)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, net.parameters()))
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    names = [f"stages.{i}.layers.{j}.0.2.fc1.weight" for i, j in ((0, 0), (1, 0), (1, 1), (2, 0), (3, 0))]
    layers = [rate[id(net.get_parameter(name))] for name in names]
    assert layers == [0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5]
    assert rate[id(net.get_parameter("stem.0.conv.weight"))] == 0.5**6
    assert rate[id(net.head.classifier.weight)] == 1.0
    torch.optim.AdamW(groups)


def test_timm_reads_our_data_configuration(net: Any, timm: types.ModuleType) -> None:
    from timm.data import create_transform, resolve_model_data_config

    config = resolve_model_data_config(net)
    assert config["input_size"] == (3, 224, 224)
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert create_transform(**config, is_training=False) is not None
    assert net.pretrained_cfg["classifier"] == "head.classifier"
    assert net.default_cfg["first_conv"] == "stem.0.conv"
    assert net.default_cfg["pool_size"] == (7, 7)


def test_pictures_are_prepared_for_the_model_that_was_asked_for() -> None:
    picture = torch.rand(3, 50, 70)
    for asked in ({"img_size": 48}, {"in_chans": 3}, {"img_size": (48, 32)}, {}):
        model: Any = zoo.create("vim_nano", pretrained=True, **asked)
        assert model(zoo.transform(model)(picture)).shape == (1, 10)
        assert model.pretrained_cfg["input_size"] == tuple(zoo.transform(model)(picture).shape[1:])
    model.set_input_size(64)
    assert model(zoo.transform(model)(picture)).shape == (1, 10)
    assert zoo.transform(model).preprocess.mean == (0.3,)


def test_a_model_survives_copying_and_pickling(net: Any) -> None:
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(X), net(X))
        assert twin.digest == net.digest
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(X), net(X))


def test_saving_and_loading_goes_there_and_back(net: Any, tmp_path: pathlib.Path) -> None:
    zoo.save(net, tmp_path / "net.safetensors")
    other = zoo.load(zoo.create(NET, SMALL), tmp_path / "net.safetensors")
    assert torch.equal(other(X), net(X))
    third = zoo.create(NET, SMALL, checkpoint_path=tmp_path / "net.safetensors")
    assert torch.equal(third(X), net(X))


def test_loading_keeps_parameters_and_their_memory(net: Any) -> None:
    weights, before = zoo.create(NET, SMALL).state_dict(), dict(net.named_parameters())
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    zoo.load(net, weights)
    assert all(parameter is before[name] for name, parameter in net.named_parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in net.named_parameters())
    assert net.get_parameter("stem.0.conv.weight").is_contiguous(memory_format=torch.channels_last)


def test_labels_come_with_the_weights() -> None:
    assert zoo.labels("vim_nano") == [str(digit) for digit in range(10)]
    assert zoo.labels(zoo.create("vim_nano", pretrained=True))[3] == "3"
    assert len(zoo.labels(NET)) == 1000
    with pytest.raises(
        InputError, match="expected weights with the names of their classes; found a model of 5 classes"
    ):
        zoo.labels(zoo.create(NET, SMALL, num_classes=5))


def test_levels_of_a_stem_are_levels_like_others() -> None:
    net: Any = zoo.create("resnet50", {"depths": [1, 1, 1, 1]}, features_only=True, out_indices=(0, 2))
    assert [tuple(y.shape[1:]) for y in net(X)] == [(64, 32, 32), (512, 8, 8)]
    assert net.feature_info.module_name() == ["stem.0", "stages.1"] and len(net.stages) == 2
    assert net.prune_intermediate_layers([0]) == [0]
    assert [name for name, _ in net.parts()] == ["stem.0"]
    assert zoo.create("mobilenetv4_conv_small", device="meta").feature_info.reduction() == [2, 4, 8, 16, 32]


def test_blocks_inside_levels_hear_of_the_pass() -> None:
    net: Any = zoo.create("efficientvim_nano")
    heard: list[bool] = []
    for module in net.modules():
        if getattr(type(module), "takes_ctx", False):
            module.register_forward_pre_hook(
                lambda module, given: heard.append(len(given) > 1 and given[1] is not None)
            )
    with torch.no_grad():
        net.forward_intermediates(torch.zeros(1, 1, 32, 32))
    assert heard and all(heard)


def test_features_carry_what_the_head_reads() -> None:
    model: Any = zoo.create("efficientvim_nano")
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.forward_head(model.forward_features(x)), model(x))
        assert torch.equal(model.forward_head(model.forward_intermediates(x)[0]), model(x))


@pytest.mark.parametrize(("name", "fixed"), [("gmlp_nano", True), ("vim_nano", True), ("starnet_nano", False)])
def test_the_config_tells_whether_a_size_is_fixed(name: str, fixed: bool) -> None:
    config = zoo.create(name, device="meta").default_cfg
    assert config["fixed_input_size"] is fixed
    assert config.get("min_input_size") == ((1, 32, 32) if fixed else None)


def test_the_config_names_every_layer_that_makes_logits() -> None:
    model: Any = zoo.create("efficientvim_nano", device="meta")
    names = model.default_cfg["classifier"]
    assert len(names) > 1 and all(f"{name}.weight" in model.state_dict() for name in names)
