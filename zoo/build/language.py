"""Language models: a Backbone that reads token ids and can stop and go on anywhere in a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import torch
from torch import Tensor

from blocks.context import Context
from zoo.build.backbone import Backbone, Stage
from zoo.build.masks import as_mask
from zoo.build.refusals import FOREIGN, refuse
from zoo.errors import InputError, Problem

if TYPE_CHECKING:
    from blocks.steps import Stepper

Past = Mapping[str, Any]
"""What the blocks keep of the tokens so far, by module path: tensors (B, …)."""


class Prediction(NamedTuple):
    """`logits` (B, L, vocabulary): at each position scores for the token that follows. `state` goes into the next call, if one was asked for."""

    logits: Tensor
    state: dict[str, Any] | None = None


class LanguageModel(Backbone):
    """Token ids (B, L) -> Prediction(logits (B, L, vocabulary), state).

    A sequence is begun with `state={}` and continued with the state of the prediction before it, in pieces of any
    length; a state that was used is left as it was, so several continuations can start from it. `mask` (B, L) is True
    at real tokens: padding before or behind them changes nothing. Without a state nothing is kept, as in training.
    """

    stepper: Stepper | None = None
    """Of a deployed net: how it goes on by one token."""
    tokenizer: str = ""
    """The `tokenizer.json`, folder or repository through which it reads text; "" where none came with its weights."""

    def __init__(self, *parts: Any):
        super().__init__(*parts)
        self.reads_slots = True  # recurrent blocks hand things on, so that every pass has a ctx

    if TYPE_CHECKING:  # what a call returns, of whom torch says Any

        def __call__(
            self, x: Tensor, ctx: Context | None = None, *, state: Past | None = None, mask: Tensor | None = None
        ) -> Prediction: ...

    def forward(  # type: ignore[override]
        self, x: Tensor, ctx: Context | None = None, *, state: Past | None = None, mask: Tensor | None = None
    ) -> Any:
        if isinstance(x, (str, bytes)):
            step = "`model.generate(text)` continues a text; `zoo.data.pydoc.encode(text)` makes numbers for a model of bytes"
            raise InputError(self.spec.name, Problem("", "token numbers (B, L)", "text", next=step))
        if ctx is None and (stepped := self._stepped(x, state, mask)) is not None:
            return stepped
        ctx = self._context(x, ctx, state, mask)
        if self.out_indices is not None:
            return super().forward(x, ctx)
        return Prediction(self.forward_head(self.forward_features(x, ctx), ctx=ctx), ctx.state)

    def forward_features(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        """The tokens before the head, (B, L, C)."""
        ctx = Context() if ctx is None else ctx
        if self.stepper is not None:
            try:
                found = self.stepper.features(x, ctx)
            except FOREIGN as error:
                refuse(error, x, self)
                raise
            if found is not None:
                return found
        return super().forward_features(x, ctx)

    def next_logits(self, x: Tensor, state: Past, mask: Tensor | None = None) -> Prediction:
        """Scores (B, vocabulary) for what follows the last token of each sample, and the state behind it.

        Costs less than `forward`: of a long prompt only the last position meets the head.
        """
        if (stepped := self._stepped(x, state, mask)) is not None:
            return Prediction(stepped.logits.squeeze(1), stepped.state)
        ctx = self._context(x, None, state, mask)
        mask = ctx.mask
        features = self.forward_features(x, ctx)
        if mask is None:
            last = features[:, -1:]
        else:
            place = mask.shape[1] - 1 - mask.flip(1).to(x.dtype).argmax(1)  # of the last True
            last = features.gather(1, place.view(-1, 1, 1).expand(-1, 1, features.shape[-1]))
        return Prediction(self.forward_head(last, ctx=ctx).squeeze(1), ctx.state)

    @overload
    def stream(self, ids: str, max_new_tokens: int = 64, **choice: Any) -> Iterator[str]: ...
    @overload
    def stream(self, ids: list[str], max_new_tokens: int = 64, **choice: Any) -> Iterator[list[str]]: ...
    @overload
    def stream(self, ids: Tensor, max_new_tokens: int = 64, **choice: Any) -> Iterator[Tensor]: ...

    def stream(self, ids: Any, max_new_tokens: int = 64, **choice: Any) -> Iterator[Any]:
        """The tokens of `generate`, one column (B,) after the other, as they are chosen; of text what each token adds to it."""
        from zoo.build import generation, writing

        of_text = writing.is_text(ids)
        return (writing if of_text else generation).stream(self, ids, max_new_tokens=max_new_tokens, **choice)

    @overload
    def generate(
        self, ids: str, max_new_tokens: int = 64, temperature: float = 0.0, top_k: int | None = None,
        stop: str | int | Sequence[int] | None = None, **more: Any,
    ) -> str: ...  # fmt: skip
    @overload
    def generate(
        self, ids: list[str], max_new_tokens: int = 64, temperature: float = 0.0, top_k: int | None = None,
        stop: str | int | Sequence[int] | None = None, **more: Any,
    ) -> list[str]: ...  # fmt: skip
    @overload
    def generate(
        self, ids: Tensor, max_new_tokens: int = 64, temperature: float = 0.0, top_k: int | None = None,
        stop: int | Sequence[int] | None = None, mask: Tensor | None = None, **foreign: Any,
    ) -> Tensor: ...  # fmt: skip

    def generate(
        self,
        ids: Any,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        stop: Any = None,
        mask: Tensor | None = None,
        **foreign: Any,
    ) -> Any:
        """Continues the prompts `ids` (B, L); returns the new tokens (B, N), N <= max_new_tokens, without the prompts.

        temperature: 0 takes the likeliest token; above it tokens are drawn from softmax(logits / temperature) by torch's
        generator, among the `top_k` likeliest where that is given. stop: a token, or several, at which a sample ends; behind
        it the sample repeats it until all have ended. mask: True at real tokens of the prompts. The prompt is read at
        once and then one token at a time: a recurrent model holds no more after a thousand tokens than after one. Numbers may
        be NumPy's or torch's. `attention_mask`, `eos_token_id`, `do_sample` and `num_beams=1` of other libraries are
        understood where they say the same.

        ids may be a text, or a list of texts: then the new text comes back, or a list, and `stop` may be a text, with which a sample
        ends. A model of bytes reads text as it is; another through `tokenizer=`, a `tokenizer.json`, a folder with one or a repository
        (`hub:org/repo@revision`); without it through the one beside its weights (`self.tokenizer`). Raises InputError.
        """
        from zoo.build import generation, writing

        choice = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "stop": stop,
            "mask": mask,
        }
        if writing.is_text(ids):
            return writing.write(self, ids, **choice, **foreign)
        return generation.generate(self, ids, **choice, **foreign)

    def write_steps(self) -> None:
        """From now on single tokens are computed by one list of calls (`blocks.steps`), for a net whose weights stay as they are."""
        from blocks.steps import Stepper  # here, since it loads all blocks that it knows

        stages = [stage for stage in self.stages if isinstance(stage, Stage)]
        if self.stem is None or self.head is None or any(stage.view is not None for stage in stages):
            return
        parts = [part for stage in stages for part in (stage.downsample, *stage.layers, stage.post)]
        self.stepper = Stepper(self.stem, [part for part in parts if part is not None], self.head)

    def _stepped(self, x: Tensor, state: Past | None, mask: Tensor | None) -> Prediction | None:
        """One token by the list of calls; None where there is none, or it does not apply."""
        if self.stepper is None or not state or mask is not None or self.out_indices is not None:
            return None
        try:
            found = self.stepper(x, self._past(x, state))
        except FOREIGN as error:
            refuse(error, x, self)
            raise
        return None if found is None else Prediction(*found)

    def state_size(self, length: int = 0) -> int:
        """Numbers that the state holds for each sequence after `length` tokens."""
        parts: list[Any] = [part for part in self.modules() if part is not self and hasattr(part, "state_size")]
        return sum(part.state_size(length) for part in parts)

    def _context(self, x: Any, ctx: Context | None, state: Past | None, mask: Tensor | None) -> Context:
        """Raises InputError for a mask that is none, and for a state that is no table, or of another number of sequences."""
        ctx = Context() if ctx is None else ctx
        if state is not None:
            ctx.state = self._past(x, state)
        if mask is not None:
            ctx.mask = as_mask(mask, x, self.spec.name) if isinstance(x, Tensor) else mask
        return ctx

    def _past(self, x: Any, state: Any) -> dict[str, Any]:
        if not isinstance(state, Mapping):
            expected = "what a prediction before it has as `state`, or {} to begin with"
            raise InputError(self.spec.name, Problem("state", expected, f"`{type(state).__name__}`"))
        kept: Any = state
        while isinstance(kept, (Mapping, tuple, list)) and kept:  # the first tensor in it tells of all
            kept = next(iter(kept.values() if isinstance(kept, Mapping) else kept))
        if isinstance(kept, Tensor) and not torch.compiler.is_compiling() and len(kept) != len(x):
            expected, found = f"the state of {len(x)} sequences, as there are now", f"one of {len(kept)}"
            raise InputError(self.spec.name, Problem("state", expected, found))
        return dict(state)
