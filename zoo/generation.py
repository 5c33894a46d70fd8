"""Continuing token sequences: the next token chosen, fed back, and so on, with what the model keeps of the past."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import InputError, Problem

Stop = int | Sequence[int] | None


def generate(
    model: Any,
    ids: Tensor,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    stop: Stop = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The new tokens (B, N) of `stream`. See `LanguageModel.generate`."""
    columns = list(stream(model, ids, max_new_tokens, temperature, top_k, stop, mask))
    return torch.stack(columns, 1) if columns else ids[:, :0]


def stream(
    model: Any,
    ids: Tensor,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    stop: Stop = None,
    mask: Tensor | None = None,
) -> Iterator[Tensor]:
    """Columns (B,) of new tokens, until `max_new_tokens` or all samples have met a stop. Raises InputError at once."""
    vocabulary = model.spec.input.vocab_size
    stops = [] if stop is None else [stop] if isinstance(stop, int) else list(stop)
    _check(ids, mask, vocabulary, max_new_tokens, temperature, top_k, stops)
    return _stream(model, ids, max_new_tokens, temperature, top_k, stops, mask)


def _stream(
    model: Any, ids: Tensor, count: int, temperature: float, top_k: int | None, stops: list[int], mask: Tensor | None
) -> Iterator[Tensor]:
    ends = torch.tensor(stops, dtype=ids.dtype, device=ids.device)
    state: Any = {}
    done, tokens = torch.zeros(len(ids), dtype=torch.bool, device=ids.device), ids
    for _ in range(count):
        with torch.no_grad():  # not around the yield: the caller's own mode comes back there
            logits, state = model.next_logits(tokens, state, mask)
            fresh = choose(logits, temperature, top_k).to(ids.dtype)
        fresh = torch.where(done, tokens[:, -1], fresh)
        yield fresh
        done |= torch.isin(fresh, ends)
        if bool(done.all()):
            return
        tokens, mask = fresh.unsqueeze(1), None


def choose(logits: Tensor, temperature: float = 0.0, top_k: int | None = None) -> Tensor:
    """One token (B,) by logits (B, V): the likeliest at temperature 0, else drawn from softmax(logits / temperature)."""
    if temperature == 0:
        return logits.argmax(-1)
    scores = logits.float() / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k, -1).values[:, -1:], -torch.inf)
    return torch.multinomial(scores.softmax(-1), 1).squeeze(1)


def _check(
    ids: Tensor,
    mask: Tensor | None,
    vocabulary: int,
    count: int,
    temperature: float,
    top_k: int | None,
    stops: list[int],
) -> None:
    problems = []
    if ids.ndim != 2 or ids.is_floating_point() or not ids.numel():
        problems.append(Problem("ids", "integers (B, L) with at least one token", f"{ids.dtype} {tuple(ids.shape)}"))
    elif int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        problems.append(Problem("ids", f"tokens in [0, {vocabulary})", f"{int(ids.min())} to {int(ids.max())}"))
    if mask is not None and (mask.shape != ids.shape or mask.dtype != torch.bool or not bool(mask.any(1).all())):
        found = f"{mask.dtype} {tuple(mask.shape)}"
        problems.append(
            Problem("mask", "booleans of the shape of ids, True at one token of each sample at least", found)
        )
    if count < 0:
        problems.append(Problem("max_new_tokens", "a number >= 0", str(count)))
    if not 0 <= temperature < float("inf"):
        problems.append(Problem("temperature", "a number >= 0", str(temperature)))
    if top_k is not None and top_k < 1:
        problems.append(Problem("top_k", "a number >= 1", str(top_k)))
    problems += [
        Problem("stop", f"tokens in [0, {vocabulary})", str(one)) for one in stops if not 0 <= one < vocabulary
    ]
    if problems:
        raise InputError("generate", problems)
