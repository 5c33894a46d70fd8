"""Tables of positions follow the picture to any rows and columns, from the grid that the model was built for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import blocks
import zoo
from zoo.errors import InputError, WeightsError
from zoo.testing.block_cases import Subject
from zoo.weights.adapt import adapt
from zoo.weights.load import expected_header

KEY, SIDE, PATCH = "stem.1.pos_embed", 8, 4
VIT = {"block": "tokens", "cls_token": "first", "positions": True, "keep": "cls"}
SIZES = [(64, 16), (16, 64), (32, 36), (48, 16), (36, 16), (20, 12), (64, 32), (4, 4)]


def small_vit(img_size: int | tuple[int, int] = 32) -> zoo.Backbone:
    """A transformer of two layers with a class token, for pictures in patches of 4 x 4."""
    torch.manual_seed(0)
    return zoo.create("vit_tiny_patch16_224", overrides=edits(img_size))


def edits(img_size: int | tuple[int, int]) -> dict:
    size = img_size if isinstance(img_size, int) else list(img_size)
    stem = {"block": "conv_stack", "convs": [{"kernel_size": 4, "stride": 4}]}
    return {"input.size": size, "dims": [64], "depths": [2], "stem": stem, "num_classes": 10}


def resampled(table: torch.Tensor, old: tuple[int, int], new: tuple[int, int], extra: int = 0) -> torch.Tensor:
    """The formula, row by row of the picture."""
    grid = table[:, extra:].unflatten(1, old).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode="bicubic", antialias=True)
    return torch.cat([table[:, :extra], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


@pytest.mark.parametrize("size", SIZES)
def test_a_table_goes_to_exactly_the_new_rows_and_columns(size: tuple[int, int]) -> None:
    model = zoo.create("linear_vit_nano")
    before = model.state_dict()[KEY].clone()
    model.set_input_size(size)
    new = (size[0] // PATCH, size[1] // PATCH)
    torch.testing.assert_close(model.state_dict()[KEY], resampled(before, (SIDE, SIDE), new))
    assert model(torch.randn(2, 1, *size)).shape == (2, 10)


@pytest.mark.parametrize("size", [(64, 16), (32, 36), (36, 16)])
def test_a_table_goes_on_from_a_grid_that_is_not_square(size: tuple[int, int]) -> None:
    model = small_vit()
    model.set_input_size(size)
    before = model.stages[0].view.pos_embed.detach().clone()
    model.set_input_size((16, 64))
    expected = resampled(before, (size[0] // 4, size[1] // 4), (4, 16), extra=1)
    torch.testing.assert_close(model.stages[0].view.pos_embed.detach(), expected)


def test_a_constant_table_comes_back_as_it_was() -> None:
    model = zoo.create("moe_vit_nano")
    with torch.no_grad():
        model.state_dict()[KEY].fill_(0.5)
    for size in ((64, 16), (20, 36), 32):
        model.set_input_size(size)
    torch.testing.assert_close(model.state_dict()[KEY], torch.full((1, 64, model.spec.dims[0]), 0.5))


@pytest.mark.parametrize("size", [(64, 16), (32, 36), 48])
def test_published_weights_are_resampled_from_the_published_grid(size: int | tuple[int, int]) -> None:
    name = "linear_vit_nano.digits"
    published = zoo.create(name).state_dict()[KEY]
    model = zoo.create(name, img_size=size)
    new = (size // 4, size // 4) if isinstance(size, int) else (size[0] // 4, size[1] // 4)
    torch.testing.assert_close(model.state_dict()[KEY], resampled(published, (SIDE, SIDE), new))
    assert model.adapt_report.names("resampled") == [KEY]


def test_a_checkpoint_of_the_published_size_is_resampled_and_one_of_the_new_size_is_not(tmp_path) -> None:
    whole, path = zoo.create("linear_vit_nano"), tmp_path / "net.safetensors"
    zoo.save(whole, path)
    model = zoo.create("linear_vit_nano", img_size=(48, 16), weights=path)
    torch.testing.assert_close(model.state_dict()[KEY], resampled(whole.state_dict()[KEY], (8, 8), (12, 4)))
    zoo.save(model, path)
    again = zoo.create("linear_vit_nano", img_size=(48, 16), weights=path)
    assert torch.equal(again.state_dict()[KEY], model.state_dict()[KEY])


def test_a_checkpoint_that_fits_neither_size_is_refused_as_before(tmp_path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(zoo.create("linear_vit_nano", img_size=20).state_dict(), path)  # which does not say of what size it is
    with pytest.raises(
        WeightsError, match=r"stem\.1\.pos_embed\n +expected float32 \(1, 144, \d+\); found float32 \(1, 25"
    ):
        zoo.create("linear_vit_nano", img_size=48, weights=path)


def adapted(old: torch.nn.Module, new: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    return adapt(old.state_dict(), expected_header(new), subject="net", model=new, before=old)[0]


def test_relative_biases_go_to_windows_of_another_side() -> None:
    old, new = (blocks.get("window_attention")(32, window=4, head_dim=8, input_size=(s, s)) for s in (8, 3))
    table = old.relative_position_bias_table[None]
    expected = resampled(table, (7, 7), (5, 5))[0]
    torch.testing.assert_close(adapted(old, new)["relative_position_bias_table"], expected)


def test_biases_of_distances_go_to_windows_of_another_side() -> None:
    old, new = (blocks.get("cascaded_group_attention")(64, window=7, input_size=(s, s)) for s in (7, 4))
    torch.nn.init.normal_(old.relative_bias)
    expected = resampled(old.relative_bias.T[None], (7, 7), (4, 4))[0].T
    torch.testing.assert_close(adapted(old, new)["relative_bias"], expected)


def test_positions_of_a_row_are_not_taken_for_a_grid() -> None:
    old, new = (blocks.get("position_embedding")(8, input_size=(length,)) for length in (16, 64))
    with pytest.raises(WeightsError, match="which no rule adapts"):
        adapted(old, new)


class Timm(torch.nn.Module):
    """What timm's transformers tell of their grids."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.patch_embed = torch.nn.Identity()
        self.patch_embed.grid_size = (rows, columns)
        self.pos_embed = torch.nn.Parameter(torch.randn(1, 2 + rows * columns, 4))


def test_the_grid_of_a_foreign_model_is_the_one_it_tells() -> None:
    old, new = Timm(6, 6), Timm(12, 3)
    torch.testing.assert_close(adapted(old, new)["pos_embed"], resampled(old.pos_embed, (6, 6), (12, 3), extra=2))


@pytest.mark.parametrize("name", ["gmlp_nano", "mambamixer_nano"])
def test_weights_of_one_grid_are_not_taken_for_those_of_another_of_as_many_cells(name: str, tmp_path) -> None:
    message = r"expected weights of 16 x 4 positions; found weights of 8 x 8 positions; next: a picture size"
    with pytest.raises(WeightsError, match=message):
        zoo.create(f"{name}.digits", img_size=(64, 16))
    model = zoo.create(name)
    with pytest.raises(WeightsError, match=message):
        model.set_input_size((64, 16))
    with pytest.raises(
        InputError, match=r"expected pictures of 32 x 32; found 64 x 16; next: create it with `img_size=\(64, 16\)`"
    ):
        model(torch.zeros(1, 1, 64, 16))
    zoo.save(model, tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match="img_size\n +expected .*, as asked; found 32 in "):
        zoo.create(name, img_size=(64, 16), weights=tmp_path / "net.safetensors")
    assert zoo.create(name, img_size=(64, 16))(torch.zeros(1, 1, 64, 16)).shape == (1, 10)


def test_every_block_with_a_weight_for_each_position_knows_its_grid() -> None:
    """8 x 2 cells are as many as 4 x 4: who has a tensor of their number resamples it, or says that it cannot.

    Blocks of sequences have a length and no grid.
    """
    silent = []
    for name in blocks.list_blocks():
        info = blocks.registry.describe(name)
        if "input_size" not in info.supplied or "1d" in info.abilities:
            continue
        nets = [Sized(name, size).build("image", device="meta") for size in ((4, 4), (8, 2), (4, 2))]
        shapes = [{key: tensor.shape for key, tensor in net.state_dict().items()} for net in nets]
        if shapes[0] == shapes[1] != shapes[2]:
            owners = [module for module in nets[0].modules() if hasattr(module, "resize_table")]
            silent += [] if owners or getattr(nets[0], "one_grid", False) else [name]
    assert silent == []


class Sized(Subject):
    """A block for maps of one size."""

    def __init__(self, name: str, map_size: tuple[int, int]):
        super().__init__(name)
        self.map_size = map_size

    def size(self, form: str) -> tuple[int, int]:
        return self.map_size
