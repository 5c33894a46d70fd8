"""Parts of [spec.define] put where `"@name"` and `{ use = "@name", … }` name them."""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

from blocks.registry.errors import MOST_PROBLEMS
from blocks.registry.schema import INVALID, shown
from zoo.errors import Problem, nearest
from zoo.specs.limits import MAX_VALUES, TooLarge
from zoo.specs.patch import INDEXED, merged, replaces
from zoo.specs.tree import Items, Origin, Table


class Inliner:
    """Replaces `"@name"` and `{ use = "@name", … }` by the parts they name, counting what it makes and what was used."""

    def __init__(self, define: Any, problems: list[Problem]):
        self.define = define if isinstance(define, Table) else Table(Origin("", ""))
        self.problems = problems
        self.used: set[str] = set()
        self.count = 0

    def inline(self, value: Any, origin: Origin, stack: tuple[str, ...] = ()) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise TooLarge(Problem(str(origin), f"parts that expand to at most {MAX_VALUES:,} values", "more"))
        if len(self.problems) >= MOST_PROBLEMS:
            return INVALID
        if isinstance(value, str) and value.startswith("@"):
            return self._part(value, origin, stack)
        if isinstance(value, Table) and "use" in value:
            return self._use(value, origin, stack)
        if isinstance(value, Table):
            table = Table(value.origin)
            for key, item in value.items():
                table.put(key, self.inline(item, value.origins[key], stack), value.origins[key])
            return table
        if isinstance(value, Items):
            items = Items(value.origin)
            for item, where in zip(value, value.origins, strict=True):
                items.push(self.inline(item, where, stack), where)
            return items
        return value

    def _part(self, reference: str, origin: Origin, stack: tuple[str, ...]) -> Any:
        name = reference[1:]
        if name in stack:
            self.problems.append(
                Problem(
                    str(origin),
                    "parts that do not contain themselves",
                    "a circular `@`: " + " -> ".join(f"@{step}" for step in (*stack, name)),
                )
            )
            return INVALID
        if name not in self.define:
            found = f"`{reference}`"
            self.problems.append(
                Problem(
                    str(origin),
                    "a part named in [spec.define]",
                    found,
                    nearest(name, self.define) and "@" + nearest(name, self.define),
                )
            )
            return INVALID
        self.used.add(name)
        return self.inline(copy.deepcopy(self.define[name]), self.define.origins[name], (*stack, name))

    def _use(self, table: Table, origin: Origin, stack: tuple[str, ...]) -> Any:
        reference = table["use"]
        if not (isinstance(reference, str) and reference.startswith("@")):
            self.problems.append(Problem(str(table.origins["use"]), 'a part, as in use = "@name"', shown(reference)))
            return INVALID
        part = self._part(reference, table.origins["use"], stack)
        indexed = isinstance(part, Table) and bool(set(INDEXED) & set(part))
        if part is not INVALID and len(table) > 1 and (indexed or not isinstance(part, (str, Table))):
            expected = f"a part that is one block, to be used with changes: `{reference}`"
            self.problems.append(Problem(str(origin), expected, "an indexed value" if indexed else shown(part)))
            return INVALID
        changes = Table(origin)
        for key, item in table.items():
            if key != "use":
                changes.put(key, self.inline(item, table.origins[key], stack), table.origins[key])
        return _changed(part, changes, origin) if changes and part is not INVALID else part

    def unused(self) -> list[Problem]:
        return [
            Problem(
                str(self.define.origins[name]),
                f"every part of [spec.define] in use: `@{name}`",
                "no use of it",
                next="use it or remove it",
            )
            for name in islice((name for name in self.define if name not in self.used), MOST_PROBLEMS)
        ]


def _changed(part: Any, changes: Table, origin: Origin) -> Any:
    """A part with changes: each key replaces or merges by the common rule."""
    if isinstance(part, str):
        base = Table(origin)
        base.put("block", part, origin)
        part = base
    for key, item in changes.items():
        part.put(
            key,
            merged(part.get(key), item, changes.origins[key]),
            changes.origins[key] if replaces(item) else part.origins.get(key, changes.origins[key]),
        )
    return part
