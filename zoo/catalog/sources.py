"""Where a model comes from, by what a user names it with: a Spec or a table, a file, what was saved, the catalogue, a plugin's code.

`find_source` asks once; whoever builds, fills, labels or prepares pictures asks the source. Imports no torch.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

from zoo import catalog
from zoo.artifacts.record import Made
from zoo.catalog.external import External, is_external, refuse_edits
from zoo.catalog.manifests import manifests
from zoo.catalog.names import Model, is_file, split_variant
from zoo.catalog.published import backbone_spec, family_of, published_spec, spec_file
from zoo.catalog.saved import described
from zoo.catalog.transformers_folders import KEYS, folder_of, is_transformers, registered
from zoo.errors import InputError, Problem, SpecError, listed
from zoo.specs.arguments import Settings, with_arguments, with_drop_rates
from zoo.specs.model import Described, NetFactory, Spec
from zoo.specs.patch import Edit, swap_edits
from zoo.specs.read import Family, read_file
from zoo.specs.read import family_of as family_in
from zoo.specs.resolve import resolve, respec
from zoo.specs.scalars import plain
from zoo.specs.sizes import any_size, with_output_stride
from zoo.specs.tree import Origin
from zoo.system.file_kinds import refuse_foreign
from zoo.weights.manifest import Manifest

BACKBONE = "backbone"
"""The role of a whole model in another one, and the key of a spec that names it."""


class Request(NamedTuple):
    """What is asked of a model, beside its name: the arguments of `zoo.create` that change the net."""

    overrides: Mapping[str, Any] | None = None
    swap: Mapping[str, Any] | None = None
    at: str = ""
    num_classes: int | None = None
    in_chans: int | None = None
    img_size: int | Sequence[int] | None = None
    global_pool: str | None = None
    drop_rate: float | None = None
    drop_path_rate: float | None = None
    attn_drop_rate: float | None = None
    proj_drop_rate: float | None = None
    features_only: bool = False
    out_indices: int | Sequence[int] | None = None
    dynamic_size: bool = False
    output_stride: int | None = None


class Foreign(NamedTuple):
    """A checkpoint, and what the family calls its rules for the names in it."""

    path: pathlib.Path
    keys: str


class Source(Protocol):
    """What is known of a model before it is built."""

    @property
    def spec(self) -> Described:
        """What describes the model as it was published, saved or given."""
        ...

    @property
    def made(self) -> Made:
        """How a saved model was made of its spec."""
        ...

    @property
    def tag(self) -> str:
        """The tag of the weights that the name asks for."""
        ...

    @property
    def manifests(self) -> list[Manifest]:
        """The manifests of the weights that belong to it, best first."""
        ...

    @property
    def carries_weights(self) -> bool:
        """Whether weights come with it without being asked for."""
        ...

    @property
    def checkpoint(self) -> Foreign | None:
        """The weights of others that come with it."""
        ...

    def changed(self, overrides: Mapping[str, Any] | None) -> Described:
        """The spec with {path or selector: value}. Raises SpecError."""
        ...

    def wanted(self, request: Request) -> Described:
        """What is asked for. Raises SpecError and InputError."""
        ...

    def beyond(self, request: Request) -> Request:
        """What of the request no description says: the built net is changed for it."""
        ...


class _WithSpec:
    """What all sources share whose models a spec describes."""

    made, tag, carries_weights = Made(), "", False
    checkpoint: Foreign | None = None
    spec: Spec
    manifests: list[Manifest] = []

    def changed(self, overrides: Mapping[str, Any] | None) -> Spec:
        if not overrides:
            return self.spec
        origin = "--set" if isinstance(overrides, Settings) else "override"
        return respec(self.spec, [Edit(key, value, Origin(origin, key)) for key, value in plain(overrides).items()])

    def wanted(self, request: Request) -> Spec:
        swap = dict(plain(request.swap or {}))
        spec = self.changed(self._with_backbone(request.overrides, swap.pop(BACKBONE, None)))
        if swap:
            spec = respec(spec, swap_edits(swap, request.at))
        elif request.at:
            raise InputError("create", Problem("at", "`swap` together with `at`", f'at = "{request.at}" alone'))
        spec = with_arguments(
            spec, request.num_classes, request.in_chans, request.img_size, request.global_pool, request.drop_rate,
            request.drop_path_rate,
        )  # fmt: skip
        spec = with_drop_rates(spec, plain({"attn_drop": request.attn_drop_rate, "proj_drop": request.proj_drop_rate}))
        spec = any_size(spec) if request.dynamic_size else spec
        return with_output_stride(spec, request.output_stride) if request.output_stride is not None else spec

    def beyond(self, request: Request) -> Request:
        return request

    def _with_backbone(self, overrides: Mapping[str, Any] | None, model: Any) -> Mapping[str, Any] | None:
        """The changes with another model for a backbone, whose stages are then that one's. Raises InputError where they are written out."""
        if model is None:
            return overrides
        if not isinstance(self, Variant):
            found = "a spec in which they are"
            step = "swap it in the model of the catalogue, or in the file, that it came from"
            raise InputError(
                self.spec.name, Problem("swap", "a backbone whose stages are not written out", found, next=step)
            )
        changes = type(overrides)() if isinstance(overrides, Settings) else {}
        changes.update(overrides or {})
        changes[f"{BACKBONE}.model"] = model
        return changes


class Given(_WithSpec):
    """A Spec."""

    def __init__(self, spec: Spec):
        self.spec = spec

    @property
    def manifests(self) -> list[Manifest]:  # type: ignore[override]
        return manifests(self.spec.name) if catalog.is_model(self.spec.name) else []


class Saved(_WithSpec):
    """What `zoo.save` wrote, or a repository of the Hub: its weights and how it was made come with it."""

    carries_weights = True

    def __init__(self, spec: Spec, manifest: Manifest, made: Made):
        self.spec, self.made, self.manifests = spec, made, [manifest]


class Variant(_WithSpec):
    """A variant of a family: of a file, of a table."""

    def __init__(self, family: Family, variant: str):
        self.family, self.variant = family, variant

    @functools.cached_property
    def spec(self) -> Spec:  # type: ignore[override]
        return self.resolved()

    def changed(self, overrides: Mapping[str, Any] | None) -> Spec:
        if not overrides:
            return self.spec
        return self.resolved(settings=overrides) if isinstance(overrides, Settings) else self.resolved(overrides)

    def resolved(self, overrides: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None) -> Spec:
        """The spec with changes from code and from the shell."""
        return resolve(self.family, self.variant, plain(overrides), plain(settings), backbone_spec)


class Named(Variant):
    """A model of the catalogue, with the tag of its weights where the name has one."""

    def __init__(self, name: str):
        self.name, self.tag = catalog.entry(name).name, catalog.split_tag(name)[1]
        self.asked = name
        super().__init__(family_of(spec_file(name)), catalog.home_of(name).short(self.name))

    @property
    def manifests(self) -> list[Manifest]:  # type: ignore[override]
        return manifests(self.asked)

    def resolved(self, overrides: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None) -> Spec:
        return published_spec(self.name, plain(overrides), plain(settings))


class SavedByTransformers(Named):
    """A model of the catalogue whose weights lie in a folder of `save_pretrained`: `transformers:FOLDER`."""

    def __init__(self, model: str):
        super().__init__(registered(model))
        self.checkpoint = Foreign(folder_of(model), KEYS)


class Factory:
    """A model that the code of a plugin builds: it takes options, and no edits of a spec."""

    made, carries_weights, checkpoint = Made(), False, None

    def __init__(self, name: str, options: Mapping[str, Any] | None = None):
        self.name, self.tag = catalog.split_tag(name)
        self.options = options or {}

    @classmethod
    def of(cls, name: str, factory: NetFactory) -> Factory:
        """What a plugin's code was asked for once."""
        return cls(f"{name}.{factory.tag}" if factory.tag else name, factory.options)

    @property
    def spec(self) -> External:
        return External(self.name, self.options, self.tag)

    @property
    def manifests(self) -> list[Manifest]:
        return manifests(f"{self.name}.{self.tag}" if self.tag else self.name)

    def changed(self, overrides: Mapping[str, Any] | None) -> External:
        refuse_edits(self.name, {"overrides": overrides})
        return self.spec

    def wanted(self, request: Request) -> External:
        options = request._asdict()
        edits = {name: options.pop(name) for name in ("overrides", "swap", "at", "dynamic_size", "output_stride")}
        refuse_edits(self.name, edits)
        asked = {key: value for key, value in options.items() if value is not None and value is not False}
        return External(self.name, {**self.options, **plain(asked)}, self.tag)

    def beyond(self, request: Request) -> Request:
        return Request()


def find_source(model: Model) -> Source:
    """`model`: a name, a spec file (`net.toml`, `net.toml:variant`), what `zoo.save` wrote, a repository, a folder of transformers
    (`transformers:FOLDER`), a spec as a table, or a Spec.

    Raises UnknownModelError, SpecError, and WeightsError for what is wrong with a saved model.
    """
    if isinstance(model, Described):
        return Given(cast(Spec, model)) if model.factory is None else Factory.of(model.name, model.factory)
    if isinstance(model, Mapping):
        return Variant(family_in(model, "spec"), "")
    if is_transformers(model):
        return SavedByTransformers(model)
    if (saved := described(model)) is not None:
        return Saved(saved.spec, saved.manifest, saved.made)
    text = os.fspath(model)
    _refuse_timm(text)
    if is_file(text):
        return _of_file(text)
    return Factory(text) if is_external(text) else Named(text)


def _refuse_timm(text: str) -> None:
    """Raises InputError for a model as timm names one outside its catalogue: of a repository, or of a folder."""
    scheme, colon, place = text.partition(":")
    if not colon or scheme not in ("hf-hub", "hf_hub", "local-dir"):
        return
    name = place.rpartition("/")[2].partition("@")[0]
    known = catalog.is_model(name)
    step = (
        f'`zoo.create("{name}")`'
        if known
        else 'zoo.create(NAME, weights=FILE, source="timm"), with the name of its model'
    )
    if scheme != "local-dir" and not known:
        step = f"`hub:{place}` reads what `zoo.push` wrote; else {step}"
    raise InputError("create", Problem("model", "a name, `hub:org/repo`, a file or a folder", f"`{text}`", next=step))


def spec(
    model: Model, overrides: Mapping[str, Any] | None = None, *, settings: Mapping[str, Any] | None = None
) -> Spec:
    """The filled, checked spec of a model, with changes: {path or selector: value}, from code or (`settings`) from the shell.

    Raises as `find_source` does.
    """
    source = find_source(model)
    if overrides and settings and isinstance(source, Variant):
        return source.resolved(overrides, settings)
    changed: Any = source.changed(overrides)
    if settings:
        changed = (Given(changed) if overrides else source).changed(Settings(settings))
    return changed  # type: ignore[no-any-return]  # for a model of a plugin's code what stands for its spec


def _of_file(text: str) -> Variant:
    path, variant = split_variant(text)
    refuse_foreign(pathlib.Path(path))
    family = read_file(pathlib.Path(path))
    variants = list(family.variants)
    if not variant and len(variants) == 1:
        variant = variants[0]
    if not variant and len(variants) > 1:
        near = f"{path}:{variants[0]}"
        raise SpecError(
            path, Problem("", f"one of its variants: {listed(variants, 20)}", "no choice", next=f"write `{near}`")
        )
    return Variant(family, variant)
