"""A recipe: how a model is trained on pictures, as data. Those that ship are TOML in `recipes/`; a file of one's own may begin with
`base = "finetune"` and state what differs. Imports no torch."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from zoo.errors import InputError, Problem, listed, nearest
from zoo.system.folders import at_home, read_whole

SHIPPED = Path(__file__).parent / "recipes"
MOST_BYTES = 2**20
"""Of a file that somebody wrote: a recipe, or the ranges of one."""
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
Share = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]


class _Section(msgspec.Struct, frozen=True, kw_only=True):
    """A table of a recipe. Each field has its type, its bounds and the sentence that explains it."""


class Schedule(_Section, frozen=True, kw_only=True):
    epochs: Annotated[Count, "passes through the training part"] = 30
    shape: Annotated[
        Literal["cosine", "linear", "constant"], "how the rate falls after the warm-up, to 0 or not at all"
    ] = "cosine"
    warmup: Annotated[Share, "share of all steps in which the rate rises in a straight line"] = 0.1
    patience: Annotated[int, Meta(ge=0), "stop after so many epochs without a better figure; 0 never stops"] = 0


class Optimizer(_Section, frozen=True, kw_only=True):
    name: Annotated[str, "any optimiser of timm: adamw, sgd, lamb, lion, muon, ..."] = "adamw"
    lr: Annotated[float, Meta(gt=0), "the highest rate, for the batch size of the recipe"] = 1e-3
    weight_decay: Annotated[Amount, "of matrices; vectors, and what blocks name, never decay"] = 0.05
    layer_decay: Annotated[
        float, Meta(gt=0, le=1), "factor of the rate for each layer further from the head; 1 is one rate for all"
    ] = 1.0
    clip: Annotated[Amount, "norm that gradients are clipped to; 0 leaves them"] = 1.0
    accumulate: Annotated[Count, "parts that a batch is computed in, one after the other, for less memory"] = 1
    ema: Annotated[Share, "decay of the running average of the weights, which is what is kept; 0 is no average"] = 0.99


class Data(_Section, frozen=True, kw_only=True):
    batch_size: Annotated[Count, "pictures in a step, of all processes and parts together"] = 32
    split: Annotated[float, Meta(gt=0, lt=1), "share held out where the data set is not divided"] = 0.2
    balanced: Annotated[bool, "draw each class equally often, rare ones again and again"] = False
    workers: Annotated[int, Meta(ge=0, le=256), "processes that decode; 0 decodes between the steps"] = 2


class Augment(_Section, frozen=True, kw_only=True):
    scale: Annotated[
        tuple[Share, Share], "the random crop's area, as shares of the picture's; [1, 1] takes the whole of it"
    ] = (0.5, 1.0)
    ratio: Annotated[tuple[Amount, Amount], "the random crop's width over its height"] = (3 / 4, 4 / 3)
    hflip: Annotated[Share, "chance of a mirrored picture"] = 0.5
    vflip: Annotated[Share, "chance of a picture upside down"] = 0.0
    jitter: Annotated[Share, "how much brightness, contrast and saturation vary"] = 0.2
    randaugment: Annotated[str, "operations of RandAugment as timm writes them, `rand-m9-mstd0.5`, or nothing"] = ""
    erasing: Annotated[Share, "chance of a rectangle filled with noise"] = 0.0
    mixup: Annotated[Amount, "alpha of mixup: pairs of pictures and labels blended; 0 is off"] = 0.0
    cutmix: Annotated[Amount, "alpha of cutmix: a rectangle of another picture, its label with it; 0 is off"] = 0.0


class Loss(_Section, frozen=True, kw_only=True):
    label_smoothing: Annotated[float, Meta(ge=0, lt=1), "share of the target that all classes have alike"] = 0.1
    class_weights: Annotated[bool, "weigh classes by one over how often they occur"] = False


class Model(_Section, frozen=True, kw_only=True):
    start: Annotated[
        Literal["auto", "pretrained", "random"],
        "weights at hand if there are any, or else random ones; or one of the two",
    ] = "auto"
    size: Annotated[int, Meta(ge=0, le=4096), "side of the pictures that the net sees; 0 keeps the model's own"] = 0
    channels: Annotated[int, Meta(ge=0, le=64), "channels of the pictures; 0 keeps the model's own"] = 0
    freeze: Annotated[
        int,
        Meta(ge=-1),
        "stages that stay as they are, the stem with them, from the first on; -1 all but the classifier",
    ] = 0
    batch_norm: Annotated[
        Literal["train", "frozen", "sync"], "running statistics: of each process, as they were, or of all processes"
    ] = "train"
    drop_rate: Annotated[Share, "share of features left out before the classifier"] = 0.0
    drop_path_rate: Annotated[Share, "share of residual branches left out"] = 0.0
    lora: Annotated[int, Meta(ge=0), "rank of the adapters that linear maps learn in their place; 0 is none"] = 0
    lora_alpha: Annotated[Amount, "factor of the adapters, over their rank"] = 16.0


class Distill(_Section, frozen=True, kw_only=True):
    teacher: Annotated[
        str, "a model of the zoo, of timm (`timm/NAME`) or a run, with weights and the same classes; none where empty"
    ] = ""
    weight: Annotated[Share, "share of the loss that is the teacher's"] = 0.5
    temperature: Annotated[float, Meta(gt=0), "what logits are divided by before they are compared"] = 2.0
    features: Annotated[
        Amount, "weight of the distance between pooled features, the student's through a linear map"
    ] = 0.0


class Engine(_Section, frozen=True, kw_only=True):
    precision: Annotated[Literal["float32", "bfloat16", "float16"], "what is computed in; parameters stay float32"] = (
        "float32"
    )
    checkpointing: Annotated[bool, "compute activations twice, for less memory"] = False
    compile: Annotated[bool, "torch.compile"] = False
    sharded: Annotated[
        bool,
        "parameters, gradients and what the optimiser remembers lie apart over the processes (FSDP2), for less memory",
    ] = False
    save_minutes: Annotated[
        float, Meta(gt=0), "between two savings within an epoch; after each epoch it is saved anyhow"
    ] = 10.0


class Recipe(_Section, frozen=True, kw_only=True):
    """All that decides what a training makes of a model and of data."""

    seed: Annotated[int, Meta(ge=0), "of the order, of augmentation and of new weights"] = 0
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    data: Data = Data()
    augment: Augment = Augment()
    loss: Loss = Loss()
    model: Model = Model()
    distill: Distill = Distill()
    engine: Engine = Engine()


def shipped() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def read_recipe(source: str | os.PathLike[str] = "finetune", settings: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a shipped name or of a file, with {path: value} changed: `{"optimizer.lr": 1e-4}`.

    Raises InputError with every problem: paths and keys that are not there, with the nearest, and values out of bounds."""
    tree, subject = _tree(source), str(source)
    problems: list[Problem] = []
    known = {path for path, *_ in fields()}
    for path, value in (settings or {}).items():
        if path not in known:
            problems.append(Problem(f"--set {path}", "a field of a recipe", "none of that name", nearest(path, known)))
            continue
        section, _, key = path.rpartition(".")
        table = tree.setdefault(section, {}) if section else tree
        if isinstance(table, dict):
            table[key] = value
    recipe = _converted(tree, Recipe, "", problems)
    if not problems:
        problems += _clashes(recipe)
    if problems:
        raise InputError(f"recipe {subject}", problems)
    return recipe


def fields(struct: type[msgspec.Struct] = Recipe, prefix: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """(path, type in words, default, sentence) of each field of a recipe."""
    hints = get_type_hints(struct, include_extras=True)
    for entry in msgspec.structs.fields(struct):
        kind = hints[entry.name]
        if isinstance(kind, type) and issubclass(kind, _Section):
            yield from fields(kind, f"{entry.name}.")
            continue
        text = next(note for note in kind.__metadata__ if isinstance(note, str))
        yield f"{prefix}{entry.name}", _words(kind), entry.default, text


def values(recipe: Recipe) -> dict[str, Any]:
    """{path: value} of all fields."""
    tree = msgspec.to_builtins(recipe)
    return {path: _at(tree, path) for path, *_ in fields()}


def misfits(path: str, value: Any) -> list[Problem]:
    """What is wrong with a value of a field by itself, whatever the others are."""
    section, _, key = path.rpartition(".")
    problems: list[Problem] = []
    _converted({section: {key: value}} if section else {key: value}, Recipe, "", problems)
    return problems


def to_toml(recipe: Recipe) -> str:
    """The whole recipe as a file, each field under its sentence."""
    texts, known = {path: text for path, _, _, text in fields()}, values(recipe)
    lines, section = [], ""
    for path, value in known.items():
        table, _, key = path.rpartition(".")
        if table != section:
            section = table
            lines += ["", f"[{table}]"]
        lines += [f"# {texts[path]}", f"{key} = {_toml_value(value)}"]
    return "\n".join(lines) + "\n"


def _tree(source: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables of a recipe, those of its base below."""
    path = at_home(source)
    name = str(source)
    if path.suffix != ".toml":
        if name not in shipped():
            expected = f"one of {listed(shipped())}, or a .toml file"
            raise InputError("recipe", Problem("", expected, f"`{name}`", nearest(name, shipped())))
        path = SHIPPED / f"{name}.toml"
    try:
        tree = tomllib.loads(read_whole(path, MOST_BYTES).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"recipe {name}", Problem("", "a file of TOML", getattr(error, "strerror", "") or "other bytes")
        ) from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"recipe {name}", Problem("", "TOML", f"an error: {error}")) from None
    base = tree.pop("base", None)
    if base is None:
        return tree
    if base not in shipped():
        raise InputError(
            f"recipe {name}", Problem("base", f"one of {listed(shipped())}", f"`{base}`", nearest(str(base), shipped()))
        )
    below = _tree(base)
    for key, value in tree.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        below[key] = below[key] | value if both else value
    return below


def _converted(data: Any, struct: type[Any], where: str, problems: list[Problem]) -> Any:
    """The struct of a table, value by value, so that one bad value does not hide the next."""
    if not isinstance(data, dict):
        problems.append(Problem(where.rstrip("."), "a table", f"{data!r}"[:60]))
        return struct()
    hints = get_type_hints(struct, include_extras=True)
    for name in data:
        if name not in hints:
            problems.append(Problem(f"{where}{name}", "a field of a recipe", "none of that name", nearest(name, hints)))
    out = {}
    for name, kind in hints.items():
        if name not in data:
            continue
        if isinstance(kind, type) and issubclass(kind, _Section):
            out[name] = _converted(data[name], kind, f"{name}.", problems)
            continue
        try:
            out[name] = msgspec.convert(data[name], kind)
        except msgspec.ValidationError:
            problems.append(Problem(f"{where}{name}", _words(kind), f"{data[name]!r}"[:60]))
    return struct(**out)


def _clashes(recipe: Recipe) -> list[Problem]:
    """What fields ask of each other."""
    problems = []
    low, high = recipe.augment.scale
    if not 0 < low <= high:
        problems.append(Problem("augment.scale", "two shares above 0, the smaller first", f"[{low}, {high}]"))
    if not 0 < recipe.augment.ratio[0] <= recipe.augment.ratio[1]:
        problems.append(
            Problem("augment.ratio", "two ratios above 0, the smaller first", str(list(recipe.augment.ratio)))
        )
    if recipe.data.batch_size % recipe.optimizer.accumulate:
        expected = f"a divisor of data.batch_size, {recipe.data.batch_size}"
        problems.append(Problem("optimizer.accumulate", expected, str(recipe.optimizer.accumulate)))
    if recipe.engine.sharded and recipe.engine.precision == "float16":
        problems.append(Problem("engine.precision", "float32 or bfloat16 where engine.sharded is true", "'float16'"))
    if recipe.model.lora and recipe.model.freeze:
        problems.append(
            Problem("model.lora", "0 where stages are frozen: adapters freeze what they adapt", str(recipe.model.lora))
        )
    return problems


def _words(kind: Any) -> str:
    """A type with its bounds, in words."""
    notes, inner = getattr(kind, "__metadata__", ()), kind
    if get_origin(kind) is Annotated:
        inner = kind.__origin__
    if get_origin(inner) is Literal:
        return f"one of {', '.join(map(repr, get_args(inner)))}"
    if get_origin(inner) is tuple:
        return f"two of: {_words(get_args(inner)[0])}"
    text = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[inner]
    metas = [note for note in notes if isinstance(note, Meta)]
    signs = [(sign, getattr(meta, key)) for meta in metas for key, sign in SIGNS.items()]
    bounds = [f"{sign} {bound:g}" for sign, bound in signs if bound is not None]
    return f"{text} {' and '.join(bounds)}".rstrip()


def _at(tree: Mapping[str, Any], path: str) -> Any:
    section, _, key = path.rpartition(".")
    return tree[section][key] if section else tree[key]


def _toml_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return msgspec.json.encode(value).decode() if isinstance(value, str) else repr(value)
