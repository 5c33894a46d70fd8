"""A probe: what a model answers to a seeded input, kept with its weights; it proves that a load is that model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import Problem
from zoo.weights.errors import TensorsError
from zoo.weights.manifest import Probe

KEPT_LOGITS = 16


def make_probe(model: nn.Module, seed: int, shape: Sequence[int], atol: float = 1e-4, rtol: float = 1e-4) -> Probe:
    """Run the model in eval mode on numpy RandomState(seed).standard_normal(shape), float32; of a language model on
    RandomState(seed).randint(0, vocabulary, shape).

    `shape` is that of the whole input, for example (1, 3, 224, 224) or (1, 32) tokens. Kept are the first 16 values of the flattened
    output and the 2-norm of all of it; several outputs count one behind the other."""
    logits, norm = _answer(model, seed, shape)
    return Probe(seed=seed, shape=tuple(shape), logits=tuple(logits), norm=norm, atol=atol, rtol=rtol)


def check_probe(model: nn.Module, probe: Probe, subject: str) -> None:
    """Raise WeightsError unless |found - expected| <= atol + rtol * |expected| for each kept logit and for the norm."""
    logits, norm = _answer(model, probe.seed, probe.shape)
    expected = dict(zip((f"logit {place}" for place in range(len(probe.logits))), probe.logits, strict=True))
    found = dict(zip(expected, logits, strict=False)) | {"norm": norm}
    problems = []
    for name, value in (expected | {"norm": probe.norm}).items():
        bound = probe.atol + probe.rtol * abs(value)
        if name not in found:
            problems.append(Problem(f"probe: {name}", f"{value:.6g}", "an output that is shorter"))
        elif not abs(found[name] - value) <= bound:  # a NaN fails too
            problems.append(Problem(f"probe: {name}", f"{value:.6g} within {bound:.1g}", f"{found[name]:.6g}"))
    if problems:
        advice = "the weights fit but compute something else: the code or the weights are not the published ones"
        raise TensorsError(subject, [problems[0]._replace(next=advice), *problems[1:]])


def _input(model: nn.Module, seed: int, shape: Sequence[int]) -> Tensor:
    draw = np.random.RandomState(seed)
    vocabulary = vocabulary_of(model)
    if vocabulary is not None:
        return torch.from_numpy(draw.randint(0, vocabulary, tuple(shape)).astype(np.int64))
    return torch.from_numpy(draw.standard_normal(tuple(shape)).astype(np.float32))


def vocabulary_of(model: nn.Module) -> int | None:
    """How many tokens a model tells apart that reads tokens."""
    return getattr(getattr(getattr(model, "spec", None), "input", None), "vocab_size", None)


def _answer(model: nn.Module, seed: int, shape: Sequence[int]) -> tuple[list[float], float]:
    """The first logits and the norm of the output, in float32 and float64."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            answer = model(
                _input(model, seed, shape).to(
                    parameter.device, parameter.dtype if vocabulary_of(model) is None else None
                )
            )
            outputs = answer.values() if isinstance(answer, dict) else [getattr(answer, "logits", answer)]
            output = torch.cat([each.float().cpu().flatten() for each in outputs])
    finally:
        for module in training:
            module.training = True
    return output[:KEPT_LOGITS].tolist(), float(output.double().norm())
