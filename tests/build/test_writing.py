"""Texts that a language model continues: through a tokenizer that is trained here, and as bytes."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import pytest
import torch

import zoo
from zoo.build.writing import Sample
from zoo.cli import main
from zoo.data.tokens import Bytes, Trained, home_of, tokenizer_of
from zoo.errors import InputError

LINES = ["the cat sat on the mat", "the dog sat on the log", "Zürich is a città", "a cat and a dog"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A byte-level BPE of fewer than 320 tokens, `<s>` before each text."""
    tokenizers = pytest.importorskip("tokenizers")
    net = tokenizers.Tokenizer(tokenizers.models.BPE())
    net.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    net.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    net.train_from_iterator(LINES, trainer)
    net.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    net.save(str(path))
    return path


@pytest.fixture(scope="module")
def words() -> Any:
    """A model of 320 tokens with drawn weights."""
    return zoo.create("gla_nano", {"input.vocab_size": 320})


@pytest.mark.parametrize("text", [*LINES, "日本語 🙂", " two  spaces\n"])
def test_text_comes_back_from_its_tokens(file: pathlib.Path, text: str) -> None:
    tokenizer = Trained(file, 320)
    ids = tokenizer.encode(text)
    assert ids[0] == 0
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text.encode()) or text not in LINES


def test_a_text_is_continued_as_its_tokens_are(file: pathlib.Path, words: Any) -> None:
    tokenizer = Trained(file, 320)
    ids = tokenizer.encode("the cat")
    new = words.generate(torch.tensor([ids]), 12)[0].tolist()
    text = words.generate("the cat", 12, tokenizer=file)
    whole = tokenizer.decode([*ids, *new])
    assert whole == "the cat" + text or whole.rstrip("\N{REPLACEMENT CHARACTER}") == "the cat" + text
    assert "".join(words.stream("the cat", 12, tokenizer=file.parent)) == text


def test_texts_of_several_lengths_are_continued_as_each_alone(file: pathlib.Path, words: Any) -> None:
    texts = ["the cat sat on the mat", "a", "the dog"]
    together = words.generate(texts, 8, tokenizer=file)
    assert together == [words.generate(text, 8, tokenizer=file) for text in texts]
    assert len(set(together)) > 1


def test_a_model_of_bytes_reads_text_as_it_is() -> None:
    model = zoo.create("gla_nano", pretrained=True)
    ids = model.generate(torch.tensor([list(b"Return ")]), 20)[0].tolist()
    assert model.generate("Return ", 20) == bytes(ids).decode()
    until = model.generate("Return ", 60, stop=" the")
    assert until.endswith(" the")
    assert until.count(" the") == 1


def test_a_deployed_model_reads_text() -> None:
    model = zoo.create("gla_nano", pretrained=True)
    fast = zoo.deploy(model, "torch", "float32", example=(1, 1))
    assert fast.generate("Return ", 20) == model.generate("Return ", 20)


class Halves(Bytes):
    ends = (7,)


def test_a_character_is_shown_when_its_last_byte_has_come() -> None:
    sample = Sample(Halves(), list(b"Z"), "", [])
    assert [sample.add(byte) for byte in "ü🙂".encode()] == ["", "ü", "", "", "", "🙂"]
    assert [sample.add(byte) for byte in b"\xff\xff\xff\xff"] == ["", "", "", "\N{REPLACEMENT CHARACTER}" * 4]
    assert not sample.done
    assert [sample.add(7), sample.add(65), sample.done] == ["", "", True]


def test_the_config_beside_a_tokenizer_says_what_ends_a_text(
    file: pathlib.Path, words: Any, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes(file.read_bytes())
    first = words.generate(torch.tensor([Trained(file, 320).encode("the")]), 1)[0].tolist()
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": first}))
    assert words.generate("the", 8, tokenizer=tmp_path) == ""
    assert words.generate("the", 8, tokenizer=file) != ""


def test_the_tokenizer_of_a_folder_is_found(file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = zoo.create("gla_nano", {"input.vocab_size": 320})
    zoo.save(model, tmp_path / "mine")
    assert zoo.create(tmp_path / "mine").tokenizer == ""
    (tmp_path / "mine" / "tokenizer.json").write_bytes(file.read_bytes())
    again = zoo.create(tmp_path / "mine")
    assert again.tokenizer == str(tmp_path / "mine" / "tokenizer.json")
    assert again.generate("the cat", 8) == model.generate("the cat", 8, tokenizer=file)
    (tmp_path / "mine" / "config.json").write_text('{"eos_token_id": 1}')
    zoo.save(again, tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.json").read_bytes() == file.read_bytes()
    assert json.loads((tmp_path / "copy" / "generation_config.json").read_bytes()) == {"eos_token_id": [1]}


def test_published_weights_name_the_repository_of_their_tokenizer() -> None:
    [manifest] = [one for one in zoo.catalog.manifests.manifests("llama_smollm2_135m") if one.source.startswith("hub:")]
    assert home_of("llama_smollm2_135m", manifest) == ""  # of no commit yet
    pinned = zoo.weights.manifest.msgspec.structs.replace(manifest, revision="a" * 40)
    assert home_of("llama_smollm2_135m", pinned) == f"hub:HuggingFaceTB/SmolLM2-135M@{'a' * 40}"
    assert home_of("hub:org/repo@main") == "hub:org/repo@main"


def test_tokens_that_the_model_does_not_have_are_refused(file: pathlib.Path) -> None:
    with pytest.raises(
        InputError,
        match=r"expected tokens in \[0, 256\); found \d+, '.+' in .*tokenizer\.json; next: give the tokenizer",
    ):
        zoo.create("gla_nano").generate("the cat sat", tokenizer=file)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "expected a `tokenizer.json` as `tokenizers` writes it; found "),
        ("{", "expected a `tokenizer.json` as `tokenizers` writes it; found "),
        ('{"version": "1.0"}', "expected a `tokenizer.json` as `tokenizers` writes it; found "),
        (b"\xff\xfe", "expected a `tokenizer.json` as `tokenizers` writes it; found "),
        (None, "expected a `tokenizer.json`, or a folder with one; found no such file"),
    ],
)
def test_a_damaged_tokenizer_is_a_sentence(tmp_path: pathlib.Path, words: Any, content: Any, found: str) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as refusal:
        words.generate("the", tokenizer=path)
    assert found in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_each_half_of_a_tokenizer_is_refused_or_read(file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    whole = file.read_bytes()
    for size in range(0, len(whole), len(whole) // 23):
        (tmp_path / "tokenizer.json").write_bytes(whole[:size])
        with pytest.raises(InputError):
            Trained(tmp_path / "tokenizer.json", 320)


def test_without_the_library_the_command_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, words: Any
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r'found no such package; next: pip install "blockzoo\[text\]"'):
        words.generate("the", tokenizer=tmp_path)


def test_a_model_without_a_tokenizer_says_what_to_give(words: Any) -> None:
    with pytest.raises(
        InputError, match=r"expected a tokenizer for its 320 tokens; found none .*; next: give the `tokenizer.json`"
    ):
        words.generate("the")
    with pytest.raises(InputError, match="expected a language model; found one that reads no tokens"):
        tokenizer_of("resnet50", None)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"ids": ""}, 'at least one character; found ""'),
        ({"ids": "a\udcff"}, r"characters of Unicode; found '\\udcff' at character 1"),
        ({"ids": "a", "mask": torch.ones(1, 1)}, "none beside texts; found a mask"),
        ({"ids": b"a"}, r"token numbers \(B, L\), or a text; found bytes"),
        ({"ids": [[1]], "tokenizer": "x"}, "an option of `generate`; found `tokenizer`; next: give a text"),
    ],
)
def test_what_cannot_be_continued_is_refused(said: dict[str, Any], found: str) -> None:
    with pytest.raises(InputError, match=found):
        zoo.create("gla_nano").generate(**said)


def test_the_command_takes_a_tokenizer(file: pathlib.Path, words: Any, tmp_path: pathlib.Path, capsys: Any) -> None:
    zoo.save(words, tmp_path / "mine")
    line = ["generate", str(tmp_path / "mine"), "--prompt", "the cat", "--tokens", "6", "--json"]
    assert main(line) == 2
    assert "a tokenizer for its 320 tokens" in capsys.readouterr().out
    assert main([*line, "--tokenizer", str(file)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["text"] == words.generate("the cat", 6, tokenizer=file)
    assert told["tokens"] == 6
