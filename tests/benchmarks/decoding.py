"""Decoding and prompts of language models of 130 million parameters against transformers in float32, one sequence, weights drawn at random.

Needs `pip install transformers`. All of a row are timed in turns in one process, on as many threads as `--threads` says.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import zoo
from tests.benchmarks.harness import Comparison, compare

NETS = ("llama_smollm2_135m", "mamba_130m")
START, TOKENS, PROMPT = 16, 16, 256
"""Tokens of the beginning that is read, of its continuation, and of a prompt whose reading is timed."""
FORMS = ("float32", "bfloat16", "int8")


def missing() -> str:
    """Why it cannot run here, as a sentence; "" where it can."""
    if importlib.util.find_spec("transformers") is None:
        return "decoding: expected transformers, which it is compared with; found none; next: pip install transformers"
    return ""


def run(threads: int, rounds: int = 15) -> dict[str, Comparison]:
    """Two rows for each net: so many tokens one after the other, and one prompt."""
    rows = {}
    for name in NETS:
        with torch.inference_mode(False):
            ours = {form: _deployed(name, form, threads) for form in FORMS}
            theirs = _of_transformers(name)
        start, prompt = _ids(START), _ids(PROMPT)
        decoding: dict[str, Callable[[], object]] = {"transformers": lambda net=theirs, ids=start: _continued(net, ids)}  # type: ignore[misc]
        reading: dict[str, Callable[[], object]] = {"transformers": lambda net=theirs, ids=prompt: _read(net, ids)}  # type: ignore[misc]
        for form, model in ours.items():
            decoding[f"zoo, {form}"] = lambda model=model, ids=start: model.generate(ids, TOKENS)  # type: ignore[misc]
            reading[f"zoo, {form}"] = lambda model=model, ids=prompt: model.generate(ids, 1)  # type: ignore[misc]
        rows[f"{name}, {TOKENS} tokens after {START}, {threads} threads"] = compare(decoding, rounds)
        rows[f"{name}, a prompt of {PROMPT} tokens, {threads} threads"] = compare(reading, rounds)
    return rows


def _ids(length: int) -> Tensor:
    return torch.randint(30_000, (1, length), generator=torch.Generator().manual_seed(length))


def _deployed(name: str, form: str, threads: int) -> Any:
    torch.manual_seed(0)
    model = zoo.create(name)
    return zoo.deploy(model, "torch", form, example=(1, 1), threads=threads, max_loss=1.0)


def _of_transformers(name: str) -> Any:
    """The net of the same sizes, which ends at no token."""
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    if name == "mamba_130m":
        sizes: Any = transformers.MambaConfig(vocab_size=50280, hidden_size=768, num_hidden_layers=24, state_size=16)
        net: Any = transformers.MambaForCausalLM(sizes)
    else:
        sizes = transformers.LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, tie_word_embeddings=True,
        )  # fmt: skip
        net = transformers.LlamaForCausalLM(sizes)
    settings = net.generation_config
    settings.eos_token_id = settings.bos_token_id = None
    settings.pad_token_id = 0
    return net.eval()


def _continued(net: Any, ids: Tensor) -> Tensor:
    found: Tensor = net.generate(ids, max_new_tokens=TOKENS, do_sample=False)
    return found


def _read(net: Any, ids: Tensor) -> Tensor:
    """The scores behind the last token, and what is kept of the past."""
    with torch.inference_mode():
        scores: Tensor = net(ids, use_cache=True, logits_to_keep=1).logits
    return scores
