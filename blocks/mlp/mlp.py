"""Channel mixers: the two-layer perceptron with slots around its layers, and the gated one."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.chain import Chain, run
from blocks.context import Context
from blocks.conv.conv import conv2d
from blocks.primitives.linears import Dense
from blocks.registry import block
from blocks.registry.slots import Act, Linear, Norm, Slot, slot

Ratio = Annotated[float, Meta(gt=0)]
Width = Annotated[int, Meta(ge=1)]


@block("mlp", kind="channel_mixer", abilities=("causal", "noncausal", "any_resolution"), covers=("ffn", "feed_forward"))
class Mlp(Chain):
    """y = post(norm2(W_2 mid(act(norm1(W_1 pre(x)))))): a perceptron with one hidden layer, at every position.

    (B, C, H, W) or (B, L, C) -> the same shape. The hidden width is `hidden_dim`, or int(ratio * C) without one. The
    slots are empty at first; `norm` stands behind both linears, as in nets whose 1 x 1 convolutions each have one.
    `bias` and `norm` hold for both linears, unless `out_bias` and `out_norm` say otherwise of the second.
    In training `proj_drop` of the outputs are dropped.
    `fuse()` folds batch norms, and the shift of a `mid` that can release it (`grn`), into the linears.
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: Ratio = 4.0,
        hidden_dim: Width | None = None,
        act: Act | None = slot("gelu"),
        bias: bool = True,
        out_bias: bool | None = None,
        norm: Norm | None = None,
        out_norm: Annotated[Norm | None, Meta(extra_json_schema={"added": "0.1"})] = None,
        pre: Slot | None = None,
        mid: Slot | None = None,
        post: Slot | None = None,
        linear: Linear = slot("dense"),
        proj_drop: Annotated[float, Meta(ge=0, lt=1, extra_json_schema={"added": "0.1"})] = 0.0,
    ):
        super().__init__()
        self.proj_drop = proj_drop
        hidden_dim, out_norm = hidden_dim or int(dim * ratio), out_norm or norm
        steps: dict[str, nn.Module | None] = {
            "pre": pre(dim) if pre else None,
            "fc1": linear(dim, hidden_dim, bias=bias),
            "norm1": norm(hidden_dim) if norm else None,
            "act": act(hidden_dim) if act else None,
            "mid": mid(hidden_dim) if mid else None,
            "fc2": linear(hidden_dim, dim, bias=bias if out_bias is None else out_bias),
            "norm2": out_norm(dim) if out_norm else None,
            "post": post(dim) if post else None,
        }
        for name, module in steps.items():
            if module is not None:
                self.add_module(name, module)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return F.dropout(super().forward(x, ctx), self.proj_drop, self.training)

    def fuse(self) -> nn.Module:
        super().fuse()
        release = getattr(self._modules.get("mid"), "release_shift", None)
        shift = release() if release is not None else None
        if shift is not None:
            self.fc2.absorb_input(torch.ones_like(shift), shift)  # type: ignore[operator, union-attr]
        return self

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return self._absorb(-1, "fc2", "absorb_output", scale, shift)

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return self._absorb(0, "fc1", "absorb_input", scale, shift)

    def _absorb(self, end: int, linear: str, method: str, scale: Tensor, shift: Tensor) -> bool:
        """Passes the map on to the linear at that end, unless a slot stands between."""
        return list(self._modules)[end] == linear and getattr(self._modules[linear], method)(scale, shift)


@block(
    "gated_mlp",
    kind="channel_mixer",
    abilities=("causal", "noncausal", "any_resolution"),
    paper="arXiv:2002.05202",
    covers=("swiglu", "geglu", "reglu", "star_operation"),
)
class GatedMlp(nn.Module):
    """y = W_down(act(W_gate x) * W_up x): SwiGLU with silu, GEGLU with gelu, ReGLU with relu, bilinear without `act`.

    (B, C, H, W) or (B, L, C) -> the same shape. The hidden width is `hidden_dim`, or int(ratio * C) without one; 8/3
    costs as much as a plain MLP of ratio 4. `gate_scale` multiplies W_gate x. With `joint` one map gives [W_gate x | W_up x].
    `bias` holds for all maps, unless `out_bias` says otherwise of the last.
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: Ratio = 8 / 3,
        hidden_dim: Width | None = None,
        act: Act | None = slot("silu"),
        bias: bool = False,
        linear: Linear = slot("dense"),
        gate_scale: Annotated[float, Meta(gt=0, extra_json_schema={"added": "0.1"})] = 1.0,
        joint: Annotated[bool, Meta(extra_json_schema={"added": "0.1"})] = False,
        out_bias: Annotated[bool | None, Meta(extra_json_schema={"added": "0.1"})] = None,
    ):
        super().__init__()
        hidden_dim = hidden_dim or int(dim * ratio)
        self.gate_scale = gate_scale
        self.joint = linear(dim, 2 * hidden_dim, bias=bias) if joint else None
        self.gate = None if joint else linear(dim, hidden_dim, bias=bias)
        self.up = None if joint else linear(dim, hidden_dim, bias=bias)
        self.act = act(hidden_dim) if act else None
        self.down = linear(hidden_dim, dim, bias=bias if out_bias is None else out_bias)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        up: Tensor | None = None
        if self.joint is not None:
            gate, up = run(self.joint, x, ctx).chunk(2, 1 if x.ndim == 4 else -1)
        else:
            gate = run(self.gate, x, ctx)  # type: ignore[arg-type]  # there where `joint` is not
        gate = gate if self.gate_scale == 1 else gate * self.gate_scale
        if self.act is not None:
            gate = run(self.act, gate, ctx)
        # `up` is made last and held by nothing, for the sake of memory
        return run(self.down, gate * (up if self.up is None else run(self.up, x, ctx)), ctx)  # type: ignore[operator]

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return bool(self.down.absorb_output(scale, shift))  # type: ignore[operator]

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        maps = [part for part in (self.joint, self.gate, self.up) if part is not None]
        return all(part.absorb_input(scale, shift) for part in maps)  # type: ignore[operator]


@block(
    "conv_glu",
    kind="channel_mixer",
    layout="BCHW",
    abilities=("noncausal", "any_resolution", "2d"),
    paper="arXiv:2311.17132",
    covers=("convolutional_glu",),
)
class ConvGlu(nn.Module):
    """[u | v] = W_1 x; y = W_2(act(conv u) * v), conv depthwise 3 x 3: a gate that sees its neighbours.

    (B, C, H, W) -> (B, C, H, W). The hidden width is int(2/3 int(ratio * C)), which costs as much as a plain MLP of `ratio`.
    """

    def __init__(self, dim: int, *, ratio: Ratio = 4.0, act: Act | None = slot("gelu")):
        super().__init__()
        hidden_dim = int(2 * int(dim * ratio) / 3)
        self.fc1 = Dense(dim, 2 * hidden_dim)
        self.dwconv = conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        self.act = act(hidden_dim) if act else None
        self.fc2 = Dense(hidden_dim, dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        gate, value = self.fc1(x).chunk(2, 1)
        gate = self.dwconv(gate)
        if self.act is not None:
            gate = run(self.act, gate, ctx)
        return self.fc2(gate * value)

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        return self.fc2.absorb_output(scale, shift)

    def absorb_input(self, scale: Tensor, shift: Tensor) -> bool:
        return self.fc1.absorb_input(scale, shift)
