"""A model tried on the user's own images: the folder that an image lies in is its label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zoo.weights.stats import wilson_interval

BATCH = 32


class Trial(NamedTuple):
    """Right answers among the images whose folder is one of the model's labels, and the 95 % Wilson interval of their share."""

    correct: int
    n: int
    ci95: tuple[float, float]

    @property
    def accuracy(self) -> float:
        return self.correct / self.n


def trial(name: str, images: Sequence[Path]) -> Trial | None:
    """None for a model without weights at hand, and where no image lies in a folder that is called like one of its classes."""
    import torch

    from zoo import factory
    from zoo.catalog.labels import labels as labels_of
    from zoo.catalog.manifests import manifests
    from zoo.data.transforms import open_image, transform

    usable = [manifest for manifest in manifests(name) if manifest.state != "listed"]
    if not usable:
        return None
    classes = {label: index for index, label in enumerate(labels_of(name))}
    labelled = [(path, classes[path.parent.name]) for path in images if path.parent.name in classes]
    if not labelled:
        return None
    model = factory.create(usable[0].name, form="deploy")
    prepare, correct = transform(model), 0
    for start in range(0, len(labelled), BATCH):
        part = labelled[start : start + BATCH]
        with torch.inference_mode():
            answers = model(prepare([open_image(path) for path, _ in part])).argmax(-1)
        correct += int((answers == torch.tensor([truth for _, truth in part])).sum())
    return Trial(correct, len(labelled), wilson_interval(correct, len(labelled)))
