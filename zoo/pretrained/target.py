"""A net that waits for tensors: on meta, with the spec that it was built from, and the dtype and device that they are to have."""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.build.builder import build
from zoo.specs.model import Spec
from zoo.weights.load import expected_header, load_state
from zoo.weights.manifest import Manifest


class Plan(abc.ABC):
    """What a net gets its tensors from."""

    def build(self, wanted: Any, device: Any) -> Any:
        """The net that `fill` awaits: on meta, but for one whose values come with the building."""
        return build(wanted)

    @abc.abstractmethod
    def fill(self, target: Target) -> None:
        """Gives the net its tensors. Raises WeightsError; the net is then still on meta."""


class Target:
    """`dtype` None keeps that of the tensors."""

    def __init__(self, net: Any, spec: Spec, dtype: torch.dtype | None, device: torch.device | str | None):
        self.net, self.spec, self.dtype, self.device = net, spec, dtype, device
        self._twins: dict[str, Any] = {}

    @property
    def on_meta(self) -> bool:
        """Whether nothing takes memory."""
        return str(self.device) == "meta"

    def twin(self, spec: Spec) -> Any:
        """The whole net of a spec on meta, built once."""
        if spec.digest not in self._twins:
            self._twins[spec.digest] = build(spec)
        return self._twins[spec.digest]

    def absent(self, spec: Spec) -> set[str]:
        """Names that the net of a spec has and this one has not on purpose: it lost its head or its last stages."""
        has_its_head = self.net.head is not None or spec.head == "none"  # as that of one graph
        if has_its_head and self.net.out_indices is None:
            return set()
        return set(self.twin(spec).state_dict()) - set(self.net.state_dict())

    def takes(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these are the net's own names, shapes and dtypes."""
        return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} == expected_header(
            self.net
        )

    def load(self, tensors: Mapping[str, Tensor], subject: str = "", keep: Collection[str] = ()) -> None:
        """Strictly; see `load_state`."""
        load_state(self.net, tensors, subject or self.spec.name, self.dtype, self.device, keep)

    def know(self, manifest: Manifest, made_for: Spec) -> None:
        """What is known of the tensors, for the size of images that was asked for."""
        published, wanted = made_for.input, self.spec.input
        image = hasattr(wanted, "channels")
        self.net.pretrained = (
            manifest.for_input(wanted.channels, wanted.size) if image and wanted != published else manifest
        )
