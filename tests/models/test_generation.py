"""Generating: what is chosen, when it stops, what it costs; the shared table of stem and head; text at hand."""

from __future__ import annotations

import copy
import json
import pathlib
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from blocks.context import Context
from blocks.heads.lm_head import LmHead
from zoo.build.generation import choose
from zoo.cli import main
from zoo.data import pydoc as text
from zoo.errors import InputError, SpecError
from zoo.training.pydoc import TextRecipe, bits_per_byte, check_bytes, fit_text, publish_text
from zoo.weights.manifest import read_manifest
from zoo.weights.probe import check_probe

IDS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(2))
TIED = ["gla_nano", "llama_nano"]


@pytest.fixture(scope="module")
def gla() -> Any:
    return zoo.create("gla_nano", pretrained=True)


def no_cache(model: Any, ids: Tensor, count: int) -> Tensor:
    """Greedy tokens, the whole sequence read anew for each."""
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return ids[:, -count:]


@torch.no_grad()
@pytest.mark.parametrize("name", ["gla_nano", "llama_nano", "jamba_nano"])
def test_greedy_tokens_are_those_without_a_state(name: str) -> None:
    torch.manual_seed(0)
    model = zoo.create(name).double()
    assert torch.equal(model.generate(IDS, 12), no_cache(model, IDS, 12))


def test_padded_prompts_go_on_as_they_do_alone(gla: Any) -> None:
    ids, mask = torch.zeros(2, 12, dtype=torch.long), torch.zeros(2, 12, dtype=torch.bool)
    ids[0, 3:], mask[0, 3:] = IDS[0], True
    ids[1, :5], mask[1, :5] = IDS[1, :5], True
    found = gla.generate(ids, 8, mask=mask)
    assert torch.equal(found[:1], gla.generate(IDS[:1], 8))
    assert torch.equal(found[1:], gla.generate(IDS[1:, :5], 8))


def test_a_sample_ends_at_a_stop_and_repeats_it_until_all_have(gla: Any) -> None:
    free = gla.generate(IDS, 20)
    stop = int(free[0, 3])
    first = [row.tolist().index(stop) if stop in row.tolist() else 20 for row in free]
    found = gla.generate(IDS, 20, stop=[stop])
    assert found.shape[1] == min(20, max(first) + 1)
    for row, whole, end in zip(found.tolist(), free.tolist(), first, strict=True):
        assert row[: end + 1] == whole[: len(row)][: end + 1]
        assert set(row[end:]) <= {stop}


def test_no_new_tokens_are_an_empty_column(gla: Any) -> None:
    assert gla.generate(IDS, 0).shape == (2, 0)


def test_the_draws_follow_the_distribution() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20_000, -1)
    shares = torch.bincount(choose(logits, 0.5), minlength=4) / 20_000
    torch.testing.assert_close(shares, (logits[0] / 0.5).softmax(-1), rtol=0, atol=0.015)
    assert set(choose(logits, 1.0, top_k=2).tolist()) == {1, 2}
    assert choose(logits[:1], 0.0).item() == 2


def test_a_seed_repeats_a_draw(gla: Any) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(gla.generate(IDS, 10, temperature=1.0, top_k=50))
    assert torch.equal(*found)


@torch.no_grad()
def test_a_recurrent_model_holds_no_more_after_many_tokens(gla: Any) -> None:
    sizes = []
    state: Any = {}
    for _ in range(3):
        _, state = gla(IDS, state=state)
        sizes.append(sum(part.numel() for block in state.values() for part in block))
    assert sizes == [2 * gla.state_size()] * 3


@torch.no_grad()
def test_a_state_that_was_used_can_be_used_again(gla: Any) -> None:
    _, state = gla(IDS, state={})
    first, second = gla(IDS, state=state).logits, gla(IDS, state=state).logits
    assert torch.equal(first, second)


def test_training_keeps_no_state(gla: Any) -> None:
    ctx = Context()
    assert gla(IDS, ctx).state is None
    assert ctx.state is None


def test_everything_wrong_with_a_request_is_told_at_once(gla: Any) -> None:
    expected = """generate: 6 errors
  ids
    expected tokens in [0, 256); found 0 to 300
  mask
    expected booleans of the shape of ids, True at one token of each sample at least; found torch.bool (1, 1)
  max_new_tokens
    expected a number >= 0; found -1
  temperature
    expected a number >= 0; found -0.5
  top_k
    expected a number >= 1; found 0
  stop
    expected tokens in [0, 256); found 256"""
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        gla.generate(torch.tensor([[0, 300]]), -1, -0.5, 0, 256, torch.zeros(1, 1, dtype=torch.bool))


# the shared table


@torch.no_grad()
@pytest.mark.parametrize("name", TIED)
def test_a_shared_table_survives_copies_files_and_forms(name: str, tmp_path: pathlib.Path) -> None:
    model = zoo.create(name)
    assert "head.classifier.weight" not in model.state_dict()
    zoo.save(model, tmp_path / "net.safetensors")
    loaded = zoo.create(name, weights=tmp_path / "net.safetensors")
    again = zoo.load(zoo.create(name, device="meta"), tmp_path / "net.safetensors")
    for other in (loaded, again, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), zoo.deploy(model)):
        torch.testing.assert_close(other(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-5)
        other.stem.weight.mul_(2)
        assert other.head.table[0].weight is other.stem.weight
        assert not torch.equal(other.stem.weight, model.stem.weight)


def test_a_shared_table_learns_from_both_ends() -> None:
    model = zoo.create("llama_nano")
    model(IDS).logits.square().mean().backward()
    assert torch.count_nonzero(model.stem.weight.grad.abs().sum(1)) == 256  # rows that the prompt has not, too


def test_a_head_shares_no_table_of_another_width() -> None:
    expected = (
        "the table of the stem holds 256 rows of 64 channels, and a head that shares it needs 256 of 80; "
        'write tie = "none"'
    )
    changes = {"dims": [64, 80], "depths": [1, 1], "stages.1.downsample": {"block": "low_rank", "rank": 8}}
    with pytest.raises(SpecError, match=re.escape(expected)):
        zoo.create("llama_nano", changes)


def test_a_head_alone_has_nothing_to_share() -> None:
    with pytest.raises(
        ValueError, match=r"^a head with tie = \"stem\" works in a model, which gives it the table of its stem$"
    ):
        LmHead(16, tie="stem")(torch.zeros(1, 2, 16))


def test_a_head_that_shares_has_no_bias() -> None:
    with pytest.raises(
        ValueError, match=r"^a head that shares the table of the stem has no bias of its own; leave out"
    ):
        LmHead(16, tie="stem", bias=True)


def test_a_stem_without_a_table_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match=r"^tie = \"stem\" needs a token_embedding in the stem, and there is none$"):
        LmHead(16, tie="stem").tie_to(None)


def test_a_language_model_gives_features_too(gla: Any) -> None:
    model = zoo.create("gla_nano", pretrained=True, features_only=True, out_indices=(0, 2))
    assert [tuple(level.shape) for level in model(IDS)] == [(2, 9, 96)] * 2
    assert zoo.create("gla_nano", num_classes=0)(IDS).logits.shape == (2, 9, 96)


def test_another_number_of_classes_wants_a_head_of_its_own() -> None:
    model = zoo.create("gla_nano", {"head.tie": "none"}, num_classes=5)
    assert model(IDS).logits.shape == (2, 9, 5)
    model.reset_classifier(3)
    assert model(IDS).logits.shape == (2, 9, 3)


@pytest.mark.parametrize(
    ("mixer", "more"), [("attention", "; next: write causal = true"), ("aggregated_attention", "")]
)
def test_a_mixer_that_sees_what_is_to_be_predicted_is_refused(mixer: str, more: str) -> None:
    expected = f"expected a mixer that sees the past only; found `{mixer}` sees what follows, too{more}"
    with pytest.raises(SpecError, match=re.escape(expected)):
        zoo.create("gla_nano", swap={"token_mixer": mixer})


def test_mixers_interchange_in_language_models() -> None:
    swapped = {"block": "attention", "num_heads": 4, "causal": True}
    for mixer in ("mamba", "retention", "hgrn2", "delta_net", "rwkv6", "identity", swapped):
        model = zoo.create("gla_nano", swap={"token_mixer": mixer})
        assert model.generate(IDS, 2).shape == (2, 2)


def test_images_have_no_place_in_a_model_of_tokens(gla: Any) -> None:
    expected = "gla_nano\n    expected a model of images; found a model of tokens; next: give it ids (B, L)"
    with pytest.raises(InputError, match=re.escape(expected)):
        zoo.transform(gla)


def test_a_model_of_tokens_is_not_written_as_a_file_that_stands_alone(tmp_path: pathlib.Path) -> None:
    expected = "gla_nano\n    expected a model of images; found a model of tokens; next: torch.export.export(model, (ids,)) takes it"
    with pytest.raises(InputError, match=re.escape(expected)):
        zoo.export("gla_nano", tmp_path / "net.py")


# text


def test_text_goes_to_bytes_and_back() -> None:
    assert text.decode(text.encode("Zürich, 1 €")[0]) == "Zürich, 1 €"
    assert text.decode(torch.tensor([72, 255])) == "H\ufffd"
    with pytest.raises(InputError, match="expected at least one character"):
        text.encode("")


def test_no_held_out_docstring_is_trained_on() -> None:
    trained, kept = text.training_text(), text.held_out_text()
    assert len(trained) > 10 * len(kept) > 500_000
    known = {line for line in trained.decode().splitlines() if len(line) > 60}
    lines = [line for line in kept.decode(errors="ignore").splitlines() if len(line) > 60]
    assert sum(line in known for line in lines) < 0.1 * len(lines)  # the library repeats itself here and there


def test_the_published_bits_are_measured_again(gla: Any) -> None:
    metric = gla.pretrained.metrics["pydoc/bits_per_byte@256"]
    bits, n = bits_per_byte(gla)
    assert n > 50_000
    assert abs(bits - metric.value) < 0.15  # another Python has other docstrings
    assert bits < 2.5


def test_the_weights_prove_themselves(gla: Any) -> None:
    assert gla.pretrained.size_bytes <= 1_000_000
    check_probe(gla, gla.pretrained.probe, "gla_nano")


def test_a_few_steps_teach_a_model_something_and_publish(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo import catalog
    from zoo.catalog import index

    model, home = zoo.create("llama_nano"), catalog.home_of("llama_nano")._replace(folder=tmp_path)
    for place in (catalog, index):
        monkeypatch.setattr(place, "home_of", lambda name: home)
    monkeypatch.setattr(text, "held_out_text", lambda: text.training_text()[:20_000])
    told: list[int] = []
    recipe = TextRecipe(steps=20, length=64, batch_size=8)
    result = fit_text(model, recipe, lambda step, steps, loss: told.append(step))
    assert result.bits_per_byte < 6.5
    assert told == [20]
    publish_text("llama_nano", result, recipe)
    manifest = read_manifest(tmp_path / "weights" / "llama_nano.pydoc.json")
    assert manifest.metrics["pydoc/bits_per_byte@64"].value == round(result.bits_per_byte, 4)
    check_probe(result.model, manifest.probe, "llama_nano")


@pytest.mark.parametrize(("name", "found"), [("mamba_130m", "one of 50280 tokens"), ("vim_nano", "one of images")])
def test_only_models_of_bytes_read_text(name: str, found: str) -> None:
    with pytest.raises(
        InputError, match=rf"{name}\n    expected a language model of bytes \(256 tokens\); found {found}"
    ):
        check_bytes(zoo.create(name, device="meta"))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["generate", *arguments]) == 0
    return capsys.readouterr().out


def test_a_command_goes_on_with_a_text(capsys: pytest.CaptureFixture[str], gla: Any) -> None:
    new = text.decode(gla.generate(text.encode("Return "), 30)[0])
    assert said(capsys, "gla_nano", "--prompt", "Return ", "--tokens", "30") == f"Return {new}\n"
    answer = json.loads(said(capsys, "gla_nano", "--prompt", "Return ", "--tokens", "30", "--json"))
    assert answer == {"model": "gla_nano", "prompt": "Return ", "text": new, "tokens": 30}
    cut = new[: new.index(" ") + 1]
    assert said(capsys, "gla_nano", "--prompt", "Return ", "--tokens", "30", "--stop", " ") == f"Return {cut}\n"


def test_no_control_character_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "gla_nano", "--prompt", "\x1b[2J\tReturn\n", "--tokens", "1")
    assert shown.startswith("\\x1b[2J\tReturn\n")
