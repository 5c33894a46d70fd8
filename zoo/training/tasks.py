"""Sequence mixers on generated tasks: one small net, one recipe, equal for all. `zoo train tasks` is this.

The net reads the ids of a task and tells its targets. Its layer is x + conv(x), x + mixer(norm x), x + mlp(norm x), conv being a
`causal_conv` over four tokens: so that no mixer needs to find the token before by itself, which most published nets spare it, too.
The same number of steps, the same learning rate and the same seeds for every mixer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks import registry
from blocks.context import Context
from zoo.build.groups import param_groups
from zoo.build.params import count_params
from zoo.data.tasks import TASKS, UNASKED, Task, accuracy
from zoo.measure.task_table import TABLE, TaskRecipe, TaskRow, TaskTable
from zoo.system.folders import write_whole
from zoo.training.loop import Progress, train

HELD_OUT_SEED = 1_000_003
"""The seed of the sequences that accuracy is measured on; no recipe trains with it."""
HELD_OUT = 512
AS_IN_LANGUAGE_MODELS: dict[str, Any] = {"causal": True, "rope": {}}
"""Parameters that a mixer is given where it has them."""


def mixers() -> list[str]:
    """Every token mixer that can be causal."""
    return registry.list_blocks(kind="token_mixer", ability="causal")


def task_spec(mixer: Any, task: Task, recipe: TaskRecipe = TaskRecipe()) -> dict[str, Any]:
    """The net as a spec; `mixer` is a name or a table with `block`."""
    call = mixer
    if isinstance(mixer, str):
        params = registry.describe(mixer).params
        call = {"block": mixer} | {name: value for name, value in AS_IN_LANGUAGE_MODELS.items() if name in params}
    return {
        "schema": "zoo.spec/1",
        "family": {"name": f"task_{task.name}", "task": "language-modeling"},
        "spec": {
            "input": {"kind": "tokens", "vocab_size": task.vocab_size, "length": task.length},
            "init": {"weight": "torch"},
            "stem": {"block": "token_embedding", "std": 0.5},
            "dims": [recipe.dim],
            "depths": [recipe.depth],
            "layer": [
                {"residual": ["causal_conv"]},
                {"residual": ["rms_norm", call]},
                {"residual": ["rms_norm", {"block": "mlp", "ratio": 2}]},
            ],
            "head": {"block": "lm_head", "norm": "rms_norm"},
        },
    }


def train_task(
    mixer: Any, task: Task, recipe: TaskRecipe = TaskRecipe(), seed: int = 0, progress: Progress | None = None
) -> tuple[nn.Module, float]:  # fmt: skip
    """The trained net and its accuracy on held-out sequences. Raises SpecError for a mixer that cannot stand there.

    `progress` is called after every fiftieth step and the last, with the loss of the step.
    """
    import zoo

    torch.manual_seed(seed)
    model: Any = zoo.create(task_spec(mixer, task, recipe))
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        param_groups(model, recipe.weight_decay, lr=recipe.lr), lr=recipe.lr, betas=(0.9, 0.95)
    )
    batches = (task.batch(recipe.batch_size, draw) for _ in range(recipe.steps))
    steps = train(model, optimizer, batches, _loss, steps=recipe.steps, warmup=recipe.warmup)
    for step, loss in enumerate(steps, 1):
        if progress is not None and (step % 50 == 0 or step == recipe.steps):
            progress(step, recipe.steps, loss)
    model.eval()
    return model, evaluate(model, task)


def _loss(model: Any, batch: tuple[Tensor, Tensor], ctx: Context) -> Tensor:
    ids, targets = batch
    return F.cross_entropy(model(ids, ctx).logits.flatten(0, 1), targets.flatten(), ignore_index=UNASKED)


def evaluate(model: Any, task: Task, count: int = HELD_OUT) -> float:
    """Accuracy on sequences that no training saw."""
    ids, targets = task.batch(count, torch.Generator().manual_seed(HELD_OUT_SEED))
    with torch.inference_mode():
        return accuracy(model(ids).logits, targets)


def row_of(
    mixer: str, task: str, seeds: int = 1, recipe: TaskRecipe = TaskRecipe(), known: TaskRow | None = None,
    progress: Progress | None = None,
) -> TaskRow:  # fmt: skip
    """One mixer on one task with each seed; goes on from a `known` row."""
    accuracies = list(known.accuracies) if known else []
    for seed in range(len(accuracies), seeds):
        model, accuracy = train_task(mixer, TASKS[task], recipe, seed, progress)
        accuracies.append(accuracy)
    params = known.params if known else count_params(model)
    return TaskRow(mixer, task, accuracies, params)


Heard = Callable[[str, str], Progress]
"""Called with a mixer and a task before each row; what it gives hears of the steps."""


def measure_table(
    names: Sequence[str], tasks: Iterable[str] = TASKS, seeds: int = 1, table: TaskTable | None = None,
    keep: Callable[[TaskTable], None] = lambda _: None, heard: Heard | None = None,
) -> TaskTable:  # fmt: skip
    """Trains what `table` lacks of these mixers, tasks and seeds, row by row; `keep` gets the table after each row.

    A table of another recipe is begun anew.
    """
    recipe = TaskRecipe()
    rows = {(row.mixer, row.task): row for row in table.rows} if table and table.recipe == recipe else {}
    for mixer in names:
        for task in tasks:
            row = rows.get((mixer, task))
            if row and len(row.accuracies) >= seeds:
                continue
            progress = heard(mixer, task) if heard else None
            rows[mixer, task] = row_of(mixer, task, seeds, recipe, row, progress)
            keep(_table(recipe, rows.values()))
    return _table(recipe, rows.values())


def _table(recipe: TaskRecipe, rows: Iterable[TaskRow]) -> TaskTable:
    chance = {task.name: task.chance for task in TASKS.values()}
    return TaskTable(recipe, chance, sorted(rows, key=lambda row: (row.mixer, row.task)))


def publish(table: TaskTable) -> None:
    """Makes it the table of the package: JSON, a row a line."""
    head = ", ".join(f'"{name}": {msgspec.json.encode(getattr(table, name)).decode()}' for name in ("recipe", "chance"))
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in table.rows)
    write_whole(TABLE, f'{{{head}, "rows": [\n{lines}\n]}}\n'.encode())
