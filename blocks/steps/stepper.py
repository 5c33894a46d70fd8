"""The step of a net: its list of calls, written at the first token and again where its weights are others, and run for each token.

Prompts have a list of their own, in which modules that mix tokens are called as they are: short ones, and those of any length where weights
are narrow. Others are left to torch's products.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from blocks.chain import run
from blocks.context import Context
from blocks.narrowing import Narrow
from blocks.ops.dispatch import is_observed
from blocks.ops.narrow_linear import FEW
from blocks.steps.kept import Moment
from blocks.steps.rules import Keeper, Writer
from blocks.steps.tape import Called, Listed, Program, missing, runner


class Plan(NamedTuple):
    """`read` are the tensors that it was made of, each with the dictionary and the name under which its module has it."""

    program: Program | None
    keepers: list[Keeper]
    read: list[tuple[dict[str, Any], str, Any]]
    run: Any


class Stepper:
    """Scores for what follows one token of each of B samples, by the calls of C++ that stem, layers and head come to.

    The stem and modules without a rule are called as they are. A deep copy, and what was pickled, writes its own list.
    """

    def __init__(self, stem: nn.Module, layers: Sequence[nn.Module], head: nn.Module):
        self.stem, self.layers, self.head = stem, list(layers), head
        self._made: dict[bool, tuple[int, Plan]] = {}
        self._narrow: bool | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_made": {}}

    def __call__(self, ids: Tensor, state: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]] | None:
        """ids (B, 1), the state behind the tokens before -> (scores (B, 1, vocabulary), the state behind these).

        None where the ordinary way is to be taken: at the beginning of a sequence, after padding, for many samples, where something
        looks on, and where there is no compiler."""
        if not state or not _are_ids(ids) or ids.shape[1] != 1 or len(ids) > FEW:
            return None
        ctx = Context(state=dict(state))
        begun = self._begun(ids, ctx, single=True)
        if begun is None:
            return None
        x, plan, program = begun
        moment, numbers = Moment(len(ids)), array("q")
        for keeper in plan.keepers:
            before = state.get(keeper.path)
            taken = None if before is None else keeper.take(before, moment)
            if taken is None:
                return None
            numbers.extend(taken.numbers)
            ctx.state[keeper.path] = taken.state  # type: ignore[index]  # which was given above
        y = _through(program, plan.run, x, numbers, ctx)
        return None if y is None else (y, ctx.state)  # type: ignore[return-value]

    def features(self, ids: Tensor, ctx: Context) -> Tensor | None:
        """ids (B, L) -> what the head reads (B, L, C), by the list of calls of prompts; ctx as of any pass.

        None where the ordinary way is to be taken, likewise, and for many tokens of a net whose weights are not narrow."""
        if not _are_ids(ids) or (ids.numel() > FEW and not self._is_narrow()):
            return None
        inner = replace(ctx, state=None if ctx.state is None else dict(ctx.state))
        begun = self._begun(ids, inner, single=False)
        if begun is None:
            return None
        x, plan, program = begun
        y = _through(program, plan.run, x, array("q"), inner)
        if y is not None:
            ctx.state = inner.state
        return y

    def _begun(self, ids: Tensor, ctx: Context, single: bool) -> tuple[Tensor, Plan, Program] | None:
        """What the stem makes of ids, and the list that goes on from there."""
        if self.head.training or is_observed():
            return None
        x = run(self.stem, ids, ctx)
        if x.dtype is not torch.float32 or x.ndim != 3:
            return None
        plan = self._plan(x.shape[2], single)
        return None if plan is None or plan.program is None else (x, plan, plan.program)

    def _is_narrow(self) -> bool:
        if self._narrow is None:
            parts = (self.stem, *self.layers, self.head)
            self._narrow = any(isinstance(module, Narrow) for part in parts for module in part.modules())
        return self._narrow

    def _plan(self, width: int, single: bool) -> Plan | None:
        if single in self._made:
            known, plan = self._made[single]
            if known == width and all(held.get(name) is tensor for held, name, tensor in plan.read):
                return plan
        if missing():
            return None
        plan = self._written(width, single)
        self._made[single] = width, plan
        return plan

    @torch.no_grad()
    def _written(self, width: int, single: bool) -> Plan:
        """Without a program where nothing would be run in C++, or weights are not in float32 or want gradients."""
        modules = [module for part in (self.stem, *self.layers, self.head) for module in part.modules()]
        read = [
            (held, name, tensor)
            for module in modules
            for held in (module._parameters, module._buffers)
            for name, tensor in held.items()
        ]
        plain = all(
            not parameter.requires_grad and parameter.is_cpu and parameter.dtype is torch.float32
            for module in modules
            for parameter in module.parameters(recurse=False)
        )
        if not plain:
            return Plan(None, [], read, None)
        with torch.inference_mode(False):
            writer = Writer(single)
            first = y = writer.tape.new(width)
            for part in (*self.layers, self.head) if single else self.layers:
                y = writer.write(part, y)
            program = writer.tape.program(first, y.whole())
        is_gain = any(isinstance(entry, Listed) for entry in program.entries)
        return Plan(program if is_gain else None, writer.keepers, read, runner() if is_gain else None)


def _are_ids(ids: Any) -> bool:
    """Whether these are tokens (B, L) on the CPU, and some."""
    return type(ids) is Tensor and ids.is_cpu and ids.ndim == 2 and ids.numel() > 0


def _through(program: Program, run_step: Any, x: Tensor, kept: array[int], ctx: Context) -> Tensor | None:
    """x (B, L, C) through the calls; None where a module gives something else than numbers (B, L, its `out_dim`)."""
    rows, threads = x.shape[0] * x.shape[1], torch.get_num_threads()
    room = x.new_empty(program.numbers * rows)

    def numbers(place: tuple[int, int]) -> Tensor:
        at, width = place
        return room[at * rows : (at + width) * rows].view(*x.shape[:2], width)

    numbers((0, x.shape[2])).copy_(x)
    for entry in program.entries:
        if isinstance(entry, Called):
            y = run(entry.module, numbers(entry.read).clone(), ctx)
            to = numbers(entry.written)
            if y.shape != to.shape or y.dtype is not to.dtype:
                return None
            to.copy_(y)
        else:
            run_step(entry.address, entry.length, room.data_ptr(), kept.buffer_info()[0], rows, threads)
    return numbers(program.result)
