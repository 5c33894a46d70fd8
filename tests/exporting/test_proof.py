"""What a graph is held to: float64 where the net is steady, other inputs where it sits on an edge, the net itself where it never is steady."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import InputError
from zoo.exporting.ports import Port, Ports
from zoo.exporting.proof import BOUND, CEILING, prove
from zoo.exporting.table import EDGES, ILL, remark

Run = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


class Step(nn.Module):
    """Every row one more or one less, by the sign of its sum."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.sum(-1, keepdim=True) >= 0, x + 1, x - 1)


class Cancelling(nn.Module):
    """x, of which float32 keeps three digits."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 4e4) - 4e4


def ports(example: Tensor) -> Ports:
    return Ports((Port("x", example, {}),), ("y",))


def test_inputs_on_an_edge_do_not_decide() -> None:
    on_edge = torch.tensor([[1.0, -1.0], [2.0, 1.0]])

    def other_side(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x,) = inputs
        return (torch.where(x.sum(-1, keepdim=True) > 0, x + 1, x - 1),)

    proof = prove(other_side, Step(), ports(on_edge), "net")
    assert proof.is_edgy and proof.error < 1e-6 and remark(proof) == EDGES
    steady = prove(other_side, Step(), ports(on_edge + 0.5), "net")
    assert not steady.is_edgy and remark(steady) == ""


class Named(nn.Module):
    """`Step` of rows that tokens name."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor([[1.0, -1.0], [2.0, 1.0], [0.5, -1.0]]))

    def forward(self, tokens: Tensor) -> Tensor:
        return Step()(self.rows[tokens])  # type: ignore[no-any-return]


def test_where_tokens_come_in_the_parameters_are_moved() -> None:
    net = Named()

    def other_side(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = net.rows.detach()[inputs[0]]
        return (torch.where(x.sum(-1, keepdim=True) > 0, x + 1, x - 1),)

    inputs = Ports((Port("tokens", torch.tensor([[0]]), {}, (0, 3)),), ("y",))
    proof = prove(other_side, net, inputs, "net")
    assert proof.is_edgy and proof.error < 1e-6
    with pytest.raises(InputError, match="found outputs that differ"):
        prove(lambda inputs: (other_side(inputs)[0] + 1e-3,), net, inputs, "net")


def test_what_differs_at_steady_inputs_is_refused_though_others_sit_on_an_edge() -> None:
    def wrong(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (Step()(*inputs) + 1e-3,)

    for example in (torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]])):
        with pytest.raises(InputError, match="expected the outputs of the net in float64; found outputs that differ"):
            prove(wrong, Step(), ports(example), "net")


@pytest.mark.parametrize("more", [0.0, 0.1])
def test_a_net_that_is_steady_nowhere_is_told_of_and_bounded(more: float) -> None:
    def ordered_otherwise(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ((inputs[0] - 4e4) + 4e4 + more,)

    example = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    if more:
        with pytest.raises(InputError, match=r"and the net itself by \d.\de-0\d in float32"):
            prove(ordered_otherwise, Cancelling(), ports(example), "net")
        return
    proof = prove(ordered_otherwise, Cancelling(), ports(example), "net")
    assert BOUND < proof.error < CEILING and remark(proof) == ILL
