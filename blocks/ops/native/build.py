"""From a C++ file to a loaded library: a private folder, a stamp in the name, a hash beside the file, one builder at a time.

The folder is `native` in `$ZOO_CACHE`, `$XDG_CACHE_HOME/zoo` or `~/.cache/zoo`. A file's name holds a digest of the
sources, the flags and the processor, so a home that two machines share has a file for each. Nothing is loaded that
somebody else could have written, or whose bytes are not those that were built.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from blocks.foreign import foreign

SOURCES = pathlib.Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
SECONDS = 120
"""What a compiler gets for one file; it takes about one."""


class Unavailable(Exception):
    """Why a library cannot be had, as a part of a sentence."""


class Unloadable(Unavailable):
    """The library is the one that was built, and this machine does not load it."""


def built(name: str) -> ctypes.CDLL:
    """The library of `<name>.cpp`, compiled unless it is there. Raises Unavailable.

    One that this machine does not load is not compiled again, unless by another compiler: it would come out the same.
    """
    path = path_of(name)
    if library := _opened(path):
        return library
    compiler = _compiler()
    _make_private(path.parent)
    with _alone(path.parent):
        if library := _opened(path):  # another process may have built it while this one waited
            return library
        try:
            _compile(compiler, SOURCES / f"{name}.cpp", path)
        except OSError as error:
            raise Unavailable(f"{path.parent} cannot be written: {error.strerror}") from error
        return open_checked(path)


def _opened(path: pathlib.Path) -> ctypes.CDLL | None:
    """The library, or None where it is to be compiled. Raises Unloadable where that would be in vain."""
    try:
        return open_checked(path)
    except Unloadable:
        with contextlib.suppress(OSError):
            if path.with_suffix(".compiler").read_bytes() != shlex.join(_compiler()).encode():
                return None
        raise
    except Unavailable:
        return None


def path_of(name: str) -> pathlib.Path:
    """Where the library of `<name>.cpp` for this machine is, or would be."""
    digest = hashlib.sha256()
    for file in [SOURCES / f"{name}.cpp", *sorted(SOURCES.glob("*.h"))]:
        digest.update(file.read_bytes())
    for text in (*_flags(), sys.platform, platform.machine(), processor()):
        digest.update(text.encode() + b"\0")
    return folder() / f"{name}-{digest.hexdigest()[:20]}.so"


def folder() -> pathlib.Path:
    """Where libraries are kept. Raises Unavailable where there is no home that it could be in."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        if chosen := os.environ.get("ZOO_CACHE"):
            return pathlib.Path(chosen).expanduser() / "native"
        return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "zoo" / "native"
    except RuntimeError as error:
        raise Unavailable(f"there is no home folder to keep them in; next: set ZOO_CACHE ({error})") from error


@functools.cache
def processor() -> str:
    """What this processor can do: its flags where the kernel tells them, else its name."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.partition(":")[0].strip().lower() in ("flags", "features"):
                return line.partition(":")[2].strip()
    return platform.processor()


def open_checked(path: pathlib.Path) -> ctypes.CDLL:
    """Loads a library that only its owner can have written and whose bytes are those that were built.

    Raises Unavailable, with the reason, for any other file.
    """
    if sys.platform == "win32":
        raise Unavailable("there are no native kernels for Windows")
    _refuse_foreign(path.parent)
    _refuse_foreign(path)
    try:
        expected = path.with_suffix(".sha256").read_text(errors="replace").strip()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
    if digest != expected:
        raise Unavailable(f"{path} is not the file that was built: its sha256 is {digest[:12]}…, not {expected[:12]}…")
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise Unloadable(f"{path} cannot be loaded: {error}") from error


def _refuse_foreign(path: pathlib.Path) -> None:
    try:
        reason = foreign(path)
    except FileNotFoundError as error:
        raise Unavailable(f"{path} has not been built; next: python -m blocks.ops.native") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
    if reason:
        raise Unavailable(reason)


def _make_private(path: pathlib.Path) -> None:
    """Makes the folder and those above it that are not there, for this user alone whatever the umask says."""
    try:
        for missing in reversed([folder for folder in (path, *path.parents) if not folder.is_dir()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{path} cannot be made: {error.strerror}") from error
    _refuse_foreign(path)


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
    """One builder per folder; the kernel lets go of the lock of a process that dies."""
    import fcntl  # not on Windows

    try:
        file = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _compile(compiler: list[str], source: pathlib.Path, path: pathlib.Path) -> None:
    """Compiles with threads, or without where the compiler has no OpenMP, and moves the result into place.

    Linked without an OpenMP library: torch has brought its own, and the threads of two would fight for the processor.
    What a builder that was killed has left is removed: the lock says that there is no other.
    """
    for leftover in path.parent.glob("tmp*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        compiled, linked = os.path.join(scratch, "kernel.o"), pathlib.Path(scratch, "kernel.so")
        command = [*compiler, *_flags(), "-c", str(source), "-o", compiled]
        if _run([*command, "-fopenmp"]) and (problem := _run(command)):
            raise Unavailable(f"{compiler[0]} could not compile {source.name}: {problem}")
        lazily = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        if problem := _run([*compiler, "-shared", *lazily, compiled, "-o", str(linked)]):
            raise Unavailable(f"{compiler[0]} could not link {source.name}: {problem}")
        linked.chmod(0o700)
        digest = linked.with_suffix(".sha256")
        digest.write_text(hashlib.sha256(linked.read_bytes()).hexdigest() + "\n")
        path.with_suffix(".compiler").write_bytes(shlex.join(compiler).encode())
        digest.replace(path.with_suffix(".sha256"))
        linked.replace(path)


def _compiler() -> list[str]:
    if chosen := os.environ.get("CXX"):
        try:
            words = shlex.split(chosen)
        except ValueError as error:
            raise Unavailable(f"CXX is `{chosen}`, which is no command: {error}") from error
        if not words:
            raise Unavailable("CXX is blank, which is no command")
        return words
    for name in COMPILERS:
        if compiler := shutil.which(name):
            return [compiler]
    raise Unavailable(f"no C++ compiler on the path ({', '.join(COMPILERS)}), and none in CXX")


def _flags() -> list[str]:
    tune = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    return [*FLAGS, tune]


def _run(command: list[str]) -> str:
    """The last words of a command that fails; "" when it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip()[-500:] or f"exit status {done.returncode}"
