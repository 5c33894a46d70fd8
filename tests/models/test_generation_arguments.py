"""What `generate` is asked in NumPy's, torch's and other libraries' words: understood where it says the same, else a sentence."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.build.generation import SMALLEST, choose
from zoo.cli import main
from zoo.errors import InputError
from zoo.specs.scalars import plain

IDS = torch.tensor([list(b"Return ")])


@pytest.fixture(scope="module")
def gla() -> Any:
    return zoo.create("gla_nano")


@pytest.mark.parametrize(
    "said",
    [
        {"max_new_tokens": np.int64(3)},
        {"max_new_tokens": torch.tensor(3)},
        {"stop": np.int64(255)},
        {"stop": torch.tensor(255)},
        {"stop": np.array([255, 254])},
        {"eos_token_id": 255},
        {"temperature": np.float32(0)},
        {"temperature": 1e-45},
        {"top_k": torch.tensor(5)},
        {"mask": np.ones((1, 7), dtype=bool)},
        {"attention_mask": torch.ones_like(IDS)},
        {"do_sample": False, "num_beams": 1, "stream": False},
        {"ids": IDS.to(torch.uint8)},
        {"ids": IDS.numpy()},
        {"ids": IDS.tolist()},
    ],
    ids=lambda said: f"{'-'.join(said)}-{type(next(iter(said.values()))).__name__}",
)
def test_the_same_in_other_words_gives_the_same(gla: Any, said: dict[str, Any]) -> None:
    assert torch.equal(gla.generate(**{"ids": IDS, "max_new_tokens": 3, **said}), gla.generate(IDS, 3))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"top_k": 2.5}, "top_k\n    expected a number >= 1; found 2.5"),
        ({"stop": "."}, "stop\n    expected tokens in [0, 256); found '.'"),
        ({"max_new_tokens": True}, "max_new_tokens\n    expected a number >= 0; found True"),
        ({"temperature": "hot"}, "temperature\n    expected a number >= 0; found 'hot'"),
        ({"ids": b"text"}, "ids\n    expected token numbers (B, L), or a text; found bytes; next: decode it"),
        ({"ids": [[1], [2, 3]]}, "ids\n    expected integers (B, L) with at least one token; found list"),
        ({"mask": [[1, 1, 1, 1, 1, 1, 2]]}, "mask\n    expected booleans of the shape of ids"),
        ({"num_beams": 4}, "num_beams\n    expected 1: there is no beam search; found 4"),
        ({"do_sample": True}, "next: temperature=1.0 draws, temperature=0 takes the likeliest token"),
        ({"stream": True}, "next: `for column in model.stream(ids):`"),
        ({"max_length": 9}, "next: max_new_tokens=N counts the new tokens alone"),
        ({"padding_mask": None}, "next: mask= says which tokens are real"),
    ],
)
def test_arguments_of_other_libraries_with_another_meaning_are_refused(
    gla: Any, said: dict[str, Any], expected: str
) -> None:
    for ask in (gla.generate, gla.stream):
        with pytest.raises(InputError, match=re.escape(expected)):
            ask(**{"ids": IDS, "max_new_tokens": 3, **said})


def test_the_least_temperature_is_the_likeliest_token() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 1e6
    assert torch.equal(choose(logits, SMALLEST / 2), logits.argmax(-1))


def test_a_forward_pass_names_the_ids_that_are_no_tokens(gla: Any) -> None:
    with pytest.raises(IndexError, match=r"^token ids should be in \[0, 256\), the vocabulary; found 3 to 300$"):
        gla(torch.tensor([[3, 300]]))
    with pytest.raises(InputError, match="expected token numbers"):
        gla("text")


def test_a_model_of_images_is_told_before_its_weights_are_missed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "mobileone_s0", "--prompt", "hi"]) == 2
    said = capsys.readouterr().err
    assert "mobileone_s0\n    expected a language model; found one that reads no tokens" in said
    assert "pin" not in said


def test_scalars_of_other_libraries_are_python_s_everywhere() -> None:
    assert plain({"a": [np.int64(1), torch.tensor(2.0)], "b": (np.bool_(True), "c")}) == {
        "a": [1, 2.0],
        "b": (True, "c"),
    }
    args = {"num_classes": np.int64(7), "drop_rate": np.float64(0.5), "drop_path_rate": torch.tensor(0.25)}
    net = zoo.create("starnet_nano", {"depths": np.array([1, 1, 1])}, **args, device="meta")
    assert (
        net.spec.digest == zoo.create("starnet_nano", {"depths": [1, 1, 1]}, num_classes=7, device="meta").spec.digest
    )
    net.reset_classifier(np.int64(3))
    vit = zoo.create("vit_tiny_patch16_224", img_size=(np.int64(96), torch.tensor(64)), device="meta")
    assert vit.spec.input.size == zoo.create("vit_tiny_patch16_224", img_size=(96, 64), device="meta").spec.input.size
    features = zoo.create("starnet_nano", features_only=True, out_indices=np.array([0, 2]), device="meta")
    assert (
        features.out_indices
        == zoo.create("starnet_nano", features_only=True, out_indices=(0, 2), device="meta").out_indices
    )
