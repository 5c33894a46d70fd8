"""Names of models, families and weights, chosen by pattern. Imports no torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from zoo.catalog.index import entries

Patterns = str | Sequence[str]


def list_models(
    filter: Patterns = "",
    module: Patterns = "",
    pretrained: bool = False,
    exclude_filters: Patterns = "",
    include_tags: bool = False,
    *,
    family: Patterns = "",
    task: str = "",
    block: str = "",
) -> list[str]:
    """Names of models, sorted naturally; filtered by glob pattern(s), family, task, a block in use, and weights at hand.

    `module` is timm's word for the family, and may be several. A pattern without wildcard is a name. Patterns see a model under its name and
    under those of its weights, `vim_nano.digits`; with `include_tags` these stand for themselves in the list. Weights at hand
    ship or are pinned; without `pretrained` the listed ones count, too.
    """
    families = [name for name in _listed(family or module) if name]
    names: list[str] = []
    loadable: set[str] = set()
    if pretrained:
        from zoo.catalog.manifests import at_hand  # listing names alone reads no locks

        loadable = set(at_hand())
    for name, entry in entries().items():
        if (families and entry.family not in families) or (task and entry.task != task):
            continue
        tagged = [
            f"{name}.{tag}" for tag in [*entry.tags, *entry.listed] if not pretrained or f"{name}.{tag}" in loadable
        ]
        if pretrained and not tagged:
            continue
        if block and not entry.uses(block):
            continue
        if include_tags and tagged:
            names += [spelling for spelling in tagged if _wanted([name, spelling], filter, exclude_filters)]
        elif _wanted([name, *tagged], filter, exclude_filters):
            names.append(name)
    return names


def _wanted(spellings: list[str], filters: Patterns, exclude_filters: Patterns) -> bool:
    """Whether some pattern, or none was given, fits one of the spellings, and no unwanted one does."""
    keep, drop = _listed(filters), _listed(exclude_filters)
    return (not any(keep) or _fits(spellings, keep)) and not _fits(spellings, drop)


def _listed(words: Patterns) -> list[str]:
    return [words] if isinstance(words, str) else list(words)


def _fits(spellings: list[str], patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in spellings for pattern in patterns)


def list_pretrained(filter: Patterns = "", exclude_filters: Patterns = "") -> list[str]:
    """Names of all weights at hand, `name.tag`."""
    return list_models(filter, pretrained=True, exclude_filters=exclude_filters, include_tags=True)


def list_modules() -> list[str]:
    """The families."""
    return sorted({entry.family for entry in entries().values()})
