"""A model zoo on one registry of efficient blocks.

    import zoo
    model = zoo.create("unireplknet_nano", pretrained=True)
    zoo.list_models("*former_s*")

Importing this package imports no torch; what needs it loads on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from zoo._moved import MOVED
from zoo._shadow import refuse_shadow

refuse_shadow()

from blocks._moved import answer_old_paths  # noqa: E402  (after the check that these are our blocks)

answer_old_paths(MOVED)

__version__ = "0.1.0"

_HOME = {
    "create": "zoo.factory",
    "create_model": "zoo.factory:create",
    "deploy": "zoo.runtimes.deploy",
    "export": "zoo.exporting.export",
    "save": "zoo.publish.save",
    "load": "zoo.pretrained.fill",
    "load_deployed": "zoo.runtimes.loading",
    "labels": "zoo.catalog.labels",
    "bench": "zoo.measure.bench",
    "latency": "zoo.measure.bench",
    "profile": "zoo.measure.profile",
    "find": "zoo.selection.find",
    "pick": "zoo.selection.pick",
    "Preprocess": "zoo.weights.manifest",
    "calibrate": "zoo.measure.calibrate",
    "predict": "zoo.measure.calibrate",
    "predict_images": "zoo.predicting.run",
    "evaluate": "zoo.evaluating.evaluate",
    "predict_latency": "zoo.measure.calibrate:predict",
    "compare": "zoo.measure.compare",
    "param_groups": "zoo.build.groups",
    "anneal": "blocks.annealing",
    "list_models": "zoo.catalog.listing",
    "list_modules": "zoo.catalog.listing",
    "list_pretrained": "zoo.catalog.listing",
    "is_model": "zoo.catalog",
    "info": "zoo.catalog:entry",
    "plugins": "zoo.authoring.report",
    "study": "zoo.training.ablation.study",
    "train": "zoo.training.run",
    "sweep": "zoo.training.sweep",
    "push": "zoo.publish.upload",
    "pull": "zoo.artifacts.repository",
    "pin": "zoo.artifacts.pinning",
    "lock": "zoo.artifacts.lock",
    "mirror": "zoo.artifacts.make_mirror",
    "audit": "zoo.artifacts.audits",
    "spec": "zoo.catalog.sources",
    "transform": "zoo.data.transforms",
    "Spec": "zoo.specs.model",
    "Backbone": "zoo.build.backbone",
    "LanguageModel": "zoo.build.language",
    "SpecError": "zoo.errors",
    "WeightsError": "zoo.errors",
    "InputError": "zoo.errors",
    "UnknownModelError": "zoo.errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(_unknown(name))
    from zoo.system.distributions import naming_damaged_files

    module, _, attribute = _HOME[name].partition(":")
    with naming_damaged_files():
        value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def _unknown(name: str) -> str:
    from zoo._elsewhere import NAMES
    from zoo.errors import nearest

    near = f"; nearest `{close}`" if (close := nearest(name, __all__)) and name not in NAMES else ""
    step = f"; next: {NAMES[name]}" if name in NAMES else ""
    return f"module `zoo` has no attribute `{name}`{near}{step}"


def __dir__() -> list[str]:
    return sorted([*_HOME, *(name for name in globals() if name.startswith("__"))])
