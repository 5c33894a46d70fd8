"""Continuing token sequences: the next token chosen, fed back, and so on, with what the model keeps of the past."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.build.masks import as_mask
from zoo.errors import InputError, Problem, nearest
from zoo.specs.scalars import is_count, plain

Stop = int | Sequence[int] | None
SMALLEST = 1e-30
"""Temperatures below it would make scores overflow, and draw the likeliest token in any case."""


class Request(NamedTuple):
    """What is asked of a model, checked: `ids` and `mask` (B, L), the rest as Python numbers."""

    ids: Tensor
    most: int
    temperature: float
    top_k: int | None
    stops: list[int]
    mask: Tensor | None


def generate(model: Any, *given: Any, **named: Any) -> Tensor:
    """The new tokens (B, N) of `stream`. See `LanguageModel.generate`."""
    request = requested(model, *given, **named)
    tokens = list(columns(model, request))
    return torch.stack(tokens, 1) if tokens else request.ids[:, :0]


def stream(model: Any, *given: Any, **named: Any) -> Iterator[Tensor]:
    """Columns (B,) of new tokens, until `max_new_tokens` or all samples have met a stop. Raises InputError at once."""
    return columns(model, requested(model, *given, **named))


def columns(model: Any, request: Request) -> Iterator[Tensor]:
    """The tokens of a request that was checked, one column (B,) after the other."""
    ids, count, temperature, top_k, stops, mask = request
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
    if temperature < SMALLEST:
        return logits.argmax(-1)
    scores = logits.float() / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k, -1).values[:, -1:], -torch.inf)
    return torch.multinomial(scores.softmax(-1), 1).squeeze(1)


def requested(
    model: Any,
    ids: Any,
    max_new_tokens: Any = 64,
    temperature: Any = 0.0,
    top_k: Any = None,
    stop: Any = None,
    mask: Any = None,
    **foreign: Any,
) -> Request:
    """The request in Python's numbers and torch's integers. Raises InputError with all that is wrong with it."""
    vocabulary: int = model.spec.input.vocab_size
    problems: list[Problem] = []
    count, temperature, top_k = plain(max_new_tokens), plain(temperature), plain(top_k)
    mask, stop = _foreign(foreign, temperature, mask, stop, problems)
    stop = plain(stop)
    stops = [] if stop is None else list(stop) if isinstance(stop, Iterable) and not isinstance(stop, str) else [stop]
    tokens = _tokens(ids, vocabulary, problems)
    real = None if mask is None or tokens is None else _real(mask, tokens, problems)
    if not is_count(count):
        problems.append(Problem("max_new_tokens", "a number >= 0", repr(count)))
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 <= temperature < math.inf:
        problems.append(Problem("temperature", "a number >= 0", repr(temperature)))
    if top_k is not None and not is_count(top_k, 1):
        problems.append(Problem("top_k", "a number >= 1", repr(top_k)))
    for token in stops:
        if not is_count(token) or token >= vocabulary:
            problems.append(Problem("stop", f"tokens in [0, {vocabulary})", repr(token)))
    if problems:
        raise InputError("generate", problems)
    assert tokens is not None  # or there would be a problem
    return Request(tokens, count, float(temperature), top_k, stops, real)


def _tokens(ids: Any, vocabulary: int, problems: list[Problem]) -> Tensor | None:
    """ids as int32 or int64 (B, L), of a tensor, an array or lists; None, and a problem, for what is none of them."""
    if isinstance(ids, bytes):
        step = "decode it: a text is a `str`"
        problems.append(Problem("ids", "token numbers (B, L), or a text", type(ids).__name__, next=step))
        return None
    try:
        tokens = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, words, objects
        problems.append(Problem("ids", "integers (B, L) with at least one token", f"{type(ids).__name__}: {error}"))
        return None
    whole = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
    if tokens.ndim != 2 or not whole or not tokens.numel():
        found = f"{tokens.dtype} {tuple(tokens.shape)}"
        problems.append(Problem("ids", "integers (B, L) with at least one token", found))
        return None
    tokens = tokens if tokens.dtype in (torch.int32, torch.int64) else tokens.long()
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary:
        found = f"{int(tokens.min())} to {int(tokens.max())}"
        problems.append(Problem("ids", f"tokens in [0, {vocabulary})", found))
    return tokens


def _real(mask: Any, tokens: Tensor, problems: list[Problem]) -> Tensor | None:
    """A mask of truths, or of ones and zeros, as truths."""
    found = ""
    try:
        real = as_mask(mask, tokens, "generate")
        found = "" if bool(real.any(1).all()) else f"{real.dtype} {tuple(real.shape)}"
    except InputError as refusal:
        real, found = None, refusal.problems[0].found
    if found:
        expected = "booleans of the shape of ids, True at one token of each sample at least"
        problems.append(Problem("mask", expected, found))
    return real


ELSEWHERE = {
    "max_length": "max_new_tokens=N counts the new tokens alone",
    "max_tokens": "max_new_tokens=N",
    "top_p": "top_k=N",
    "streamer": "`for column in model.stream(ids):`",
    "tokenizer": "give a text, or a list of texts: a tokenizer reads these",
}
"""What other libraries call or offer, and what there is here."""


def _foreign(
    foreign: Mapping[str, Any], temperature: Any, mask: Any, stop: Any, problems: list[Problem]
) -> tuple[Any, Any]:
    """(mask, stop), where the words of other libraries say the same; a problem for each that says what is not offered here."""
    for name, value in foreign.items():
        value = plain(value) if name != "attention_mask" else value
        if name == "attention_mask" and mask is None:
            mask = value
        elif name == "eos_token_id" and stop is None:
            stop = value
        elif name == "do_sample" and isinstance(value, bool):
            if value != (temperature != 0):
                step = "temperature=1.0 draws, temperature=0 takes the likeliest token"
                problems.append(
                    Problem(name, "a temperature that says the same", f"{value} and {temperature!r}", next=step)
                )
        elif name == "num_beams":
            if value not in (None, 1):
                problems.append(Problem(name, "1: there is no beam search", repr(value), next="leave it out"))
        elif name == "stream":
            if value:
                problems.append(Problem(name, "no such option", repr(value), next="`for column in model.stream(ids):`"))
        else:
            step = ELSEWHERE.get(name, "mask= says which tokens are real" if "mask" in name else "help(model.generate)")
            near = nearest(name, ["max_new_tokens", "temperature", "top_k", "stop", "mask"])
            problems.append(Problem(name, "an option of `generate`", f"`{name}`", near, step))
    return mask, stop
