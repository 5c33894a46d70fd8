"""Graphs as authors write them, and written out: every node once, each with all that it reads, names and values put in.

    { graph = [nodes], let = { mid = 16 }, inputs = ["x"], outputs = ["y"] }         a graph as a call
    { name = "e{l}", from = "e{l-1}", do = [...], each = { l = [2, 3, 4] } }         three nodes: e2, e3, e4

`{l}` and `{l+1}` in a string stand for the value of `each`, or of the `let` of the node, its graph or one around it, and `{n-1-l}` for a
sum of several; `"$l"` is the value itself, whatever it is, and `"$l*2"` or `"$l/2"` a multiple or a part of a whole number. A number n in
`each` is 0 to n - 1; an `each` over nothing is no node. An edge may have an `each`, too: it is written once for each value. `{before}` in
a `from` is the node written before. Within `each`, `{ per_each = [...] }` is the value at its position.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from blocks.registry.calls import is_wiring
from blocks.registry.schema import INVALID
from blocks.wiring.nodes import GRAPH, MOST_NODES
from zoo.errors import Problem, listed, nearest
from zoo.specs.limits import MAX_VALUES, TooLarge
from zoo.specs.tree import Items, Origin, Table, report

NODE = ("name", "from", "merge", "do", "same_as", "each", "let")
VARIABLE = r"[a-z][a-z0-9_]*"
TERM = re.compile(rf"([+-])({VARIABLE}|[0-9]{{1,4}})")
HOLE = re.compile(rf"\{{({VARIABLE})((?:[+-](?:{VARIABLE}|[0-9]{{1,4}}))*)\}}")
VALUE = re.compile(rf"\$({VARIABLE})(?: ?([*/]) ?([0-9]{{1,6}}))?")


class Scope(NamedTuple):
    """What names stand for: values of `let`, and of the `each` of the node at hand with the position of each."""

    values: Mapping[str, Any]
    turns: Mapping[str, int] = {}

    def inside(self, values: Mapping[str, Any], turns: Mapping[str, int] | None = None) -> Scope:
        return Scope({**self.values, **values}, self.turns if turns is None else turns)


class Writer:
    """Writes out the graphs of a tree in which all parts stand in their places."""

    def __init__(self, problems: list[Problem]):
        self.problems, self.count = problems, 0

    def write(self, value: Any, origin: Origin, scope: Scope = Scope({})) -> Any:
        """`value` with every graph in it written out. Raises TooLarge."""
        self.count += 1
        if self.count > MAX_VALUES:
            raise TooLarge(Problem(str(origin), f"graphs of at most {MAX_VALUES:,} values", "more"))
        if isinstance(value, str) and scope.values:
            return self._text(value, origin, scope)
        if isinstance(value, Items):
            items = Items(value.origin)
            for item, place in zip(value, value.origins, strict=True):
                items.push(self.write(item, place, scope), place)
            return items
        if not isinstance(value, Table):
            return value
        if "per_each" in value and len(value) == 1:
            return self._turn(value, origin, scope)
        if key := graph_key(value):
            return self._graph(value, key, scope)
        table = Table(value.origin)
        for key, item in value.items():
            table.put(key, self.write(item, value.origins[key], scope), value.origins[key])
        return table

    def _graph(self, table: Table, key: str, scope: Scope) -> Table:
        scope = self._let(table, scope)
        out, nodes = Table(table.origin), table[key]
        if not isinstance(nodes, Items):
            report(self.problems, table.origins[key], "a list of nodes", nodes)
            nodes = Items(table.origin)
        inputs = self.write(table["inputs"], table.origins["inputs"], scope) if "inputs" in table else ["x"]
        first = inputs[0] if isinstance(inputs, list) and inputs and isinstance(inputs[0], str) else "x"
        written = self._nodes(nodes, table.origins[key], first, scope)
        for other, item in table.items():
            if other == key:
                out.put(key, written, table.origins[key])
            elif other == "outputs":
                out.put(other, self._outputs(item, table.origins[other], scope), table.origins[other])
            elif other != "let":
                out.put(other, self.write(item, table.origins[other], scope), table.origins[other])
        if "outputs" not in out and written:
            out.put(
                "outputs",
                self._outputs(Items(table.origin), table.origin, scope, written[-1].get("name")),
                table.origin,
            )
        return out

    def _let(self, table: Table, scope: Scope) -> Scope:
        let = table.get("let")
        if let is None:
            return scope
        if not isinstance(let, Table):
            report(self.problems, table.origins["let"], "a table of names and values", let)
            return scope
        return scope.inside({name: self.write(value, let.origins[name], scope) for name, value in let.items()})

    def _nodes(self, nodes: Items, origin: Origin, before: str, scope: Scope) -> Items:
        out = Items(nodes.origin)
        for node, place in zip(nodes, nodes.origins, strict=True):
            if not isinstance(node, Table):
                report(self.problems, place, f"a node, a table of {listed(NODE)}", node)
                continue
            for key in node:
                if key not in NODE:
                    self.problems.append(
                        Problem(str(node.origins[key]), f"one of {listed(NODE)}", f"`{key}`", nearest(key, NODE))
                    )
            for inner in self._turns(node, scope):
                written = self._node(node, place, before, self._let(node, inner))
                out.push(written, place)
                before = str(written.get("name", ""))
                if len(out) > MOST_NODES:
                    raise TooLarge(Problem(str(origin), f"a graph of at most {MOST_NODES:,} nodes", "more"))
        return out

    def _turns(self, node: Table, scope: Scope) -> list[Scope]:
        """One scope for each combination of the values that `each` lists; the first name turns slowest."""
        if "each" not in node:
            return [scope]
        each = self.write(node["each"], node.origins["each"], scope)
        lists = {name: _listed(values) for name, values in each.items()} if isinstance(each, Table) else {}
        sound = lists and all(isinstance(values, (list, range)) for values in lists.values())
        if not sound or not all(re.fullmatch(VARIABLE, name) for name in lists):
            report(self.problems, node.origins["each"], "a table of names and lists of values, or their number", each)
            return []
        turns = itertools.product(*(range(len(values)) for values in lists.values()))
        return [
            scope.inside(
                {name: lists[name][i] for name, i in zip(lists, turn, strict=True)}, dict(zip(lists, turn, strict=True))
            )
            for turn in itertools.islice(turns, MOST_NODES + 1)
        ]

    def _node(self, node: Table, place: Origin, before: str, scope: Scope) -> Table:
        out = Table(node.origin)
        for key, item in node.items():
            if key not in ("each", "let"):
                write = self._reads if key == "from" else self.write
                names = scope.inside({"before": before}) if key == "from" else scope
                out.put(key, write(item, node.origins[key], names), node.origins[key])
        reads = out.get("from", before)
        if not isinstance(reads, Items):
            items, at = Items(out.origins.get("from", place)), out.origins.get("from", place)
            items.push(reads, at)
            out.put("from", items, at)
        if len(out["from"]) > 1 and "merge" not in out:
            out.put("merge", "cat", place)
        return out

    def _reads(self, value: Any, origin: Origin, scope: Scope) -> Any:
        """What a node reads, an edge with an `each` once for each combination of its values."""
        edges = value if isinstance(value, Items) else Items(origin)
        if not isinstance(value, Items):
            edges.push(value, origin)
        if not any(isinstance(edge, Table) and "each" in edge for edge in edges):
            return self.write(value, origin, scope)
        out = Items(edges.origin)
        for edge, place in zip(edges, edges.origins, strict=True):
            for inner in self._turns(edge, scope) if isinstance(edge, Table) else [scope]:
                written = self.write(edge, place, inner)
                if isinstance(written, Table) and "each" in written:
                    del written["each"], written.origins["each"]
                out.push(written, place)
                if len(out) > MOST_NODES:
                    raise TooLarge(Problem(str(origin), f"at most {MOST_NODES:,} edges", "more"))
        return out

    def _outputs(self, value: Any, origin: Origin, scope: Scope, last: Any = None) -> Items:
        """Outputs as a list of tables, from a name, a list of names, or a table name -> node."""
        value = self.write(value, origin, scope)
        rows: list[tuple[Any, Any, Origin]] = [(name_of(value), value, origin)]
        if isinstance(value, Items):
            rows = [(name_of(item), item, place) for item, place in zip(value, value.origins, strict=True)]
        elif isinstance(value, Table) and "of" not in value:
            rows = [(name, item, value.origins[name]) for name, item in value.items()]
        out = Items(origin)
        for name, item, place in [("y", last, origin)] if last is not None else rows:
            row = Table(place)
            row.put("name", name, place)
            if isinstance(item, Table):
                for key in item:
                    row.put(key, item[key], item.origins[key])
            else:
                row.put("of", item, place)
            out.push(row, place)
        return out

    def _text(self, text: str, origin: Origin, scope: Scope) -> Any:
        def filled(hole: re.Match[str]) -> str:
            value = self._named(hole[1], hole[0], origin, scope)
            for sign, term in TERM.findall(hole[2]):
                more = int(term) if term.isdigit() else self._named(term, hole[0], origin, scope)
                wrong = [each for each in (value, more) if isinstance(each, bool) or not isinstance(each, int)]
                if wrong:
                    report(self.problems, origin, f"a whole number in `{hole[0]}`", wrong[0])
                    return hole[0]
                value += more if sign == "+" else -more
            return str(value)

        text = HOLE.sub(filled, text)
        if match := VALUE.fullmatch(text):
            value = copy.deepcopy(self._named(match[1], text, origin, scope))
            return value if match[2] is None else self._scaled(value, match, origin)
        return text

    def _scaled(self, value: Any, match: re.Match[str], origin: Origin) -> Any:
        """A whole number times another, or divided by one of its divisors."""
        factor = int(match[3])
        whole = isinstance(value, int) and not isinstance(value, bool) and factor
        if value is INVALID or not whole or (match[2] == "/" and value % factor):
            report(self.problems, origin, f"a whole number in `{match[0]}`, and no rest", value)
            return INVALID
        return value * factor if match[2] == "*" else value // factor

    def _named(self, name: str, written: str, origin: Origin, scope: Scope) -> Any:
        if name not in scope.values:
            near = nearest(name, scope.values)
            expected = f"one of {listed(list(scope.values), 20)}, as `let` and `each` say"
            self.problems.append(Problem(str(origin), expected, f"`{written}`", near))
            return INVALID
        return scope.values[name]

    def _turn(self, table: Table, origin: Origin, scope: Scope) -> Any:
        """The value of `per_each` at the position of the one list of `each`, or of the one that it names."""
        options, turns = table["per_each"], scope.turns
        name = next(iter(turns)) if len(turns) == 1 else None
        if isinstance(options, Table) and len(options) == 1:
            name, options = next(iter(options.items()))
        if isinstance(options, str):
            options = self._text(options, table.origins["per_each"], scope)
        if name is None or name not in turns:
            found = "no `each` around it" if not turns else f"`each` of {listed(list(turns))}"
            self.problems.append(
                Problem(str(origin), "a list by the values of one `each`: per_each = { l = [...] }", found)
            )
            return INVALID
        if not isinstance(options, Items) or len(options) <= turns[name]:
            report(self.problems, table.origins["per_each"], f"a list, one value for each `{name}`", options)
            return INVALID
        return self.write(options[turns[name]], options.origins[turns[name]], scope)


def _listed(values: Any) -> Any:
    """0 to n - 1 for a number n; what is no number stays."""
    is_number = isinstance(values, int) and not isinstance(values, bool)
    return range(min(values, MOST_NODES + 1)) if is_number else values


def graph_key(table: Mapping[str, Any]) -> str:
    """The key under which the nodes of a graph stand, "" for what is no graph."""
    if "block" in table:
        return "parts" if table["block"] in ("graph", GRAPH, GRAPH.removesuffix("@1")) and "parts" in table else ""
    return "graph" if "graph" in table and is_wiring("graph") else ""


def name_of(output: Any) -> Any:
    """What an output is called that is stated by its node: `o3` for `cell.o3`."""
    name = output.get("of") if isinstance(output, dict) else output
    return name.rpartition(".")[2] if isinstance(name, str) else name
