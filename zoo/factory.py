"""`zoo.create`: find the source, change the spec, build, fill, deploy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

import zoo
from blocks.first_values import forget_arguments
from zoo._typed import typed
from zoo.build.backbone import Backbone
from zoo.build.deploy import check_form, deploy, packed
from zoo.build.language import LanguageModel
from zoo.build.params import count_params
from zoo.catalog.names import Model
from zoo.catalog.runtimes import asked
from zoo.catalog.sources import Request, Source, find_source
from zoo.data.tokens import home_of
from zoo.errors import InputError, Problem, SpecError
from zoo.pretrained.checkpoint import Weights
from zoo.pretrained.fill import fill, plan
from zoo.pretrained.target import Plan
from zoo.specs.inputs import ImageInput, VideoInput
from zoo.specs.model import Described
from zoo.specs.scalars import plain

if TYPE_CHECKING:
    from zoo.runtimes.deployed import Deployed

MAX_PARAMS = 4_000_000_000


@typed
def create(
    model: Model,
    overrides: Mapping[str, Any] | None = None,
    *,
    pretrained: bool | str = False,
    weights: Weights | None = None,
    source: str = "zoo",
    checkpoint_path: Weights | None = None,
    form: str = "train",
    swap: Mapping[str, Any] | None = None,
    at: str = "",
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | Sequence[int] | None = None,
    global_pool: str | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    attn_drop_rate: float | None = None,
    proj_drop_rate: float | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    dynamic_size: bool = False,
    output_stride: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    max_params: int = MAX_PARAMS,
    runtime: str | Sequence[str] | None = None,
    precision: str | None = None,
) -> Backbone | Deployed:
    """A ready model, **in eval mode** (call `.train()` to train it), its convolutions in channels_last memory.

    (FSDP2 shards contiguous parameters only: call `.to(memory_format=torch.contiguous_format)` before `fully_shard`.)

    model: a name (`unireplknet_a`, with a weight tag `unireplknet_nano.digits`), a repository (`hub:org/repo@revision`), a file or folder
        that `zoo.save` wrote (its weights come with it), a folder that transformers wrote
        (`transformers:FOLDER`, with its weights), a spec file, a Spec, or a spec as a table.
    overrides: {path: value}: literal paths (`depths`, `define.large.kernel_size`) or selectors (`**.<mlp>.ratio`).
    swap: {role: block} with `at` for a part of the net: `swap={"token_mixer": "pooling"}, at="stages.2-3"`.
    pretrained: the weights of a tag, of the name's tag, or (True) the best at hand; adapted when the request changes the
        model, with a report in `.adapt_report`. A name with a tag implies it. Listed weights want `zoo pin NAME.TAG` once.
        `"backbone"`: of a decoder or head on another model's stages the weights of these, and first values elsewhere.
    weights, source: a checkpoint (path or mapping) in the names of `zoo`, `official` (upstream) or `timm`; what training put around
        its tensors (`module.`, `_orig_mod.`, `state_dict`) is taken off, of several state dicts the averaged one (`model_ema`) is
        taken. `checkpoint_path` is the same under timm's name. A file that `zoo.save` wrote also brings its pre-processing and the
        names of its classes, and a warning where it was saved for another request.
    form: `train`, or `deploy` (re-parameterised, norms folded).
    num_classes: 0 gives pooled features; global_pool: `avg`, `max`, `avgmax`, or `""` for the map itself.
    drop_rate, drop_path_rate, attn_drop_rate, proj_drop_rate: in training, shares left out before the classifier, of
        branches, of attention weights, and behind the projections of attention and MLP.
    features_only: a list of maps instead of logits, of the levels `out_indices`: those of the stages (or of the layers of a
        net of one stage), negative ones from the last; an int n means the last n.
    dynamic_size: a net whose positions are made for one picture size takes any at each call: tables are interpolated, windows padded.
    output_stride: 8, 16 or 32: of a convolutional net, by how much its last map is smaller than the picture at most; strides beyond it
        become dilations of what follows.
    runtime, precision: with `form="deploy"` what `zoo.deploy(model, runtime, precision)` makes of it, such as the fastest form on this machine
        with `runtime="auto"`.

    Raises UnknownModelError, SpecError (all problems at once), WeightsError; nothing is built half.
    """
    check_form(form)
    _check_deployed(form, runtime, precision)
    request = Request(
        overrides, swap, at, num_classes, in_chans, img_size, global_pool, drop_rate, drop_path_rate, attn_drop_rate, proj_drop_rate,
        features_only, out_indices, dynamic_size, output_stride,
    )  # fmt: skip
    origin = find_source(model)
    wanted = origin.wanted(request)
    filling = plan(origin, weights if weights is not None else checkpoint_path, source, pretrained)
    net = _built(origin, wanted, request, filling, device)
    if str(device) != "meta":  # where nothing takes memory
        _guard(net, max_params)
    fill(net, wanted, filling, dtype, device)
    if isinstance(net, LanguageModel):
        net.tokenizer = home_of(model, net.pretrained)
    _settle(net, device)
    if runtime is not None or precision is not None:
        return zoo.deploy(net, runtime, precision)  # type: ignore[no-any-return]
    if origin.made.form == "deploy":
        return packed(net)  # type: ignore[no-any-return]
    return deploy(net) if form == "deploy" else net  # type: ignore[no-any-return]


def _check_deployed(form: str, runtime: str | Sequence[str] | None, precision: str | None) -> None:
    """Raises InputError for a runtime or a precision of a train form, and for one that there is not."""
    if runtime is None and precision is None:
        return
    asked(runtime, precision)
    if form != "deploy":
        named = "a runtime" if runtime is not None else "a precision"
        raise InputError(
            "create", Problem("form", f"`deploy` where {named} is named", f"`{form}`", next='add form="deploy"')
        )


def _built(origin: Source, wanted: Described, request: Request, filling: Plan, device: Any) -> Any:
    """The net as its filling awaits it, on meta as a rule, without what is not asked for."""
    net, made, request = filling.build(wanted, device), origin.made, origin.beyond(request)
    if request.global_pool == "" or (made.headless and request.num_classes is None and request.global_pool is None):
        net.head = None
    if request.features_only or made.out_indices is not None:
        _keep_features(net, plain(request.out_indices) if request.out_indices is not None else made.out_indices)
    return _deployed_as_saved(net, origin, wanted, request) if made.form == "deploy" else net


def _keep_features(net: Backbone, out_indices: int | Sequence[int] | None) -> None:
    """Turns a net into one that returns maps: no head, and nothing behind the last level asked for."""
    if out_indices is None and net.levels_are_layers:
        out_indices = min(3, net.num_levels)  # of the many layers of a plain transformer the last three, as timm does
    net.out_indices = tuple(net.prune_intermediate_layers(out_indices))


def _deployed_as_saved(net: Backbone, origin: Source, wanted: Described, request: Request) -> Backbone:
    """The structure of a deploy form that was saved. Raises InputError for one that is to be changed: its layers are folded."""
    if wanted != origin.spec or request.features_only:
        found = "a model that was saved in its deploy form, whose layers are folded"
        step = "save the train form, and make the deploy form of what you change"
        raise InputError("create", Problem(origin.spec.name, "no change of the model", found, next=step))
    fused: Backbone = deploy(net)
    return fused


def _guard(net: Backbone, max_params: int) -> None:
    count = count_params(net)
    if count > max_params:
        step = f"pass max_params={count} if that is meant"
        raise SpecError(net.spec.name, Problem("", f"at most {max_params:,} parameters", f"{count:,}", next=step))


def _settle(net: Any, device: Any) -> None:
    """What was kept for the building goes; nets of images get their layout in memory."""
    if str(device) == "meta":
        return
    forget_arguments(net)
    if isinstance(net.spec.input, ImageInput) and not isinstance(net.spec.input, VideoInput):
        net.to(memory_format=torch.channels_last)
