"""Cards are made of data, and are those of today."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo import catalog, cli
from zoo.publish import cards

FOLDER = Path(__file__).parents[2] / "model_cards"


def test_no_page_is_stale() -> None:
    assert cards.stale(FOLDER) == [], "run `zoo card --all model_cards`"


def test_every_model_is_on_a_page() -> None:
    text = "".join((FOLDER / name).read_text() for name in cards.pages())
    assert all(f"`{name}`" in text for name in catalog.entries())


def test_a_layer_is_drawn_with_its_residuals() -> None:
    assert cards.drawing([{"block": "core/residual@1", "parts": ["layer_norm", "mlp"]}, "core/relu@1"]) == [
        "x --+-- layer_norm -- mlp --(+) -- relu -->",
        "    '------------------------^",
    ]


def test_a_chain_inside_a_residual_is_drawn_part_by_part() -> None:
    parts = [["core/conv@1", "none", "gelu"], "mlp"]
    assert cards.drawing([{"block": "core/residual@1", "parts": parts}])[0] == "x --+-- conv -- gelu -- mlp --(+) -->"


def test_a_licence_that_is_not_permissive_is_said_first() -> None:
    assert "> The licence" in cards.card("mambavision") and "forbids commercial use" in cards.card("mambavision")
    assert "> The licence" not in cards.card("starnet")


def test_a_page_names_only_sources_that_print_a_figure() -> None:
    assert "held against what is printed elsewhere: https://arxiv.org/abs/2501.00656." in cards.card("olmo2")
    assert "printed elsewhere" not in cards.card("unet")


def test_front_matter_is_what_the_hub_reads() -> None:
    from huggingface_hub import ModelCard

    found = ModelCard(cards.card("starnet")).data
    assert (found.license, found.pipeline_tag) == ("apache-2.0", "image-classification")
    results = {result.metric_value for result in found.eval_results}
    assert 73.53 in results and found.eval_results[0].dataset_name in ("imagenet-1k", "digits")


@pytest.mark.parametrize("name", ["starnet", "starnet_s1"])
def test_the_command_prints_the_page_of_the_family(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["card", name]) == 0
    assert capsys.readouterr().out == cards.card("starnet")


def test_a_missing_and_a_foreign_file_are_stale(tmp_path: Path) -> None:
    cards.write(tmp_path)
    assert cards.stale(tmp_path) == []
    (tmp_path / "vit.md").unlink()
    (tmp_path / "theirs.md").write_text("x")
    assert cards.stale(tmp_path) == ["vit.md", "theirs.md"]
