"""Convolutions in a row, each with its norm and activation: the stems and downsamplings of most nets as a table."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from blocks.chain import Chain
from blocks.conv.conv import ConvNormAct, Padding
from blocks.registry import block
from blocks.registry.slots import Act, Norm

Count = Annotated[int, Meta(ge=1)]


class ConvEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One convolution of a stack. What it leaves out of `bias`, `norm` and `act` is the stack's; "none" is none.

    Its width is `out_dim`, or the fraction `width` of the stack's, or the stack's. `padding` as in `conv`.
    """

    kernel_size: Count
    stride: Count = 1
    padding: Padding | None = None
    dilation: Count = 1
    groups: Count = 1
    out_dim: Count | None = None
    width: Annotated[float, Meta(gt=0)] | None = None
    bias: bool | UnsetType = UNSET
    norm: Norm | UnsetType | None = UNSET
    act: Act | UnsetType | None = UNSET


@block("conv_stack", kind="stem", layout="BCHW", abilities=("noncausal", "any_resolution", "2d"))
class ConvStack(Chain):
    """x <- act_i(norm_i(W_i * x + b_i)) for each entry i of `convs`: a stem, or a downsampling between stages.

    (B, C, H, W) -> (B, out_dim, H', W'). For entries that do not state their own, `bias` and `norm` hold everywhere,
    `act` between the convolutions and `last_act` behind the last. Raises ValueError when an entry states both `out_dim`
    and `width`, or when the last one leaves another width than the net asks for.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        convs: Annotated[list[ConvEntry], Meta(min_length=1)],
        bias: bool = True,
        norm: Norm | None = None,
        act: Act | None = None,
        last_act: Act | None = None,
    ):
        super().__init__()
        width_asked = out_dim or dim
        width = dim
        for i, entry in enumerate(convs):
            stack_act = last_act if i == len(convs) - 1 else act
            unit = ConvNormAct(
                width,
                _width(entry, i, width_asked),
                kernel_size=entry.kernel_size,
                stride=entry.stride,
                padding=entry.padding,
                dilation=entry.dilation,
                groups=entry.groups,
                bias=bias if entry.bias is UNSET else entry.bias,
                norm=norm if entry.norm is UNSET else entry.norm,
                act=stack_act if entry.act is UNSET else entry.act,
            )
            self.add_module(str(i), unit)
            width = unit.out_dim
        if width != width_asked and out_dim is not None:
            raise ValueError(
                f"the last convolution leaves {width} channels, and {out_dim} are asked for: leave its width out"
            )
        self.out_dim = width


def _width(entry: ConvEntry, position: int, asked: int) -> int:
    if entry.out_dim is not None and entry.width is not None:
        raise ValueError(
            f"convs.{position} states both out_dim = {entry.out_dim} and width = {entry.width:g}; state one of them"
        )
    return entry.out_dim or int(asked * (entry.width or 1))
