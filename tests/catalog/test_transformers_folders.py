"""`zoo.create("transformers:FOLDER")`: the config names a registered model, or a sentence says which is nearest."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import zoo
from tests.models.parity import GOLDEN, KEYED
from tests.models.test_language import CASES
from zoo import catalog
from zoo.catalog.arithmetic import names_of, number
from zoo.catalog.transformers_folders import registered, tables
from zoo.errors import InputError, WeightsError
from zoo.weights.convert import KeyRules

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 176, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "hidden_act": "silu", "attention_bias": False, "rope_scaling": None,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama_nano": LLAMA,
    "mixtral_nano": LLAMA | {
        "model_type": "mixtral", "intermediate_size": 96, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "olmoe_nano": LLAMA | {
        "model_type": "olmoe", "intermediate_size": 32, "num_key_value_heads": 4, "num_experts": 8, "num_experts_per_tok": 3,
        "norm_topk_prob": False, "tie_word_embeddings": False, "clip_qkv": None,
    },
    "mamba_nano": {"model_type": "mamba", "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 16, "expand": 2},
    "mamba2_nano": {
        "model_type": "mamba2", "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 32, "head_dim": 32, "n_groups": 1,
        "num_heads": 4, "time_step_limit": [0.0, {"__float__": "Infinity"}],
    },
    "llama_smollm2_135m": LLAMA | {
        "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "rope_theta": None, "rope_parameters": {"rope_theta": 100000, "rope_type": "default"},
    },
    "mixtral_8x7b": {
        "model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336,
    },
    "lfm2_350m": {
        "model_type": "lfm2", "vocab_size": 65536, "hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16,
        "num_key_value_heads": 8, "block_ff_dim": 6656, "block_auto_adjust_ff_dim": True, "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0, "conv_L_cache": 3, "norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": True,
    },
    "qwen3_0_6b": LLAMA | {
        "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
    },
    "deepseek_v3_671b": {
        "model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5, "first_k_dense_replace": 3,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "norm_topk_prob": True, "rope_theta": 10000, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 1.0},
    },
    "mamba_370m": {"model_type": "mamba", "vocab_size": 50280, "hidden_size": 1024, "num_hidden_layers": 48},
}  # fmt: skip


def written(folder: pathlib.Path, config: dict[str, Any]) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return f"transformers:{folder}"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_names_the_registered_model_of_its_sizes(name: str, tmp_path: pathlib.Path) -> None:
    assert registered(written(tmp_path, CONFIGS[name])) == name


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.endswith("_nano")])
def test_the_weights_of_a_folder_come_with_it(name: str, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(0)
    model: Any = zoo.create(name)
    rules = KeyRules.from_data(model.spec.keys["transformers"], "keys.transformers")
    tensors = rules.to_source(model.state_dict())
    tied = {key for key in tensors if key == "lm_head.weight" and CONFIGS[name].get("tie_word_embeddings", True)}
    save_file(
        {key: tensor.clone() for key, tensor in tensors.items() if key not in tied}, tmp_path / "model.safetensors"
    )
    back: Any = zoo.create(written(tmp_path, CONFIGS[name]))
    assert back.spec.name == name and back.digest == catalog.entry(name).digest
    ids = torch.arange(12)[None]
    assert torch.equal(back(ids).logits, model(ids).logits)


KINDS = {
    "granite_hybrid": "granitemoehybrid",
    "granite_hybrid_moe": "granitemoehybrid",
    "gemma3": "gemma3_text",
    "rwkv4": "rwkv",
}
"""What transformers calls the goldens that it does not call as we do."""
STEMS = [
    stem
    for stem in CASES
    if KINDS.get(kind := stem.removeprefix("model_"), kind) in tables()
    and kind != "qwen3_next"  # whose layers are in another order
]


def config_of(stem: str, about: dict[str, Any]) -> dict[str, Any]:
    """The config as transformers wrote it, or what it was made from."""
    kind = stem.removeprefix("model_")
    written: dict[str, Any] = about.get("written_config", about["config"])
    return written | {"model_type": KINDS.get(kind, kind)}


@pytest.mark.parametrize("stem", STEMS)
def test_sizes_of_no_registered_model_are_refused_with_the_call_that_builds_them(
    stem: str, tmp_path: pathlib.Path
) -> None:
    about = json.loads((GOLDEN / "sequence" / f"{stem}.json").read_text())
    model = written(tmp_path, config_of(stem, about))
    with pytest.raises(InputError, match="expected the sizes of a registered model of") as caught:
        zoo.create(model)
    problem = caught.value.problems[0]
    assert problem.nearest == CASES[stem][0] and "hidden_size 32" in problem.found
    name, changes = re.fullmatch(
        r'zoo\.create\("(\w+)", (\{.*\}), weights=.*, source="transformers"\)', problem.next
    ).groups()  # type: ignore[union-attr]
    save_file(_tensors(about, stem), tmp_path / "model.safetensors")
    net: Any = zoo.create(name, eval(changes), weights=tmp_path, source="transformers")
    expected = {"input.vocab_size": about["config"]["vocab_size"], **CASES[stem][1]}
    assert net.digest == zoo.spec(CASES[stem][0], expected).digest


def _tensors(about: dict[str, Any], stem: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    data = load_file(GOLDEN / "sequence" / f"{stem}.safetensors")
    tensors = KEYED["keyed_state_dict"](about) | {
        key[6:]: value for key, value in data.items() if key.startswith("param.")
    }
    return {key: value.float().contiguous() for key, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, r"config\.json: model_type\n    expected one of `llama`, .*; found `lama`; nearest `llama`"),
        ({"hidden_act": "gelu"}, r'config\.json: hidden_act\n    expected "silu"; found "gelu"'),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, r'config\.json: rope_type\n    expected "default"; found "linear"'),
        ({"hidden_size": "64"}, r'config\.json: hidden_size\n    expected a number; found "64"'),
        ({"num_hidden_layers": None}, r"config\.json: num_hidden_layers\n    expected a number; found null"),
        ({"num_hidden_layers": 4}, r"found num_hidden_layers 4; nearest `llama_nano`; next: zoo\.create\(\"llama_nano\", "),
        ({"tie_word_embeddings": False}, r"found tie_word_embeddings false; nearest `llama_nano`"),
    ],
)  # fmt: skip
def test_a_config_that_means_another_net_is_refused(
    change: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(InputError, match=message):
        zoo.create(written(tmp_path, LLAMA | change))


def test_a_folder_without_a_config_or_without_weights_is_a_sentence(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        InputError, match=r"expected a folder with config\.json, as `save_pretrained` writes it; found No such file"
    ):
        zoo.create(f"transformers:{tmp_path}/none")
    with pytest.raises(WeightsError, match="the folder holds no checkpoint"):
        zoo.create(written(tmp_path, LLAMA))
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="expected JSON of at most"):
        zoo.create(f"transformers:{tmp_path}")


def test_every_table_speaks_of_a_family_with_rules_for_these_names() -> None:
    for table in tables().values():
        name = next(name for name, entry in catalog.entries().items() if entry.family == table.family)
        assert "transformers" in zoo.spec(name).keys
        known = {*table.sizes, *(name for text in table.derived.values() for name in names_of(text))}
        assert {*table.defaults, *table.same, *table.words} <= known
        assert {*table.derived} <= {*table.sizes}
        assert {*table.others.values()} <= {*tables()}


def test_a_list_of_layers_that_the_family_does_not_repeat_is_refused(tmp_path: pathlib.Path) -> None:
    about = json.loads((GOLDEN / "sequence" / "model_gemma3.json").read_text())
    config = config_of("model_gemma3", about) | {"layer_types": ["full_attention"] * 7}
    with pytest.raises(
        InputError, match=r'config\.json: layer_types\n    expected \["sliding_attention", .*, again and again'
    ):
        zoo.create(written(tmp_path, config))


def test_numbers_follow_from_others() -> None:
    assert number("bfloat16(hidden_size ** 0.5)", {"hidden_size": 2560}) == 50.5
    assert number("hidden / heads * 0.5", {"hidden": 64, "heads": 4}) == 8
    assert names_of("a * (b + 2) // bfloat16(a)") == ["a", "b"]
    with pytest.raises(ValueError, match="`__import__\\('os'\\)` is no arithmetic of numbers and names"):
        number("__import__('os')", {})
    with pytest.raises(ArithmeticError):
        number("a ** 0.5", {"a": -1})
