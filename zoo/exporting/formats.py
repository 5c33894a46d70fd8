"""What a format is to the zoo, and how a file of it comes to its place: recorded aside, run, compared, and only then put there."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from zoo.errors import InputError, Problem
from zoo.exporting.ports import Ports, ports_of
from zoo.exporting.proof import Proof, Run, prove
from zoo.exporting.quiet import quiet, refused
from zoo.system.folders import replacing


class Format(NamedTuple):
    """One kind of file. `record(net, ports, path)` writes it, beside it whatever belongs to it; `opened(path, ports)` runs it."""

    name: str
    title: str
    """As sentences call it: `ONNX`."""
    suffix: str
    """With which its files end, where its runtime insists; "" where any name will do."""
    packages: dict[str, str]
    """{package that it takes to write and run it: the command that installs it}."""
    record: Callable[[nn.Module, Ports, Path], None]
    opened: Callable[[Path, Ports], Run]


class Written(NamedTuple):
    """A file that was written, and how it was proved where it was."""

    path: Path
    proof: Proof | None
    free: tuple[str, ...] = ()
    """Which sizes of the first input are free: `batch`, `height`, `width`."""

    @property
    def error(self) -> float | None:
        """The largest difference from the net in float64, relative to the largest output; None where nobody looked."""
        return None if self.proof is None else self.proof.error


def write(
    made: Format,
    net: nn.Module,
    signature: Ports | Tensor | Sequence[Tensor],
    path: str | os.PathLike[str],
    dynamic: Collection[str] = (),
    force: bool = False,
    check: bool = True,
) -> Written:
    """A net in eval mode as a file of a format; the net is not changed.

    Raises InputError for a path where something is, unless `force`, or that ends in another suffix than the format has; for a package
    that is not installed; for an operator that the format has not, with its name; and with `check` for outputs that differ."""
    subject, target = subject_of(net), Path(path)
    refuse_path(target, made, force)
    refuse_missing(made)
    ports = ports_of(net, signature, dynamic)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
            draft = Path(folder) / target.name
            with refused(subject, made.title), quiet():
                made.record(net, ports, draft)
                run = made.opened(draft, ports) if check else None
            proof = prove(run, net, ports, subject) if run is not None else None
            run = None  # which may hold the file
            for part in sorted(Path(folder).iterdir(), key=lambda part: part.name == target.name):  # itself last
                with replacing(target.with_name(part.name)) as place:
                    os.replace(part, place)
    except OSError as refusal:
        raise InputError(str(target), Problem("", "a place to write to", refusal.strerror or str(refusal))) from None
    return Written(target, proof, tuple(ports.inputs[0].free.values()))


def subject_of(net: nn.Module) -> str:
    """The model's name, or the class of a net that has none."""
    return str(getattr(getattr(net, "spec", None), "name", "") or type(net).__name__)


def refuse_path(target: Path, made: Format, force: bool) -> None:
    """Raises InputError for a path where something is already, whose folder is not there, or whose end is not the format's."""
    if made.suffix and target.suffix != made.suffix:
        step = f"`{target.with_suffix(made.suffix).name}`"
        raise InputError(
            str(target), Problem("", f"a name that ends in `{made.suffix}`", f"`{target.name}`", next=step)
        )
    if os.path.exists(target) and not force:  # and not target.exists(), which raises for a name that is too long
        raise InputError(str(target), Problem("", "a new file", "one that exists", next="pass force=True, or --force"))
    if not os.path.isdir(target.parent):
        raise InputError(str(target), Problem("", "a folder to write into", f"no folder `{target.parent}`"))


def refuse_missing(made: Format) -> None:
    """Raises InputError for the first package of a format that is not installed, with the command that installs it."""
    for package, command in made.packages.items():
        if importlib.util.find_spec(package) is None:
            problem = Problem(f"to {made.name}", f"the package `{package}`", "none installed", next=f"`{command}`")
            raise InputError("export", problem)
