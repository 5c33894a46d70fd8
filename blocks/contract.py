"""The contract of a block: every member that other code looks up on it, with its meaning, its shapes and its callers.

    python -m blocks.contract            writes docs/blocks-contract.md
    python -m blocks.contract --check    says whether that page is up to date

A member that is not here is looked up by nobody: the conformance check `members` refuses a name that is nearly one of these
(`resize_tabel`), and a test holds that every look-up by name in this package and in `zoo` stands here. Imports no torch.
"""

from __future__ import annotations

import pathlib
import sys
from typing import NamedTuple

from blocks.registry import KINDS

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "blocks-contract.md"

REQUIRED, OPTIONAL = "required", "optional"
DECORATOR, BUILDER = "written by `@block`", "written by the builder"

HEAD = ("head",)
MIXERS = ("token_mixer", "channel_mixer")
ROUTER = ("router",)
VIEW = ("view",)
NOT_VIEW = tuple(kind for kind in KINDS if kind != "view")


class Member(NamedTuple):
    """One attribute or method of a block. `kinds` are those that it is for, all without one; `callers` are modules that look it up."""

    name: str
    form: str
    status: str
    meaning: str
    callers: tuple[str, ...]
    when: str
    absent: str
    kinds: tuple[str, ...] = ()


class Argument(NamedTuple):
    """One parameter of a constructor that no spec states: the builder or the host of the block fills it in."""

    name: str
    form: str
    meaning: str


IDENTITY = (
    Member(
        "block_id",
        'block_id: str  # "core/mlp@1"',
        DECORATOR,
        meaning="Namespace, name and major version. A module is a block because it has one.",
        callers=(
            "blocks.chain",
            "blocks.places",
            "blocks.packing",
            "blocks.first_values",
            "zoo.build.init",
            "zoo.measure.profile",
            "zoo.measure.swaps",
            "zoo.pretrained.fill",
        ),
        when="in messages, in rows of a profile, when blocks are swapped, and when first values are given",
        absent="The module is a part of the block around it and has no row, no swap and no first values of its own.",
    ),
    Member(
        "kind",
        "kind: str  # of blocks.registry.KINDS",
        DECORATOR,
        meaning="What the block is for; it decides in which slots the block may stand and which shape its output has.",
        callers=(
            *("blocks.registry.registration", "blocks.places", "blocks.narrowing"),
            *("zoo.exporting.lowering", "zoo.measure.op_counter"),
        ),
        when="when a spec is checked, when a pass has a mask or packed sequences, when weights are narrowed, when a graph is laid out, "
        "and when work is counted",
        absent="Only blocks have one.",
    ),
    Member(
        "layout",
        'layout: str  # "any", "BCHW", "BLC" or "BCTHW"',
        DECORATOR,
        meaning="The layout that `forward` takes. A BLC block that meets an image is shown (B, H*W, C), "
        "a BCHW block that meets a clip its frames, (B*T, C, H, W): views of the same memory.",
        callers=("blocks.chain", "blocks.places", "zoo.exporting.lowering"),
        when="at every call through `blocks.run`, and when a graph is laid out",
        absent="`any`: the input is handed on as it is.",
    ),
    Member(
        "abilities",
        "abilities: tuple[str, ...]  # of blocks.registry.ABILITIES",
        DECORATOR,
        meaning="What the block promises. `causal`, `noncausal`, `cross`, `step` and `any_resolution` are held by the conformance "
        "checks of these names; `1d`, `2d` and `3d` say which inputs it takes. "
        "A block that declares both `causal` and `noncausal` looks at no other position than its output's.",
        callers=("blocks.registry.registration", "blocks.places"),
        when="when blocks are listed, when a causal spec is checked, and when a pass has a mask or packed sequences",
        absent="Only blocks have them.",
    ),
    Member(
        "paper",
        'paper: str  # "arXiv:2201.03545"',
        DECORATOR,
        meaning="The paper that describes the block, empty without one.",
        callers=("blocks.registry.registration",),
        when="when the index is written and a block is described",
        absent="Only blocks have one.",
    ),
    Member(
        "covers",
        'covers: tuple[str, ...]  # ("repvgg",)',
        DECORATOR,
        meaning="What papers call the block, where that is another name.",
        callers=("blocks.registry.registration",),
        when="when the index is written, a block is described, and blocks are searched by name",
        absent="Only blocks have them.",
    ),
    Member(
        "takes_ctx",
        "takes_ctx: bool",
        DECORATOR,
        meaning="Whether `forward` names `ctx`. A class without `@block` that runs blocks states it itself.",
        callers=(
            "blocks.chain",
            "blocks.places",
            "blocks.moe.moe",
            "blocks.moe.dispatch",
            "blocks.wiring.graph",
            "zoo.exporting.sources",
        ),
        when="at every call, and when a model is written out as Python",
        absent="False: the module is called with its tensor alone.",
    ),
    Member(
        "path",
        'path: str  # "stages.0.layers.1.0.1"',
        BUILDER,
        meaning='The place of the block in its model, the key under which it writes to ctx. A block that uses it declares `path = ""`, '
        "which holds outside a model.",
        callers=(
            "blocks.construct",
            "blocks.recurrent",
            "blocks.moe.adaptation",
            "blocks.moe.scoring",
            "zoo.build.builder",
        ),
        when="written once when the block is built; read when states, losses, reports and slots are written or read",
        absent="The block leaves nothing in ctx.",
    ),
)

RUNNING = (
    Member(
        "forward",
        "forward(x: Tensor) -> Tensor  # or forward(x: Tensor, ctx: Context | None = None)",
        REQUIRED,
        meaning="(B, C, H, W) or (B, L, C) to the same shape for mixers, norms and activations; to `out_dim` channels for stems, downsamples, "
        "linear maps, wirings and embeddings; to (B, num_classes) for heads; for routers to a `Routing`, `Slots` or `Merging` of "
        "`blocks.moe.routing`. A merge takes several tensors, `forward(*tensors)`, and gives one of `out_dim` channels; a graph of several inputs "
        "takes a tuple, and one of several outputs gives them by name. With `ctx` it obeys `ctx.mask` and `ctx.cu_seqlens` or refuses them with a ValueError. "
        "A head also takes `pre_logits: bool = False` and gives what its classifier reads.",
        callers=("blocks.registry.registration", "blocks.chain", "zoo.build.symbolic"),
        when="at every pass; its signature when the block is registered and when a model is traced",
        absent="A view has `enter` and `exit` instead.",
        kinds=NOT_VIEW,
    ),
    Member(
        "out_dim",
        "out_dim: int",
        OPTIONAL,
        meaning="The width of the output.",
        callers=(
            "blocks.construct",
            "blocks.steps.rules",
            "blocks.heads.conv_head",
            "blocks.heads.linear_head",
            "blocks.wiring.aggregate",
            "blocks.wiring.squares",
            "blocks.wiring.cell",
            "blocks.wiring.graph",
            "blocks.wiring.parallel",
            "blocks.wiring.residual",
            "blocks.wiring.weighted_dense",
            "zoo.build.builder",
            "zoo.testing.checks",
            "blocks.heads.distilled_head",
            "blocks.wiring.recursive",
        ),
        when="when the part behind the block is built",
        absent="The width of the input.",
    ),
    Member(
        "over",
        "over(x: Tensor) -> Tensor",
        OPTIONAL,
        meaning="`forward`, written over the memory of `x`.",
        callers=("blocks.chain", "blocks.packing"),
        when="instead of `forward` where the part before is `fresh` and nobody records the pass",
        absent="`forward` is called.",
        kinds=("act",),
    ),
    Member(
        "fresh",
        "fresh: bool  # of the class",
        OPTIONAL,
        meaning="Whether the output is new memory that nothing else holds and whose values no gradient needs.",
        callers=("blocks.chain",),
        when="between the parts of a chain, and before a residual sum",
        absent="False: the next part may not write over the output.",
    ),
    Member(
        "takes_ids",
        "takes_ids: bool  # of the class",
        OPTIONAL,
        meaning="Whether the input is token numbers (B, L).",
        callers=("zoo.testing.block_cases",),
        when="when the conformance checks make an input",
        absent="False, unless the constructor has a parameter `vocab_size`.",
        kinds=("stem", "embed"),
    ),
    Member(
        "corners",
        "corners: bool",
        OPTIONAL,
        meaning="Whether the boxes that it gives are x1, y1, x2, y2; else centre x, y, width and height.",
        callers=("zoo.answering.answers",),
        when="when boxes are picked from what a detector gives",
        absent="Corners.",
        kinds=("merge",),
    ),
    Member(
        "rows",
        "rows: bool",
        OPTIONAL,
        meaning="Whether boxes and scores that it gives stand one below the other, (B, N, 4) and (B, N, C); else (B, 4, N) and (B, C, N).",
        callers=("zoo.answering.answers",),
        when="when boxes are picked from what a detector gives",
        absent="Columns.",
        kinds=("merge",),
    ),
    Member(
        "suppressed",
        "suppressed: bool",
        OPTIONAL,
        meaning="Whether the scores that it gives tell one box for each thing: no other box of its class is taken for a double.",
        callers=("zoo.answering.answers",),
        when="when boxes are picked from what a detector gives",
        absent="Doubles are left out.",
        kinds=("merge",),
    ),
    Member(
        "reads",
        "reads: str | None",
        OPTIONAL,
        meaning="The slot of ctx that the block reads, the parameter of the same name.",
        callers=(
            "blocks.wiring.graph",
            "zoo.build.backbone",
            "zoo.build.graph_model",
            "zoo.build.symbolic",
            "zoo.specs.check",
        ),
        when="when a model is made, which then makes a ctx for every pass; when it is traced; when its spec is checked",
        absent="The block reads no slot.",
    ),
    Member(
        "writes",
        "writes: str | None",
        OPTIONAL,
        meaning="The slot of ctx that the block writes, the parameter of the same name.",
        callers=("zoo.specs.check",),
        when="when a spec is checked: whatever is read must be written",
        absent="The block writes no slot.",
    ),
    Member(
        "row_by_row",
        "row_by_row: bool  # of the class",
        OPTIONAL,
        meaning="Whether the tokens of the view stand in the order in which `ctx.mask` counts the positions of an image.",
        callers=("blocks.places",),
        when="when a pass has a mask or packed sequences",
        absent="False: such a pass is refused.",
        kinds=VIEW,
    ),
    Member(
        "pointwise_in_eval",
        "pointwise_in_eval: bool  # of the class",
        OPTIONAL,
        meaning="Whether the block looks at other positions in training only, as a batch norm does.",
        callers=("blocks.places",),
        when="when a pass in eval mode has a mask or packed sequences",
        absent="False: the abilities decide.",
        kinds=("norm",),
    ),
    Member(
        "borrow",
        "borrow(lender: nn.Module | None, turn: int) -> None",
        OPTIONAL,
        meaning="Takes the parts of `lender`, the first wiring of its `group` in the model, or keeps its own where it is the first; `turn` is its place "
        "among all such wirings of the model. Raises ValueError for a lender of other widths.",
        callers=("zoo.build.builder",),
        when="once all parts of a model are there",
        absent="The weights are those of one place.",
        kinds=("wiring",),
    ),
)

VIEWS = (
    Member(
        "enter",
        "enter(x: Tensor) -> tuple[Tensor, memo]",
        REQUIRED,
        meaning="(B, C, H, W) to what the layers inside meet, and what `exit` needs to come back.",
        callers=(
            "zoo.build.backbone",
            "zoo.build.builder",
            "zoo.measure.segments",
            "blocks.wiring.within",
            "blocks.wiring.recursive",
        ),
        when="before the layers of a stage, or the parts of `within`",
        absent="A view without it cannot be entered and left.",
        kinds=VIEW,
    ),
    Member(
        "exit",
        "exit(y: Tensor, memo) -> Tensor",
        REQUIRED,
        meaning="Back from what the layers inside left. `exit(*enter(x))` is x wherever the image comes back.",
        callers=(
            "zoo.build.backbone",
            "zoo.build.builder",
            "zoo.build.levels",
            "zoo.measure.segments",
            "blocks.wiring.within",
        ),
        when="behind the layers of a stage, or the parts of `within`",
        absent="A view without it cannot be entered and left.",
        kinds=VIEW,
    ),
    Member(
        "inner_size",
        "inner_size(size: tuple[int, ...]) -> tuple[int, ...]",
        OPTIONAL,
        meaning="The size, (H, W) or (L,), that the blocks inside meet for an input of `size`.",
        callers=(
            "blocks.wiring.within",
            "blocks.wiring.recursive",
        ),
        when="when a block within the view asks for the size of its input",
        absent="The view cannot stand in `within`; in a stage the size is found by running `enter`.",
        kinds=VIEW,
    ),
    Member(
        "grid",
        "grid(y: Tensor, memo) -> Tensor",
        OPTIONAL,
        meaning="The tokens inside as a map (B, C, H, W), without those that belong to no pixel.",
        callers=("zoo.build.levels",),
        when="when a layer inside the view is shown as a feature level",
        absent="`exit` is called.",
        kinds=VIEW,
    ),
)

HEADS = (
    Member(
        "per_token",
        "per_token: bool  # of the class",
        OPTIONAL,
        meaning="Whether the head gives (B, L, num_classes), a row for each token.",
        callers=("zoo.build.builder", "zoo.testing.checks"),
        when="when a model is built: one that reads tokens under such a head is a language model",
        absent="False: (B, num_classes).",
        kinds=HEAD,
    ),
    Member(
        "num_features",
        "num_features: int",
        OPTIONAL,
        meaning="The width of what the classifier reads.",
        callers=("zoo.build.backbone",),
        when="when `head_hidden_size` of a model is asked for",
        absent="The width of the features.",
        kinds=HEAD,
    ),
    Member(
        "rows_per_input",
        "rows_per_input: int",
        OPTIONAL,
        meaning="How many rows of the output an input has, as of an ensemble whose members answer one by one: rows of one member first.",
        callers=("zoo.testing.models",),
        when="when the conformance of a model is checked",
        absent="One.",
        kinds=HEAD,
    ),
    Member(
        "classifier",
        "classifier: nn.Module | None",
        OPTIONAL,
        meaning="The last linear map, or a ModuleList of several; the parameters that another number of classes draws anew.",
        callers=("zoo.build.backbone", "zoo.build.config", "zoo.build.surgery"),
        when="when the classifier is asked for, named in `pretrained_cfg`, or replaced",
        absent="The model has no classifier to show, and `pretrained_cfg` names none.",
        kinds=HEAD,
    ),
    Member(
        "classifier_dist",
        "classifier_dist: nn.Module | None",
        OPTIONAL,
        meaning="A second classifier, for distillation.",
        callers=("zoo.build.config",),
        when="when `pretrained_cfg` names the classifiers",
        absent="There is one classifier.",
        kinds=HEAD,
    ),
    Member(
        "norm",
        "norm: nn.Module | None",
        OPTIONAL,
        meaning="The norm before or behind the pooling.",
        callers=("zoo.build.backbone", "zoo.build.surgery"),
        when="when intermediate features are to be normed, and when a pruned model loses its norm",
        absent="Features are shown without a norm.",
        kinds=HEAD,
    ),
    Member(
        "norm_first",
        "norm_first: bool",
        OPTIONAL,
        meaning="Whether the norm stands before the pooling, so that it can be applied to every position.",
        callers=("zoo.build.backbone",),
        when="when intermediate features are to be normed",
        absent="False; the only stage of a plain transformer is normed all the same.",
        kinds=HEAD,
    ),
    Member(
        "tie",
        "tie: str | None",
        OPTIONAL,
        meaning='The part whose table the head shares, `"stem"`.',
        callers=("zoo.build.builder", "zoo.build.surgery", "zoo.measure.segments"),
        when="when a model is built or its head replaced, and when its pieces are timed",
        absent="The head shares nothing.",
        kinds=HEAD,
    ),
    Member(
        "tie_to",
        "tie_to(stem: nn.Module | None) -> None",
        OPTIONAL,
        meaning="Takes the table of the stem. Raises ValueError for a stem without one of the right shape.",
        callers=("zoo.build.builder", "zoo.build.surgery"),
        when="once the stem and the head are there, where `tie` is not None",
        absent="A head with `tie` has it.",
        kinds=HEAD,
    ),
    Member(
        "table",
        "table: tuple[nn.Module, ...]",
        OPTIONAL,
        meaning="The embedding that a tied head shares, in a tuple, since its parameters stay the stem's.",
        callers=("zoo.measure.segments",),
        when="when the head is timed by itself",
        absent="A head with `tie` has it.",
        kinds=HEAD,
    ),
)

ROUTERS = (
    Member(
        "num_experts",
        "num_experts: int",
        REQUIRED,
        meaning="How many experts the router chooses among.",
        callers=("blocks.moe.moe",),
        when="when the experts are built, and at every pass",
        absent="A mixture refuses a router without it.",
        kinds=ROUTER,
    ),
    Member(
        "k",
        "k: float",
        REQUIRED,
        meaning="How many experts a token meets; the mean, where it varies.",
        callers=("blocks.moe.moe", "zoo.measure.profile"),
        when="when active parameters and ranges of MACs are counted",
        absent="A mixture refuses a router without it.",
        kinds=ROUTER,
    ),
    Member(
        "rows_range",
        "rows_range(length: int) -> tuple[int, int]",
        OPTIONAL,
        meaning="The fewest and the most rows that a sequence of `length` tokens sends to the experts.",
        callers=("zoo.measure.profile",),
        when="when a profile is counted",
        absent="The number of rows is fixed: k for each token.",
        kinds=ROUTER,
    ),
    Member(
        "mixing_macs",
        "mixing_macs(shape: tuple[int, ...], expert_params: int) -> int",
        OPTIONAL,
        meaning="The MACs of mixing an input of `shape` (B, L, C), beside those of router and experts.",
        callers=("blocks.moe.moe",),
        when="when the mixture says what it computes",
        absent="Mixing only sorts, which costs no MACs.",
        kinds=ROUTER,
    ),
    Member(
        "adapt",
        "adapt(report: dict[str, Tensor]) -> None",
        OPTIONAL,
        meaning="What the router changes in itself after a step of training, by what it left in `ctx.reports`.",
        callers=("blocks.moe.adaptation",),
        when="after `optimizer.step()`, by `adapt_routers`",
        absent="The router changes by its gradients alone.",
        kinds=ROUTER,
    ),
    Member(
        "active_params",
        "active_params() -> int",
        OPTIONAL,
        meaning="The number of parameters that one token meets.",
        callers=("zoo.measure.profile",),
        when="when a profile is counted",
        absent="All of them.",
        kinds=("channel_mixer",),
    ),
)

SEQUENCES = (
    Member(
        "cross",
        "cross: bool",
        OPTIONAL,
        meaning="Whether keys and values come from `ctx.memory` (B, M, C); then `macs` is given ctx.",
        callers=("zoo.measure.op_counter",),
        when="when MACs are counted",
        absent="False: `macs` is given the shape alone.",
        kinds=("token_mixer",),
    ),
    Member(
        "state_size",
        "state_size(length: int = 0) -> int",
        OPTIONAL,
        meaning="Numbers that `ctx.state` holds for each sequence after `length` tokens.",
        callers=("zoo.build.language", "blocks.wiring.tied"),
        when="when `state_size` of a language model is asked for",
        absent="The block keeps no state.",
        kinds=MIXERS,
    ),
)

FIRST_VALUES = (
    Member(
        "reset_parameters",
        "reset_parameters() -> None",
        OPTIONAL,
        meaning="First values for the block's own parameters and buffers, drawn from torch's global generator.",
        callers=("zoo.build.init", "blocks.first_values", "blocks.signature"),
        when="by the constructor itself, and when a model that was built on meta gets its memory, children before parents",
        absent="The constructor runs once more on the CPU, and its values are copied.",
    ),
    Member(
        "reset_buffers",
        "reset_buffers() -> None",
        OPTIONAL,
        meaning="Values for buffers outside the state dict. A `Table` (`blocks.tables`) needs none, and is to be preferred.",
        callers=("zoo.build.init", "zoo.weights.load", "zoo.measure.segments", "zoo.testing.checks"),
        when="after a model that was built on meta got its memory or its weights",
        absent="The block has no such buffers.",
    ),
    Member(
        "accumulators",
        "accumulators: tuple[str, ...]  # of the class",
        OPTIONAL,
        meaning="Names of buffers that grow by small steps and stay in float32; for classes derived from `blocks.accumulators.Accumulating`.",
        callers=("blocks.accumulators",),
        when="when a model is converted to another dtype, saved or loaded",
        absent="Every buffer follows the dtype of the model.",
    ),
    Member(
        "one_grid",
        "one_grid: bool  # of the class",
        OPTIONAL,
        meaning="Whether a BLC block has weights for each position of the one grid, (H, W) or (L,), that it was built for.",
        callers=("blocks.chain", "zoo.weights.adapt"),
        when="at every call and when weights are loaded: another grid of as many cells is refused",
        absent="False: cells are told apart by their number alone.",
    ),
    Member(
        "input_size",
        "input_size: tuple[int, ...]",
        OPTIONAL,
        meaning="The size, (H, W) or (L,), that the block was built for: the argument of the same name. A block with `one_grid` has it.",
        callers=("blocks.chain", "zoo.weights.adapt"),
        when="where `one_grid` is asked for",
        absent="Weights of any grid of as many cells are taken.",
    ),
    Member(
        "resize_table",
        "resize_table(name: str, tensor: Tensor, expected_shape: tuple[int, ...], old: Self | None = None) -> Tensor | None",
        OPTIONAL,
        meaning="The tensor `name` of a block built for another input size, for this one; None to decline. "
        "`old` is the block that the tensor belongs to, where it is known; a method without it is called for other shapes only.",
        callers=("zoo.weights.adapt",),
        when="when weights are loaded into a model of another input size, and by `set_input_size`",
        absent="A tensor of another shape is refused, unless a general rule adapts it.",
    ),
)

TRAINING = (
    Member(
        "no_decay",
        "no_decay: tuple[str, ...]  # of the class",
        OPTIONAL,
        meaning="Names of the block's own parameters that weight decay leaves alone, beside all vectors.",
        callers=("zoo.build.groups",),
        when="when parameters are grouped for an optimiser, and by `no_weight_decay`",
        absent="Parameters with more than one axis decay.",
    ),
    Member(
        "unreached",
        'unreached: tuple[str, ...]  # of the class: ("thresholds",), or ("the input",)',
        OPTIONAL,
        meaning="What gets no gradient from a pass of the block by itself: a parameter that learns from what other blocks left in ctx, "
        "an input of which the size alone is read.",
        callers=("zoo.testing.checks",),
        when="when the conformance check of gradients is made",
        absent="Gradients reach the input and every parameter.",
    ),
    Member(
        "lr_scales",
        "lr_scales: dict[str, float]",
        OPTIONAL,
        meaning="Factors of the learning rate for the block's own parameters, by name.",
        callers=("zoo.build.groups",),
        when="when parameters are grouped for an optimiser",
        absent="1 for each.",
    ),
    Member(
        "anneal",
        "anneal(share: float) -> None",
        OPTIONAL,
        meaning="What the block changes in itself when the share of training that is over, from 0 to 1, is `share`. Where nobody calls it, "
        "the block stands where training ends; what it changes is no part of the state.",
        callers=("blocks.annealing",),
        when="before every step of training, by `zoo.anneal`",
        absent="The block changes by its gradients alone.",
    ),
)

FOLDING = (
    Member(
        "fuse",
        "fuse() -> nn.Module | None",
        OPTIONAL,
        meaning="The deploy form of the block, in float64 and eval mode, its children fused before it: what replaces it, itself or another "
        "module; None for nothing at all.",
        callers=("blocks.folding", "zoo.testing.ability_checks"),
        when="by `blocks.fuse` and `zoo.deploy`, on a copy of the model",
        absent="The block stays as it is; its children are fused.",
    ),
    Member(
        "as_affine",
        "as_affine() -> tuple[Tensor, Tensor] | None",
        OPTIONAL,
        meaning="(scale, shift), both (C,), where the block is y = scale * x + shift for each channel in eval mode; None where it is not.",
        callers=(
            "blocks.attention.pooled_attention",
            "blocks.folding",
            "blocks.heads.linear_head",
            "blocks.heads.mlp_head",
            "blocks.heads.conv_head",
            "blocks.heads.distilled_head",
            "blocks.conv.squeeze_excite",
            "blocks.conv.wavelet_mixing",
        ),
        when="while a model is fused",
        absent="The block is no such map.",
    ),
    Member(
        "absorb_output",
        "absorb_output(scale: Tensor, shift: Tensor) -> bool",
        OPTIONAL,
        meaning="Takes the map scale * y + shift behind the block into its own weights; False where it cannot, and nothing is changed then.",
        callers=("blocks.folding", "blocks.wiring.residual"),
        when="while a model is fused, for a norm or scale behind the block",
        absent="The map stays.",
    ),
    Member(
        "absorb_input",
        "absorb_input(scale: Tensor, shift: Tensor) -> bool",
        OPTIONAL,
        meaning="Takes the map scale * x + shift before the block into its own weights; False where it cannot, as before a border of zeros.",
        callers=("blocks.folding", "blocks.mlp.mlp", "blocks.heads.linear_head", "zoo.exporting.lowering"),
        when="while a model is fused or laid out as a graph, for a norm before the block",
        absent="The map stays.",
    ),
    Member(
        "absorb_skip",
        "absorb_skip(scale: Tensor | float, skip: Tensor | float) -> bool",
        OPTIONAL,
        meaning="Becomes skip * x + scale * f(x) for each channel, taking in the connection around it; False where it cannot.",
        callers=("blocks.folding",),
        when="while a residual wiring with this one part is fused",
        absent="The wiring stays.",
    ),
    Member(
        "release_shift",
        "release_shift() -> Tensor | None",
        OPTIONAL,
        meaning="Takes the shift (C,) out of the block and returns it, for the linear map behind to absorb.",
        callers=("blocks.mlp.mlp",),
        when="while an `mlp` with this block in `mid` is fused",
        absent="The block keeps its shift.",
        kinds=("norm",),
    ),
)

COUNTING = (
    Member(
        "macs",
        "macs(shape: tuple[int, ...]) -> dict[str, int]  # macs(shape, ctx) with `cross`; the shape of each tensor of a merge",
        OPTIONAL,
        meaning="What the block computes for an input of `shape`, beside the layers and blocks in it: MACs of `matmul`, `convolution` and "
        "`attention`, FLOPs of `scan` and `fft`.",
        callers=("zoo.measure.op_counter", "zoo.testing.counting"),
        when="when a profile is counted, and held against the operations and fvcore's count",
        absent="The block says nothing of its own; layers of torch are counted by their kind.",
    ),
)

SECTIONS: dict[str, tuple[Member, ...]] = {
    "Identity": IDENTITY,
    "The pass": RUNNING,
    "Views": VIEWS,
    "Heads": HEADS,
    "Routers and mixtures": ROUTERS,
    "Sequences": SEQUENCES,
    "First values and tables": FIRST_VALUES,
    "Training": TRAINING,
    "Folding": FOLDING,
    "Counting": COUNTING,
}
MEMBERS: tuple[Member, ...] = tuple(member for section in SECTIONS.values() for member in section)
NAMES = frozenset(member.name for member in MEMBERS)

ARGUMENTS = (
    Argument("dim", "dim: int", "The width of the input; token numbers have the size of the vocabulary."),
    Argument("dims", "dims: tuple[int, ...]", "The widths of all that a merge, or a graph of several inputs, meets."),
    Argument(
        "out_dim",
        "out_dim: int | None = None",
        "The width asked for. The first block of a chain that names it changes the width.",
    ),
    Argument(
        "layer_dim",
        "layer_dim: int",
        "The width of the input of the layer, or of the host, that the block is a part of.",
    ),
    Argument(
        "input_size",
        "input_size: tuple[int, ...]",
        "The size of the input, (H, W) or (L,), found by running what stands before.",
    ),
    Argument("depth_index", "depth_index: int = 0", "The number of the layer in the model, from 0."),
    Argument("num_classes", "num_classes: int", "The classes of the model, 0 for none."),
    Argument(
        "drop_path",
        "drop_path: float = 0.0",
        "The rate of dropped branches, which rises from 0 to the model's over its layers.",
    ),
    Argument("stage_dims", "stage_dims: tuple[int, ...] = ()", "The widths of all stages."),
    Argument(
        "bias",
        "bias: bool",
        "Whether a linear map has a bias; its host decides, so that only kind `linear` is given it.",
    ),
)


def markdown() -> str:
    """The contract as a page in Markdown."""
    lines = [
        "# The contract of a block",
        "",
        "<!-- Written by `python -m blocks.contract`; change blocks/contract.py instead. -->",
        "",
        "A block is an `nn.Module` decorated with `@block`. This page lists every attribute and method that other code looks up on it.",
        "All but the required ones may be left out; whoever looks one up then does what stands under *Absent*.",
        "`zoo check FILE.py` runs the conformance checks on blocks of your own; `members` among them refuses a name that is nearly one",
        "of these, which would be looked up by nobody.",
        "",
        "Shapes: images are (B, C, H, W) in channels_last memory, tokens (B, L, C).",
    ]
    for title, members in SECTIONS.items():
        lines += ["", f"## {title}"]
        for member in members:
            lines += ["", *_entry(member)]
    lines += [
        "",
        "## Arguments that a block is given",
        "",
        "A constructor that names one of these is given it by the builder or by its host; a spec does not state them.",
        "",
        "| parameter | meaning |",
        "|---|---|",
        *(f"| `{argument.form.replace('|', '&#124;')}` | {argument.meaning} |" for argument in ARGUMENTS),
    ]
    return "\n".join(lines) + "\n"


def _entry(member: Member) -> list[str]:
    """The lines of one member."""
    return [
        f"### `{member.name}`",
        "",
        f"    {member.form}",
        "",
        f"{member.status.capitalize()}; {_kinds(member)}. {member.meaning}",
        "",
        f"- *Looked up* by {_quoted(member.callers)}: {member.when}.",
        f"- *Absent:* {member.absent}",
    ]


def _kinds(member: Member) -> str:
    if member.kinds == NOT_VIEW:
        return "every kind but `view`"
    return _quoted(member.kinds) or "every kind"


def _quoted(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def main(arguments: list[str], path: pathlib.Path = PAGE) -> int:
    """Writes the page; with --check only says whether it is up to date."""
    fresh = markdown()
    if "--check" in arguments:
        current = path.is_file() and path.read_text(encoding="utf-8") == fresh
        print(f"{path.name} is up to date" if current else f"{path.name} is stale: run `python -m blocks.contract`")
        return 0 if current else 1
    path.parent.mkdir(exist_ok=True)
    path.write_text(fresh, encoding="utf-8")
    print(f"{len(MEMBERS)} members written to {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
