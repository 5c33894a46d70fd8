"""`python -m tests.training_steps [--least PARAMS] [--most PARAMS] [NAME …]`: three steps of training of every model, of language
models one of each family.

Each model is made by `zoo.create` and trained as it comes, layout included, in a process of its own with bounds of memory and time: with a
batch of 2, of 3, and of 3 images of odd sides where the model takes them. Images are as small as the model takes; prompts have 17 tokens;
other inputs are of the sizes that the spec says.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

GIGABYTES, SECONDS = 24, 1800
SIDES = (32, 64, 96, 128, 160, 192, 224, 256, 384)


def steps(name: str) -> str:
    """Trains one model; returns the sizes of its inputs. Raises what the model raises."""
    import torch

    import zoo
    from zoo import catalog
    from zoo.build.inputs import drawn_inputs
    from zoo.specs.inputs import ImageInput

    torch.manual_seed(0)
    if catalog.entries()[name].task == "language-modeling":
        model = zoo.create(name).train()
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        for batch in (2, 3, 3):
            ids = torch.randint(0, model.spec.input.vocab_size, (batch, 17))
            logits = model(ids[:, :-1]).logits
            _step(optimizer, torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
        return "17 tokens"
    model = zoo.create(name, num_classes=4 if zoo.spec(name).num_classes else None).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    if type(model.spec.input) is not ImageInput or model.spec.inputs:
        for batch in (2, 3, 3):
            _step(optimizer, squared(model(*drawn_inputs(model.spec, batch))))
        return "inputs as its spec says"
    side, channels = smallest_side(name), model.spec.input.channels
    for batch in (2, 3, 3):
        _step(optimizer, squared(model(torch.randn(batch, channels, side, side))))
    images = f"{side} x {side}"
    try:
        model.eval()(torch.randn(1, channels, side + 1, side + 3))
    except ValueError:
        return images
    _step(optimizer, squared(model.train()(torch.randn(3, channels, side + 1, side + 3))))
    return f"{images}, {side + 1} x {side + 3}"


def squared(outputs):  # type: ignore[no-untyped-def]
    """The sum over all outputs, in tables and lists too, of their mean squares."""
    import torch

    if isinstance(outputs, torch.Tensor):
        return outputs.square().mean() if outputs.requires_grad else torch.zeros(())
    parts = outputs.values() if isinstance(outputs, dict) else outputs or ()
    return sum(map(squared, parts), torch.zeros(()))


def smallest_side(name: str) -> int:
    """The side of the smallest square images of SIDES that a model takes in training, else that of its own images."""
    import torch

    import zoo
    from zoo.build.inputs import input_size

    model = zoo.create(name, device="meta").train()
    own = max(input_size(model.spec.input))
    for side in [side for side in SIDES if side < own]:
        try:
            with torch.no_grad():
                model(torch.empty(2, model.spec.input.channels, side, side, device="meta"))
        except ValueError:
            continue
        return side
    return own


def _step(optimizer, loss) -> None:  # type: ignore[no-untyped-def]
    """One step of an optimizer. Raises ArithmeticError for a loss or a gradient that is not finite.

    Gradients are cut to a length of 1: those of a batch norm of two nearly equal values, on a map of one pixel, reach 10^7.
    """
    import torch

    if not loss.isfinite():
        raise ArithmeticError("the loss is not finite")
    optimizer.zero_grad()
    loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(parameter.grad is not None and not parameter.grad.isfinite().all() for parameter in parameters):
        raise ArithmeticError("a gradient is not finite")
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def child(name: str) -> None:
    limit = GIGABYTES << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(steps(name), flush=True)


def outcome(name: str) -> tuple[bool, str]:
    """(whether training works, the sizes of the inputs or the reason)."""
    command = [sys.executable, "-c", "import sys; from tests.training_steps import child; child(sys.argv[1])", name]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return False, f"it ran past {SECONDS} s"
    if run.returncode:
        lines = run.stderr.strip().splitlines()
        return False, f"ended with {run.returncode}: {lines[-1][:200] if lines else ''}"
    return True, run.stdout.strip().splitlines()[-1]


def subjects(most: float, least: float = 0) -> list[str]:
    """Models of so many parameters, the smallest first, of language models the smallest of each family."""
    from zoo import catalog

    entries = sorted(catalog.entries().items(), key=lambda pair: pair[1].params)
    names, families = [], set()
    for name, entry in entries:
        language = entry.task == "language-modeling"
        if least < entry.params <= most and not (language and entry.family in families):
            names.append(name)
        if language:
            families.add(entry.family)
    return names


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.training_steps", description=__doc__)
    parser.add_argument("--least", type=float, default=0, help="only models of more parameters than these")
    parser.add_argument("--most", type=float, default=1e8, help="parameters of the largest model that is trained")
    parser.add_argument("names", nargs="*", help="models; all unless some are named")
    options = parser.parse_args()
    names = options.names or subjects(options.most, options.least)
    failures = 0
    for name in names:
        works, detail = outcome(name)
        failures += not works
        print(f"{name:32} {'trains' if works else 'FAILS'}  {detail}", flush=True)
    print(f"{len(names)} models, {len(names) - failures} train, {failures} fail")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
