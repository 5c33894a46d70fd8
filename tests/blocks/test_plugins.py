"""Plugins as the registry sees them: what entry points declare, who owns a name, and code that misbehaves when it loads."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from torch import nn

import blocks
from blocks import registry
from blocks.registry import plugins
from blocks.registry.errors import BlockError
from zoo.testing.isolation import own_registrations


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Each test has its own registrations and its own view of the installed distributions."""
    monkeypatch.delenv("ZOO_PLUGINS", raising=False)
    registry.forget_plugins()
    with own_registrations():
        yield
    registry.forget_plugins()


def make(name: str):
    class Made(nn.Module):
        """y = x."""

        def forward(self, x):
            return x

    return blocks.block(name, kind="act")(Made)


def install(monkeypatch, *points):
    """Declares entry points: (name, distribution, what loading does, group)."""

    def point(name, distribution, load, group=plugins.BLOCKS, value="acme_blocks:X"):
        dist = SimpleNamespace(name=distribution, version="0.3")
        return SimpleNamespace(name=name, value=value, dist=dist, load=load, group=group)

    declared = [point(*each) for each in points]
    found = [(point.dist.name, point.dist.version, [point]) for point in declared]
    monkeypatch.setattr(plugins, "_declared", lambda: [] if os.environ.get("ZOO_PLUGINS") == "off" else found)
    registry.forget_plugins()


def raising(error: BaseException):
    def load():
        raise error

    return load


unloaded = raising(AssertionError("loaded"))


def message(*call) -> str:
    with pytest.raises(BlockError) as caught:
        call[0](*call[1:])
    return str(caught.value)


def test_a_plugin_is_listed_without_being_loaded(monkeypatch):
    install(monkeypatch, ("acme/dynconv@1", "acme-blocks", unloaded))
    assert "acme/dynconv" in blocks.list_blocks()
    assert plugins.plugins()["acme-blocks"].state == "available"


def test_a_plugin_block_loads_on_use(monkeypatch):
    install(monkeypatch, ("acme/dynconv@1", "acme-blocks", lambda: make("acme/dynconv@1")))
    assert blocks.get("acme/dynconv").block_id == "acme/dynconv@1"
    assert blocks.describe("acme/dynconv").kind == "act"
    assert plugins.plugins()["acme-blocks"].state == "loaded"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (SyntaxError("invalid syntax"), "SyntaxError: invalid syntax"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (RuntimeError("boom\nboom"), "RuntimeError: boom boom"),
        (KeyError(), "KeyError"),
    ],
)
def test_a_plugin_that_raises_is_named_with_its_distribution_and_cause(monkeypatch, error, told):
    install(monkeypatch, ("acme/dynconv@1", "acme-blocks", raising(error)))
    cure = "pip install -U acme-blocks, or uninstall it"
    assert message(blocks.get, "acme/dynconv") == (
        "block `acme/dynconv@1`: 1 error\n  acme-blocks 0.3\n"
        f"    expected a module that imports; found {told}; next: {cure}"
    )
    plugin = plugins.plugins()["acme-blocks"]
    assert (plugin.state, plugin.cause) == ("broken", f"{told}; next: {cure}")
    assert "acme/dynconv" not in blocks.list_blocks(kind="act")
    assert blocks.list_blocks(kind="norm")  # the rest goes on


def test_a_missing_dependency_is_what_to_install(monkeypatch):
    error = ModuleNotFoundError("No module named 'einx.ops'", name="einx.ops")
    install(monkeypatch, ("acme/dynconv@1", "acme-blocks", raising(error)))
    assert message(blocks.get, "acme/dynconv").endswith("next: pip install einx, or uninstall acme-blocks")


def test_a_module_of_the_plugin_that_is_gone_is_no_dependency(monkeypatch):
    error = ModuleNotFoundError("No module named 'acme_blocks'", name="acme_blocks")
    install(monkeypatch, ("acme/dynconv@1", "acme-blocks", raising(error)))
    assert message(blocks.get, "acme/dynconv").endswith("next: pip install -U acme-blocks, or uninstall it")


def test_prints_of_a_loading_plugin_do_not_reach_our_output(monkeypatch, capsys):
    def load():
        print("hello from acme")
        return make("acme/dynconv@1")

    install(monkeypatch, ("acme/dynconv@1", "acme-blocks", load))
    blocks.get("acme/dynconv")
    assert capsys.readouterr() == ("", "hello from acme\n")


def test_an_interrupt_from_the_keyboard_is_no_fault_of_a_plugin(monkeypatch):
    install(monkeypatch, ("acme/dynconv@1", "acme-blocks", raising(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        blocks.get("acme/dynconv")
    assert plugins.plugins()["acme-blocks"].state == "available"


def test_a_plugin_that_gives_no_block_is_told_what_was_expected(monkeypatch):
    install(monkeypatch, ("acme/dynconv@1", "acme-blocks", lambda: 7))
    sentence = "expected a class decorated with @block('acme/dynconv@1', …); found 7"
    assert message(blocks.get, "acme/dynconv").endswith(sentence)
    assert plugins.plugins()["acme-blocks"].cause == f"`acme/dynconv@1`: {sentence}"


@pytest.mark.parametrize("name", ["core/mlp@1", "local/mlp@1"])
def test_a_plugin_cannot_shadow_a_core_or_local_name(monkeypatch, name):
    install(monkeypatch, (name, "acme-blocks", unloaded), ("other/y@1", "other", unloaded))
    namespace = name.partition("/")[0]
    plugin = plugins.plugins()["acme-blocks"]
    assert plugin.state == "clash"
    assert plugin.cause == (f"it declares `{name}`, and `{namespace}/` cannot be claimed; core names stay as they are")
    assert list(plugins.targets()) == ["other/y@1"]


@pytest.mark.parametrize("name", ["mlp", "Acme/Mlp", "acme/mlp@0"])
def test_a_plugin_with_a_malformed_name_says_so(monkeypatch, name):
    install(monkeypatch, (name, "acme-blocks", unloaded))
    assert plugins.plugins()["acme-blocks"].cause == (
        f"it declares `{name}` in zoo.blocks, which is not of the form `namespace/name@major`"
    )


def test_of_two_distributions_with_one_namespace_neither_gets_it_and_both_are_named(monkeypatch):
    install(
        monkeypatch,
        ("acme/x@1", "acme-blocks", unloaded),
        ("acme/y@1", "other", unloaded),
        ("third/z@1", "third", unloaded),
    )
    assert list(plugins.targets()) == ["third/z@1"]
    claimed = "`acme/` is claimed by acme-blocks 0.3 and other 0.3; next: uninstall one, or keep one with ZOO_PLUGINS="
    assert plugins.plugins()["other"].cause == claimed + "other"
    assert message(blocks.get, "acme/x").endswith(
        f"next: `acme/` is acme-blocks 0.3's, which is shut out: {claimed}acme-blocks"
    )


def test_the_choice_of_one_ends_a_clash(monkeypatch):
    monkeypatch.setenv("ZOO_PLUGINS", "other")
    install(monkeypatch, ("acme/x@1", "acme-blocks", unloaded), ("acme/y@1", "other", unloaded))
    # the namespace names both, the distribution one
    assert list(plugins.targets()) == ["acme/y@1"]


@pytest.mark.parametrize(("api", "cure"), [("v9", "pip install -U blockzoo"), ("v0", "pip install -U acme-blocks")])
def test_a_plugin_of_another_api_is_told_apart(monkeypatch, api, cure):
    install(
        monkeypatch,
        ("acme/x@1", "acme-blocks", unloaded),
        ("acme", "acme-blocks", unloaded, plugins.APIS, api),
    )
    told = f"it is written for plugin api {api}, and this blockzoo has v1; next: {cure}"
    assert plugins.plugins()["acme-blocks"].cause == told
    assert message(blocks.get, "acme/x").endswith(f"`acme/` is acme-blocks 0.3's, which is not compatible: {told}")


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ("off", []),
        ("other", ["other/y@1"]),
        ("acme", ["acme/x@1"]),
        ("acme-blocks, other", ["acme/x@1", "other/y@1"]),
    ],
)
def test_plugins_can_be_switched_off(monkeypatch, setting, kept):
    monkeypatch.setenv("ZOO_PLUGINS", setting)
    install(monkeypatch, ("acme/x@1", "acme-blocks", unloaded), ("other/y@1", "other", unloaded))
    assert sorted(plugins.targets()) == kept


def test_a_name_of_a_plugin_that_is_switched_off_says_so(monkeypatch):
    monkeypatch.setenv("ZOO_PLUGINS", "other")
    install(monkeypatch, ("acme/x@1", "acme-blocks", unloaded))
    assert message(blocks.get, "acme/x").endswith(
        "next: `acme/` is acme-blocks 0.3's, which is switched off: ZOO_PLUGINS is `other`"
    )


def test_a_bare_name_never_means_a_plugins_block(monkeypatch):
    install(monkeypatch, ("acme/dynconv@1", "acme-blocks", unloaded))
    assert registry.identity_of("dynconv") is None
    assert registry.identity_of("acme/dynconv") == "acme/dynconv@1"
