"""What every model of a catalogue is held to, by its name alone: the same for the core's and for those of a plugin."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from blocks.annealing import anneal
from blocks.context import Context
from zoo import catalog
from zoo.build.inputs import drawn_inputs, has_samples
from zoo.catalog.manifests import manifests
from zoo.errors import ProblemsError
from zoo.factory import create
from zoo.measure.fvcore_counts import fvcore_macs
from zoo.measure.op_counter import EXACT
from zoo.measure.profile import profile
from zoo.measure.profiles import cost_of, costs
from zoo.specs.inputs import ImageInput, VideoInput
from zoo.testing.outcomes import (
    FAILED,
    NOT_APPLICABLE,
    OK,
    ConformanceFailure,
    NotApplicable,
    Result,
    require,
    require_close,
    require_equal,
)
from zoo.weights.probe import check_probe

Check = Callable[[str], None]
LARGE = 100_000_000
"""Parameters above which a model is checked on meta only."""
DEPLOYED = 1e-5
"""How far the deploy form may be from the train form."""


def index(name: str) -> None:
    """The catalogue says what the spec says: digest, parameters, MACs."""
    entry = catalog.entry(name)
    cost = profile(name, details=False)
    for what, listed, counted in (
        ("digest", entry.digest, cost.digest),
        ("params", entry.params, cost.params),
        ("macs", entry.macs, cost.macs),
    ):
        require(listed == counted, f"the index says {what} = {listed}, and it is {counted}; next: {_again(name)}")


def shapes(name: str) -> None:
    """Its output has a row for each input, and a column for each class (an ensemble one for each member); those of a graph have a row for
    each input, unless what goes in is one set of points."""
    model = _built(name)
    with torch.no_grad():
        y = _answer(model, _inputs(model))
    if model.spec.graph is not None:
        require(
            not has_samples(model.spec) or all(len(value) == 2 for value in _each(y)),
            f"two inputs gave {[tuple(value.shape) for value in _each(y)]}",
        )
        require(
            all(bool(value.isfinite().all()) for value in _each(y)), "its outputs with fresh weights are not finite"
        )
        return
    rows = 2 * getattr(model.head, "rows_per_input", 1)
    require(
        y.shape[0] == rows and y.shape[-1] == model.num_classes,
        f"two inputs of {model.num_classes} classes gave {tuple(y.shape)}",
    )
    require(bool(y.isfinite().all()), "its outputs with fresh weights are not finite")


def deployed(name: str) -> None:
    """The deploy form equals the train form."""
    model = _lived_in(name)
    x = _inputs(model)
    with torch.no_grad():
        pairs = zip(_each(_answer(zoo.deploy(model), x)), _each(_answer(model, x)), strict=True)
        for found, expected in pairs:
            require_close(found, expected, DEPLOYED, "the deploy form against the train form")


def gradient(name: str) -> None:
    """The gradient of a loss reaches every parameter but those of experts to which no token went, in the middle of training, and is finite."""
    model, ctx = _lived_in(name).train(), Context()
    anneal(model, 0.5)
    y = _answer(model, _inputs(model), ctx)
    if model.spec.graph is not None:
        generator = torch.Generator().manual_seed(3)
        task: Any = sum((value * torch.randn(value.shape, generator=generator)).mean() for value in _each(y))
    else:
        task = F.cross_entropy(y.flatten(0, -2), torch.arange(y[..., 0].numel()) % y.shape[-1])
    (task + ctx.total_loss()).backward()
    parameters = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    unreached = [key for key, parameter in parameters.items() if parameter.grad is None or not parameter.grad.any()]
    unreached = [key for key in unreached if not _is_idle(key, ctx)]
    require(not unreached, f"no gradient reaches {', '.join(unreached[:5])}")
    learned = {key: parameter.grad for key, parameter in parameters.items() if parameter.grad is not None}
    broken = [key for key, found in learned.items() if not found.isfinite().all()]
    require(not broken, f"the gradient of {', '.join(broken[:5])} is not finite")


def _is_idle(key: str, ctx: Context) -> bool:
    """Whether a parameter is that of an expert to which no token went."""
    layer, _, rest = key.partition(".experts.")
    number, report = rest.partition(".")[0], ctx.reports.get(f"{layer}.router", {})
    return number.isdigit() and "load" in report and float(report["load"][int(number)]) == 0


def features(name: str) -> None:
    """Its levels have the channels and the reduction that it tells; each step rounds up or down where it is not whole."""
    model = _built(name)
    if isinstance(model.spec.input, VideoInput) or not isinstance(model.spec.input, ImageInput):
        raise NotApplicable("it is no net for images")
    if not model.num_levels:
        raise NotApplicable("it is one graph, without levels")
    info = model.feature_info
    net = zoo.create(name, features_only=True, out_indices=tuple(range(len(info.channels()))))
    x = _inputs(net)[0]
    with torch.no_grad():
        maps = net(x)
    side, reduction = x.shape[-1], 1
    for i, (y, row) in enumerate(zip(maps, info.get_dicts(), strict=True)):
        step = row["reduction"] / reduction
        fits = math.floor(side / step) <= y.shape[-1] <= math.ceil(side / step)
        says = f"{row['num_chs']} channels and a reduction of {row['reduction']}"
        found = f"{y.shape[1]} channels and {y.shape[-1]} columns of {x.shape[-1]}"
        require(fits and y.shape[1] == row["num_chs"], f"level {i} has {found}; it says {says}")
        side, reduction = y.shape[-1], row["reduction"]


def saved(name: str) -> None:
    """Weights that are saved and loaded give the same outputs, bit by bit."""
    model = _lived_in(name)
    x = _inputs(model)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder, "weights.safetensors")
        zoo.save(model, path)
        for found, expected in zip(
            _each(_answer(zoo.create(name, weights=path), x)), _each(_answer(model, x)), strict=True
        ):
            require_equal(found, expected, "the output of saved and loaded weights")


def profiled(name: str) -> None:
    """The profile that ships is the one that is counted, complete, and the three counts agree."""
    for form in ("train", "deploy"):
        shipped, counted = costs()[name][form], cost_of(name, form)
        require(
            shipped == counted, f"the profile that ships ({form}) is not the one that is counted; next: {_again(name)}"
        )
    cost = profile(name, details=False)
    require(cost.complete, f"nobody counts {', '.join(cost.uncounted)}: register a FLOP formula beside the op")
    stated = {kind: cost.analytic[kind] for kind in EXACT}
    require(stated == cost.by_class, f"its blocks say {stated}, and its operations are {cost.by_class}: see `macs`")
    if cost.params <= LARGE:
        traced = fvcore_macs(create(name), *drawn_inputs(zoo.spec(name)))
        require(traced == stated, f"its blocks say {stated}, and fvcore counts {traced}")


def weights(name: str) -> None:
    """Weights that can be had are the bytes of their manifests, load strictly, and prove themselves."""
    usable = [manifest for manifest in manifests(name) if manifest.state == "embedded"]
    if not usable:
        raise NotApplicable("it ships no weights")
    for manifest in usable:
        model = zoo.create(manifest.name)
        require(manifest.probe is not None, f"{manifest.name} has no probe, which proves a load")
        check_probe(model, manifest.probe, manifest.name)  # type: ignore[arg-type]


def accuracy(name: str) -> None:
    """A figure on the digits, which everybody has, is measured again."""
    from zoo.training.digits import evaluate

    metrics = [
        (m, metric) for m in manifests(name) for key, metric in m.metrics.items() if key.startswith("digits/top1")
    ]
    if not metrics:
        raise NotApplicable("it has no figure on the digits")
    for manifest, metric in metrics:
        correct, n = evaluate(zoo.create(manifest.name))
        near = (
            metric.correct is not None and abs(correct - metric.correct) <= 1
        )  # rounding of another machine may turn one
        require(
            n == metric.n and near, f"{manifest.name} says {metric.correct} of {metric.n}, and gets {correct} of {n}"
        )


CHECKS: dict[str, Check] = {
    "index": index,
    "shapes": shapes,
    "deploy": deployed,
    "gradient": gradient,
    "features": features,
    "saved": saved,
    "profile": profiled,
    "weights": weights,
    "accuracy": accuracy,
}
"""Each raises ConformanceFailure with a sentence, or NotApplicable with a reason. A check's first line of docs says what it asks."""


def run_check(name: str, check: str) -> Result:
    """One check of one model; whatever is raised becomes a sentence."""
    try:
        CHECKS[check](name)
    except NotApplicable as reason:
        return Result(name, check, NOT_APPLICABLE, str(reason))
    except ConformanceFailure as failure:
        return Result(name, check, FAILED, str(failure))
    except ProblemsError as error:
        return Result(name, check, FAILED, " ".join(str(error).split()))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a model may raise anything
        return Result(name, check, FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Result(name, check, OK)


def _built(name: str) -> Any:
    if catalog.entry(name).params > LARGE:
        raise NotApplicable(f"it has more than {LARGE:,} parameters")
    torch.manual_seed(0)
    return zoo.create(name)


def _lived_in(name: str) -> Any:
    """The model with statistics and scales that are not at their neutral beginning."""
    model = _built(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim < 2:
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(0.5 + noise if key.endswith("running_var") else tensor + 0.1 * (noise - 0.5))
    return model


def _inputs(model: Any) -> tuple[Tensor, ...]:
    return drawn_inputs(model.spec, 2, seed=2)


def _each(y: Any) -> list[Tensor]:
    """The outputs of a model, of one of a graph all of them."""
    return list(y.values()) if isinstance(y, dict) else [y]


def _answer(model: Any, inputs: tuple[Tensor, ...], ctx: Context | None = None) -> Tensor:
    """What the model gives, the logits where it gives more."""
    output = model(*inputs, ctx=ctx)
    logits: Tensor = getattr(output, "logits", output)
    return logits


def _again(name: str) -> str:
    namespace = name.rpartition("/")[0]
    return f"zoo index {namespace}" if namespace else "python -m zoo.catalog, then python -m zoo.measure.profiles"
