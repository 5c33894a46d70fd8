"""A deployed language model as `zoo.build.generation` asks for it: the scores of what follows, and the state behind it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.build import generation, writing
from zoo.build.language import LanguageModel, Prediction
from zoo.data.tokens import FILE
from zoo.errors import InputError, Problem
from zoo.measure.clock import on_threads
from zoo.runtimes.torch_session import TorchSession

if TYPE_CHECKING:
    from zoo.runtimes.deployed import Deployed


def generate(model: Deployed, ids: Any, max_new_tokens: int, **choice: Any) -> Any:
    """The new tokens (B, N), or of text the new text. Raises InputError for a model that keeps no state: it would read the whole text again for each token."""
    if not model.signature.state:
        found = "one that keeps none" if model.signature.kind == "language" else "a model of images"
        raise InputError("generate", Problem(model.about.name, "a language model that keeps a state", found))
    session = model.session
    net = session.net if isinstance(session, TorchSession) else None
    go_on = writing.write if writing.is_text(ids) else generation.generate
    choice["max_new_tokens"] = max_new_tokens
    if not isinstance(net, LanguageModel):
        return go_on(_Reader(model), ids, **choice)
    with on_threads(
        model.threads
    ):  # the net itself reads padded prompts, too, and of a long one only the end meets its head
        return go_on(net, ids, **choice)


class _Reader:
    def __init__(self, model: Deployed):
        self.model = model
        self.spec = SimpleNamespace(name=model.about.name, input=SimpleNamespace(vocab_size=model.about.vocabulary))
        self.tokenizer = str(model.folder / FILE) if (model.folder / FILE).is_file() else ""

    def next_logits(self, tokens: Tensor, state: Any, mask: Tensor | None = None) -> Prediction:
        if mask is not None and not bool(mask.all()):
            step = "give prompts of one length, or generate with the model itself, which takes a mask"
            raise InputError("generate", Problem("mask", "prompts without padding", "a mask", next=step))
        prediction = self.model(tokens, state=state)
        return Prediction(prediction.logits[:, -1], prediction.state)
