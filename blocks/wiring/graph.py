"""Graphs: named nodes, each of which reads the inputs and other nodes. Chains stay chains; this is for all that branches and meets again.

A node reads one or several tensors, brings each to the size of another where its edge says so, merges them into one, and runs a chain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

import torch
from msgspec import Meta, Struct
from torch import Tensor, nn

from blocks.chain import run
from blocks.construct import build_chain, construct
from blocks.context import Context
from blocks.folding import fold_neighbours
from blocks.places import check_places, has_places
from blocks.primitives.resize import Mode, resized
from blocks.registry import block, describe
from blocks.registry.errors import BlockError, Problem
from blocks.registry.slots import NONE, Place, Slot
from blocks.wiring.nodes import MOST_NODES, faults, in_order, owner, several, shares
from blocks.wiring.parts import check_names

Merge = Annotated[Slot, Meta(extra_json_schema={"kinds": ["merge", "wiring"]})]
Value = Tensor | dict[str, Tensor]
"""What a node gives: one tensor, or the outputs of a graph of several by their names."""


class Edge(Struct, frozen=True, forbid_unknown_fields=True):
    """The node or input `of`, behind the chain `do`, brought to the rows and columns of the node `like`."""

    of: str
    do: Slot | None = None
    like: str | None = None
    mode: Mode = "bilinear"
    align_corners: bool = False


class Node(Struct, frozen=True, forbid_unknown_fields=True, rename={"reads": "from"}):
    """do(merge(from)): what is read, made one, and changed. Without `merge` several tensors are concatenated along their channels.

    With `same_as` the chain is that of another node: one module, one set of weights.
    """

    name: str
    reads: Annotated[list[str | Edge], Meta(min_length=1)]
    merge: Merge | None = None
    do: Slot | None = None
    same_as: str | None = None


class Output(Struct, frozen=True, forbid_unknown_fields=True):
    """One output of a graph: what it is called, the node that it is `of`, and in which mode of the model it is there."""

    name: str
    of: str
    when: Literal["always", "train", "eval"] = "always"


class Read(NamedTuple):
    """What a node reads: the value `of`, resized to the value `like` where there is one."""

    of: str
    like: str | None = None
    mode: str = "bilinear"
    align_corners: bool = False


class Step(NamedTuple):
    """A node at its turn: what it reads, and which values nobody needs any more behind it."""

    name: str
    frees: tuple[str, ...]


class Joint(nn.Module):
    """The modules of one node: chains on its edges (`edges.i`), a merge, and the parts of its own chain under their names."""

    takes_ctx = True

    def __init__(self, name: str, reads: tuple[Read, ...], lender: str | None):
        super().__init__()
        self.name, self.reads, self.lender = name, reads, lender
        self.edges = nn.ModuleDict()
        self.merge: nn.Module | None = None
        self.shared: tuple[Joint, ...] = ()
        """The node whose chain this one runs, in a tuple, since its parameters stay that node's."""

    def forward(self, tensors: Sequence[Tensor], ctx: Context | None = None) -> Value:
        """The tensors come resized, behind the chains of their edges."""
        x: Any = merged(self.merge, tensors, ctx)
        for part in (self.shared[0] if self.shared else self).parts():
            x = run(part, x, ctx)
        return x  # type: ignore[no-any-return]

    def parts(self) -> list[nn.Module]:
        return [part for name, part in self._modules.items() if name not in ("edges", "merge") and part is not None]

    def fuse(self) -> nn.Module:
        fold_neighbours(self, [name for name in self._modules if name not in ("edges", "merge")])
        return self


def merged(merge: nn.Module | None, tensors: Sequence[Tensor], ctx: Context | None = None) -> Any:
    """One value of several: by the merge, else one behind the other along the channels. Raises ValueError as `blocks.run` does."""
    if merge is not None and has_places(ctx):
        check_places(merge, ctx)
    if merge is None:
        return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), 1 if tensors[0].ndim > 3 else -1)
    if isinstance(merge, Graph):
        return merge(tuple(tensors), ctx)
    return merge(*tensors, ctx=ctx) if getattr(type(merge), "takes_ctx", False) else merge(*tensors)


@block("graph", kind="wiring", abilities=("noncausal", "any_resolution"))
class Graph(nn.Module):
    """y = the outputs of named nodes, each node = do(merge(what it reads)): any net without loops.

    A tensor for each of `inputs` -> one tensor, or several by name where more than one of `outputs` is there in this mode. Without
    `outputs` it is the last node. A node that no output of the mode needs does not run; its value is freed behind its last reader.
    Raises ValueError for names that lead nowhere or in a circle, and for tensors that a merge cannot take, with their shapes.
    """

    out_dim: int

    def __init__(
        self,
        dim: int,
        *,
        parts: Annotated[list[Node], Meta(min_length=1, max_length=MOST_NODES)],
        inputs: Annotated[tuple[str, ...], Meta(min_length=1)] = ("x",),
        outputs: tuple[Output, ...] = (),
        dims: tuple[int, ...] = (),
    ):
        super().__init__()
        self.inputs = inputs
        self.outputs = outputs or (Output("y", parts[-1].name),)
        if dims and len(dims) != len(inputs):
            raise ValueError(f"a graph of {len(inputs)} inputs meets {len(dims)} tensors")
        tables = [_table(node) for node in parts]
        _refuse_faults(tables, inputs, self.outputs)
        self._reads = {node.name: _names(tuple(map(_read_of, node.reads))) for node in parts}
        self.order = [parts[i].name for i in in_order(tables, inputs)]
        self.steps: dict[str, list[Step]] = {}
        self.out_dim, self.widths = dim, dict[str, int]()
        check_names(self, [{"name": node.name} for node in parts])  # once all is there that no node can be called
        by_name = {node.name: node for node in parts}
        maker = _Maker(self, _place(parts), dict(zip(inputs, dims or (dim,) * len(inputs), strict=True)))
        for i in in_order(tables, inputs):
            maker.make(by_name[parts[i].name], tables[i])
        self.steps = {mode: self._steps(mode) for mode in ("train", "eval")}
        widths = [maker.width(output.of) for output in self.outputs]
        self.out_dim = widths[0]
        self.widths = dict(zip([output.name for output in self.outputs], widths, strict=True))
        self.train()

    def forward(self, x: Tensor | Sequence[Tensor], ctx: Context | None = None) -> Any:
        given = x if isinstance(x, (tuple, list)) else (x,)
        values: dict[str, Any] = dict(zip(self.inputs, given, strict=True))
        mode = "train" if self.training else "eval"
        for step in self.steps[mode]:
            values[step.name] = self._run(getattr(self, step.name), values, ctx)
            for name in step.frees:
                del values[name]
        found = {output.name: self._value(values, output.of) for output in self._present(mode)}
        return next(iter(found.values())) if len(found) == 1 else found

    def clashes(self, tensors: Sequence[Tensor], path: str) -> list[Problem]:
        """What goes wrong in the nodes for inputs of these shapes, of each node by itself; what reads it is left out."""
        values: dict[str, Any] = dict(zip(self.inputs, tensors, strict=True))
        ctx = Context() if any(getattr(module, "reads", None) is not None for module in self.modules()) else None
        problems = []
        for name in self.order:
            if all(owner(read, self.inputs) in values for read in self._reads[name]):
                try:
                    values[name] = self._run(getattr(self, name), values, ctx)
                except ValueError as error:
                    problems.append(Problem(f"{path}.{name}", found=str(error)))
        return problems

    def _run(self, joint: Joint, values: dict[str, Any], ctx: Context | None) -> Value:
        tensors = [self._read(joint, i, values, ctx) for i in range(len(joint.reads))]
        if torch.compiler.is_compiling():
            return joint(tensors, ctx)  # type: ignore[no-any-return]
        try:
            return joint(tensors, ctx)  # type: ignore[no-any-return]
        except (RuntimeError, ValueError) as error:
            raise ValueError(self._met(joint, tensors, error)) from error

    def _read(self, joint: Joint, i: int, values: dict[str, Any], ctx: Context | None) -> Tensor:
        read = joint.reads[i]
        x = self._value(values, read.of)
        if str(i) in joint.edges:
            x = run(joint.edges[str(i)], x, ctx)
        if read.like is not None:
            x = resized(x, self._value(values, read.like).shape[2:], read.mode, read.align_corners)
        return x

    def _value(self, values: dict[str, Any], name: str) -> Tensor:
        home = owner(name, self.inputs)
        value = values[home]
        return value[name[len(home) + 1 :]] if home != name else value  # type: ignore[no-any-return]

    def _met(self, joint: Joint, tensors: Sequence[Tensor], error: Exception) -> str:
        """An error of a node with the names and shapes that it meets."""
        if len(tensors) == 1 or not all(type(tensor) is Tensor for tensor in tensors):
            return f"node `{joint.name}`: {error}"
        pairs = zip(joint.reads, tensors, strict=True)
        shapes = " and ".join(f"`{read.of}` {tuple(x.shape)}" for read, x in pairs)
        return f"node `{joint.name}` cannot merge {shapes}: {str(error).splitlines()[0]}"

    def _present(self, mode: str) -> list[Output]:
        return [output for output in self.outputs if output.when in ("always", mode)]

    def _steps(self, mode: str) -> list[Step]:
        """The nodes that the outputs of a mode need, in order, and which values each leaves without a reader."""
        kept = {owner(output.of, self.inputs) for output in self._present(mode)}
        needed = set(kept)
        for name in reversed(self.order):
            if name in needed:
                needed |= {owner(read, self.inputs) for read in self._reads[name]}
        names = [name for name in self.order if name in needed]
        last = {owner(read, self.inputs): name for name in names for read in self._reads[name]}
        return [
            Step(name, tuple(value for value, reader in last.items() if reader == name and value not in kept))
            for name in names
        ]

    def fuse(self) -> nn.Module:
        """Without the nodes that only training needs."""
        needed = {step.name for step in self.steps["eval"]}
        lent = {joint.lender for joint in self.children() if isinstance(joint, Joint) and joint.name in needed}
        for name in self.order:
            if name not in needed and name not in lent:
                delattr(self, name)
        self.outputs = tuple(self._present("eval"))
        self.order = [step.name for step in self.steps["eval"]]
        self.steps["train"] = self.steps["eval"]
        return self


class _Maker:
    """Builds nodes in order, each for the widths that reach it; sizes are found by running what stands before, where a block asks for them."""

    def __init__(self, graph: Graph, place: Place, widths: dict[str, int]):
        self.graph, self.place, self.widths = graph, place, dict[str, Any](widths)
        self.values: dict[str, Any] = {}
        self.knows_sizes = place.sizes is not None or place.inputs is not None

    def width(self, name: str) -> int:
        home = owner(name, self.graph.inputs)
        width = self.widths[home]
        return width[name[len(home) + 1 :]] if isinstance(width, dict) else width

    def make(self, node: Node, table: dict[str, Any]) -> None:
        joint = Joint(node.name, tuple(map(_read_of, node.reads)), shares(table))
        setattr(self.graph, node.name, joint)
        place = self.place.at(node.name, sizes=None, inputs=None)
        for i, edge in enumerate(node.reads):
            if isinstance(edge, Edge) and edge.do is not None:
                width, source = self.width(edge.of), functools.partial(self._value, edge.of)
                at = self._sized(place.at(f"edges.{i}"), source)
                joint.edges[str(i)] = build_chain(_list(edge.do.call), at, width)
        widths = [self._read_width(joint, i, read) for i, read in enumerate(joint.reads)]
        width = self._merge(joint, node, widths, place.at("merge"))
        if joint.lender is not None:
            joint.shared = (getattr(self.graph, joint.lender),)
            width = int(getattr(next(reversed(joint.shared[0].parts()), None), "out_dim", width))
        elif node.do is not None:
            check_names(joint, _list(node.do.call))
            chain = build_chain(_list(node.do.call), self._sized(place, functools.partial(self._merged, joint)), width)
            for name, part in chain.named_children():
                joint.add_module(name, part)
            width = chain.out_dim
        graph = joint.merge if isinstance(joint.merge, Graph) else next(iter(joint.parts()), None)
        self.widths[node.name] = graph.widths if several(table) and isinstance(graph, Graph) else width

    def _read_width(self, joint: Joint, i: int, read: Read) -> int:
        return int(joint.edges[str(i)].out_dim) if str(i) in joint.edges else self.width(read.of)  # type: ignore[arg-type]

    def _merge(self, joint: Joint, node: Node, widths: list[int], place: Place) -> int:
        if node.merge is None:
            return sum(widths)
        failed = self.place.failed if self.place.failed is not None else []
        known = len(failed)
        if self.knows_sizes:
            place = replace(place, inputs=functools.partial(self._tensors, joint))
        try:
            _refuse_wiring(node.merge.call)
            joint.merge = construct(node.merge.call, place, widths[0], dims=tuple(widths))
        except BlockError as refusal:
            raise BlockError("", [self._with_widths(problem, joint, widths) for problem in refusal.problems]) from None
        failed[known:] = [self._with_widths(problem, joint, widths) for problem in failed[known:]]
        return int(getattr(joint.merge, "out_dim", widths[0]))

    def _with_widths(self, problem: Problem, joint: Joint, widths: list[int]) -> Problem:
        met = ", ".join(f"`{read.of}` of {width} channels" for read, width in zip(joint.reads, widths, strict=True))
        return problem._replace(found=f"{problem.found}; it meets {met}")

    def _sized(self, place: Place, source: Callable[[], Tensor]) -> Place:
        """The place of a chain that meets what `source` gives."""
        return replace(place, sizes=lambda: _size(source())) if self.knows_sizes else place

    def _value(self, name: str) -> Tensor:
        """What a name stands for, of zeros of no memory: run when a block first asks."""
        home = owner(name, self.graph.inputs)
        if not self.values:
            self.values = self._given()
        if home not in self.values:
            joint = getattr(self.graph, home)
            with torch.no_grad():
                self.values[home] = joint.eval()(self._tensors(joint))
        return self.graph._value(self.values, name)

    def _given(self) -> dict[str, Any]:
        if self.place.inputs is not None:
            return dict(zip(self.graph.inputs, self.place.inputs(), strict=True))
        size = self.place.sizes()  # type: ignore[misc]
        return {name: torch.empty(_shape(self.widths[name], size)) for name in self.graph.inputs}

    def _tensors(self, joint: Joint) -> tuple[Tensor, ...]:
        for read in joint.reads:
            for name in (read.of, read.like):
                if name is not None:
                    self._value(name)
        with torch.no_grad():
            return tuple(self.graph._read(joint.eval(), i, self.values, None) for i in range(len(joint.reads)))

    def _merged(self, joint: Joint) -> Tensor:
        with torch.no_grad():
            return merged(joint.eval().merge, self._tensors(joint))  # type: ignore[no-any-return]


def _refuse_wiring(call: Any) -> None:
    """A merge is a block of that kind, or a graph. Raises ValueError for another wiring, which takes one tensor."""
    info = describe(
        call["block"]
        if isinstance(call, dict) and "block" in call
        else next(iter(call))
        if isinstance(call, dict)
        else call
    )
    if info.kind == "wiring" and info.name != "graph":
        raise ValueError(f"`{info.name}` takes one tensor, and a merge several: put it into `do`")


def _refuse_faults(tables: list[dict[str, Any]], inputs: Sequence[str], outputs: Sequence[Output]) -> None:
    found = list(faults(tables, inputs, [{"of": output.of} for output in outputs]))
    if found:
        problems = [Problem(".".join(map(str, issue.path)), *issue[1:]) for issue in found]
        raise ValueError("; ".join(f"{problem.where}: {problem.sentence()}" for problem in problems))


def _table(node: Node) -> dict[str, Any]:
    """A node as its spec says it."""
    reads = [edge if isinstance(edge, str) else {"of": edge.of, "like": edge.like} for edge in node.reads]
    calls = {key: slot.call if slot is not None else NONE for key, slot in (("merge", node.merge), ("do", node.do))}
    return {"name": node.name, "from": reads, "same_as": node.same_as, **calls}


def _read_of(edge: str | Edge) -> Read:
    return Read(edge) if isinstance(edge, str) else Read(edge.of, edge.like, edge.mode, edge.align_corners)


def _names(reads: Sequence[Read]) -> tuple[str, ...]:
    """Whose values a node needs at its turn."""
    return tuple(name for read in reads for name in (read.of, read.like) if name is not None)


def _place(parts: Sequence[Node]) -> Place:
    """Where the host of these nodes stands: their slots all know it."""
    slots = [
        slot for node in parts for slot in (node.merge, node.do, *(e.do for e in node.reads if isinstance(e, Edge)))
    ]
    return next((slot.place for slot in slots if slot is not None), Place())


def _list(call: Any) -> list[Any]:
    return call if isinstance(call, list) else [call]


def _shape(width: int, size: Sequence[int]) -> tuple[int, ...]:
    return (1, *size, width) if len(size) == 1 else (1, width, *size)


def _size(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape[2:]) if x.ndim > 3 else (x.shape[1],)
