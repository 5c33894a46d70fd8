"""Subjects are made from the schema of a block alone, whatever its kind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import blocks
from zoo.testing.block_cases import example, perturbed, tensors
from zoo.testing.conformance import check_block
from zoo.testing.outcomes import FAILED, OK


class Halves(nn.Module):
    """A stem or downsample: (B, C, H, W) -> (B, out_dim, H/2, W/2)."""

    def __init__(self, dim: int, out_dim: int):
        nn.Module.__init__(self)
        self.out_dim = out_dim
        self.conv = nn.Conv2d(dim, out_dim, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Classes(nn.Module):
    def __init__(self, dim: int, num_classes: int):
        nn.Module.__init__(self)
        self.fc = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class Widens(nn.Module):
    def __init__(self, dim: int, out_dim: int, *, bias: bool):
        nn.Module.__init__(self)
        self.out_dim = out_dim
        self.fc = nn.Linear(dim, out_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.ndim == 3 else self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Tokens(nn.Module):
    """A view: an image as tokens behind a class token."""

    def __init__(self, dim: int):
        nn.Module.__init__(self)
        self.cls = nn.Parameter(torch.zeros(dim))

    def enter(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cat([self.cls.expand(len(x), 1, -1), tokens], 1), (x.shape[2], x.shape[3])

    def exit(self, y: Tensor, memo: tuple[int, int]) -> Tensor:
        return y[:, 1:].unflatten(1, memo).permute(0, 3, 1, 2)


class Chooses(nn.Module):
    """A router: weights and indices of the two best of `num_experts`."""

    def __init__(self, dim: int, *, num_experts: int):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.empty(num_experts, dim).normal_())

    def forward(self, x: Tensor, ctx: blocks.Context | None = None) -> tuple[Tensor, Tensor]:
        top = (x @ self.weight.t()).softmax(-1).topk(2)
        return top.values, top.indices


class Looks(nn.Module):
    """A table of tokens."""

    def __init__(self, dim: int, *, vocab_size: int):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.empty(vocab_size, dim).normal_())

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids]


@pytest.mark.parametrize(
    ("cls", "kind", "layout", "abilities"),
    [
        (Halves, "stem", "BCHW", ("any_resolution",)),
        (Halves, "downsample", "BCHW", ("any_resolution",)),
        (Classes, "head", "BCHW", ("any_resolution",)),
        (Widens, "linear", "any", ("causal", "noncausal")),
        (Tokens, "view", "BCHW", ("any_resolution",)),
        (Chooses, "router", "BLC", ("causal", "1d")),
        (Looks, "embed", "BLC", ("1d", "any_resolution")),
    ],
)
def test_a_subject_of_each_kind_is_made_from_its_schema_alone(registered, cls, kind, layout, abilities):
    results = check_block(registered(cls, kind, layout, abilities))
    assert [result for result in results if result.outcome == FAILED] == []
    assert {result.check for result in results if result.outcome == OK} >= {"shape", "gradient", "loading", "meta"}


class Blend(nn.Module):
    """Has required integers that only some values satisfy."""

    def __init__(self, dim: int, *, heads: int, act: blocks.Act | None):
        nn.Module.__init__(self)
        if dim % heads:
            raise ValueError(f"{dim} channels do not divide into {heads} heads")
        self.act = act(dim) if act else None


def test_required_parameters_are_made_up_until_the_block_builds(registered):
    assert registered(Blend).call["heads"] == 4


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 3),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMaximum": 3}, 2),
        ({"type": "integer", "multipleOf": 8}, 8),
        ({"type": "number", "exclusiveMinimum": 0}, 1.0),
        ({"type": "number", "maximum": 0.5}, 0.5),
        ({"type": "boolean"}, False),
        ({"enum": ["sum", "concat"]}, "sum"),
        ({"anyOf": [{"const": "none"}, {"type": "integer"}]}, 3),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 4}, [3, 3, 3, 3]),
        ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}, {"a": 3}),
        ({"$ref": "#/$defs/call"}, "mlp"),
    ],
)
def test_an_example_meets_its_schema(schema, value):
    assert example(schema, 3, "token_mixer") == value


def test_a_wiring_is_given_a_norm_and_a_mixer():
    slots = {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/call"}, {"const": "none"}]}, "minItems": 1}
    assert example(slots, 3, "wiring") == ["layer_norm", "mlp"]


def test_perturbing_moves_zero_scales_and_keeps_variances_positive():
    norm = perturbed(nn.BatchNorm2d(4))
    assert norm.bias.abs().min() > 0
    assert norm.running_var.min() >= 0.5


def test_the_tensors_of_a_struct_are_found():
    a, b = torch.zeros(1), torch.ones(1)
    assert [t.item() for t in tensors({"a": (a, 3), "b": [b, None]})] == [0.0, 1.0]
