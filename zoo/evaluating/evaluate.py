"""`zoo evaluate`: models on labelled pictures of the user's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from zoo.answering.names import TASKS
from zoo.catalog.sources import spec
from zoo.data.scenes import SCENES
from zoo.display.rows import Table
from zoo.errors import InputError, Problem, listed
from zoo.evaluating import records
from zoo.evaluating.corruptions import corruptions
from zoo.evaluating.figures import check_metrics
from zoo.evaluating.judged import JUDGES, OfNumbers, OfOneClass, OfSeveral, Score
from zoo.evaluating.paired import Pair, paired
from zoo.evaluating.sets import real_labels, sets_of
from zoo.predicting.predictor import Predictor, wished
from zoo.predicting.progress import Clock, Told, nobody

REAL = "real_top1"


class Evaluation(NamedTuple):
    """The scores; each model against the first on the same pictures; and the pictures that nobody could read, with the reasons."""

    scores: Table[Score]
    pairs: Table[Pair]
    unreadable: dict[str, str]


def evaluate(
    models: str | Sequence[str],
    data: str | os.PathLike[str],
    *,
    metrics: Sequence[str] = (),
    split: str = "",
    target: str = "",
    classes: str = "",
    subset: bool = False,
    real: str | os.PathLike[str] = "",
    corrupt: str = "",
    name: str = "",
    record: bool = True,
    strict: bool = False,
    progress: Told = nobody,
    **wish: Any,
) -> Evaluation:
    """How good models are on labelled pictures, with 95 % intervals, and which of them is better.

    data: what `zoo train --data` takes: folders that are called like classes, tables, shards; or DIR/CORRUPTION/SEVERITY/CLASS.
    metrics: of `top1`, `top5`, `macro_f1`, `calibration_error`; of models that tell several labels of a picture `mAP`, `macro_f1`,
        `micro_f1`, `exact`; of models that tell numbers `r2`, `mae`, `rmse`, `correlation`; without any, all.
    split: the part that judges; without it `val`, else `test`, else what there is. target: the column of the classes in a table.
    classes: how the folders are classes of the model: `name`, `wordnet` id, `number` or `order`; without it the first that fits.
    subset: models choose among the classes of the data only, as they are judged on ImageNet-A and -R.
    real: a JSON file with all classes that are right for each picture, where a model answers one.
    corrupt: `fog@3,snow`, or `all` fifteen corruptions of ImageNet-C, each a set of its own beside the pictures as they are.
    name: of the data set, for `zoo find --metric NAME/top1`; without it that of the folder. `record`: whether `zoo find` shall know.
    strict: refuse pictures that cannot be read, rather than leave them out.
    batch (32), workers, deploy, device: as of `zoo predict`.

    Models for tasks (boxes, classes of pixels, restored pictures) are judged on generated scenes: `zoo.evaluating.scenes.evaluate_scenes`.

    Raises InputError, and what `zoo.create` raises.
    """
    names = [models] if isinstance(models, str) else list(dict.fromkeys(models))
    judge = _judge(names)
    check_metrics(metrics, judge.metrics)
    if real and judge is not OfOneClass:
        raise InputError("evaluate", Problem("--real", "models that answer one class", f"models for {judge.task}"))
    called = name or records.slug(data)
    records.check_name(called)
    truths = real_labels(real) if real else None
    sets = sets_of(data, called, split, target, corruptions(corrupt), judge.task)
    clock = Clock(len(names) * sum(len(each.examples) for each in sets), progress)
    scores: Table[Score] = Table()
    known: dict[str, list[Any]] = {each.name: [] for each in sets}
    unreadable: dict[str, str] = {}
    for model in names:
        predictor = Predictor(wished(model, **wish))
        for each in sets:
            judged: Any = judge(predictor, each, classes, subset)
            answers = judged.answers(clock, unreadable)
            if strict and unreadable:
                problems = [Problem(picture, found=reason) for picture, reason in unreadable.items()]
                raise InputError("evaluate", problems)
            known[each.name].append(answers)
            more = {} if truths is None else {REAL: judged.real(answers, truths)}
            scores.append(judged.score(answers, metrics, more))
    if record:
        records.keep_all(scores)
    comparisons = len(sets) * (len(names) - 1)
    pairs = Table(
        paired((other, names[0]), each.name, known[each.name][place], known[each.name][0], comparisons, judge.paired)
        for each in sets
        for place, other in enumerate(names[1:], 1)
    )
    return Evaluation(scores, pairs, unreadable)


def _judge(models: Sequence[str]) -> type[OfOneClass] | type[OfSeveral] | type[OfNumbers]:
    """How models of one task are judged. Raises InputError for other tasks, and for several of them."""
    tasks = {model: spec(model).family.task for model in models}
    problems = [
        Problem(
            model,
            f"a model for {listed(list(JUDGES))}",
            f"one for {task}",
            next=f"`--data {SCENES}` judges it on generated scenes" if task in TASKS else "",
        )
        for model, task in tasks.items()
        if task not in JUDGES
    ]
    first = tasks[models[0]]
    if not problems and (others := {model: task for model, task in tasks.items() if task != first}):
        expected, step = f"a model for {first}, as {models[0]} is", "evaluate each kind by itself"
        problems = [Problem(model, expected, f"one for {task}", next=step) for model, task in others.items()]
    if problems:
        raise InputError("evaluate", problems)
    return JUDGES[first]
