"""The front door: `zoo.create` and its kin. Everything that needs torch is here or below, and loads on first use."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from blocks.accumulators import accumulators_of
from blocks.construct import forget_arguments
from blocks.conv.conv import take_strided_pixels
from blocks.registry import core_index, describe
from zoo import catalog
from zoo._typed import typed
from zoo.artifacts.pinning import brought
from zoo.artifacts.record import Made
from zoo.artifacts.repository import Repository
from zoo.build.backbone import Backbone
from zoo.build.builder import build
from zoo.build.deploy import deploy, packed
from zoo.build.init import initialise, materialise
from zoo.catalog.external import Opaque, is_opaque, refuse_edits
from zoo.catalog.manifests import manifests
from zoo.catalog.names import Model, is_file
from zoo.catalog.names import spec as find_spec
from zoo.catalog.saved import described, record_of
from zoo.errors import InputError, Problem, SpecError, WeightsError, listed, nearest
from zoo.specs.model import Spec
from zoo.specs.patch import Edit, swap_edits
from zoo.specs.resolve import respec, with_values
from zoo.specs.scalars import plain
from zoo.specs.sizes import any_size, with_output_stride
from zoo.specs.tree import Origin
from zoo.weights.adapt import AdaptReport, adapt
from zoo.weights.convert import KeyRules
from zoo.weights.load import expected_header, load_state, put_tensors
from zoo.weights.manifest import Manifest
from zoo.weights.source import open_checkpoint, read_published
from zoo.weights.unwrap import open_envelope
from zoo.weights.wrappers import below_prefix, opened, plain_name, unwrapped, without_prefix

if TYPE_CHECKING:
    pass

MAX_PARAMS = 4_000_000_000

Weights = str | os.PathLike[str] | Mapping[str, Any]


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
    settings: Mapping[str, Any] | None = None,
) -> Backbone:
    """A ready model, **in eval mode** (call `.train()` to train it), its convolutions in channels_last memory.

    (FSDP2 shards contiguous parameters only: call `.to(memory_format=torch.contiguous_format)` before `fully_shard`.)

    model: a name (`unireplknet_a`, with a weight tag `unireplknet_nano.digits`), a repository (`hub:org/repo@revision`), a file or folder
        that `zoo.save` wrote (its weights come with it), a spec file, a Spec, or a spec as a table.
    overrides: {path: value}: literal paths (`depths`, `define.large.kernel_size`) or selectors (`**.<mlp>.ratio`).
    swap: {role: block} with `at` for a part of the net: `swap={"token_mixer": "pooling"}, at="stages.2-3"`.
    pretrained: the weights of a tag, of the name's tag, or (True) the best at hand; adapted when the request changes the
        model, with a report in `.adapt_report`. A name with a tag implies it. Listed weights want `zoo pin NAME.TAG` once.
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

    Raises UnknownModelError, SpecError (all problems at once), WeightsError; nothing is built half.
    """
    if form not in ("train", "deploy"):
        raise InputError(
            "create", Problem("form", "`train` or `deploy`", f"`{form}`", nearest(form, ["train", "deploy"]))
        )
    if is_opaque(model):
        edits = {"overrides": overrides, "settings": settings, "swap": swap, "at": at}
        refuse_edits(str(model), {**edits, "dynamic_size": dynamic_size, "output_stride": output_stride})
        options = plain(dict(
            num_classes=num_classes, in_chans=in_chans, img_size=img_size, global_pool=global_pool, drop_rate=drop_rate,
            drop_path_rate=drop_path_rate, attn_drop_rate=attn_drop_rate, proj_drop_rate=proj_drop_rate,
            features_only=features_only or None, out_indices=out_indices,
        ))  # fmt: skip
        weights = weights if weights is not None else checkpoint_path
        name = f"{catalog.split_tag(str(model))[0]}.{pretrained}" if isinstance(pretrained, str) else str(model)
        return _create_opaque(name, options, bool(pretrained), weights, form, device, dtype, max_params)
    found = described(model)
    published, made = (found.spec, found.made) if found else (find_spec(model), Made())
    wanted = _changed_spec(published if found else model, published, overrides, settings, swap, at)
    wanted = _with_arguments(wanted, num_classes, in_chans, img_size, global_pool, drop_rate, drop_path_rate)
    wanted = _with_drops(wanted, plain({"attn_drop": attn_drop_rate, "proj_drop": proj_drop_rate}))
    wanted = any_size(wanted) if dynamic_size else wanted
    wanted = with_output_stride(wanted, output_stride) if output_stride is not None else wanted
    weights = weights if weights is not None else checkpoint_path
    tag = catalog.split_tag(model)[1] if isinstance(model, str) and not found and not is_file(model) else ""
    tag = pretrained if isinstance(pretrained, str) else tag
    built = build(wanted)
    if global_pool == "" or (made.headless and num_classes is None and global_pool is None):
        built.head = None
    if features_only or made.out_indices is not None:
        _keep_features(built, plain(out_indices) if out_indices is not None else made.out_indices)
    if made.form == "deploy":
        built = _deployed_as_saved(built, published, wanted, features_only)
    if str(device) != "meta":  # where nothing takes memory
        _guard(built, max_params)
    if weights is not None:
        _load_described(built, wanted, weights, source, dtype, device, published)
    elif found and str(device) == "meta":
        built.pretrained = found.manifest
    elif found:
        _load_manifest(built, published, wanted, found.manifest, dtype, device, beside=True)
    elif pretrained or tag:
        _load_published(built, published, wanted, tag, dtype, device)
    elif str(device) != "meta":
        materialise(built, wanted.init, device)
        if dtype is not None:
            built.to(dtype)
    if str(device) != "meta":
        forget_arguments(built)
    if isinstance(wanted.tree["input"], dict) and wanted.tree["input"].get("kind") == "image" and str(device) != "meta":
        built.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if made.form == "deploy":
        return packed(built)
    return deploy(built) if form == "deploy" else built


def _create_opaque(
    name: str, options: dict[str, Any], pretrained: bool, weights: Weights | None, form: str, device: Any, dtype: Any, most: int
) -> Any:  # fmt: skip
    """A model that the code of a plugin builds: on meta where weights follow, else with its own initial values."""
    published, tag = catalog.split_tag(name)
    manifest = _usable(name) if weights is None and (pretrained or tag) else None
    wanted = Opaque(published, options, manifest.tag if manifest else tag)
    model: Any = wanted.build("meta" if weights is not None or manifest else device or "cpu")
    _guard(model, most)
    if weights is not None:
        load_state(model, open_checkpoint(weights, name), name, dtype, device)
    elif manifest is not None:
        _load_opaque(model, wanted, brought(manifest), dtype, device)
    elif dtype is not None:
        model.to(dtype)
    if str(device) != "meta":
        model.to(memory_format=torch.channels_last)
    take_strided_pixels(model)
    return deploy(model) if form == "deploy" else model


def _load_opaque(model: Any, wanted: Opaque, manifest: Manifest, dtype: torch.dtype | None, device: Any) -> None:
    """The bytes of a manifest, adapted where the request changes the model."""
    name, expected = manifest.name, expected_header(model)
    tensors = read_published(manifest, catalog.home_of(wanted.name).weights)
    if wanted.options.get("features_only"):
        tensors = {key: tensor for key, tensor in tensors.items() if key in expected}
    model.pretrained = manifest.for_input(wanted.input.channels, wanted.input.size)
    same = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()} == expected
    if same and "img_size" not in wanted.options:
        load_state(model, tensors, name, dtype, device)
        return
    first, last = (_prefixes(model, word) for word in ("first_conv", "classifier"))
    before = Opaque(wanted.name, {}, wanted.tag).build("meta") if "img_size" in wanted.options else None
    fitted, report = adapt(tensors, expected, subject=name, stem=first, head=last, model=model, before=before)
    values = wanted.build("cpu").state_dict(keep_vars=True)
    put_tensors(model, {key: values[key] for key in report.names("new")})
    load_state(model, fitted, name, dtype, device, keep=report.names("new"))
    model.adapt_report = report


def _prefixes(model: Any, word: str) -> tuple[str, ...]:
    """Names that begin so belong to the first, or to the last, layer: as the model says in its `pretrained_cfg`."""
    told = getattr(model, "pretrained_cfg", {}).get(word) or ()
    return tuple(f"{path}." for path in ([told] if isinstance(told, str) else told))


def _deployed_as_saved(model: Backbone, published: Spec, wanted: Spec, features_only: bool) -> Backbone:
    """The structure of a deploy form that was saved. Raises InputError for one that is to be changed: its layers are folded."""
    if wanted != published or features_only:
        found = "a model that was saved in its deploy form, whose layers are folded"
        step = "save the train form, and make the deploy form of what you change"
        raise InputError("create", Problem(published.name, "no change of the model", found, next=step))
    fused: Backbone = deploy(model)
    return fused


def _changed_spec(
    model: Any,
    published: Spec,
    overrides: Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None,
    swap: Mapping[str, Any] | None,
    at: str,
) -> Spec:
    changed = find_spec(model, overrides, settings=settings) if overrides or settings else published
    if swap:
        changed = respec(changed, swap_edits(plain(swap), at))
    elif at:
        raise InputError("create", Problem("at", "`swap` together with `at`", f'at = "{at}" alone'))
    return changed


def _with_arguments(
    spec: Spec,
    num_classes: int | None,
    in_chans: int | None,
    img_size: int | Sequence[int] | None,
    global_pool: str | None,
    drop_rate: float | None,
    drop_path_rate: float | None,
) -> Spec:
    img_size, drop_rate = plain(img_size), plain(drop_rate)
    values: dict[str, Any] = plain({"num_classes": num_classes, "drop_path_rate": drop_path_rate})
    form = {"channels": plain(in_chans), "size": list(img_size) if isinstance(img_size, tuple) else img_size}
    values["input"] = {key: value for key, value in form.items() if value is not None} or None
    values["head"] = {
        key: value for key, value in (("pool", global_pool or None), ("drop", drop_rate)) if value is not None
    } or None
    values = {key: value for key, value in values.items() if value is not None}
    return with_values(spec, **values) if values else spec


def _with_drops(spec: Spec, rates: Mapping[str, float | None]) -> Spec:
    """The rates in every block that has such a parameter. Raises InputError when no block of the model has."""
    edits = []
    for name, rate in rates.items():
        if rate is None:
            continue
        owners = [block for block in spec.blocks() if name in describe(block).params]
        if not owners:
            blocks = listed([info.name for info in core_index().values() if name in info.params])
            problem = Problem(
                f"{name}_rate", f"a model with a block that drops there ({blocks})", f"none in {spec.name}"
            )
            raise InputError("create", problem)
        edits += [Edit(f"**.<{block}>.{name}", rate, Origin("argument", f"{name}_rate")) for block in owners]
    return respec(spec, edits) if edits else spec


def _keep_features(model: Backbone, out_indices: int | Sequence[int] | None) -> None:
    """Turns a model into one that returns maps: no head, and nothing behind the last level asked for."""
    if out_indices is None and model.levels_are_layers:
        out_indices = min(3, model.num_levels)  # of the many layers of a plain transformer the last three, as timm does
    model.out_indices = tuple(model.prune_intermediate_layers(out_indices))


def _guard(model: Backbone, max_params: int) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > max_params:
        raise SpecError(
            model.spec.name,
            Problem(
                "", f"at most {max_params:,} parameters", f"{count:,}", next=f"pass max_params={count} if that is meant"
            ),
        )


def _load(
    model: Backbone,
    spec: Spec,
    weights: Weights,
    source: str,
    dtype: torch.dtype | None,
    device: Any,
    published: Spec | None = None,
) -> None:
    """A checkpoint that the user names, through the family's key rules for its source, without what training put around it.

    Where its tensors fit images of the published size only, the tables of positions among them are resampled.
    """
    content = open_checkpoint(weights, spec.name)
    try:
        tensors, prefix = _in_our_names(content, model, spec, source)
        try:
            load_state(model, tensors, spec.name, dtype, device)
        except WeightsError as error:
            raise (below_prefix(error, prefix) if prefix else error) from None
    except WeightsError as refusal:
        resized = _resized(content, model, spec, source, published)
        if resized is None:
            raise refusal from None
        load_state(model, resized[0], spec.name, dtype, device)
        model.adapt_report = resized[1]  # type: ignore[assignment]


def _resized(
    content: dict[str, Any], model: Backbone, spec: Spec, source: str, published: Spec | None
) -> tuple[dict[str, Tensor], AdaptReport] | None:
    """A checkpoint of a model that takes images of the published size, for one of another size; None if it is no such one."""
    sizes = [getattr(form, "size", None) for form in (published and published.input, spec.input)]
    if sizes[0] is None or sizes[0] == sizes[1]:
        return None
    before = with_values(spec, input={"size": sizes[0]})
    try:
        tensors, _ = _in_our_names(content, model, before, source)
        fitted, report = adapt(tensors, expected_header(model), subject=spec.name, model=model, before=build(before))
    except WeightsError:
        return None
    fits = all(change.action in ("kept", "resampled") for change in report.changes)
    return (fitted, report) if fits else None


def _in_our_names(
    content: Mapping[str, Any], model: Backbone, spec: Spec, source: str
) -> tuple[dict[str, Tensor], str]:
    """The tensors of a checkpoint for a model of this spec, but for those that the model lost on purpose, and their prefix."""
    rules, name = _key_rules(spec, source), spec.name
    content = opened(content, rules.unwrap if rules else ())
    absent = _left_out(model, spec)
    if rules is None:
        places = {plain_name(key) for key in model.state_dict()} | absent
        tensors, prefix = without_prefix(open_envelope(content, subject=name), places.__contains__, name)
    else:
        expected = expected_header(build(spec))
        tensors, prefix = without_prefix(rules.open(content, name), partial(rules.fills, there=expected), name)
        try:
            tensors = rules.to_zoo(tensors, expected, name)
        except WeightsError as error:
            raise (below_prefix(error, prefix) if prefix else error) from None
    return {key: tensor for key, tensor in tensors.items() if key not in absent}, prefix


def _key_rules(spec: Spec, source: str) -> KeyRules | None:
    """The family's rules for the names of a source; None for our own names. Raises WeightsError for a source it does not have."""
    if source == "zoo":
        return None
    if source not in spec.keys:
        known = ["zoo", *spec.keys]
        raise WeightsError(
            spec.name, Problem("source", f"one of {listed(known)}", f"`{source}`", nearest(source, known))
        )
    return KeyRules.from_data(spec.keys[source], f"{spec.source}: keys.{source}")


def _load_described(
    model: Backbone,
    spec: Spec,
    weights: Weights,
    source: str,
    dtype: torch.dtype | None,
    device: Any,
    published: Spec | None = None,
) -> None:
    """As `_load`; from what `zoo.save` wrote the model also takes how pictures are prepared, and the names of its classes."""
    saved = None if source != "zoo" or isinstance(weights, Mapping) else _saved_weights(weights, spec)
    try:
        if saved is None:
            _load(model, spec, weights, source, dtype, device, published)
        else:
            _load(model, spec, read_published(saved.manifest, ""), source, dtype, device, saved.spec)
    except WeightsError:
        if saved is None or saved.manifest.digest == spec.digest:
            raise
        raise WeightsError(spec.name, _differences(saved.spec, spec, str(weights))) from None
    if saved is not None:
        for problem in _differences(saved.spec, spec, str(weights)):
            warnings.warn(f"{spec.name}: {problem.where}: {problem.sentence()}", stacklevel=4)
        image = hasattr(spec.input, "channels")
        model.pretrained = saved.manifest.for_input(spec.input.channels, spec.input.size) if image else saved.manifest


def _saved_weights(weights: str | os.PathLike[str], spec: Spec) -> Repository | None:
    """What `zoo.save` wrote of these weights, None for those of others. Raises WeightsError."""
    saved = record_of(weights)
    if saved is None:
        return None
    if saved.made.form == "deploy":
        step = f'zoo.create("{weights}")'
        raise WeightsError(spec.name, Problem("", "weights of the train form", "those of the deploy form", next=step))
    return saved


def _differences(saved: Spec, wanted: Spec, file: str) -> list[Problem]:
    """In what the spec beside some weights differs from the one that is asked for."""
    told = {
        "num_classes": (wanted.num_classes, saved.num_classes),
        "in_chans": tuple(getattr(spec.input, "channels", None) for spec in (wanted, saved)),
        "img_size": tuple(getattr(spec.input, "size", None) for spec in (wanted, saved)),
    }
    problems = [
        Problem(name, f"{own}, as asked", f"{other} in {file}", next=f"pass {name}={other}, or zoo.create({file!r})")
        for name, (own, other) in told.items()
        if own != other
    ]
    if not problems and saved.digest != wanted.digest:
        found = f"`{saved.name}`, digest {saved.digest[:12]}, in {file}"
        problems = [Problem("spec", f"`{wanted.name}`, digest {wanted.digest[:12]}, as asked", found)]
    return problems


def _left_out(model: Backbone, spec: Spec) -> set[str]:
    """Names that the spec's model has and this one has not on purpose: it lost its head or its last stages."""
    whole = model.head is not None and model.out_indices is None
    return set() if whole else build(spec).state_dict().keys() - model.state_dict().keys()


def _load_published(
    model: Backbone, published: Spec, wanted: Spec, tag: str, dtype: torch.dtype | None, device: Any
) -> None:
    """Verified bytes of the published spec, adapted to the wanted one where they differ."""
    manifest = _usable(f"{published.name}.{tag}" if tag else published.name)
    _load_manifest(model, published, wanted, brought(manifest), dtype, device)


def _usable(name: str) -> Manifest:
    """The best manifest of a name whose bytes can be had. Raises WeightsError."""
    known = manifests(name)
    usable = [manifest for manifest in known if manifest.state != "listed"]
    if usable:
        return usable[0]
    names = [manifest.name for manifest in known]
    found = f"none; {listed(names)}, which nobody here has fetched yet" if names else "none"
    call = f'zoo.create("{catalog.split_tag(name)[0]}", weights=PATH, source=...)'
    how = f"`zoo pin {names[0]}` fetches and proves it" if names else f"pass a checkpoint: {call}"
    raise WeightsError(name, Problem("", "weights that can be had", found, next=how))


def _load_manifest(
    model: Backbone,
    published: Spec,
    wanted: Spec,
    manifest: Manifest,
    dtype: torch.dtype | None,
    device: Any,
    beside: bool = False,
) -> None:
    """The bytes of a manifest, which are on this machine: `beside` it, or in it, where it stands in no catalogue."""
    name = manifest.name
    if manifest.digest != published.digest:
        raise WeightsError(
            name, Problem("digest", f"the spec that was trained, {manifest.digest[:12]}", f"{published.digest[:12]}")
        )
    tensors = read_published(manifest, "" if beside else catalog.home_of(manifest.model).weights)
    model.pretrained = manifest
    if dtype is None:
        _as_saved(model, tensors)
    if wanted.input != published.input:
        model.pretrained = manifest.for_input(wanted.input.channels, wanted.input.size)
    absent = _left_out(model, published)
    tensors = {key: tensor for key, tensor in tensors.items() if key not in absent}
    expected = expected_header(model)
    same = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()} == expected
    if same and wanted.input == published.input:  # of 28 x 7 positions the table has the shape of 14 x 14
        load_state(model, tensors, name, dtype, device)
        return
    before = build(published)
    swapped = _swapped_paths(model, before)
    fitted, report = adapt(tensors, expected, subject=name, swapped=swapped, model=model, before=before)
    _fill_new(model, wanted, fitted, report)
    load_state(model, fitted, name, dtype, device, keep=report.names("new"))
    model.adapt_report = report  # type: ignore[assignment]


def _as_saved(model: Backbone, tensors: Mapping[str, Tensor]) -> None:
    """Gives a model on meta the floating dtypes of the tensors that it will get: a model saved in bfloat16 comes back in it."""
    grown = accumulators_of(model)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in grown and tensor.is_floating_point()}
    kinds = {tensor.dtype for tensor in tensors.values()}
    if len(kinds) == 1:
        model.to(kinds.pop())  # what no state dict holds, too
    for name, own in model.state_dict(keep_vars=True).items():
        if name in tensors and own.is_floating_point():
            own.data = own.data.to(tensors[name].dtype)


def _swapped_paths(model: Backbone, published: Backbone) -> tuple[str, ...]:
    """Module paths below which the requested model holds other blocks than the published one."""
    before = {path: _kind_of(module) for path, module in published.named_modules()}
    after = {path: _kind_of(module) for path, module in model.named_modules()}
    changed = [path for path, kind in after.items() if kind and before.get(path) != kind]
    return tuple(
        f"{path}." for path in changed if not any(path.startswith(f"{other}.") for other in changed if other != path)
    )


def _kind_of(module: nn.Module) -> str:
    return str(getattr(module, "block_id", ""))


def _fill_new(model: Backbone, spec: Spec, fitted: dict[str, Tensor], report: AdaptReport) -> None:
    """Memory and initial values for what the published weights do not hold."""
    new = set(report.names("new"))
    if not new:
        return
    twin = build(spec)
    if model.head is None:
        twin.head = None
    twin.to_empty(device="cpu")
    initialise(twin, spec.init)
    values = twin.state_dict(keep_vars=True)
    put_tensors(model, {name: values[name] for name in new})


def load(model: Backbone, weights: Weights, source: str = "zoo") -> Backbone:
    """Copies a checkpoint (path or mapping) into a model, strictly, and returns it. Raises WeightsError.

    source: in whose names the checkpoint is, as in `create`. Parameters stay the objects that an optimiser knows, of their
    dtype, device and memory format; a model on meta gets those of the checkpoint. What `torch.compile` or DDP put around the model
    stays there.
    """
    net: Any = unwrapped(model)
    like, own = next(net.parameters()), net.state_dict(keep_vars=True)
    if like.is_meta:
        _load_described(net, net.spec, weights, source, None, None)
        return model
    _load_described(net, net.spec, weights, source, like.dtype, like.device)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            own[name].copy_(tensor)
    put_tensors(net, own)
    return model
