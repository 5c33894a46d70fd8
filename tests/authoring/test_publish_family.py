"""`zoo publish-family`: what it refuses, what it brings up to date, and what it leaves to a person."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from zoo.authoring import publish_family as module
from zoo.authoring.core_index import render
from zoo.authoring.indexing import COUNTED
from zoo.catalog.collection import CORE, Collection
from zoo.cli import main
from zoo.errors import InputError
from zoo.specs.read import Family, read_bytes, read_file

STARNET = CORE.folder / "starnet.toml"


def changed(old: str, new: str) -> Family:
    text = STARNET.read_text()
    assert old in text
    return read_bytes(text.replace(old, new).encode(), STARNET.name)


def problems(family: Family, name: str = "starnet") -> list[str]:
    return [f"{problem.where}: {problem.sentence()}" for problem in module.problems_of(family, name)]


@pytest.fixture
def copy(tmp_path: Path) -> Collection:
    """The core's collection without the bytes of weights, in a folder that may be written to."""
    shutil.copytree(
        CORE.folder, tmp_path / "models", ignore=shutil.ignore_patterns("*.safetensors", "*.npz", "*.jsonl")
    )
    return Collection("", tmp_path / "models", "")


def test_a_published_family_has_no_problems() -> None:
    assert problems(read_file(STARNET)) == []


def test_the_family_is_called_as_its_file_is() -> None:
    assert problems(read_file(STARNET), "star")[0].endswith("expected `star`, as the file is called; found `starnet`")


def test_a_model_of_another_family_is_no_name() -> None:
    (text,) = problems(changed("[variants.starnet_s2]", "[variants.resnet50]"))
    assert "variants.resnet50" in text and "a name that no other family has; found one of resnet.toml" in text


def test_a_published_digest_is_a_promise() -> None:
    (text,) = problems(changed("[variants.starnet_s2]\n", "[variants.starnet_s2]\nnum_classes = 7\n"))
    assert "variants.starnet_s2: " in text and "expected the published digest " in text
    assert "`python -m tests.specs.digests --accept`" in text


def test_wrong_key_rules_and_wrong_models_are_told_together() -> None:
    family = changed("rules = [\n", 'rules = [\n  ["{p", "stem.{p}"],\n')
    family.variants["starnet_s1"].put("depths", [1], family.variants.origin)
    texts = problems(family)
    assert any(text.startswith("keys.official.rules.") for text in texts)
    assert any(text.startswith("starnet_s1: ") for text in texts)


def test_an_unknown_family_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish-family", "starnt"]) == 2
    assert "expected zoo/models/starnt.toml; found no such file; nearest `starnet`" in capsys.readouterr().err


def test_outside_a_checkout_nothing_is_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    with pytest.raises(
        InputError, match="expected a checkout of this repository; found .* without `tests/published/digests.json`"
    ):
        module.publish_family("starnet")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[starnet", "expected printed figures; found "),
        ('starnet_s1 = ["2.9M"]', "found `starnet_s1`: expected parameters, MACs and perhaps an accuracy; found 1 values"),
        ('starnet_s1 = ["2.9M", "much"]', "found `starnet_s1`: expected a count such as 4.4M; found `much`"),
        ('starnet_s1 = ["2.9M", "0.4G", "high"]', "found `starnet_s1`: expected an accuracy in percent; found 'high'"),
        ('starnet_s9 = ["2.9M", "0.4G"]', "expected a model of the zoo; found `starnet_s9`; nearest `starnet_s"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_printed_figures_is_a_sentence_and_nothing_is_written(
    copy: Collection, monkeypatch: pytest.MonkeyPatch, line: str, sentence: str
) -> None:
    (copy.data / "published.toml").write_text(f'[starnet]\nsource = "https://x"\n{line}\n')
    monkeypatch.setattr(module, "CORE", copy)
    monkeypatch.setattr(module, "ROOT", copy.folder.parent)
    monkeypatch.setattr(module, "_check_place", lambda: None)
    monkeypatch.setattr(module, "problems_of", lambda *_: iter(()))
    before = copy.index_file.read_bytes()
    with pytest.raises(InputError) as refusal:
        module.publish_family("starnet")
    assert sentence in str(refusal.value) and copy.index_file.read_bytes() == before


def test_the_data_of_one_family_made_anew_are_those_of_all(copy: Collection) -> None:
    assert render(copy, STARNET.name) == CORE.index_file.read_bytes()
    for counted in COUNTED:
        path = counted.table.path(copy)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if "starnet_s" not in line).replace(",\n}", "\n}"))
        counted.write(copy, STARNET.name)
        assert path.read_bytes() == counted.table.path(CORE).read_bytes()


def test_a_person_is_told_what_no_program_knows() -> None:
    family = read_bytes(STARNET.read_text().replace("starnet", "starrynet").encode(), "starrynet.toml")
    files = [one.file for one in module.remaining(family, "starrynet")]
    assert files == [
        "zoo/models/data/published.toml",
        "tests/models/parity/starrynet.toml",
        "zoo/models/weights/starrynet.toml",
        "CHANGELOG.md",
    ]


@pytest.mark.parametrize("name", ["starnet", "resnet", "convnext", "repvgg"])
def test_nothing_is_left_of_a_family_that_is_complete(name: str) -> None:
    assert [
        one for one in module.remaining(read_file(CORE.folder / f"{name}.toml"), name) if one.file != "CHANGELOG.md"
    ] == []
