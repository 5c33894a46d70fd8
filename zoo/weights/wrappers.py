"""What training code puts around a model, its names and its state dict: compiled, distributed and averaged wrappers, envelopes.

A wrapper keeps the model as a child, so that every name in its state dict begins with the child's: `module.` (DataParallel,
DistributedDataParallel, AveragedModel), `_orig_mod.` (torch.compile), or the attribute of a Lightning or detection module that
holds the net: `model.`, `backbone.`. A checkpoint of a training script holds the state dict beside the state of the optimiser.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from zoo.errors import Problem, WeightsError
from zoo.weights.errors import TensorsError
from zoo.weights.unwrap import DEEPEST

ENVELOPES = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model_state", "model",
    "module", "net", "weights", "params",
)  # fmt: skip
"""Keys under which scripts keep a state dict, in the order asked: averaged weights first, as timm takes them."""

INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Children in which wrappers of torch keep a module; no module of anybody else has such a name, at any depth."""

Takes = Callable[[str], bool]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside any number of wrappers, or the model itself."""
    while not model._parameters and len(model._modules) == 1:
        name, inner = next(iter(model._modules.items()))
        if not isinstance(inner, nn.Module) or name not in ("module", *INNER):
            break
        model = inner
    return model


def plain_name(name: str) -> str:
    """A name without the segments of wrappers inside the model: of layers that were compiled or checkpointed one by one."""
    return ".".join(step for step in name.split(".") if step not in INNER)


def opened(data: Mapping[str, Any], own: Sequence[str] = ()) -> Mapping[str, Any]:
    """The mapping of tensors inside what a training script saved; `data` itself where there is no such mapping in it.

    `own`: keys that a family's checkpoints use, asked before the others."""
    for _ in range(DEEPEST):
        if any(isinstance(value, Tensor) for value in data.values()):
            break
        data = next((data[key] for key in (*own, *ENVELOPES) if isinstance(data.get(key), Mapping)), data)
    return data


def without_prefix(tensors: Mapping[str, Tensor], takes: Takes, subject: str) -> tuple[dict[str, Tensor], str]:
    """The tensors without the prefix that all their names share, and that prefix; "" where names have a place as they are.

    `takes` tells whether a name has a place in the model. Raises TensorsError, with the prefix as its one problem, where some
    names alone have it, and where nothing has a place without it either."""
    named = {plain_name(name): tensor for name, tensor in tensors.items()}
    if "n_averaged" in named and not takes("n_averaged"):  # AveragedModel counts what it has averaged
        del named["n_averaged"]
    if any(takes(name) for name in named):
        if prefix := _partial_prefix(named, takes):
            share = f"{sum(name.startswith(prefix) for name in named)} of {len(named)} names begin with it"
            raise TensorsError(subject, _prefix_problem(prefix, f"{share}, and without it they would have a place"))
        return named, ""
    prefix = ""
    while step := _shared_step(named):
        prefix += step
        named = {name.removeprefix(step): tensor for name, tensor in named.items()}
        if any(takes(name) for name in named):
            return named, prefix
    if prefix:
        found = (
            f"all {len(named)} names begin with it, and none has a place without it either, as `{next(iter(named))}`"
        )
        raise TensorsError(subject, _prefix_problem(prefix, found))
    return dict(tensors), ""


def below_prefix(error: WeightsError, prefix: str) -> TensorsError:
    """The refusal of tensors whose names all began with `prefix`: one problem, with the first of those that are left."""
    first, count = error.problems[0], len(error.problems)
    rest = f"{count} problem{'s' if count > 1 else ''} without it, the first: {first.where}: {first.sentence()}"
    return TensorsError(
        error.subject, _prefix_problem(prefix, f"all names begin with it; {rest}", "take it off and see all")
    )


def _prefix_problem(prefix: str, found: str, advice: str = "take it off") -> Problem:
    way = f"{{name.removeprefix({prefix!r}): tensor for name, tensor in state.items()}}"
    return Problem(prefix, "names as the model has them", found, next=f"{advice}: {way}")


def _shared_step(names: Iterable[str]) -> str:
    """The first segment of all names, with its dot; "" where they differ, or have no other."""
    first = {name.partition(".")[0] if "." in name else "" for name in names}
    step = first.pop() if len(first) == 1 else ""
    return step and f"{step}."


def _partial_prefix(names: Iterable[str], takes: Takes) -> str:
    """The first segment of names without a place, most of which would have one without it; "" where there is none."""
    homeless = [name for name in names if not takes(name)]
    for step, count in Counter(name.partition(".")[0] for name in homeless).most_common(3):
        inner = [name.removeprefix(f"{step}.") for name in homeless if name.startswith(f"{step}.")]
        if 2 * sum(takes(name) for name in inner) > count:
            return f"{step}."
    return ""
