"""What one forward pass of a model costs, exactly: MACs by class, parameters, bytes, per block. Counted on meta: no weights.

1 MAC is 2 FLOPs. Matmuls, convolutions and attention are counted in MACs; scans and FFTs, which are no multiply-accumulates, are
classes of their own, in FLOPs; element-wise work is listed by its elements. What nobody can count is named, and the profile
says that it is not complete.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from blocks.chain import Chain
from blocks.moe.routing import shape_of
from blocks.registry.words import short_name
from blocks.wiring.graph import Graph, Joint
from zoo.build.builder import build
from zoo.build.deploy import deploy
from zoo.build.inputs import meta_input, meta_inputs
from zoo.build.language import LanguageModel
from zoo.build.params import count_params
from zoo.catalog.names import Model
from zoo.catalog.saved import saved_path
from zoo.catalog.sources import spec as find_spec
from zoo.display.console import count
from zoo.display.rows import Row, html_table
from zoo.factory import create
from zoo.measure.op_counter import EXACT, FLOP_CLASSES, Work, modules_open

Form = Literal["train", "deploy"]


class BlockCost(Row, frozen=True):
    """One place of the spec, with all that is in it."""

    path: str
    block: str
    shape: list[int]
    params: int
    macs: int
    scan_flops: int


class OpCost(Row, frozen=True):
    """One kind of operation: how often it runs, the elements it gives, its FLOPs, and the class they belong to."""

    op: str
    kind: str
    calls: int
    elements: int
    flops: int


class TokenCost(Row, frozen=True):
    """One more token of one sequence, behind `length` others: what it takes, and the bytes that are kept between tokens."""

    length: int
    macs: int
    scan_flops: int
    state_bytes: int


class Profile(Row, frozen=True, kw_only=True, omit_defaults=True):
    """`macs` is the sum of `by_class`; `flops` = 2 `macs`; `scan_flops` and `fft_flops` stand beside it.

    `macs_range` is (fewest, most) where routing decides; `active_params` are those that one token meets. `activation_bytes` is all that
    the operations write, `peak_activation_bytes` the most that is held at one time, weights apart. `intensity` is FLOPs for each byte of
    memory moved: weights read once, activations written and read once. `per_token` is what a language model takes for each token that it
    generates.
    """

    schema: Literal["zoo.profile/1"] = "zoo.profile/1"
    model: str
    digest: str
    form: Form
    input: list[int]
    macs: int
    flops: int
    by_class: dict[str, int]
    scan_flops: int = 0
    fft_flops: int = 0
    macs_range: tuple[int, int] | None = None
    elements: int
    params: int
    trainable_params: int
    active_params: int
    weight_bytes: int
    activation_bytes: int
    peak_activation_bytes: int
    intensity: float
    complete: bool
    uncounted: dict[str, int] = {}
    analytic: dict[str, int]
    per_token: TokenCost | None = None
    blocks: list[BlockCost] = []
    ops: list[OpCost] = []

    def __repr__(self) -> str:
        costs = f"{count(self.params)} parameters, {count(self.macs)}MACs, {len(self.blocks)} blocks"
        return f"<Profile {self.model}, {self.form}, input {' x '.join(map(str, self.input))}: {costs}>"

    def _repr_html_(self) -> str:
        totals = {name: value for name, value in self.to_dict().items() if name not in ("blocks", "ops")}
        return html_table([totals]) + html_table([block.to_dict() for block in self.blocks])


def profile(
    model: Model | nn.Module, input: Tensor | tuple[int, ...] | None = None, form: Form = "train", details: bool = True
) -> Profile:
    """The profile of a model, named, as a spec, or built.

    input: a tensor or its shape, batch included, of the first input; without one, a single input of the model's own size. form: `train` or `deploy`; a built
    model is in the form in which it is. `details` keeps the rows by block and operation. Raises UnknownModelError and SpecError.
    """
    net = _on_meta(model, form)
    spec = getattr(net, "spec", None)
    x, *others = _inputs(input, spec)
    if form == "deploy":
        with torch.no_grad():
            net(x, *others)  # a deployed net keeps, from its first pass on, what it has to compute once
    names = {module: path for path, module in net.named_modules()}
    shapes: dict[str, list[int]] = {}
    hooks = [
        module.register_forward_hook(_note(shapes, path))
        for module, path in names.items()
        if is_place(path, module, net)
    ]
    routed: dict[str, tuple[int, int]] = {}
    hooks += [
        module.register_forward_pre_hook(_note_tokens(routed, path))
        for module, path in names.items()
        if hasattr(module, "rows_range")
    ]
    work = Work(watch_memory=True)
    try:
        with torch.no_grad(), work, modules_open(work, names) as stated:
            net(x, *others)
    finally:
        for hook in hooks:
            hook.remove()
    by_class = {kind: work.paths[""][kind] // 2 for kind in EXACT}
    weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    flops = 2 * sum(by_class.values())
    scan, fft = (work.paths[""][kind] for kind in FLOP_CLASSES)
    total = count_params(net)
    return Profile(
        model=spec.name if spec is not None else type(net).__name__,
        digest=spec.digest if spec is not None else "",
        form=form,
        input=list(x.shape),
        macs=flops // 2,
        flops=flops,
        by_class=by_class,
        scan_flops=scan,
        fft_flops=fft,
        macs_range=_range(net, flops // 2, routed, work),
        elements=work.elements["elementwise"],
        params=total,
        trainable_params=count_params(net, trainable=True),
        active_params=total - sum(idle_params(module) for module in net.modules()),
        weight_bytes=weight_bytes,
        activation_bytes=work.written_bytes,
        peak_activation_bytes=work.peak_bytes,
        intensity=round((flops + scan + fft) / max(1, weight_bytes + 2 * work.written_bytes), 2),
        complete=not work.uncounted,
        uncounted=dict(work.uncounted),
        analytic={kind: stated[""][kind] for kind in (*EXACT, *FLOP_CLASSES)},
        per_token=_per_token(net, x, names) if isinstance(net, LanguageModel) and details else None,
        blocks=_blocks(net, names, shapes, work) if details else [],
        ops=[OpCost(op, work.kinds[op], *row) for op, row in sorted(work.ops.items())] if details else [],
    )


@torch.no_grad()
def _per_token(net: LanguageModel, x: Tensor, names: dict[nn.Module, str]) -> TokenCost:
    """Reads the tokens, then counts one more."""
    state = net(x[:1], state={}).state
    work = Work()
    with work, modules_open(work, names):
        state = net(x[:1, :1], state=state).state
    state_bytes = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(state) if isinstance(leaf, Tensor))
    macs = sum(work.paths[""][kind] for kind in EXACT) // 2
    return TokenCost(x.shape[1], macs, work.paths[""]["scan"], state_bytes)


def _on_meta(model: Model | nn.Module, form: Form) -> nn.Module:
    if isinstance(model, nn.Module):
        like = next(model.parameters(), None)
        return (model if like is None or like.is_meta else copy.deepcopy(model).to("meta")).eval()
    if saved_path(model) is not None:  # maps, and deploy forms, are what was saved
        return create(model, form=form, device="meta")
    net = build(find_spec(model))
    deployed: nn.Module = deploy(net) if form == "deploy" else net
    return deployed


def _inputs(given: Tensor | tuple[int, ...] | None, spec: Any) -> tuple[Tensor, ...]:
    """All inputs on meta: the one that is given, or the model's own, and those beside it."""
    if spec is None:
        return (given.to("meta") if isinstance(given, Tensor) else torch.empty(given or 0, device="meta"),)
    if given is None:
        return meta_inputs(spec)
    x = (
        given.to("meta")
        if isinstance(given, Tensor)
        else torch.empty(given, dtype=meta_input(spec).dtype, device="meta")
    )
    return (x, *meta_inputs(spec, x.shape[0])[1:])


def is_place(path: str, module: nn.Module, net: nn.Module) -> bool:
    """Blocks under positions, by number or by name, and those of the nodes of graphs: `stages.0.layers.1.0.2`, `stages.0.layers.0.exp`,
    `graph.d0.0`, not the `fc1` inside."""
    if not hasattr(module, "block_id"):
        return False
    steps = path.split(".")
    if steps[0] not in PLACES or steps[:2] == ["head", "norm"]:
        return False
    owner: nn.Module | None = net
    for step in steps:
        if not (step.isdigit() or step in PLACES or type(owner) is Chain or isinstance(owner, (Graph, Joint))):
            return False
        owner = owner._modules[step] if owner is not None else None
    return True


PLACES = {"stem", "stages", "downsample", "layers", "view", "post", "head", "graph", "edges"}


def _note(shapes: dict[str, list[int]], path: str) -> Any:
    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[path] = list(output.shape)

    return note


def _note_tokens(routed: dict[str, tuple[int, int]], path: str) -> Any:
    """(B, L) of what a router reads."""

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        routed[path] = shape_of(inputs[0])

    return note


def _range(net: nn.Module, total: int, routed: dict[str, tuple[int, int]], work: Work) -> tuple[int, int] | None:
    """(fewest, most) MACs, where routers send now more and now fewer rows to their experts; None where none does."""
    if not routed:
        return None
    fewest = most = total
    for path, (batch, length) in routed.items():
        router: Any = net.get_submodule(path)
        flops = work.paths[f"{path.rpartition('.')[0]}.experts"]
        experts = sum(flops[kind] for kind in EXACT) // 2
        expected = round(batch * length * router.k)
        low, high = (experts * batch * rows // max(1, expected) for rows in router.rows_range(length))
        fewest, most = fewest - experts + low, most - experts + high
    return fewest, most


def _blocks(net: nn.Module, names: dict[nn.Module, str], shapes: dict[str, list[int]], work: Work) -> list[BlockCost]:
    rows = []
    for module, path in names.items():
        if is_place(path, module, net):
            name = short_name(str(module.block_id))
            params = count_params(module)
            flops = work.paths[path]
            macs = sum(flops[kind] for kind in EXACT) // 2
            rows.append(BlockCost(path, name, shapes.get(path, []), params, macs, flops["scan"]))
    return rows


def idle_params(module: nn.Module) -> int:
    """Parameters of a mixture of experts that one token does not meet."""
    active = getattr(module, "active_params", None)
    return count_params(module) - active() if callable(active) else 0
