"""Weights that are published or saved, for a net that waits for them: verified bytes, adapted where the request changes the net.

Every net is filled here: `plan` says with what, `fill` does it. A plan is a `Checkpoint` that the user names, the bytes of a manifest
(`Published`), or the first values of the spec (`Initial`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from blocks.accumulators import accumulators_of
from zoo import catalog
from zoo.artifacts.pinning import brought
from zoo.build.builder import build
from zoo.build.init import initialise, materialise
from zoo.catalog.manifests import manifests
from zoo.catalog.published import published_spec
from zoo.catalog.sources import Source
from zoo.errors import Problem, WeightsError, listed
from zoo.pretrained.checkpoint import Checkpoint, Weights
from zoo.pretrained.external import ExternalCheckpoint, ExternalInitial, ExternalPublished
from zoo.pretrained.target import Plan, Target
from zoo.specs.model import Spec
from zoo.weights.adapt import AdaptReport, adapt
from zoo.weights.load import expected_header, put_tensors
from zoo.weights.manifest import Manifest
from zoo.weights.source import read_published
from zoo.weights.wrappers import unwrapped


class Initial(Plan):
    """The first values that the spec says."""

    def fill(self, target: Target) -> None:
        if not target.on_meta:
            materialise(target.net, target.spec.init, target.device)
            if target.dtype is not None:
                target.net.to(target.dtype)


BACKBONE = "backbone"
"""What `pretrained` is where the weights of the backbone alone are asked for."""


class OfBackbone(Plan):
    """First values, and in stem and stages the best weights at hand of the model whose backbone they are."""

    def fill(self, target: Target) -> None:
        """Raises WeightsError for a net without such a backbone, where no weights can be had, and where they do not fit."""
        Initial().fill(target)
        if target.on_meta:
            return
        source = target.spec.tree.get(BACKBONE)
        if not source:
            problem = Problem("pretrained", "a model with a `backbone` of another model", "none")
            raise WeightsError(target.spec.name, problem)
        manifest = _usable(source["model"])
        tensors = Published(manifest, published_spec(source["model"])).tensors()
        own = {name: value for name, value in target.net.state_dict(keep_vars=True).items() if name in tensors}
        wrong = [name for name, value in own.items() if value.shape != tensors[name].shape]
        if wrong or not own:
            found = f"other shapes of {listed(wrong)}" if wrong else "none of its names"
            raise WeightsError(manifest.name, Problem("", "the tensors of the backbone", found))
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])


@dataclass(frozen=True)
class Published(Plan):
    """The bytes of a manifest, for the net of `made_for`; `beside` it, or in it, where it stands in no catalogue."""

    manifest: Manifest
    made_for: Spec
    beside: bool = False

    def tensors(self) -> dict[str, Tensor]:
        """Verified, once they are on this machine."""
        if self.beside:
            return read_published(self.manifest, "")
        return read_published(brought(self.manifest), catalog.home_of(self.manifest.model).weights)

    def fill(self, target: Target) -> None:
        """Adapts what differs from the wanted spec, with a report in `.adapt_report`. Raises WeightsError."""
        if self.beside and target.on_meta:
            target.net.pretrained = self.manifest
            return
        net, spec, name = target.net, target.spec, self.manifest.name
        if self.manifest.digest != self.made_for.digest:
            expected = f"the spec that was trained, {self.manifest.digest[:12]}"
            raise WeightsError(name, Problem("digest", expected, f"{self.made_for.digest[:12]}"))
        absent = target.absent(self.made_for)
        tensors = {key: tensor for key, tensor in self.tensors().items() if key not in absent}
        target.know(self.manifest, self.made_for)
        if target.dtype is None:
            _take_dtypes(net, tensors)
        if spec.input == self.made_for.input and target.takes(
            tensors
        ):  # of 28 x 7 positions the table has the shape of 14 x 14
            target.load(tensors, name)
            return
        before = target.twin(self.made_for)
        swapped = _swapped_paths(net, before)
        fitted, report = adapt(tensors, expected_header(net), subject=name, swapped=swapped, model=net, before=before)
        _fill_new(net, spec, report)
        target.load(fitted, name, keep=report.names("new"))
        net.adapt_report = report


def plan(source: Source, weights: Weights | None, keys: str, pretrained: bool | str) -> Plan:
    """What a model is filled with: the checkpoint that is named, its own weights, those of a tag, or first values.

    Raises WeightsError where no weights can be had that were asked for.
    """
    if source.spec.factory is not None:
        if weights is not None:
            return ExternalCheckpoint(weights)
        manifest = _asked(source, pretrained)
        return ExternalInitial() if manifest is None else ExternalPublished(manifest)
    spec = cast(Spec, source.spec)
    if weights is not None:
        return Checkpoint(weights, keys, spec)
    if source.checkpoint is not None:
        return Checkpoint(source.checkpoint.path, source.checkpoint.keys, spec)
    if pretrained == BACKBONE:
        return OfBackbone()
    if source.carries_weights:
        return Published(source.manifests[0], spec, beside=True)
    manifest = _asked(source, pretrained)
    return Initial() if manifest is None else Published(manifest, spec)


def _asked(source: Source, pretrained: bool | str) -> Manifest | None:
    """The weights of the tag that is asked for, or the best at hand; None where none are asked for. Raises WeightsError."""
    if tag := pretrained if isinstance(pretrained, str) else source.tag:
        return _usable(f"{source.spec.name}.{tag}")
    return _usable(source.spec.name) if pretrained else None


def fill(net: Any, wanted: Any, plan: Plan, dtype: torch.dtype | None, device: torch.device | str | None) -> None:
    """Gives a net on meta its tensors, on the device. Raises WeightsError; the net is then still on meta."""
    plan.fill(Target(net, wanted, dtype, device))


def load(model: Any, weights: Weights, source: str = "zoo") -> Any:
    """Copies a checkpoint (path or mapping) into a model, strictly, and returns it. Raises WeightsError.

    source: in whose names the checkpoint is, as in `create`. Parameters stay the objects that an optimiser knows, of their
    dtype, device and memory format; a model on meta gets those of the checkpoint. What `torch.compile` or DDP put around the model
    stays there.
    """
    net: Any = unwrapped(model)
    like, parameters = next(net.parameters()), net.state_dict(keep_vars=True)
    to = (None, None) if like.is_meta else (like.dtype, like.device)
    fill(net, net.spec, Checkpoint(weights, source), *to)
    if not like.is_meta:
        with torch.no_grad():
            for name, tensor in net.state_dict().items():
                parameters[name].copy_(tensor)
        put_tensors(net, parameters)
    return model


def _usable(name: str) -> Manifest:
    """The best manifest of a name whose bytes can be had. Raises WeightsError."""
    rows = manifests(name)
    usable = [manifest for manifest in rows if manifest.state != "listed"]
    if usable:
        return usable[0]
    names = [manifest.name for manifest in rows]
    found = f"none; {listed(names)}, which nobody here has fetched yet" if names else "none"
    call = f'zoo.create("{catalog.split_tag(name)[0]}", weights=PATH, source=...)'
    how = f"`zoo pin {names[0]}` fetches and proves it" if names else f"pass a checkpoint: {call}"
    raise WeightsError(name, Problem("", "weights that can be had", found, next=how))


def _take_dtypes(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives a net on meta the floating dtypes of the tensors that it will get: a model saved in bfloat16 comes back in it."""
    grown = accumulators_of(net)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in grown and tensor.is_floating_point()}
    kinds = {tensor.dtype for tensor in tensors.values()}
    if len(kinds) == 1:
        net.to(kinds.pop())  # what no state dict holds, too
    for name, parameter in net.state_dict(keep_vars=True).items():
        if name in tensors and parameter.is_floating_point():
            parameter.data = parameter.data.to(tensors[name].dtype)


def _swapped_paths(net: nn.Module, published: nn.Module) -> tuple[str, ...]:
    """Module paths below which the wanted net holds other blocks than the published one."""
    before = {path: _block_id(module) for path, module in published.named_modules()}
    after = {path: _block_id(module) for path, module in net.named_modules()}
    changed = [path for path, block in after.items() if block and before.get(path) != block]
    return tuple(
        f"{path}." for path in changed if not any(path.startswith(f"{other}.") for other in changed if other != path)
    )


def _block_id(module: nn.Module) -> str:
    return str(getattr(module, "block_id", ""))


def _fill_new(net: Any, spec: Spec, report: AdaptReport) -> None:
    """Memory and initial values for what the published weights do not hold."""
    new = set(report.names("new"))
    if not new:
        return
    twin = build(spec)
    if net.head is None:
        twin.head = None
    twin.to_empty(device="cpu")
    initialise(twin, spec.init)
    values = twin.state_dict(keep_vars=True)
    put_tensors(net, {name: values[name] for name in new})
