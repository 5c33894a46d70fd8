"""The page of what sequence mixers learn: one table, mixers by generated tasks, from the shipped figures. Imports no torch."""

from __future__ import annotations

from zoo.display.console import markdown_table
from zoo.measure.task_table import TaskTable, shipped

COMMAND = "zoo train tasks --publish"

TASKS_SAID = {
    "recall": "pairs of a key and a value, then keys, each asked for its value",
    "selective_copying": "tokens among noise, to be told in their order",
    "induction": "tokens, then the same in another order, each asked for what stood behind it",
    "parity": "whether the ones so far are odd in number",
    "listops": "the value of nested expressions of MAX, MIN, MEDIAN and SUM modulo 10",
}

REMARKS = """What the table shows, and what it does not:

- The layer has a convolution over four tokens in front of the mixer, whatever the mixer. The row of `identity` is what that convolution
  and the MLP reach alone, and the figure to hold others against: on `listops` and `parity` it stands above chance, since a few
  tokens tell a part of the answers.
- Mixers keep their default parameters, with rotary positions where they have them; at this width that is one head for some and four
  for others, and parameters differ up to {spread:.0f} times. A larger state is a part of what is compared, not corrected for.
- One layer of width {dim}, {steps} steps: a low figure says *not learned this fast at this size*, never *cannot*. Mambas and gated
  recurrences are known to solve recall with more width, depth or steps; and a parity that
  holds at any length is another matter than one of the bits trained on here.
- No mixer was tuned: all learn at one rate. Differences of a few points between two rows are not evidence. `zoo study` compares blocks over seeds, with intervals."""


def mixer_card() -> str:
    """Markdown; what recalls best comes first. A dash stands for what was not trained yet."""
    table = shipped()
    columns = [
        "mixer",
        *(f"{task} ({chance:.1%})" for task, chance in table.chance.items()),
        "parameters",
    ]
    rows = [_row(table, name) for name in table.names()]
    tasks = "\n".join(f"- `{task}`: {TASKS_SAID[task]}." for task in table.chance)
    return (
        "\n\n".join(
            [
                "# What sequence mixers learn",
                f"Accuracy in percent on held-out sequences of generated tasks; in brackets, that of a guess; a dash: not trained yet. {_recipe(table)}",
                markdown_table(columns, rows),
                tasks,
                REMARKS.format(spread=_spread(table), dim=table.recipe.dim, steps=table.recipe.steps),
                f"Made by `{COMMAND}`. In code: `zoo.data.tasks.TASKS`, `zoo.training.tasks.train_task`, "
                "`zoo.measure.task_table.shipped`; `zoo blocks NAME` prints the row of a mixer.",
            ]
        )
        + "\n"
    )


def _recipe(table: TaskTable) -> str:
    recipe = table.recipe
    seeds = sorted({len(row.accuracies) for row in table.rows})
    runs = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return (
        f"One recipe for all: depth {recipe.depth}, width {recipe.dim}, {recipe.steps} steps of {recipe.batch_size} fresh sequences, AdamW "
        f"with a cosine from a learning rate of {recipe.lr:g}; mean over seeds, of which there {'is' if runs == '1' else 'are'} {runs}."
    )


def _row(table: TaskTable, name: str) -> list[str]:
    scores = table.scores(name)
    shares = [f"{100 * scores[task]:.1f}" if task in scores else "-" for task in table.chance]
    params = next(row.params for row in table.rows if row.mixer == name)
    return [f"`{name}`", *shares, f"{params:,}"]


def _spread(table: TaskTable) -> float:
    """The most parameters by the fewest of nets with a mixer."""
    sizes = [row.params for row in table.rows if row.mixer != "identity" and row.task == "listops"]
    return max(sizes) / min(sizes)
