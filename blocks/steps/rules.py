"""Which calls the step of a module is: one rule for each kind, known by its `forward`. Modules are deploy forms in eval mode.

A rule records the calls for the numbers x of one token and gives where their result stands, or None for a module that it does not know in
that form; what it has recorded until then is forgotten. H is the number of heads, N the size of a channel's state.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blocks.attention.attention import Attention
from blocks.chain import Chain
from blocks.heads.lm_head import LmHead
from blocks.mlp.glu import Glu
from blocks.mlp.mlp import GatedMlp, Mlp
from blocks.narrowing import Narrow, NarrowDense, NarrowLinear
from blocks.ops.narrow_linear import Layer
from blocks.packing import Packed, PackedDense, PackedLinear
from blocks.primitives import activations as acts
from blocks.primitives.linears import Dense
from blocks.primitives.norms import LayerNorm, RmsNorm, StandardNorm
from blocks.recurrent import Recurrent
from blocks.ssm.mamba import Mamba
from blocks.steps.kept import Cache, Fixed
from blocks.steps.tape import ACTS, Part, Tape
from blocks.wiring.residual import Residual

Keeper = Cache | Fixed
Rule = Callable[["Writer", Any, Part], Part | None]
RULES: dict[Any, Rule] = {}


def writes(*kinds: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Decorator: the rule of modules whose `forward` is that of one of these."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys((kind.forward for kind in kinds), rule))
        return rule

    return register


class Writer:
    """Writes the steps of modules on a tape; `keepers` name what they keep of the tokens so far, in the order of its addresses.

    Without `single` for tokens that are several: those are rows like those of other samples, and modules that mix them have no rule."""

    def __init__(self, single: bool = True) -> None:
        self.tape, self.single = Tape(), single
        self.keepers: list[Keeper] = []

    def write(self, module: nn.Module, x: Part) -> Part:
        """By its rule, or as a call of the module itself."""
        known = self.known(module, x)
        if known is not None:
            return known
        width: int = getattr(module, "out_dim", x.width)
        return self.tape.module(module, self._alone(x), width)

    def known(self, module: nn.Module, x: Part) -> Part | None:
        """By its rule; None, and nothing is recorded, where there is none, or where hooks want to see the call."""
        rule = RULES.get(type(module).forward)
        if rule is None or module._forward_hooks or module._forward_pre_hooks:
            return None
        mark, keepers = self.tape.mark(), len(self.keepers)
        y = rule(self, module, x)
        if y is None:
            self.tape.rewind(mark)
            del self.keepers[keepers:]
        return y

    def keeps(self, keeper: Keeper) -> int:
        """Where the addresses of what it keeps stand."""
        self.keepers.append(keeper)
        return self.tape.keep(keeper.count)

    def _alone(self, x: Part) -> Part:
        """The numbers as a buffer of their own, which is all that a module can be shown."""
        whole = x.groups == 1 or x.step == x.size
        if whole and x.first == 0 and x.width == self.tape.rows[x.buffer]:
            return x.whole()
        return pointwise(self.tape, "times", x, 1.0).whole()


def pointwise(tape: Tape, name: str, x: Part, number: float = 0.0) -> Part:
    return tape.call("act", x, which=ACTS.index(name), number=number)


@writes(Chain, Mlp)
def chain(writer: Writer, module: nn.Module, x: Part) -> Part:
    for part in module._modules.values():
        if part is not None:
            x = writer.write(part, x)
    return x


@writes(nn.Identity)
def identity(writer: Writer, module: nn.Module, x: Part) -> Part:
    return x


@writes(Residual)
def residual(writer: Writer, module: Residual, x: Part) -> Part | None:
    if module.shortcut is not None:
        return None
    y = x
    for name, part in module._modules.items():
        if name != "shortcut" and part is not None:
            y = writer.write(part, y)
    y = _scaled(writer.tape, y, module.scale)
    return writer.tape.call("add", _scaled(writer.tape, x, module.skip_scale).whole(), other=y.whole())


def _scaled(tape: Tape, x: Part, scale: Tensor | None) -> Part:
    return x if scale is None else tape.call("scale", x.whole(), weight=scale.expand(x.width))


@writes(Dense, nn.Linear, PackedDense, PackedLinear, NarrowDense, NarrowLinear)
def dense(writer: Writer, module: nn.Linear, x: Part) -> Part:
    y = product(writer.tape, module, x)
    if isinstance(module, Packed) and module.act is not None:
        return writer.write(module.act, y)
    return y


def product(tape: Tape, module: Any, x: Part, y: Part | None = None) -> Part:
    """x W^T + b with the weights of a linear map, or of a table of tokens, as they are kept."""
    weight: Tensor = module.codes if isinstance(module, Narrow) else module._parameters["weight"].detach()
    scales = module.scales if isinstance(module, Narrow) else None
    bias = module._parameters.get("bias")
    outputs, inputs = weight.shape
    if scales is None and weight.dtype is not torch.bfloat16:
        weight = weight.float()
    weight = weight.contiguous()
    layer = Layer(
        weight.data_ptr(),
        None if scales is None else tape.address(scales),
        None if bias is None else tape.address(bias),
        inputs=inputs,
        outputs=outputs,
        bytes=weight.element_size(),
    )
    tape.held += [weight, layer]
    return tape.call("linear", x.whole(), y or tape.new(outputs), weight=ctypes.addressof(layer))


@writes(RmsNorm)
def rms_norm(writer: Writer, module: RmsNorm, x: Part) -> Part:
    return writer.tape.call("norm", x, number=module.eps, weight=module.weight.detach() + module.offset)


@writes(LayerNorm)
def layer_norm(writer: Writer, module: LayerNorm, x: Part) -> Part | None:
    if module.outside:
        return None
    return writer.tape.call("norm", x, which=1, number=module.eps, weight=module.weight, bias=module.bias)


@writes(StandardNorm)
def standard_norm(writer: Writer, module: StandardNorm, x: Part) -> Part:
    return writer.tape.call("norm", x, which=1, number=module.eps)


ACTIVATIONS: dict[type[nn.Module], str] = {
    acts.Silu: "silu",
    acts.Sigmoid: "sigmoid",
    acts.Relu: "relu",
    acts.SquaredRelu: "squared_relu",
    acts.Tanh: "tanh",
}


@writes(*ACTIVATIONS)
def activation(writer: Writer, module: nn.Module, x: Part) -> Part:
    name = next(name for kind, name in ACTIVATIONS.items() if kind.forward is type(module).forward)
    return pointwise(writer.tape, name, x)


@writes(acts.Gelu)
def gelu(writer: Writer, module: acts.Gelu, x: Part) -> Part:
    return pointwise(writer.tape, "gelu" if module.approximate == "none" else "gelu_tanh", x)


@writes(acts.Multiply)
def multiply(writer: Writer, module: acts.Multiply, x: Part) -> Part:
    return pointwise(writer.tape, "times", x, module.factor)


@writes(GatedMlp)
def gated_mlp(writer: Writer, module: GatedMlp, x: Part) -> Part:
    if module.joint is not None:
        both = writer.write(module.joint, x)
        gate, up = both.split(both.width // 2, both.width // 2)
    else:
        gate, up = writer.write(module.gate, x), writer.write(module.up, x)  # type: ignore[arg-type]  # there where `joint` is not
    gate = gate if module.gate_scale == 1 else pointwise(writer.tape, "times", gate, module.gate_scale)
    if module.act is not None:
        gate = writer.write(module.act, gate)
    return writer.write(module.down, writer.tape.call("multiply", gate, other=up))


@writes(Glu)
def glu(writer: Writer, module: Glu, x: Part) -> Part:
    gate, value = x.split(x.width // 2, x.width // 2)
    return writer.tape.call("multiply", writer.write(module.act, gate), other=value)


@writes(LmHead)
def lm_head(writer: Writer, module: LmHead, x: Part) -> Part | None:
    x = x if module.norm is None else writer.write(module.norm, x)
    if not module.num_classes:
        return x
    if module.classifier is not None:
        x = writer.write(module.classifier, x)
    elif module.table:
        x = product(writer.tape, module.table[0], x)
    else:
        return None
    x = x if module.scale == 1 else pointwise(writer.tape, "times", x, module.scale)
    return x if module.softcap is None else pointwise(writer.tape, "cap", x, module.softcap)


@writes(Attention)
def attention(writer: Writer, module: Attention, x: Part) -> Part | None:
    if not module.causal or not writer.single:
        return None
    tape, heads, shared = writer.tape, module.num_heads, module.num_heads // module.num_kv_heads
    if module.joint:
        queries = 2 * heads if module.gated else heads
        q, k, v = (
            writer.write(module.qkv, x)
            .grouped(module.head_dim)
            .split(queries, module.num_kv_heads, module.num_kv_heads)
        )
    else:
        q = writer.write(module.q, x).grouped(module.head_dim)
        k, v = _keys_values(writer, module, x)
    q, gate = (q.every(2, 0), q.every(2, 1)) if module.gated else (q, None)
    normed = [_normed(writer, module, norm, part) for norm, part in ((module.q_norm, q), (module.k_norm, k))]
    if normed[0] is None or normed[1] is None:
        return None
    q, k = normed[0], normed[1]
    shape = module.num_kv_heads, module.head_dim
    kept = writer.keeps(Cache(module.path, shape, module.window, module.rope, module.rope_dim))
    if module.rope is not None:
        turn: dict[str, Any] = {
            "kept": kept,
            "which": int(module.rope.pairs == "neighbours"),
            "shared": module.rope_dim,
        }
        q, k = tape.call("rotate", q, **turn), tape.call("rotate", k, **turn)
    scores: dict[str, Any] = {"number": module.scale, "second": module.softcap or 0.0, "shared": shared}
    y = tape.call("attend", q, tape.new(q.width, q.size), other=k, third=v, kept=kept, **scores)
    if gate is not None:
        y = tape.call("multiply", y, other=pointwise(tape, "sigmoid", gate))
    return writer.write(module.proj, y.whole())


def _keys_values(writer: Writer, module: Attention, x: Part) -> list[Part]:
    """Both (num_kv_heads groups of head_dim)."""
    if module.kv is not None:
        return writer.write(module.kv, x).grouped(module.head_dim).split(module.num_kv_heads, module.num_kv_heads)
    return [writer.write(part, x).grouped(module.head_dim) for part in (module.k, module.v)]  # type: ignore[arg-type]  # there where `kv` is not


def _normed(writer: Writer, module: Attention, norm: nn.Module | None, x: Part) -> Part | None:
    """Each head by itself, or all as one; None for a norm that no rule knows, to which heads would be tokens."""
    if norm is None:
        return x
    if module.norm_heads:
        return writer.known(norm, x)
    y = writer.known(norm, x.whole()) if x.step == x.size else None
    return None if y is None else y.grouped(x.size)


@writes(Recurrent)
def recurrent(writer: Writer, module: Recurrent, x: Part) -> Part | None:
    rule = MIXERS.get(type(module).mix)
    return None if rule is None or not writer.single else rule(writer, module, x)


def mamba(writer: Writer, module: Mamba, x: Part) -> Part | None:
    tape = writer.tape
    channels, states = module.A_log.shape
    taps, rank = module.conv1d.kernel_size[0] - 1, module.dt_proj.in_features
    kept = writer.keeps(Fixed(module.path, (channels, taps), (channels, states)))
    u, z = writer.write(module.in_proj, x).split(channels, channels)
    u = tape.call("convolve", u, kept=kept, which=1, shared=taps, weight=module.conv1d.weight, bias=module.conv1d.bias)
    step, both = writer.write(module.x_proj, u).split(rank, 2 * states)
    norms = [module.dt_layernorm, module.b_layernorm, module.c_layernorm]
    if norms[0] is not None:
        joined = tape.new(2 * states)
        parts = zip(norms[1:], both.split(states, states), joined.split(states, states), strict=True)
        if any(_written(writer, norm, part, place) is None for norm, part, place in parts):  # type: ignore[arg-type]
            return None
        step, both = writer.write(norms[0], step), joined
    delta = writer.write(module.dt_proj, step)
    rates = -torch.exp(module.A_log.detach().float()) / math.log(2)
    y = tape.call("scan", u, other=delta, third=both, kept=kept + 2, shared=states, weight=module.D, rates=rates)
    gate = pointwise(tape, "silu", z)
    return writer.write(module.out_proj, tape.call("multiply", y, other=gate))


def _written(writer: Writer, norm: nn.Module, x: Part, y: Part) -> Part | None:
    """The norm of x at y."""
    found = writer.known(norm, x)
    return None if found is None else writer.tape.call("act", found, y, which=ACTS.index("times"), number=1.0)


MIXERS: dict[Any, Rule] = {Mamba.mix: mamba}
