"""The entries of [keys]: rules, the name of an entry with the same rules, or the differences from a `base`.

[keys]            timm = "official"      the rules of that entry
[keys.timm]       base = "official"      its rules, and what stands around its tensors, but for what this table says
                  rules = [...]          a rule for a source name of the base stands in the place of the base's; other rules come first
                  drop = ["head.{p}"]    rules of the base that do not hold, by their source names
                  unwrap, strip_prefix   in place of the base's

What a rule means is told in `zoo/weights/rules.py`; here it is data with a source name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from blocks.registry.schema import shown
from zoo.errors import Problem, listed, nearest
from zoo.specs.chains import MOST_STEPS, chain_of, fault_of
from zoo.specs.tree import Items, Origin, Table

MOST_BASED = 16
"""Entries of one file that have a base: each repeats the rules of its own."""


def problems(keys: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the entries as such; rules are checked where they are used."""
    complete = {name: entry for name, entry in keys.items() if not isinstance(entry, str)}
    based = sum(isinstance(entry, Mapping) and "base" in entry for entry in keys.values())
    if based > MOST_BASED:
        yield Problem("keys", f"at most {MOST_BASED} entries with a `base`", str(based))
        return
    for name, entry in keys.items():
        if isinstance(entry, str):
            if entry not in complete:
                expected = f"rules, or one of {listed(list(complete))} to share its rules"
                yield Problem(f"keys.{name}", expected, f'"{entry}"', nearest(entry, complete))
        elif not isinstance(entry, (Mapping, list, tuple)):
            yield Problem(f"keys.{name}", "rules, or the name of an entry to share its rules", shown(entry))
        elif isinstance(entry, Mapping):
            yield from _difference_problems(name, entry, complete)


def _difference_problems(name: str, entry: Mapping[str, Any], complete: Mapping[str, Any]) -> Iterator[Problem]:
    base, drop = entry.get("base"), entry.get("drop", [])
    if "base" not in entry:
        if "drop" in entry:
            yield Problem(f"keys.{name}.drop", "a `base` beside it, whose rules it drops", "none")
        return
    if not isinstance(base, str) or base not in complete:
        others = [other for other in complete if other != name]
        found = f'"{base}"' if isinstance(base, str) else shown(base)
        expected = f"one of {listed(others)}" if others else "another entry of [keys]"
        yield Problem(f"keys.{name}.base", expected, found, nearest(base, others) if isinstance(base, str) else "")
        return
    chain = chain_of(name, complete, "base")
    if len(chain) > MOST_STEPS:
        yield Problem(f"keys.{name}.base", "an entry whose bases come to an end", fault_of(chain))
        return
    if not isinstance(drop, (list, tuple)) or not all(isinstance(text, str) for text in drop):
        yield Problem(f"keys.{name}.drop", "a list of source names", shown(drop))
        return
    names = {text for other in chain[1:] for rule in _rules(complete.get(other)) for text in source_names(rule)}
    for position, text in enumerate(drop):
        if text not in names:
            expected = f"the source name of a rule of `{base}`"
            yield Problem(f"keys.{name}.drop.{position}", expected, f"`{text}`", nearest(text, sorted(names)[:1000]))


def source_names(rule: Any) -> tuple[str, ...]:
    """The names that a rule takes, as its text spells them; none of what is no rule."""
    if isinstance(rule, (list, tuple)):
        texts = rule[:1]
    elif isinstance(rule, Mapping):
        cat = rule.get("cat")
        several = cat.get("from") if isinstance(cat, Mapping) else None
        texts = several if isinstance(several, (list, tuple)) else [rule.get(key) for key in ("from", "tie", "ignore")]
    else:
        texts = []
    return tuple(text for text in texts if isinstance(text, str))


def _rules(entry: Any) -> Sequence[Any]:
    rules = entry.get("rules", []) if isinstance(entry, Mapping) else entry
    return rules if isinstance(rules, (list, tuple)) else []


def resolved(keys: Table) -> Table:
    """Each entry with rules of its own; every rule remembers where it was written. `keys` has no problems."""
    out = Table(keys.origin)
    for name, entry in keys.items():
        out.put(name, _complete(keys, entry if isinstance(entry, str) else name), keys.origins[name])
    return out


def _complete(keys: Table, name: str) -> Any:
    entry = keys[name]
    if not isinstance(entry, Table) or "base" not in entry:
        return entry
    base = _complete(keys, entry["base"])
    table = Table(entry.origin)
    for part in (base, entry) if isinstance(base, Table) else (entry,):
        for key, value in part.items():
            if key not in ("base", "drop", "rules"):
                table.put(key, value, part.origins[key])
    origin = entry.origin.below("rules")
    table.put(
        "rules", _merged(base.get("rules", Items(origin)) if isinstance(base, Table) else base, entry, origin), origin
    )
    return table


def _merged(base: Any, entry: Table, origin: Origin) -> Any:
    """The rules of the base with the differences of the entry; what is no list of rules stays for the check of rules to refuse."""
    differences = entry.get("rules", Items(origin))
    if not isinstance(differences, Items) or not isinstance(base, Items):
        return base if isinstance(differences, Items) else differences
    replaced = {source_names(rule) for rule in base}
    fresh: dict[tuple[str, ...], list[tuple[Any, Origin]]] = {}
    rules = Items(origin)
    for rule, place in zip(differences, differences.origins, strict=True):
        if source_names(rule) in replaced:
            fresh.setdefault(source_names(rule), []).append((rule, place))
        else:
            rules.push(rule, place)
    drop, written = set(entry.get("drop", [])), set()
    for rule, place in zip(base, base.origins, strict=True):
        names = source_names(rule)
        if names in fresh:
            if names not in written:
                written.add(names)
                for replacement in fresh[names]:
                    rules.push(*replacement)
        elif not drop & set(names):
            rules.push(rule, place)
    return rules
