"""Continuing texts: prompts read by a tokenizer, and what each new token adds to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.build import generation
from zoo.data.tokens import Tokenizer, tokenizer_of
from zoo.errors import InputError, Problem

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What the bytes of a character decode to before the last of them."""
LONGEST = 4
"""Bytes of a character at most, and tokens: after so many, what is no character never will be."""


def is_text(prompts: Any) -> bool:
    """A text, or a list of texts; an empty list is none."""
    listed = isinstance(prompts, (list, tuple)) and bool(prompts)
    return isinstance(prompts, str) or (listed and all(isinstance(prompt, str) for prompt in prompts))


def write(model: Any, prompts: Any, **choice: Any) -> Any:
    """What follows a text, or each of several, as they were given. See `LanguageModel.generate`."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    columns = list(_added(model, texts, **choice))
    written = ["".join(column[i] for column in columns) for i in range(len(texts))]
    return written[0] if isinstance(prompts, str) else written


def stream(model: Any, prompts: Any, **choice: Any) -> Iterator[Any]:
    """What each new token adds to a text (a str), or to each of several (a list); "" within a character. Raises InputError at once."""
    if isinstance(prompts, str):
        return (column[0] for column in _added(model, [prompts], **choice))
    return _added(model, list(prompts), **choice)


def _added(model: Any, texts: list[str], tokenizer: Any = None, stop: Any = None, **choice: Any) -> Iterator[list[str]]:
    """For each new token what it adds to each text."""
    if choice.get("mask") is not None or choice.get("attention_mask") is not None:
        found, step = "a mask", "leave it out: texts of several lengths are padded here"
        raise InputError("generate", Problem("mask", "none beside texts", found, next=step))
    spec = model.spec
    reader = tokenizer_of(
        spec.name, getattr(spec.input, "vocab_size", None), tokenizer, getattr(model, "tokenizer", "")
    )
    prompts = [reader.encode(text) for text in texts]
    ids, choice["mask"] = _padded(prompts)
    until = stop if isinstance(stop, str) else ""
    if until or (stop is None and "eos_token_id" not in choice):
        stop = list(reader.ends) or None
    request = generation.requested(model, ids, stop=stop or None, **choice)
    samples = [Sample(reader, prompt, until, request.stops) for prompt in prompts]
    return _shown(generation.columns(model, request), samples)


def _padded(prompts: list[list[int]]) -> tuple[Tensor, Tensor | None]:
    """(B, L) of prompts that end together, and where their tokens are; None where they are of one length."""
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts])
    if all(len(prompt) == length for prompt in prompts):
        return ids, None
    return ids, torch.tensor([[i >= length - len(prompt) for i in range(length)] for prompt in prompts])


def _shown(columns: Iterator[Tensor], samples: list[Sample]) -> Iterator[list[str]]:
    for column in columns:
        yield [sample.add(token) for sample, token in zip(samples, column.tolist(), strict=True)]
        if all(sample.done for sample in samples):
            break


class Sample:
    """The text behind one prompt, as its tokens come, until one of `stops`, or the text `until`, is in it."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], until: str, stops: Sequence[int]):
        self.tokenizer, self.until, self.stops = tokenizer, until, stops
        self.ids, self.text, self.done = list(prompt), "", False
        self._start, self._end = 0, len(self.ids)  # the tokens that were shown last

    def add(self, token: int) -> str:
        """What a token adds."""
        if self.done or token in self.tokenizer.ends:
            self.done = True
            return ""
        self.ids.append(token)
        self.done = token in self.stops
        fresh = self._fresh()
        if fresh.endswith(UNFINISHED) and len(self.ids) - self._end < LONGEST:
            return ""
        if fresh:
            self._start, self._end = self._end, len(self.ids)
        return self._taken(fresh)

    def _taken(self, fresh: str) -> str:
        """What of it stands before the end of the text."""
        head, found, _ = (self.text + fresh).partition(self.until) if self.until else (self.text + fresh, "", "")
        fresh, self.text = (head + found)[len(self.text) :], head + found
        self.done = self.done or bool(found)
        return fresh

    def _fresh(self) -> str:
        """The text behind what was shown, whose tokens are read along: the first of a text may lose its space."""
        before = self.tokenizer.decode(self.ids[self._start : self._end])
        return self.tokenizer.decode(self.ids[self._start :])[len(before) :]
