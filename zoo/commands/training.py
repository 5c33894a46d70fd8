"""`zoo train`: models trained on data at hand."""

from __future__ import annotations

from argparse import Namespace

from zoo import catalog
from zoo.console import dump


def digits(arguments: Namespace) -> int:
    """Trains from scratch and reports the held-out accuracy beside the published one."""
    import sys

    import msgspec

    from zoo.training import Recipe, publish, train_digits
    from zoo.weights.load import save_weights

    name = catalog.split_tag(arguments.name)[0]
    catalog.entry(name)
    asked = {"epochs": arguments.epochs, "seed": arguments.seed}
    recipe = msgspec.structs.replace(Recipe(), **{key: value for key, value in asked.items() if value is not None})

    def progress(epoch: int, epochs: int, loss: float) -> None:
        print(
            f"\r{name}: epoch {epoch}/{epochs}, loss {loss:.3f}",
            end="\n" if epoch == epochs else "",
            file=sys.stderr,
            flush=True,
        )

    result = train_digits(name, recipe, progress)
    if arguments.out:
        save_weights(result.model, arguments.out)
    if arguments.publish:
        publish(name, result, recipe)
    low, high = result.ci95
    if arguments.json:
        dump(
            {
                "model": name,
                "accuracy": result.accuracy,
                "correct": result.correct,
                "n": result.n,
                "ci95": [low, high],
                "seconds": round(result.seconds, 1),
            }
        )
    else:
        print(
            f"{name}: {result.correct} of {result.n} held-out digits, {result.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}), {result.seconds:.0f} s"
        )
    return 0


def text(arguments: Namespace) -> int:
    """Trains from scratch on docstrings and reports the bits for each byte of held-out ones."""
    import sys

    import msgspec

    from zoo.text_training import TextRecipe, publish_text, train_text
    from zoo.weights.load import save_weights

    name = catalog.split_tag(arguments.name)[0]
    catalog.entry(name)
    asked = {"steps": arguments.steps, "seed": arguments.seed}
    recipe = msgspec.structs.replace(TextRecipe(), **{key: value for key, value in asked.items() if value is not None})

    def progress(step: int, steps: int, loss: float) -> None:
        end = "\n" if step == steps else ""
        print(f"\r{name}: step {step}/{steps}, loss {loss:.3f}", end=end, file=sys.stderr, flush=True)

    result = train_text(name, recipe, progress)
    if arguments.out:
        save_weights(result.model, arguments.out)
    if arguments.publish:
        publish_text(name, result, recipe)
    if arguments.json:
        figures = {"bits_per_byte": result.bits_per_byte, "n": result.n, "seconds": round(result.seconds, 1)}
        dump({"model": name} | figures)
    else:
        print(
            f"{name}: {result.bits_per_byte:.3f} bits per byte on {result.n:,} held-out bytes, {result.seconds:.0f} s"
        )
    return 0
