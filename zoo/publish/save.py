"""What `zoo.save` and `zoo.push` write: weights that carry their record, and folders as a repository of the Hub holds them."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast

import msgspec
from torch import Tensor, nn

from blocks.accumulators import accumulators_of
from zoo import catalog
from zoo.artifacts.lockfile import distributions
from zoo.artifacts.record import RECORD, SCHEMA, WEIGHTS, Made
from zoo.build.builder import build
from zoo.build.deploy import deploy
from zoo.data import tokens
from zoo.display.markup import fenced, markdown, yaml
from zoo.errors import InputError, Problem, ProblemsError
from zoo.specs.model import Spec, description_of
from zoo.specs.read import MAX_BYTES
from zoo.system.folders import at_home, check_place, write_whole
from zoo.weights.licences import LicenceClass
from zoo.weights.load import save_weights
from zoo.weights.manifest import Manifest, manifest_json
from zoo.weights.manifest_rules import MAX_LABEL
from zoo.weights.operations import bit_equal
from zoo.weights.source import read_published
from zoo.weights.verify import sha256_of
from zoo.weights.wrappers import plain_name, unwrapped

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_]*(/[A-Za-z0-9][\w.-]*)?")


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    known: Manifest | None = None,
) -> None:
    """Writes a model so that `zoo.create(path)` makes it again, whole or not at all: weights, spec, pre-processing, names of classes.

    path: `mine.safetensors`, one file with all that in its metadata (any library reads its tensors), or a folder, `mine`, as a repository
    of the Hub holds it: `zoo.json`, `model.safetensors` and a card. labels: the names of the classes, in the order of the logits;
    without them those that came with the weights. known: what is known of these very weights, where the model does not carry it.
    Models without a head, of feature maps, and in the deploy form come back as such. A module that no spec describes, or that was
    changed by hand, is written as tensors alone. Raises InputError and WeightsError.
    """
    model, target = unwrapped(model), at_home(path)
    write = write_file if is_file(path) else write_folder
    write(model, target, labels, known=known)


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether `save` writes a file there, or a folder. Raises InputError for a path that is called like neither."""
    target = at_home(path)
    if target.suffix == ".safetensors" and not os.path.isdir(target):
        return True
    if not target.suffix or os.path.isdir(target) or os.fspath(path).endswith(("/", os.sep)):
        return False
    step = f"zoo.save(model, {str(target.with_suffix('.safetensors'))!r})"
    expected = "a file that ends in .safetensors, or a folder"
    raise InputError("save", Problem(str(path), expected, f"`{target.suffix}`", next=step))


def check_target(path: str | os.PathLike[str]) -> None:
    """Raises InputError where `save` could write nothing: asked before a training whose result goes there."""
    target = at_home(path)
    check_place(target if is_file(path) else target / WEIGHTS)


def write_file(
    model: nn.Module,
    path: Path,
    labels: Sequence[str] | None = None,
    known: Manifest | None = None,
    made: Made | None = None,
) -> None:
    """Weights whose metadata hold the record; tensors alone of a module that no spec describes, with a warning where one once did.
    `made`: how the module was made of its spec, where that is known and need not be found out.

    Raises InputError for labels that do not fit, or that such a file cannot hold, WeightsError where nothing can be written.
    """
    made = made or made_of(model)
    if made is None:
        if labels is not None:
            raise InputError("save", Problem("labels", "a model that is what its spec says", _why_not(model)))
        if _is_written(model):
            warnings.warn(
                f"{path.name} holds tensors alone: expected a model that is what its spec says; found {_why_not(model)}",
                stacklevel=3,
            )
        save_weights(model, path)
        return
    manifest = known or manifest_of(model, labels)
    text = json.dumps(_record(model, manifest, made), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    _refuse_large(text, labels)
    save_weights(model, path, {RECORD: text})


def write_folder(
    model: nn.Module, folder: Path, labels: Sequence[str] | None = None, known: Manifest | None = None, tag: str = "saved",
    where: str = "", licence: str = "", licence_class: LicenceClass = "unknown",
) -> None:  # fmt: skip
    """Weights, record and card; `where` is what `zoo.create` will be given, in the card. Raises InputError and WeightsError."""
    from zoo.measure.profile import profile
    from zoo.measure.store import Store

    made = made_of(model)
    if made is None:
        raise InputError("save", Problem(str(folder), "a model that is what its spec says", _why_not(model)))
    known = known or manifest_of(model, labels, licence, licence_class)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("save", Problem(str(folder), "a place for a folder", error.strerror or str(error))) from None
    write_file(model, folder / WEIGHTS, known=known)
    size_bytes, sha256 = (folder / WEIGHTS).stat().st_size, sha256_of(folder / WEIGHTS, use_stamps=False)
    manifest = msgspec.structs.replace(known, tag=tag, state="pinned", size_bytes=size_bytes, sha256=sha256)
    with Store() as store:
        rows = store.rows(digest=manifest.digest, verdict="clean")
    costs = profile(model, form=made.form)
    record = _record(model, manifest, made) | {
        "profile": msgspec.to_builtins(msgspec.structs.replace(costs, blocks=[], ops=[])),
        "latency": [msgspec.to_builtins(row) for row in rows],
    }
    write_whole(folder / RECORD, json.dumps(record, indent=1).encode())
    tokens.keep(getattr(model, "tokenizer", ""), folder)
    write_whole(folder / "README.md", card(cast(Any, model).spec, manifest, where or f"./{folder.name}").encode())


def made_of(model: nn.Module) -> Made | None:
    """How the module was made of its spec; None where it has other tensors than that says, or no spec."""
    net: Any = model
    if not _is_written(net):
        return None
    twin, made = build(net.spec), Made()
    if getattr(net, "out_indices", None) is not None:
        made = Made(out_indices=tuple(net.out_indices))
        twin.prune_intermediate_layers(list(net.out_indices))
    elif net.head is None:
        made, twin.head = Made(headless=True), None
    if _shapes(twin) == _shapes(model):
        return made
    fused: nn.Module = deploy(twin)
    deployed = msgspec.structs.replace(made, form="deploy")
    return deployed if _shapes(fused) == _shapes(model) else None


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {plain_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _is_written(model: nn.Module) -> bool:
    """Whether a spec says of which blocks the model is."""
    described = description_of(model)
    return described is not None and described.factory is None


def _why_not(model: nn.Module) -> str:
    described = description_of(model)
    if described is None:
        return f"a {type(model).__name__} without a spec"
    if not _is_written(model):
        return f"{described.name}, which the code of a plugin builds and no spec describes"
    return "one that was pruned or changed by hand"


def manifest_of(
    model: nn.Module, labels: Sequence[str] | None = None, licence: str = "", licence_class: LicenceClass = "unknown"
) -> Manifest:
    """What is known of the weights of a model, without their bytes: a manifest whose source is `model.safetensors`.

    Metrics stay with weights that are still, bit by bit, those that they were measured with.
    """
    from zoo.data.transforms import preprocess_of

    made_from: Any = model
    spec: Spec = made_from.spec
    pretrained: Manifest | None = made_from.pretrained
    same = pretrained is not None and _still_published(model, pretrained)
    state, grown = model.state_dict(), accumulators_of(model)
    floats = {tensor.dtype for name, tensor in state.items() if tensor.is_floating_point() and name not in grown}
    dtype = str(next(iter(floats))).removeprefix("torch.") if len(floats) == 1 else "float32"
    return Manifest(
        model=_name(spec.name), tag="saved", state="saved", digest=spec.digest, source=f"file:{WEIGHTS}", dtype=dtype,
        licence=licence or (pretrained.licence if pretrained else spec.family.licence or "unknown"),
        licence_class=licence_class if licence or pretrained is None else pretrained.licence_class,
        origin=pretrained.origin if pretrained and same else f"saved by its owner, from {pretrained.name}" if pretrained else "saved by its owner",
        preprocess=preprocess_of(model) if hasattr(spec.input, "channels") else None,
        labels=_labels(model, pretrained, labels), metrics=pretrained.metrics if pretrained and same else {},
    )  # fmt: skip


def _name(name: str) -> str:
    """The name of a model, or of the file that its spec stood in, as a manifest may hold it."""
    return (
        name
        if MODEL_NAME.fullmatch(name)
        else re.sub(r"[^a-z0-9]+", "_", Path(name).stem.lower()).strip("_") or "model"
    )


def _labels(model: Any, known: Manifest | None, labels: Sequence[str] | None) -> tuple[str, ...]:
    """Those given, else those that came with the weights and still are as many as there are classes. Raises InputError."""
    if labels is None:
        carried = known.labels if known is not None else ()
        return tuple(carried) if not isinstance(carried, str) and len(carried) == model.num_classes else ()
    _refuse_labels(model, labels)
    return tuple(map(str, labels))


def _refuse_labels(model: Any, labels: Sequence[str]) -> None:
    ordered = isinstance(labels, Iterable) and not isinstance(labels, (str, Mapping, Set))
    if not ordered or not all(isinstance(label, str) for label in labels):
        found = "values that are no strings" if ordered else f"`{str(labels)[:60]}`, of type {type(labels).__name__}"
        raise InputError("save", Problem("labels", 'a list of names: ["cat", "dog"]', found))
    problems = []
    if len(labels) != model.num_classes:
        count = f"{model.num_classes} names, one for each class in the order of the logits"
        problems.append(Problem("labels", count, str(len(labels))))
    odd = [label for label in labels if not label.strip() or not label.isprintable() or len(label) > MAX_LABEL]
    expected = f"printable names of at most {MAX_LABEL} letters"
    problems += [Problem("labels", expected, ascii(label)[:80]) for label in odd[:3]]
    if problems:
        raise InputError("save", problems)


def _refuse_large(record: str, labels: Sequence[str] | None) -> None:
    size = len(record.encode())
    if size > MAX_BYTES:
        step = "shorter labels" if labels else ""
        raise InputError("save", Problem(RECORD, f"a record of at most {MAX_BYTES:,} bytes", f"{size:,}", next=step))


def _still_published(model: nn.Module, manifest: Manifest) -> bool:
    """Whether the model is that of a manifest, and holds the very tensors."""
    if cast(Any, model).spec.digest != manifest.digest:  # equal tensors may stand among other blocks
        return False
    try:
        home = "" if manifest.source.startswith("file:") else catalog.home_of(manifest.model).weights
        published = read_published(manifest, home)
    except (ProblemsError, OSError, KeyError):
        return False  # the bytes are no longer here
    tensors: dict[str, Tensor] = {
        plain_name(name): tensor.detach().cpu() for name, tensor in model.state_dict().items()
    }
    return tensors.keys() >= published.keys() and all(
        bit_equal(tensor, tensors[name]) for name, tensor in published.items()
    )


def _record(model: nn.Module, manifest: Manifest, made: Made) -> dict[str, Any]:
    spec: Spec = cast(Any, model).spec
    record = {"schema": SCHEMA, "manifest": json.loads(manifest_json(manifest)), "spec": spec.plain()}
    how = {"made": msgspec.to_builtins(made)} if made != Made() else {}
    return record | how | {"distributions": distributions(spec.blocks())}


def card(spec: Spec, manifest: Manifest, where: str) -> str:
    """The README.md of a repository or folder; `where` is what `zoo.create` takes."""
    from zoo.publish.cards import HUB_LICENCES, HUB_TASKS, model_index
    from zoo.selection.figures import Figure

    task = spec.family.task
    figures = [
        Figure(name, round(100 * metric.value, 2), metric.source)
        for name, metric in manifest.metrics.items()
        if metric.value <= 1
    ]
    index = [line for figure in figures for line in model_index(spec.name, task, figure)]
    front = ["---", f"license: {HUB_LICENCES.get(manifest.licence, 'other')}", "library_name: blockzoo"]
    front += [f"pipeline_tag: {yaml(HUB_TASKS.get(task, task))}", *(["model-index:", *index] if index else []), "---"]
    paragraphs = [
        f"# {markdown(spec.name)}",
        "",
        f"Digest of the spec: `{spec.digest}`. Licence: {markdown(manifest.licence)}.",
    ]
    code = fenced(f"import zoo\n\nmodel = zoo.create({json.dumps(where, ensure_ascii=False)})", "python")
    return "\n".join([*front, "", *paragraphs, "", code, ""])
