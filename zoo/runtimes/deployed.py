"""A deployed model: a callable with the model's own signature, around a session of some runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from blocks.registry.words import raised
from zoo.build.language import Prediction
from zoo.errors import InputError, Problem, listed, nearest
from zoo.runtimes.about import About
from zoo.runtimes.continuing import generate
from zoo.runtimes.net import first_state, flattened, nested
from zoo.runtimes.protocol import Runtime, Session
from zoo.runtimes.signature import Input, Leaf, Signature, refuse_disagreement, refuse_shape, shown
from zoo.weights.manifest import Preprocess

if TYPE_CHECKING:
    import os


class Deployed:
    """y = f(x): images (B, C, H, W) -> logits, a list of maps, or outputs by name; tokens (B, L) -> `.logits`, and `.state` where one was given.

    A model of several inputs takes them as the model does, f(x, t, y) or f(x, t=t, y=y); a mask may be left out, and then all is real.

    Without gradients, on the CPU, by any number of threads at once. Tensors of other shapes than `signature` lists are refused with those
    that work. `close()` gives memory and files back; so does forgetting the model.
    """

    def __init__(
        self,
        session: Session,
        runtime: Runtime,
        precision: str,
        threads: int,
        about: About,
        folder: Path,
        report: Any = None,
    ):
        self.precision, self.threads, self.about, self.folder = precision, threads, about, folder
        self._runtime, self._report = runtime, report
        self._session: Session | None = session
        self._known: tuple[Any, ...] = ()
        self.signature: Signature = session.signature
        self.version = runtime.version()

    @property
    def runtime(self) -> str:
        """The name of the runtime that it runs in."""
        return self._runtime.name

    @property
    def preprocess(self) -> Preprocess | None:
        """What `zoo.transform` reads of a model of images."""
        return self.about.preprocess

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits; () where nobody knows them."""
        return self.about.labels

    @property
    def session(self) -> Session:
        """Flat tensors in, flat tensors out, unchecked: what is timed. Raises InputError where it was closed."""
        if self._session is None:
            raise InputError(self.about.name, Problem("", "a deployed model that is open", "one that was closed"))
        return self._session

    def report(self) -> Any:
        """What was tried, and why this was chosen; of a model deployed in a runtime that was named, that one row."""
        return self._report

    def tell(self, report: Any) -> None:
        """What `report` gives from now on."""
        self._report = report

    def __call__(self, x: Tensor, *others: Any, state: Mapping[str, Any] | None = None, **named: Any) -> Any:
        signature = self.signature
        if others or named or state is not None or not self._is_known(x):
            outputs = self._run((*self._inputs(x, others, named), *self._leaves(x, state)))
        else:
            outputs = self._run((x,))
        if signature.kind == "tensor":
            return outputs[0]
        if signature.kind == "maps":
            return list(outputs)
        if signature.kind == "named":
            return dict(zip(signature.outputs, outputs, strict=True))
        after = nested(signature.state, outputs[1:]) if state is not None else None
        return Prediction(outputs[0], after)

    def _is_known(self, x: Any) -> bool:
        """Whether x is like the last tensor that went in alone: a second look would take a small net some hundredths of its time."""
        return type(x) is Tensor and (x.shape, x.dtype, x.device, x.layout) == self._known

    def _inputs(self, x: Any, others: tuple[Any, ...], named: Mapping[str, Any]) -> list[Tensor]:
        """All inputs in their order, checked alone and together. Raises InputError."""
        name, declared = self.about.name, self.signature.inputs
        if named.get("mask") is not None and self.signature.kind == "language":
            step = "give sequences of one length, or the model itself, which takes a mask"
            raise InputError(name, Problem("mask", "none", "a mask", next=step))
        names = [one.name for one in declared]
        given = dict(zip(names, (x, *others), strict=False))
        strange = [word for word, value in named.items() if word not in names and value is not None]
        twice = [word for word in named if word in given]
        given |= named
        missing = [one.name for one in declared if given.get(one.name) is None and one.dtype != "bool"]
        if missing or strange or twice or len(others) >= len(names):
            found = f"no {listed(missing)}" if missing else listed(strange or twice) if strange or twice else "more"
            near = nearest(strange[0], names) if strange else ""
            raise InputError(name, Problem("inputs", f"deployed({', '.join(names)})", found, near))
        hint = "" if self.preprocess is None else PICTURES
        first = _checked(declared[0], x, name, hint)
        tensors = [first]
        for one in declared[1:]:
            value = given.get(one.name)
            tensors.append(_hides_nothing(one, declared[0], first) if value is None else _checked(one, value, name))
        if len(tensors) > 1:
            refuse_disagreement(declared, [tensor.shape for tensor in tensors], name)
        elif not self.signature.state and not declared[0].high and x.dtype == first.dtype:
            self._known = (x.shape, x.dtype, x.device, x.layout)
        return tensors

    @overload
    def generate(self, ids: str, max_new_tokens: int = 64, **choice: Any) -> str: ...
    @overload
    def generate(self, ids: list[str], max_new_tokens: int = 64, **choice: Any) -> list[str]: ...
    @overload
    def generate(self, ids: Tensor, max_new_tokens: int = 64, **choice: Any) -> Tensor: ...

    def generate(self, ids: Any, max_new_tokens: int = 64, **choice: Any) -> Any:
        """Continues the prompts `ids` (B, L), or texts, of a language model; `choice` as in `zoo.LanguageModel.generate`. Raises InputError."""
        return generate(self, ids, max_new_tokens, **choice)

    def _run(self, arrays: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Raises InputError for whatever the runtime says."""
        session = self.session
        try:
            return session(*arrays)
        except InputError:
            raise
        except Exception as error:  # runtimes raise what they like
            found = ", ".join(shown(tuple(x.shape)) for x in arrays[: len(self.signature.inputs)])
            works = self.signature.shown_example
            problem = Problem("x", f"a shape that {self.runtime} computes, as {works}", f"{found}: {raised(error)}")
            raise InputError(self.about.name, problem) from error

    def _leaves(self, x: Tensor, state: Mapping[str, Any] | None) -> tuple[Tensor, ...]:
        """The leaves that go in: of a state that was given, or of a sequence that begins."""
        leaves = self.signature.state
        if self.signature.kind != "language" and state is not None:
            raise InputError(self.about.name, Problem("state", "a language model", "a model of images"))
        if not leaves:
            if state is not None:
                step = 'deploy it with runtime="torch"'
                raise InputError(
                    self.about.name, Problem("state", "a deployed model that keeps one", "none", next=step)
                )
            return ()
        batch = int(x.shape[0])
        if not state:
            return first_state(leaves, batch)
        lacking = [leaf.name for leaf in leaves if len(state.get(leaf.path, ())) <= leaf.index]
        if lacking:
            found = f"one without {listed(lacking, 3)}"
            raise InputError(self.about.name, Problem("state", "the state of a prediction before", found))
        given = flattened(leaves, state)
        for leaf, tensor in zip(leaves, given, strict=True):
            _check_leaf(leaf, tensor, batch, self.about.name)
        return given

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes all that another process or machine needs, beside a `run.py` that needs the runtime and numpy alone.

        A folder that holds files already is refused. `zoo.load_deployed(folder)` opens it. Raises InputError."""
        from zoo.runtimes.saving import save

        return save(self, self._runtime, self.session, Path(folder))

    def close(self) -> None:
        """Gives memory and files back. A second close does nothing."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Deployed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        shapes = ", ".join(f"{one.name} {one.words}" for one in self.signature.inputs)
        return (
            f"<{self.about.name} in {self.runtime} {self.version}, {self.precision}, {self.threads} threads: {shapes}>"
        )


PICTURES = "`zoo.transform(deployed)` makes them of pictures"


def _hides_nothing(one: Input, first: Input, x: Tensor) -> Tensor:
    """A mask of which all is real, with the free sizes of the first input."""
    sizes = {first.axis(index): size for index, size in enumerate(x.shape) if first.shape[index] is None}
    shape = (
        sizes.get(one.axis(index), one.example[index]) if free is None else free for index, free in enumerate(one.shape)
    )
    return torch.ones(tuple(shape), dtype=torch.bool)


def _checked(one: Input, x: Any, subject: str, hint: str = "") -> Tensor:
    """A tensor that goes in, without its gradient. Raises InputError with what is wrong and what would be right."""
    if not isinstance(x, Tensor):
        step = f"torch.as_tensor({one.name})" if type(x).__module__ == "numpy" else hint
        raise InputError(subject, Problem(one.name, f"a tensor {one.words}", f"a {type(x).__name__}", next=step))
    for problem in _differences(one, x):
        raise InputError(subject, problem)
    refuse_shape(one, tuple(x.shape), subject)
    if one.high and x.numel() and (int(x.min()) < one.low or int(x.max()) >= one.high):
        expected = f"numbers in [{one.low:g}, {one.high:g})"
        raise InputError(subject, Problem(one.name, expected, f"some in [{int(x.min())}, {int(x.max())}]"))
    return x.detach().to(getattr(torch, one.dtype))  # small integers are tokens, too


def _differences(one: Input, x: Tensor) -> Iterator[Problem]:
    dtype = str(x.dtype).removeprefix("torch.")
    if x.layout != torch.strided or x.is_quantized:
        yield Problem(one.name, "a dense tensor", str(x.layout))
    if x.device.type != "cpu":
        yield Problem(one.name, "a tensor on the CPU", f"one on {x.device}", next=f"{one.name}.cpu()")
    if dtype != one.dtype and not (one.dtype == "int64" and dtype in ("int32", "int16", "uint8", "int8")):
        yield Problem(one.name, f"dtype {one.dtype}", dtype, next=f"{one.name}.to(torch.{one.dtype})")


def _check_leaf(leaf: Leaf, tensor: Any, batch: int, subject: str) -> None:
    wanted = (batch, *leaf.shape[1:])
    fits = isinstance(tensor, Tensor) and len(tensor.shape) == len(wanted)
    if not fits or not all(free is None or size == free for size, free in zip(tensor.shape, wanted, strict=True)):
        found = shown(tuple(tensor.shape)) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InputError(subject, Problem(leaf.name, f"a tensor {shown(wanted)}", found))
