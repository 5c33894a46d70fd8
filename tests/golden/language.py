"""Makes goldens of language models from transformers: `python -m tests.golden.language NAME ...` (`pip install transformers==5.23.0`).

A model of a small configuration is saved, which gives the names of its published checkpoints; values follow from names and shapes
(`keyed.py`); it is loaded from them and run in float32 and in float64. There every cast to float32 inside the library is one to
float64, so that the difference of the two is what rounding does.
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.golden.keyed import keyed_tensor

HERE = pathlib.Path(__file__).parent / "sequence"
GAIN, SCALES = 1.0, (0.3, 0.9)
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
PLAIN = SMALL | {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": None}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3", PLAIN | {"intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 12, "rope_theta": 1e6}),
    "qwen3_moe": (
        "Qwen3Moe",
        PLAIN
        | {
            "num_hidden_layers": 2, "head_dim": 12, "rope_theta": 1e6, "num_experts": 6, "num_experts_per_tok": 2,
            "moe_intermediate_size": 16, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
        },
    ),
    "gemma": ("Gemma", PLAIN | {"intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 12, "num_key_value_heads": 1}),
    "gemma2": (
        "Gemma2",
        PLAIN
        | {
            "intermediate_size": 48, "num_hidden_layers": 4, "head_dim": 12, "sliding_window": 6, "query_pre_attn_scalar": 9,
            "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0,
        },
    ),
    "gemma3": (
        "Gemma3",
        PLAIN
        | {
            "intermediate_size": 40, "num_hidden_layers": 7, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8,
            "num_key_value_heads": 1,
        },
    ),
    "olmo2": ("Olmo2", PLAIN | {"intermediate_size": 48, "num_hidden_layers": 2, "rms_norm_eps": 1e-6}),
    "smollm3": ("SmolLM3", PLAIN | {"intermediate_size": 48, "num_hidden_layers": 5}),
    "granite_hybrid": (
        "GraniteMoeHybrid",
        PLAIN
        | {
            "num_hidden_layers": 4, "layer_types": ["mamba", "attention", "mamba", "mamba"], "shared_intermediate_size": 40,
            "num_local_experts": 0, "embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.4,
            "logits_scaling": 2.5, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2,
            "tie_word_embeddings": True, "position_embedding_type": "nope", "rms_norm_eps": 1e-5,
        },
    ),
    "granite_hybrid_moe": (
        "GraniteMoeHybrid",
        PLAIN
        | {
            "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"], "shared_intermediate_size": 24,
            "intermediate_size": 16, "num_local_experts": 5, "num_experts_per_tok": 2, "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2, "residual_multiplier": 0.4, "logits_scaling": 2.5, "mamba_n_heads": 8, "mamba_d_head": 8,
            "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2, "tie_word_embeddings": True,
            "position_embedding_type": "nope", "rms_norm_eps": 1e-5,
        },
    ),
    "recurrent_gemma": (
        "RecurrentGemma",
        PLAIN
        | {
            "num_hidden_layers": 4, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 96, "lru_width": 32,
            "attention_window_size": 6, "logits_soft_cap": 2.0, "block_types": ["recurrent", "recurrent", "attention"],
        },
    ),
    "bamba": (
        "Bamba",
        PLAIN
        | {
            "num_hidden_layers": 4, "attn_layer_indices": [1], "intermediate_size": 48, "mamba_n_heads": 8, "mamba_d_head": 8,
            "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        },
    ),
    "lfm2": (
        "Lfm2",
        PLAIN
        | {
            "num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"], "intermediate_size": 48,
            "block_auto_adjust_ff_dim": False, "conv_L_cache": 3, "conv_bias": False, "norm_eps": 1e-5,
        },
    ),
    "rwkv4": (
        "Rwkv",
        {
            "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "attention_hidden_size": 32, "intermediate_size": 80,
            "context_length": 128, "rescale_every": 0, "bos_token_id": 1, "eos_token_id": 1, "tie_word_embeddings": False,
        },
    ),
    "zamba2": (
        "Zamba2",
        PLAIN
        | {
            "num_hidden_layers": 5, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba"], "intermediate_size": 48,
            "num_key_value_heads": 4, "n_mamba_heads": 8, "mamba_d_state": 8, "mamba_expand": 2, "adapter_rank": 4,
            "use_shared_attention_adapter": True, "use_mem_rope": True, "num_mem_blocks": 1,
        },
    ),
    "zamba2_two": (
        "Zamba2",
        PLAIN
        | {
            "num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid", "hybrid", "mamba", "hybrid", "hybrid"], "intermediate_size": 48,
            "num_key_value_heads": 4, "n_mamba_heads": 8, "mamba_d_state": 8, "mamba_expand": 2, "mamba_ngroups": 2, "adapter_rank": 4,
            "num_mem_blocks": 2,
        },
    ),
}  # fmt: skip
"""Name -> the class before `ForCausalLM`, and its configuration."""


class InFloat64(TorchFunctionMode):
    """Every float32 that is asked for is a float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args = [torch.float64 if arg is torch.float32 else arg for arg in args]
        kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return func(*args, **kwargs)


def make(name: str) -> dict[str, Any]:
    """Writes NAME.json and NAME.safetensors; returns what the first says."""
    import transformers

    kind, settings = MODELS[name]
    seed = 4000 + list(MODELS).index(name)
    config_class = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")
    model_class = getattr(transformers, f"{kind}ForCausalLM")
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(**settings)
        model_class._from_config(config).save_pretrained(folder)
        path = pathlib.Path(folder) / "model.safetensors"
        shapes = {key: list(value.shape) for key, value in load_file(path).items()}
        tensors = {key: keyed_tensor(key, shape, GAIN, SCALES) for key, shape in shapes.items()}
        save_file(tensors, path, {"format": "pt"})
        written = json.loads((pathlib.Path(folder) / "config.json").read_text())
        load = {"attn_implementation": "eager"} if kind not in ("Rwkv", "RecurrentGemma") else {}
        load |= {"experts_implementation": "eager"} if "Moe" in kind else {}  # its products of groups know no float64
        ids = torch.randint(0, settings["vocab_size"], (2, 24), generator=torch.Generator().manual_seed(seed))
        single = model_class.from_pretrained(folder, dtype=torch.float32, **load).eval()
        with torch.no_grad():
            logits = single(input_ids=ids, use_cache=False).logits
        with torch.no_grad(), InFloat64():
            torch.set_default_dtype(torch.float64)
            double = model_class.from_pretrained(folder, dtype=torch.float64, **load).eval()
            wide = double(input_ids=ids, use_cache=False).logits
            prompt = ids[:1, :8]
            tokens, margin = _greedy(double, prompt, 16)
            torch.set_default_dtype(torch.float32)
    assert wide.dtype == torch.float64
    data = {
        "in.input_ids": ids,
        "logits": logits,
        "logits.f64": wide,
        "greedy_prompt": prompt.clone(),
        "greedy_tokens": tokens,
    }
    save_file({key: value.contiguous() for key, value in data.items()}, HERE / f"model_{name}.safetensors")
    largest, error = float(wide.abs().max()), float((wide - logits).abs().max())
    about = {
        "name": f"model_{name}", "kind": "model", "reference": f"transformers {transformers.__version__}: {kind}ForCausalLM",
        "command": f"python -m tests.golden.language {name}",
        "about": "Causal language model, weights under the published checkpoint keys. logits: full forward without cache.",
        "config": settings, "written_config": written, "seed": seed, "keys": shapes, "gain": GAIN, "ls": list(SCALES), "stored": [],
        "errors": {"logits": {"max_abs": largest, "fp32_vs_fp64": error}},
        "tolerance": {"logits": {"fp32_atol": max(8 * error, 4e-6 * largest), "fp64_atol": 1e-9 * max(1.0, largest)}},
        "checks": {"greedy_min_margin": margin},
    }  # fmt: skip
    (HERE / f"model_{name}.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


def _greedy(model: Any, prompt: Tensor, count: int) -> tuple[Tensor, float]:
    """The likeliest tokens, one after the other, and the least by which one was ahead of the next."""
    ids, margin = prompt, float("inf")
    for _ in range(count):
        best = model(input_ids=ids, use_cache=False).logits[:, -1].topk(2)
        margin = min(margin, float(best.values[0, 0] - best.values[0, 1]))
        ids = torch.cat([ids, best.indices[:, :1]], 1)
    return ids[:, prompt.shape[1] :].contiguous(), margin


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        made = make(name)
        error, margin = made["errors"]["logits"], made["checks"]["greedy_min_margin"]
        print(
            f"{name:20s} fp32 error {error['fp32_vs_fp64']:.1e} of {error['max_abs']:.1f}, greedy margin {margin:.3f}"
        )
