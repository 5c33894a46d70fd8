"""Weights of a net that the code of a plugin builds: loaded as they are, or adapted by what the net says of its first and last layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from zoo import catalog
from zoo.artifacts.pinning import brought
from zoo.catalog.external import External
from zoo.pretrained.checkpoint import Weights
from zoo.pretrained.target import Plan, Target
from zoo.weights.adapt import adapt
from zoo.weights.load import expected_header, put_tensors
from zoo.weights.manifest import Manifest
from zoo.weights.source import open_checkpoint, read_published


class ExternalInitial(Plan):
    """The first values that the plugin's code gave it."""

    def build(self, wanted: Any, device: Any) -> Any:
        return wanted.build(device or "cpu")

    def fill(self, target: Target) -> None:
        if target.dtype is not None:
            target.net.to(target.dtype)


@dataclass(frozen=True)
class ExternalCheckpoint(Plan):
    """A checkpoint in the names of the net itself."""

    weights: Weights

    def fill(self, target: Target) -> None:
        target.load(open_checkpoint(self.weights, target.spec.name))


@dataclass(frozen=True)
class ExternalPublished(Plan):
    """The bytes of a manifest."""

    manifest: Manifest

    def build(self, wanted: Any, device: Any) -> Any:
        wanted.tag = self.manifest.tag  # whose weights may have other classes than usual
        return super().build(wanted, device)

    def fill(self, target: Target) -> None:
        """Adapts what the request changes, with a report in `.adapt_report`. Raises WeightsError."""
        net, spec, name = target.net, cast(External, target.spec), self.manifest.name
        expected = expected_header(net)
        tensors = read_published(brought(self.manifest), catalog.home_of(spec.name).weights)
        if spec.options.get("features_only"):
            tensors = {key: tensor for key, tensor in tensors.items() if key in expected}
        net.pretrained = self.manifest.for_input(spec.input.channels, spec.input.size)
        if "img_size" not in spec.options and target.takes(tensors):
            target.load(tensors, name)
            return
        first, last = (_prefixes(net, word) for word in ("first_conv", "classifier"))
        before = External(spec.name, {}, spec.tag).build("meta") if "img_size" in spec.options else None
        fitted, report = adapt(tensors, expected, subject=name, stem=first, head=last, model=net, before=before)
        values = spec.build("cpu").state_dict(keep_vars=True)
        put_tensors(net, {key: values[key] for key in report.names("new")})
        target.load(fitted, name, keep=report.names("new"))
        net.adapt_report = report


def _prefixes(net: Any, word: str) -> tuple[str, ...]:
    """Names that begin so belong to the first, or to the last, layer: as the net says in its `pretrained_cfg`."""
    paths = getattr(net, "pretrained_cfg", {}).get(word) or ()
    return tuple(f"{path}." for path in ([paths] if isinstance(paths, str) else paths))
