"""Sequence mixers on generated tasks: one small net, one recipe, equal for all. `python -m zoo.task_training` writes the table.

The net has two layers of width 64, x + mixer(norm x), then x + mlp(norm x); it reads the ids of a task and tells its targets. The
same number of steps, the same learning rates to choose from, and the same seeds for every mixer.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import torch
from torch import nn
from torch.nn import functional as F

from blocks import registry
from blocks.context import Context
from zoo.build.groups import param_groups
from zoo.collection import CORE
from zoo.tasks import TASKS, UNASKED, Task, accuracy
from zoo.training import Progress, cosine_rate

TABLE = CORE.data / "tasks.json"
HELD_OUT_SEED = 1_000_003
"""Of the sequences that accuracy is measured on; no recipe trains with it."""
HELD_OUT = 512


class TaskRecipe(msgspec.Struct, frozen=True):
    """AdamW with warm-up and a cosine to zero; fresh sequences at every step; the gradient's norm is cut at 1.

    Each mixer is run at every rate of `lrs`, and the best of them is its score.
    """

    steps: int = 800
    batch_size: int = 64
    dim: int = 64
    depth: int = 2
    lrs: tuple[float, ...] = (1e-3, 4e-3)
    weight_decay: float = 0.01
    warmup: float = 0.1


class TaskRow(msgspec.Struct, frozen=True):
    """Accuracy on held-out sequences for each seed, at the best of the learning rates."""

    mixer: str
    task: str
    accuracies: list[float]
    lr: float
    params: int
    seconds: float


class TaskTable(msgspec.Struct, frozen=True):
    """The rows of one recipe."""

    recipe: TaskRecipe
    rows: list[TaskRow]


@functools.cache
def shipped() -> TaskTable:
    """The table of the package; empty where none was written."""
    if not TABLE.is_file():
        return TaskTable(TaskRecipe(), [])
    return msgspec.json.decode(TABLE.read_bytes(), type=TaskTable)


def mixers() -> list[str]:
    """Every token mixer that can be causal."""
    return registry.list_blocks(kind="token_mixer", ability="causal")


def task_spec(mixer: Any, task: Task, recipe: TaskRecipe = TaskRecipe()) -> dict[str, Any]:
    """The net as a spec; `mixer` is a name or a table with `block`."""
    call = mixer
    if isinstance(mixer, str) and "causal" in registry.describe(mixer).params:
        call = {"block": mixer, "causal": True}
    return {
        "schema": "zoo.spec/1",
        "family": {"name": f"task_{task.name}", "task": "language-modeling"},
        "spec": {
            "input": {"kind": "tokens", "vocab_size": task.vocab_size, "length": task.length},
            "stem": "token_embedding",
            "dims": [recipe.dim],
            "depths": [recipe.depth],
            "layer": [{"residual": ["rms_norm", call]}, {"residual": ["rms_norm", {"block": "mlp", "ratio": 2}]}],
            "head": {"block": "lm_head", "norm": "rms_norm"},
        },
    }


def train_task(
    mixer: Any, task: Task, recipe: TaskRecipe = TaskRecipe(), lr: float = 1e-3, seed: int = 0, progress: Progress | None = None
) -> tuple[nn.Module, float]:  # fmt: skip
    """The trained net and its accuracy on held-out sequences. Raises SpecError for a mixer that cannot stand there."""
    import zoo

    torch.manual_seed(seed)
    model: Any = zoo.create(task_spec(mixer, task, recipe)).train()
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(param_groups(model, recipe.weight_decay, lr=lr), lr=lr, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_rate(step, recipe.steps, recipe.warmup))
    for step in range(1, recipe.steps + 1):
        ids, targets = task.batch(recipe.batch_size, draw)
        ctx = Context()
        logits = model(ids, ctx).logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=UNASKED) + ctx.total_loss()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if progress is not None and (step % 50 == 0 or step == recipe.steps):
            progress(step, recipe.steps, loss.item())
    model.eval()
    return model, evaluate(model, task)


def evaluate(model: Any, task: Task, count: int = HELD_OUT) -> float:
    """Accuracy on sequences that no training saw."""
    ids, targets = task.batch(count, torch.Generator().manual_seed(HELD_OUT_SEED))
    with torch.inference_mode():
        return accuracy(model(ids).logits, targets)


def row_of(mixer: str, task: str, seeds: int = 1, recipe: TaskRecipe = TaskRecipe()) -> TaskRow:
    """One mixer on one task: every learning rate with the first seed, the best of them with the others."""
    start = time.perf_counter()
    tried = {lr: train_task(mixer, TASKS[task], recipe, lr) for lr in recipe.lrs}
    lr = max(tried, key=lambda one: tried[one][1])
    rest = [train_task(mixer, TASKS[task], recipe, lr, seed)[1] for seed in range(1, seeds)]
    params = sum(parameter.numel() for parameter in tried[lr][0].parameters())
    return TaskRow(mixer, task, [tried[lr][1], *rest], lr, params, round(time.perf_counter() - start, 1))


def write_table(names: Sequence[str], tasks: Iterable[str] = TASKS, seeds: int = 1) -> TaskTable:
    """Fills the table of the package, row by row, so that a run that is broken off goes on where it was."""
    recipe = TaskRecipe()
    known = shipped() if shipped().recipe == recipe else TaskTable(recipe, [])
    rows = {(row.mixer, row.task): row for row in known.rows}
    for mixer in names:
        for task in tasks:
            if (mixer, task) in rows and len(rows[mixer, task].accuracies) >= seeds:
                continue
            row = rows[mixer, task] = row_of(mixer, task, seeds, recipe)
            print(
                f"{mixer} {task}: {' '.join(f'{one:.3f}' for one in row.accuracies)} ({row.seconds:.0f} s)", flush=True
            )
            made = TaskTable(recipe, [rows[key] for key in sorted(rows)])
            lines = ",\n".join(msgspec.json.encode(one).decode() for one in made.rows)
            TABLE.write_text(
                f'{{"recipe": {msgspec.json.encode(recipe).decode()}, "rows": [\n{lines}\n]}}\n', encoding="utf-8"
            )
    return TaskTable(recipe, list(rows.values()))


if __name__ == "__main__":
    write_table(sys.argv[1:] or mixers())
