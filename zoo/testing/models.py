"""What every model of a catalogue is held to, by its name alone: the same for the core's and for those of a plugin."""

from __future__ import annotations

import copy
import functools
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from blocks.annealing import anneal
from blocks.context import Context
from blocks.moe.dispatch import RepeatedExperts
from zoo import catalog
from zoo.build.builder import build
from zoo.build.inputs import drawn_inputs, has_samples
from zoo.catalog.manifests import manifests
from zoo.errors import ProblemsError
from zoo.measure.fvcore_counts import fvcore_macs
from zoo.measure.op_counter import EXACT
from zoo.measure.profile import Form, Profile, profile
from zoo.measure.profiles import costs, totals
from zoo.specs.inputs import FramesInput, ImageInput, VideoInput
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

LARGE = 100_000_000
"""Parameters above which a model is checked on meta only."""
DEPLOYED = 1e-5
"""How far the deploy form may be from the train form."""
LOST = 3
"""Columns that windows which stay inside the map may cost in one step."""


class Subject:
    """One model under check: what several checks look at is made once, and shared. Copy before changing it."""

    def __init__(self, name: str):
        self.name = name
        self._counted: dict[str, Profile] = {}

    @functools.cached_property
    def built(self) -> Any:
        """The model with its first values."""
        if catalog.entry(self.name).params > LARGE:
            raise NotApplicable(f"it has more than {LARGE:,} parameters")
        torch.manual_seed(0)
        return zoo.create(self.name)

    @functools.cached_property
    def lived_in(self) -> Any:
        """The model with statistics and scales that are not at their neutral beginning."""
        model = copy.deepcopy(self.built)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for key, tensor in model.state_dict().items():
                if tensor.is_floating_point() and tensor.ndim < 2:
                    noise = torch.rand(tensor.shape, generator=generator)
                    tensor.copy_(0.5 + noise if key.endswith("running_var") else tensor + 0.1 * (noise - 0.5))
        return model

    @functools.cached_property
    def on_meta(self) -> Any:
        """The model without values: only to be counted."""
        return build(zoo.spec(self.name))

    def counted(self, form: Form) -> Profile:
        """What a form of it costs."""
        if form not in self._counted:
            net = zoo.deploy(self.on_meta) if form == "deploy" else self.on_meta
            self._counted[form] = profile(net, form=form, details=False)
        return self._counted[form]


Check = Callable[[Subject], None]


def index(subject: Subject) -> None:
    """The catalogue says what the spec says: digest, parameters, MACs."""
    entry, cost = catalog.entry(subject.name), subject.counted("train")
    for what, listed, counted in (
        ("digest", entry.digest, cost.digest),
        ("params", entry.params, cost.params),
        ("macs", entry.macs, cost.macs),
    ):
        require(
            listed == counted, f"the index says {what} = {listed}, and it is {counted}; next: {_again(subject.name)}"
        )


def shapes(subject: Subject) -> None:
    """Its output has a row for each input, and a column for each class (an ensemble one for each member); those of a graph have a row for
    each input, or each frame of it, unless what goes in is one set of points."""
    net = subject.built
    with torch.no_grad():
        y = _answer(net, _inputs(net))
    if net.spec.graph is not None:
        rows = 2 * net.spec.input.frames if isinstance(net.spec.input, FramesInput) else 2
        require(
            not has_samples(net.spec) or all(len(value) == rows for value in _each(y)),
            f"two inputs gave {[tuple(value.shape) for value in _each(y)]}",
        )
        require(
            all(bool(value.isfinite().all()) for value in _each(y)), "its outputs with fresh weights are not finite"
        )
        return
    rows = 2 * getattr(net.head, "rows_per_input", 1)
    require(
        y.shape[0] == rows and y.shape[-1] == net.num_classes,
        f"two inputs of {net.num_classes} classes gave {tuple(y.shape)}",
    )
    require(bool(y.isfinite().all()), "its outputs with fresh weights are not finite")


def deployed(subject: Subject) -> None:
    """The deploy form equals the train form."""
    net = subject.lived_in
    x = _inputs(net)
    with torch.no_grad():
        pairs = zip(_each(_answer(zoo.deploy(net), x)), _each(_answer(net, x)), strict=True)
        for found, expected in pairs:
            require_close(found, expected, DEPLOYED, "the deploy form against the train form")


def gradient(subject: Subject) -> None:
    """The gradient of a loss reaches every parameter but those of experts and paths that nothing took, in the middle of training, and is finite."""
    net, ctx = _off_zero(copy.deepcopy(subject.lived_in)).train(), Context()
    anneal(net, 0.5)
    torch.manual_seed(0)
    y = _answer(net, _inputs(net), ctx)
    if net.spec.graph is not None:
        generator = torch.Generator().manual_seed(3)
        task: Any = sum((value * torch.randn(value.shape, generator=generator)).mean() for value in _each(y))
    else:
        task = F.cross_entropy(y.flatten(0, -2), torch.arange(y[..., 0].numel()) % y.shape[-1])
    (task + ctx.total_loss()).backward()
    parameters = {key: parameter for key, parameter in net.named_parameters() if parameter.requires_grad}
    unreached = [key for key, parameter in parameters.items() if parameter.grad is None or not parameter.grad.any()]
    unreached = [key for key in unreached if not _is_idle(key, ctx)]
    require(not unreached, f"no gradient reaches {', '.join(unreached[:5])}")
    learned = {key: parameter.grad for key, parameter in parameters.items() if parameter.grad is not None}
    broken = [key for key, found in learned.items() if not found.isfinite().all()]
    require(not broken, f"the gradient of {', '.join(broken[:5])} is not finite")


def _is_idle(key: str, ctx: Context) -> bool:
    """Whether a parameter is that of an expert to which no token went, or of a path that no sample took."""
    for copies, reporter in ((".experts.", ".router"), (".paths.", "")):
        layer, _, rest = key.partition(copies)
        number, report = rest.partition(".")[0], ctx.reports.get(layer + reporter, {})
        if number.isdigit() and "load" in report and float(report["load"][int(number)]) == 0:
            return True
    return False


def features(subject: Subject) -> None:
    """Its levels have the channels and the reduction that it tells; each step rounds up or down where it is not whole.

    Windows that stay inside the map cost columns at its borders: a step of a net that has such may be as much shorter."""
    whole = subject.built
    if isinstance(whole.spec.input, VideoInput) or not isinstance(whole.spec.input, ImageInput):
        raise NotApplicable("it is no net for images")
    if not whole.num_levels:
        raise NotApplicable("it is one graph, without levels")
    info = whole.feature_info
    net = zoo.create(subject.name, features_only=True, out_indices=tuple(range(len(info.channels()))))
    x = _inputs(net)[0]
    with torch.no_grad():
        maps = net(x)
    side, reduction, lost = x.shape[-1], 1, LOST if any(map(_stays_inside, net.modules())) else 0
    for i, (y, row) in enumerate(zip(maps, info.get_dicts(), strict=True)):
        step = row["reduction"] / reduction
        fits = math.floor(side / step) - lost <= y.shape[-1] <= math.ceil(side / step)
        says = f"{row['num_chs']} channels and a reduction of {row['reduction']}"
        found = f"{y.shape[1]} channels and {y.shape[-1]} columns of {x.shape[-1]}"
        require(fits and y.shape[1] == row["num_chs"], f"level {i} has {found}; it says {says}")
        side, reduction = y.shape[-1], row["reduction"]


def _stays_inside(module: nn.Module) -> bool:
    """Whether it is a convolution or a pool without a border, whose windows overlap."""
    if getattr(module, "padding", None) not in (0, (0, 0)):
        return False
    kernel, stride = (getattr(module, name, 1) for name in ("kernel_size", "stride"))
    (rows, columns), (down, right) = (size if isinstance(size, tuple) else (size, size) for size in (kernel, stride))
    return bool(rows > down or columns > right)


def saved(subject: Subject) -> None:
    """Weights that are saved and loaded give the same outputs, bit by bit."""
    net = subject.lived_in
    x = _inputs(net)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder, "weights.safetensors")
        zoo.save(net, path)
        for found, expected in zip(
            _each(_answer(zoo.create(subject.name, weights=path), x)), _each(_answer(net, x)), strict=True
        ):
            require_equal(found, expected, "the output of saved and loaded weights")


def profiled(subject: Subject) -> None:
    """The profile that ships is the one that is counted, complete, and the blocks' own count is that of the operations."""
    forms: tuple[Form, ...] = ("train", "deploy")
    for form in forms:
        require(
            costs()[subject.name][form] == totals(subject.counted(form)),
            f"the profile that ships ({form}) is not the one that is counted; next: {_again(subject.name)}",
        )
    cost = subject.counted("train")
    require(cost.complete, f"nobody counts {', '.join(cost.uncounted)}: register a FLOP formula beside the op")
    stated = {kind: cost.analytic[kind] for kind in EXACT}
    require(stated == cost.by_class, f"its blocks say {stated}, and its operations are {cost.by_class}: see `macs`")


def traced(subject: Subject) -> None:
    """What its blocks say they compute is what fvcore counts on real tensors."""
    net, cost = subject.built, subject.counted("train")
    stated = {kind: cost.analytic[kind] for kind in EXACT}
    found = fvcore_macs(net, *drawn_inputs(net.spec))
    fewer = unequal_experts(net) and all(count <= stated[kind] for kind, count in found.items())
    require(found == stated or fewer, f"its blocks say {stated}, and fvcore counts {found}")


def unequal_experts(model: Any) -> bool:
    """Whether experts of a mixture differ in size: the profile counts the first of them, the widest, and a pass those that were chosen."""
    mixtures = [module for module in model.modules() if isinstance(module, RepeatedExperts)]
    return any(
        len({sum(parameter.numel() for parameter in expert.parameters()) for expert in mixture.children()}) > 1
        for mixture in mixtures
    )


def weights(subject: Subject) -> None:
    """Weights that can be had are the bytes of their manifests, load strictly, and prove themselves."""
    usable = [manifest for manifest in manifests(subject.name) if manifest.state == "embedded"]
    if not usable:
        raise NotApplicable("it ships no weights")
    for manifest in usable:
        net = zoo.create(manifest.name)
        require(manifest.probe is not None, f"{manifest.name} has no probe, which proves a load")
        check_probe(net, manifest.probe, manifest.name)  # type: ignore[arg-type]


def accuracy(subject: Subject) -> None:
    """A figure on the digits, which everybody has, is measured again."""
    from zoo.training.digits import evaluate

    metrics = [
        (m, metric)
        for m in manifests(subject.name)
        for key, metric in m.metrics.items()
        if key.startswith("digits/top1")
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
    "traced": traced,
    "weights": weights,
    "accuracy": accuracy,
}
"""Each raises ConformanceFailure with a sentence, or NotApplicable with a reason. A check's first line of docs says what it asks."""


def run_check(subject: Subject, check: str) -> Result:
    """One check of one model; whatever is raised becomes a sentence."""
    name = subject.name
    try:
        CHECKS[check](subject)
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


def _off_zero(net: Any) -> Any:
    """The net with maps that begin at zero moved: nothing before such a map would get a gradient."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.copy_(0.1 * (torch.rand(parameter.shape, generator=generator) - 0.5))
    return net


def _inputs(net: Any) -> tuple[Tensor, ...]:
    return drawn_inputs(net.spec, 2, seed=2)


def _each(y: Any) -> list[Tensor]:
    """The outputs of a model, of one of a graph all of them."""
    return list(y.values()) if isinstance(y, dict) else [y]


def _answer(net: Any, inputs: tuple[Tensor, ...], ctx: Context | None = None) -> Tensor:
    """What the model gives, the logits where it gives more."""
    output = net(*inputs, ctx=ctx)
    logits: Tensor = getattr(output, "logits", output)
    return logits


def _again(name: str) -> str:
    namespace = name.rpartition("/")[0]
    return f"zoo index {namespace}" if namespace else "python -m zoo.catalog, then python -m zoo.measure.profiles"
