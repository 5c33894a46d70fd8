"""The registry: names, clashes, filters, descriptions, and that none of it imports torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torch import nn

import blocks
from blocks.registry import registration as registry
from blocks.registry.errors import BlockError, listed
from zoo.testing.isolation import own_registrations


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Each test has its own registrations and its own view of the installed distributions."""
    monkeypatch.setenv("ZOO_PLUGINS", "off")
    registry.forget_plugins()
    with own_registrations():
        yield
    registry.forget_plugins()


def make(name: str, **words):
    """A block of that name, with `kind` an act unless said otherwise."""

    class Made(nn.Module):
        """y = x."""

        def __init__(self, dim: int, *, ratio: float = 4.0):
            super().__init__()

        def forward(self, x):
            return x

    return blocks.block(name, **{"kind": "act", **words})(Made)


def make_again(name: str):
    class Other(nn.Module):
        """y = -x."""

        def __init__(self, dim: int):
            super().__init__()

        def forward(self, x):
            return -x

    return blocks.block(name, kind="act")(Other)


def message(call, *args, **kwargs) -> str:
    with pytest.raises(BlockError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_a_second_registration_names_both_places():
    first = make("acme/twice")
    text = message(make_again, "acme/twice")
    both = f"`acme/twice@1` is registered at {registry.place_of(first)} and again at "
    assert text.startswith(f"acme/twice@1: 1 error\n    {both}{__file__}:")
    assert text.endswith("; next: give one of them another name")
    assert blocks.get("acme/twice") is first


def test_a_local_block_replaces_itself_with_a_note(caplog):
    first, second = make("again"), make_again("again")
    places = f"{registry.place_of(first)} and again at {registry.place_of(second)}"
    assert caplog.messages == [f"`local/again@1` is registered at {places}; the new one replaces the old"]
    assert blocks.get("again") is second


def test_running_one_definition_twice_says_nothing(caplog):
    make("once")
    make("once")
    assert caplog.messages == []


def test_majors_live_side_by_side():
    first, second = make("acme/grown@1"), make_again("acme/grown@2")
    assert (blocks.get("acme/grown"), blocks.get("acme/grown@2")) == (first, second)


@pytest.mark.parametrize("name", ["MyMixer", "my-mixer", "acme/", "a/b/c", "mixer@0", "mixer@", "1mixer", ""])
def test_a_malformed_name_is_refused(name):
    expected = f"expected a name like `my_mixer` or `acme/my_mixer@1` in lower case; found `{name}`"
    assert message(make, name).endswith(expected)


def test_all_wrong_words_of_a_registration_come_at_once_with_the_nearest():
    text = message(make, "wrong", kind="token_mixr", layout="BHWC", abilities=("casual",))
    assert [line.strip() for line in text.splitlines()] == [
        "block `wrong`: 3 errors",
        "kind",
        f"expected one of {listed(registry.KINDS, 20)}; found `token_mixr`; nearest `token_mixer`",
        "layout",
        "expected one of `any`, `BCHW`, `BLC` or `BCTHW`; found `BHWC`; nearest `BCHW`",
        "abilities",
        f"expected one of {listed(registry.ABILITIES, 20)}; found `casual`; nearest `causal`",
    ]


def test_a_refused_registration_leaves_no_trace():
    message(make, "nowhere", kind="nothing")
    assert registry.identity_of("nowhere") is None


def test_blocks_are_listed_by_pattern_kind_and_ability():
    make("listed_act")
    make("listed_mixer", kind="token_mixer", abilities=("causal",))
    assert blocks.list_blocks("local/listed_*") == ["local/listed_act", "local/listed_mixer"]
    assert blocks.list_blocks("local/listed_*", kind="act") == ["local/listed_act"]
    assert blocks.list_blocks("local/listed_*", ability="causal") == ["local/listed_mixer"]
    assert blocks.list_blocks("local/listed_*", kind="act", ability="causal") == []


def test_an_unknown_kind_is_no_empty_list():
    assert message(blocks.list_blocks, kind="mixer").endswith("found `mixer`; nearest `token_mixer`")


def test_a_local_block_is_described_from_its_code():
    make("told", abilities=("noncausal",), paper="arXiv:1234.56789")
    info = blocks.describe("told")
    assert (info.id, info.name, info.kind, info.layout) == ("local/told@1", "local/told", "act", "any")
    assert (info.abilities, info.paper, info.summary) == (("noncausal",), "arXiv:1234.56789", "y = x.")
    assert (info.supplied, info.params["ratio"].default) == (("dim",), 4.0)


def test_an_unknown_block_names_the_nearest():
    make("acme/dynconv")
    make("dynconv")
    assert "; nearest `local/dynconv`; next: `zoo blocks` lists them all" in message(blocks.get, "local/dyncnov")
    assert message(blocks.get, "acme/dyncnov").endswith(
        "next: `acme/` blocks come from a plugin package that is not installed"
    )


def test_a_core_name_means_the_core_block_even_where_a_local_one_has_it():
    name = blocks.list_blocks()[0]
    make(name)
    assert registry.identity_of(name) == f"core/{name}@1"
    assert registry.identity_of(f"local/{name}") == f"local/{name}@1"


def test_importing_listing_and_describing_blocks_imports_no_torch():
    code = (
        "import sys, blocks; blocks.list_blocks(kind='norm'); blocks.describe(blocks.list_blocks()[0]); "
        "heavy = {'torch', 'numpy', 'timm', 'torchvision'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_users_file_cannot_take_a_core_name():
    name = blocks.list_blocks()[0]
    assert "`core/` is for the blocks of this package" in message(make, f"core/{name}")
    assert blocks.get(name).__module__.startswith("blocks.")


def test_a_block_is_listed_under_what_papers_call_it():
    make("acme_act", covers=("paper_act",))
    assert "local/acme_act" in blocks.list_blocks("paper_act")
    assert registry.covering("Paper-Act") == ["local/acme_act"]
    assert blocks.list_blocks("repvgg") == registry.covering("RepVGG") == ["branched_conv"]


def test_an_unknown_name_that_papers_use_names_the_block():
    text = message(blocks.get, "repvgg")
    assert (
        "nearest `branched_conv`; next: what papers call `repvgg` is `branched_conv`: `zoo blocks repvgg` tells more"
        in text
    )
    assert "nearest `branched_conv`" in message(blocks.get, "repvggs")


def test_a_covered_name_has_the_form_of_a_name():
    assert "expected names of lower-case letters, digits and _; found `RepVGG`" in message(
        make, "acme_act", covers=("RepVGG",)
    )


def test_no_covered_name_is_the_name_of_a_block():
    covers = {alias for info in registry.core_index().values() for alias in info.covers}
    assert covers and not covers & set(blocks.list_blocks())
