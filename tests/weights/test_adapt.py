"""A published state dict is made to fit a changed model, tensor by tensor, and the report says how."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.errors import WeightsError
from zoo.weights.adapt import adapt
from zoo.weights.load import load_state


def header(**shapes: tuple[int, ...]) -> dict:
    return {name.replace("__", "."): (shape, torch.float32) for name, shape in shapes.items()}


def tensors(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name.replace("__", "."): torch.randn(shape) for name, shape in shapes.items()}


def actions(report) -> dict[str, str]:
    return {change.name: change.action for change in report.changes}


def refusal(published: dict, wanted: dict, **options) -> list[str]:
    with pytest.raises(WeightsError) as caught:
        adapt(published, wanted, subject="net", **options)
    return [f"{problem.where}: {problem.sentence()}" for problem in caught.value.problems]


def test_an_unchanged_model_keeps_everything():
    published = tensors(stem__w=(2, 3), head__w=(4, 2))
    result, report = adapt(published, header(stem__w=(2, 3), head__w=(4, 2)), subject="net")
    assert result == published and report.names("kept") == ["stem.w", "head.w"]
    assert str(report) == "net: 2 tensors kept, 0 changed"


def test_another_number_of_classes_drops_the_classifier_only():
    published = tensors(head__fc1__weight=(8, 4), head__fc2__weight=(1000, 8), head__fc2__bias=(1000,))
    wanted = header(head__fc1__weight=(8, 4), head__fc2__weight=(10, 8), head__fc2__bias=(10,))
    result, report = adapt(published, wanted, subject="net.in1k")
    assert list(result) == ["head.fc1.weight"]
    assert str(report) == (
        "net.in1k: 1 tensors kept, 4 changed\n"
        "  new        head.fc2.weight  (10, 8) of the changed head\n"
        "  dropped    head.fc2.weight  the published tensor has shape (1000, 8)\n"
        "  new        head.fc2.bias    (10,) of the changed head\n"
        "  dropped    head.fc2.bias    the published tensor has shape (1000,)"
    )


def test_a_head_without_classifier_drops_its_tensors():
    result, report = adapt(tensors(a=(1,), head__weight=(5, 2)), header(a=(1,)), subject="net")
    assert list(result) == ["a"] and report.names("dropped") == ["head.weight"]


def test_one_channel_takes_the_sum_of_the_kernel():
    published = tensors(stem__conv__weight=(4, 3, 7, 7))
    result, report = adapt(published, header(stem__conv__weight=(4, 1, 7, 7)), subject="net")
    image = torch.randn(1, 1, 9, 9)
    whole = nn.functional.conv2d(image.expand(1, 3, 9, 9), published["stem.conv.weight"])
    torch.testing.assert_close(nn.functional.conv2d(image, result["stem.conv.weight"]), whole)
    assert actions(report) == {"stem.conv.weight": "summed"}


@pytest.mark.parametrize("channels", [2, 4, 6, 12])
def test_other_channels_repeat_and_rescale_the_kernel(channels):
    published = tensors(stem__conv__weight=(4, 3, 7, 7))
    result, report = adapt(published, header(stem__conv__weight=(4, channels, 7, 7)), subject="net")
    expected = published["stem.conv.weight"].repeat(1, 4, 1, 1)[:, :channels] * 3 / channels
    torch.testing.assert_close(result["stem.conv.weight"], expected)
    assert actions(report) == {"stem.conv.weight": "repeated"}


def test_a_repeated_kernel_answers_equal_channels_as_before():
    published = tensors(stem__weight=(4, 3, 3, 3))
    result, _ = adapt(published, header(stem__weight=(4, 6, 3, 3)), subject="net")
    torch.testing.assert_close(result["stem.weight"].sum(1), published["stem.weight"].sum(1))


def test_a_kernel_elsewhere_is_not_a_stem():
    assert refusal(tensors(stages__0__weight=(4, 3, 3, 3)), header(stages__0__weight=(4, 1, 3, 3))) == [
        "stages.0.weight: expected float32 (4, 1, 3, 3); found float32 (4, 3, 3, 3), which no rule adapts; "
        "next: name its block in `swapped` to start it anew, or give the block a method `resize_table`"
    ]


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("batch", [(), (1,)])
def test_a_position_table_is_resampled_and_keeps_its_class_token(tokens, batch):
    published = tensors(pos_embed=(*batch, 49 + tokens, 6))
    result, report = adapt(published, header(pos_embed=(*batch, 100 + tokens, 6)), subject="net")
    old, new = (t.reshape(-1, 6) for t in (published["pos_embed"], result["pos_embed"]))
    assert torch.equal(new[:tokens], old[:tokens])
    image = nn.functional.interpolate(
        old[tokens:].T.reshape(1, 6, 7, 7), size=(10, 10), mode="bicubic", antialias=True, align_corners=False
    )
    torch.testing.assert_close(new[tokens:], image.reshape(6, 100).T)
    assert actions(report) == {"pos_embed": "resampled"}


def test_a_constant_table_stays_constant():
    result, _ = adapt({"pos": torch.full((16, 2), 3.0)}, header(pos=(81, 2)), subject="net")
    torch.testing.assert_close(result["pos"], torch.full((81, 2), 3.0))


def test_a_square_relative_table_is_resampled():
    published = tensors(attn__relative_bias=(13 * 13, 3))
    result, _ = adapt(published, header(attn__relative_bias=(27 * 27, 3)), subject="net")
    assert result["attn.relative_bias"].shape == (729, 3)


def test_a_table_that_is_not_square_is_refused():
    assert "which no rule adapts" in refusal(tensors(pos_embed=(50, 3)), header(pos_embed=(48, 3)))[0]


def test_a_matrix_of_another_width_is_no_table():
    assert "which no rule adapts" in refusal(tensors(fc__weight=(16, 3)), header(fc__weight=(25, 3)))[0]


class Table(nn.Module):
    """A class token in the middle: only the block itself knows how to resize its table."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.zeros(length, 2))
        self.other = nn.Parameter(torch.zeros(length))

    def resize_table(self, name, tensor, expected_shape):
        return tensor[:1].expand(expected_shape) if name == "pos" else None


def test_a_block_resizes_its_own_table():
    with torch.device("meta"):
        model = nn.Sequential(Table(4))
    published = {"0.pos": torch.ones(9, 2), "0.other": torch.ones(4)}
    result, report = adapt(published, header(**{"0.pos": (4, 2), "0.other": (4,)}), subject="net", model=model)
    assert torch.equal(result["0.pos"], torch.ones(4, 2)) and report.names("resampled") == ["0.pos"]


def test_a_table_of_the_wrong_shape_from_a_block_is_not_taken():
    model = nn.Sequential(Table(4))
    model[0].resize_table = lambda name, tensor, expected_shape: tensor
    assert "which no rule adapts" in refusal({"0.pos": torch.ones(9, 3)}, header(**{"0.pos": (4, 2)}), model=model)[0]


def test_a_block_may_decline():
    model = nn.Sequential(Table(4))
    wanted = header(**{"0.pos": (4, 2), "0.other": (4,)})
    published = {"0.pos": torch.ones(4, 2), "0.other": torch.ones(5)}
    assert "which no rule adapts" in refusal(published, wanted, model=model)[0]


def test_a_swapped_block_is_dropped_and_new_even_where_names_agree():
    published = tensors(s__mixer__proj=(2, 2), s__mixer__qkv=(6, 2), s__norm=(2,))
    wanted = header(s__mixer__proj=(2, 2), s__mixer__in_proj=(4, 2), s__norm=(2,))
    result, report = adapt(published, wanted, subject="net", swapped=["s.mixer."])
    assert list(result) == ["s.norm"]
    assert report.names("new") == ["s.mixer.proj", "s.mixer.in_proj"]
    assert report.names("dropped") == ["s.mixer.proj", "s.mixer.qkv"]


def test_a_difference_outside_every_rule_is_an_error_on_both_sides():
    assert refusal(tensors(a__weight=(2,)), header(a__wieght=(2,))) == [
        "a.wieght: expected float32 (2,); found none; nearest `a.weight`",
        "a.weight: a tensor that the changed model does not have; nearest `a.wieght`",
    ]


def test_new_tensors_are_initialised_by_the_caller_and_kept_by_the_load():
    published = {
        "0.weight": torch.ones(3, 2),
        "0.bias": torch.ones(3),
        "1.weight": torch.ones(9, 3),
        "1.bias": torch.ones(9),
    }
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    own = model[1].weight.detach().clone()
    wanted = {name: (t.shape, t.dtype) for name, t in model.state_dict().items()}
    result, report = adapt(published, wanted, subject="net", head=["1."])
    load_state(model, result, "net", keep=report.names("new"))
    assert torch.equal(model[1].weight, own) and torch.equal(model[0].weight, torch.ones(3, 2))
