"""Key rules: the names and shapes of another code's checkpoint <-> ours, both ways, from one declaration.

A rule set is data (see `rules.py` for the rules, `pattern.py` for the names). For each source tensor the first rule
that takes its name decides; going back, the rule is the one that would have produced the name. Every source tensor is
used once and every tensor of the model filled once, or nothing is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import Problem, SpecError, listed, nearest
from zoo.specs.tree import Items
from zoo.weights.errors import TensorsError
from zoo.weights.key_patterns import PatternError
from zoo.weights.operations import bit_equal
from zoo.weights.rules import Group, Ignore, Move, Rule, Tie, read_rule
from zoo.weights.unwrap import open_envelope

ENVELOPE_KEYS = ("rules", "unwrap", "strip_prefix")

Claim = tuple[int, Group, int]
"""Number of the rule, group, slot."""


class KeyRules:
    """A rule set; `unwrap` and `strip_prefix` say what stands around the tensors (see `envelope.py`)."""

    def __init__(self, rules: Sequence[Rule], unwrap: Sequence[str] = (), strip_prefix: Sequence[str] = ()):
        self.rules, self.unwrap, self.strip_prefix = list(rules), list(unwrap), list(strip_prefix)

    @classmethod
    def from_data(cls, data: Any, where: str) -> KeyRules:
        """`data`: a list of rules, or a table with `rules`, `unwrap`, `strip_prefix`; `where`: its place in the spec.

        Raises SpecError with every wrong rule, each by its position."""
        table = data if isinstance(data, Mapping) else {"rules": data}
        problems = [
            Problem(key, listed(ENVELOPE_KEYS), f"`{key}`", nearest(key, ENVELOPE_KEYS))
            for key in table
            if key not in ENVELOPE_KEYS
        ]
        for key in ENVELOPE_KEYS[1:]:
            if not _is_list_of_strings(table.get(key, [])):
                problems.append(Problem(key, "a list of strings", repr(table[key])))
        entries = table.get("rules", [])
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise SpecError(where, [*problems, Problem("rules", "a list of rules", repr(entries))])
        rules: list[Rule] = []
        for position, entry in enumerate(entries):
            try:
                rules.append(read_rule(entry))
            except PatternError as error:
                problems.append(Problem(_place(entries, position), found=str(error)))
        if problems:
            raise SpecError(where, problems)
        return cls(rules, table.get("unwrap", ()), table.get("strip_prefix", ()))

    def open(self, data: Mapping[str, Any], subject: str) -> dict[str, Tensor]:
        """The tensors inside a checkpoint, without envelope and prefix."""
        return open_envelope(data, self.unwrap, self.strip_prefix, subject, self._ignores)

    def _ignores(self, name: str) -> bool:
        return any(isinstance(rule, Ignore) and rule.claim_source(name) for rule in self.rules)

    def to_zoo(
        self, source: Mapping[str, Tensor], expected: Mapping[str, tuple[Sequence[int], object]], subject: str
    ) -> dict[str, Tensor]:
        """The tensors under our names and in our shapes, in the order of `expected` ({name: (shape, dtype)}).

        Targets of rules that are optional may be missing. Raises WeightsError naming every source tensor without a place, every other
        target without a source, both sides of every clash and every wrong shape. Dtypes pass through; `load_state` judges them."""
        return _ToZoo(self, source, {name: tuple(shape) for name, (shape, _) in expected.items()}).run(subject)

    def to_source(self, tensors: Mapping[str, Tensor], subject: str = "export") -> dict[str, Tensor]:
        """The inverse of `to_zoo`; tied names and filled scalars are written again. Raises WeightsError."""
        groups, unclaimed = _gather(tensors, lambda name: self.origin(name, tensors))
        problems = [self._no_origin(name, tensors) for name in unclaimed]
        out: dict[str, Tensor] = {}
        for (number, group), slots in groups.items():
            rule = self._move(number)
            names = _complete(slots, rule.zoo.names(group, len(slots)) or [], problems)
            try:
                results = rule.operation.to_source([tensors[name] for name in names])
                out.update(zip(rule.source.names(group, len(results)) or [], results, strict=True))
            except PatternError as error:
                problems.append(Problem(listed(names), found=str(error)))
        if problems:
            raise TensorsError(subject, problems)
        return out | self._companions(out, tensors)

    def claim(self, name: str, there: Container[str] = ()) -> Claim | None:
        """The rule that takes the source tensor `name`: the first that leads to a zoo tensor that is `there`, else the first.

        So one set of rules serves variants whose layers of one name are built of other blocks."""
        first: Claim | None = None
        for number, rule in enumerate(self.rules):
            if isinstance(rule, Move) and not rule.holds(there):
                continue
            if claim := rule.claim_source(name):
                if not isinstance(rule, Move) or any(target in there for target in rule.zoo.names(claim[0]) or []):
                    return number, *claim
                first = first or (number, *claim)
        return first

    def fills(self, name: str, there: Container[str]) -> bool:
        """Whether the source tensor `name` leads to a zoo tensor that is `there`, or is a second name of one."""
        claim = self.claim(name, there)
        rule = self.rules[claim[0]] if claim else None
        if isinstance(rule, Tie):
            return True
        return isinstance(rule, Move) and any(target in there for target in rule.zoo.names(claim[1]) or [])  # type: ignore[index]

    def origins(self, name: str, there: Container[str] = ()) -> list[Claim]:
        """Every rule that produces the zoo tensor `name`: its source names must be taken by that very rule."""
        found = []
        for number, rule in enumerate(self.rules):
            if isinstance(rule, Move) and rule.holds(there) and (claim := rule.claim_zoo(name)):
                taken = [self.claim(source, there) for source in rule.source.names(claim[0]) or []]
                if all(other and other[:2] == (number, claim[0]) for other in taken):
                    found.append((number, *claim))
        return found

    def origin(self, name: str, there: Container[str] = ()) -> Claim | None:
        """The one rule that produces `name`, or None."""
        origins = self.origins(name, there)
        return origins[0] if len(origins) == 1 else None

    def is_optional(self, name: str, there: Container[str] = ()) -> bool:
        """Whether a checkpoint may lack what the zoo tensor `name` is made of."""
        origin = self.origin(name, there)
        return origin is not None and self._move(origin[0]).optional

    def source_names(self, name: str, there: Container[str] = ()) -> list[str]:
        """The source tensors that the zoo tensor `name` is made of; the first one if they are counted by an index."""
        origin = self.origin(name, there)
        return (self._move(origin[0]).source.names(origin[1]) or []) if origin else []

    def _move(self, number: int) -> Move:
        rule = self.rules[number]
        assert isinstance(rule, Move)  # only moves produce zoo tensors
        return rule

    def _no_origin(self, name: str, there: Container[str] = ()) -> Problem:
        numbers = [f"rule {number}" for number, _, _ in self.origins(name, there)]
        return Problem(name, "one rule that produces it", " and ".join(numbers) or "none")

    def _companions(self, out: Mapping[str, Tensor], there: Container[str] = ()) -> dict[str, Tensor]:
        """Tied names and filled scalars that stand beside the tensors of `out`."""
        extra: dict[str, Tensor] = {}
        for number, rule in enumerate(self.rules):
            if isinstance(rule, Move) or (beside := rule.other if isinstance(rule, Tie) else rule.beside) is None:
                continue
            for name, tensor in out.items():
                values = beside.match(name)
                key = rule.key.render(values) if values is not None else None
                claim = self.claim(key, there) if key is not None else None
                if key is not None and claim and claim[0] == number:
                    extra[key] = torch.full((), rule.fill, dtype=rule.dtype) if isinstance(rule, Ignore) else tensor
        return extra


class _ToZoo:
    """One conversion: what was produced, from what, and every problem met on the way."""

    def __init__(self, rules: KeyRules, source: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]):
        self.rules, self.source, self.expected = rules, source, expected
        self.produced: dict[str, Tensor] = {}
        self.makers: dict[str, list[str]] = {}  # target -> the source tensors it was made of
        self.blamed: set[str] = set()  # targets that an earlier problem already explains
        self.problems: list[Problem] = []

    def run(self, subject: str) -> dict[str, Tensor]:
        groups, unclaimed = _gather(self.source, lambda name: self.rules.claim(name, self.expected))
        for (number, group), slots in groups.items():
            rule = self.rules.rules[number]
            if isinstance(rule, Move):
                self._apply(rule, group, slots)
            elif isinstance(rule, Tie):
                self._check_tie(slots[0], rule.other.render(dict(group)))
        self._compare(unclaimed)
        if self.problems:
            raise TensorsError(subject, self.problems)
        return {name: self.produced[name] for name in self.expected if name in self.produced}

    def _apply(self, rule: Move, group: Group, slots: dict[int, str]) -> None:
        targets = rule.zoo.names(group) or []
        before = len(self.problems)
        names = _complete(slots, rule.source.names(group, len(slots)) or [], self.problems)
        if len(targets) > 1:  # cutting needs the shape of every target
            lacking = [name for name in targets if name not in self.expected]
            self.problems += [_no_place(names[0], name, "") for name in lacking]
        try:
            if len(self.problems) == before:
                shapes = [self.expected.get(name, ()) for name in targets]
                self._place(rule, group, names, rule.operation.to_zoo([self.source[name] for name in names], shapes))
        except (PatternError, RuntimeError) as error:  # torch's word for memory that cannot be had
            self.problems.append(Problem(listed(names), found=str(error).splitlines()[0]))
        if len(self.problems) > before:
            self.blamed |= set(targets)

    def _place(self, rule: Move, group: Group, names: list[str], results: list[Tensor]) -> None:
        for name, tensor in zip(rule.zoo.names(group, len(results)) or [], results, strict=True):
            self.makers.setdefault(name, []).extend(names)
            self.produced[name] = tensor

    def _check_tie(self, key: str, other: str | None) -> None:
        if other is None or other not in self.source:
            self.problems.append(Problem(key, f"a second name of the source tensor `{other}`", f"no `{other}`"))
        elif not bit_equal(self.source[key], self.source[other]):
            self.problems.append(Problem(key, f"the same values as `{other}`, its tie", "other values"))

    def _compare(self, unclaimed: list[str]) -> None:
        missing = [name for name in self.expected if name not in self.produced and name not in self.blamed]
        missing = [name for name in missing if not self.rules.is_optional(name, self.expected)]
        extra = [name for name in self.produced if name not in self.expected]
        homeless = unclaimed + [maker for name in extra for maker in self.makers[name]]
        wanted = {name: self.rules.source_names(name, self.expected) for name in missing}
        wanted_names = [name for names in wanted.values() for name in names][:1000]
        for place, name in enumerate(missing):
            names = wanted[name]
            found = f"no source tensor {listed(names)}" if names else "no rule that produces it"
            near = nearest(names[0], homeless[:1000]) if names and place < 50 else ""
            self.problems.append(Problem(name, f"shape {self.expected[name]}", found, near))
        for place, name in enumerate(unclaimed):
            near = nearest(name, wanted_names) if place < 50 else ""
            self.problems.append(Problem(name, found="a source tensor that no rule takes", nearest=near))
        for place, name in enumerate(extra):
            maker = self.makers[name][0]
            near = nearest(maker, wanted_names) if place < 50 else ""
            self.problems.append(_no_place(maker, name, near))
        self._compare_produced()

    def _compare_produced(self) -> None:
        for name, tensor in self.produced.items():
            makers = self.makers[name]
            if len(origins := self.rules.origins(name, self.expected)) > 1:
                numbers = " and ".join(f"rule {number}" for number, _, _ in origins)
                found = f"{numbers}, for source tensor {listed(makers)}"
                self.problems.append(Problem(name, "one rule that produces it", found))
            elif name in self.expected and tuple(tensor.shape) != self.expected[name]:
                found = f"{tuple(tensor.shape)} from source tensor {listed(makers)}"
                self.problems.append(Problem(name, f"shape {self.expected[name]}", found))
            elif not origins:
                self.problems.append(Problem(name, "a rule that leads back", f"none to {listed(makers)}"))


def _gather(
    names: Iterable[str], claim: Callable[[str], Claim | None]
) -> tuple[dict[tuple[int, Group], dict[int, str]], list[str]]:
    """The names by rule and group, each in its slot; and those that nothing claims."""
    groups: dict[tuple[int, Group], dict[int, str]] = {}
    unclaimed = []
    for name in names:
        place = claim(name)
        if place is None:
            unclaimed.append(name)
        else:
            number, group, slot = place
            groups.setdefault((number, group), {})[slot] = name
    return groups, unclaimed


def _complete(slots: Mapping[int, str], names: list[str], problems: list[Problem]) -> list[str]:
    """The names of a group in order; a slot that is empty is a problem."""
    for slot, name in enumerate(names):
        if slot not in slots:
            problems.append(Problem(name, f"a tensor beside {listed(list(slots.values()), 3)}", "none"))
    return [slots[slot] for slot in sorted(slots)]


def _no_place(maker: str, target: str, near: str) -> Problem:
    return Problem(maker, found=f"a source tensor for `{target}`, which the model does not have", nearest=near)


def _place(entries: Sequence[Any], position: int) -> str:
    """Where a rule was written: at its position, or in the entry that is the base of this one."""
    if not isinstance(entries, Items):
        return f"rules.{position}"
    own, place = entries.origin.path.removesuffix("rules"), entries.origins[position].path
    return place.removeprefix(own) if own.endswith(".") else f"rules.{position}"


def _is_list_of_strings(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(text, str) for text in value)
