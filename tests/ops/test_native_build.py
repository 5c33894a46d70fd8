"""Building, checking and loading of native kernels, and what happens where that fails."""

from __future__ import annotations

import ctypes
import logging
import os
import pathlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional as F

from blocks.ops import native
from blocks.ops.native import build
from blocks.registry.errors import BlockError

SOURCE = """
#include "simd.h"
EXPORT void functions(const float* x, float* y, int64_t count, int which) {
    for (int64_t i = 0; i < count; i += LANES) {
        Vec v = load(x + i, count - i);
        store(y + i, which == 0 ? exp_of(v) : which == 1 ? softplus(v) : sigmoid(v), count - i);
    }
}
EXPORT void twice(const float* x, float* y, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < count; i += LANES) store(y + i, load(x + i, count - i) * 2.f, count - i);
}
"""
COMPILED = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(not COMPILED, reason="there is no C++ compiler here")


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    """A folder of sources with one kernel, `toy`, an empty cache, and a process that has loaded nothing."""
    sources = tmp_path / "sources"
    sources.mkdir()
    shutil.copy(build.SOURCES / "simd.h", sources)
    (sources / "toy.cpp").write_text(SOURCE)
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setattr(native, "_loaded", {})
    monkeypatch.setattr(native, "_said", set())
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_NATIVE", raising=False)
    return sources / "toy.cpp"


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def no_compiler(monkeypatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")


@needs_compiler
def test_kernel_is_built_on_first_use_and_computes():
    x, y = (ctypes.c_float * 5)(1, 2, 3, 4, 5), (ctypes.c_float * 5)()
    native.library("toy").twice(x, y, ctypes.c_int64(5), 2)
    assert list(y) == [2, 4, 6, 8, 10]


@needs_compiler
def test_second_process_needs_no_compiler(monkeypatch):
    assert build.built("toy")
    no_compiler(monkeypatch)
    assert native.missing("toy") == ""


@needs_compiler
def test_cache_is_private():
    native.library("toy")
    assert os.stat(build.folder()).st_mode & 0o777 == 0o700
    assert os.stat(build.path_of("toy")).st_mode & 0o077 == 0


@needs_compiler
def test_changed_source_is_another_file(toy):
    before = build.path_of("toy")
    toy.write_text(SOURCE + "// changed")
    assert build.path_of("toy") != before


def test_another_processor_is_another_file(monkeypatch):
    before = build.path_of("toy")
    monkeypatch.setattr(build, "processor", lambda: "sse2")
    assert build.path_of("toy") != before


@needs_compiler
def test_changed_bytes_are_not_loaded_but_built_again():
    build.built("toy")
    path = build.path_of("toy")
    whole = path.read_bytes()
    path.unlink()  # it is mapped into this process
    path.write_bytes(whole + b"\0")
    path.chmod(0o700)
    with pytest.raises(build.Unavailable, match="is not the file that was built: its sha256 is"):
        build.open_checked(path)
    assert native.missing("toy") == "" and path.read_bytes() == whole


@needs_compiler
@pytest.mark.parametrize("which", ["file", "folder"])
def test_libraries_that_others_can_write_are_not_loaded(which):
    build.built("toy")
    path = build.path_of("toy")
    (path if which == "file" else path.parent).chmod(0o770)
    with pytest.raises(build.Unavailable, match=r"can be written by others \(mode 770\); next: chmod go-w$"):
        build.open_checked(path)


@needs_compiler
def test_folder_of_another_user_is_not_used(monkeypatch):
    build.built("toy")
    theirs = os.stat_result([0o40755, 0, 0, 0, 12345, *[0] * 5])
    monkeypatch.setattr(os, "lstat", lambda path: theirs)
    assert native.missing("toy") == f"{build.folder()} belongs to another user (uid 12345)"


@needs_compiler
def test_link_is_not_loaded(tmp_path):
    build.built("toy")
    path = build.path_of("toy")
    path.replace(tmp_path / "elsewhere.so")
    path.symlink_to(tmp_path / "elsewhere.so")
    with pytest.raises(build.Unavailable, match="is a link$"):
        build.open_checked(path)


@needs_compiler
def test_file_of_another_architecture_is_not_loaded():
    path = build.path_of("toy")
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_bytes(b"\x7fELF" + bytes(100))
    path.chmod(0o700)
    path.with_suffix(".sha256").write_text(build.hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(build.Unavailable, match="cannot be loaded: "):
        build.open_checked(path)


def test_missing_compiler_is_said_once(monkeypatch, warnings):
    no_compiler(monkeypatch)
    assert native.library("toy") is None and native.library("toy") is None
    reason = "no C++ compiler on the path (c++, g++, clang++), and none in CXX"
    assert native.missing("toy") == reason
    assert warnings() == [f"no native kernels, ops run slower in plain torch: {reason}"]


@needs_compiler
def test_failed_build_names_compiler_and_file(toy, warnings):
    toy.write_text("int broken(")
    assert native.library("toy") is None
    assert warnings()[0].startswith(
        f"no native kernels, ops run slower in plain torch: {COMPILED} could not compile toy.cpp:"
    )


@needs_compiler
def test_compiler_without_openmp_builds_for_one_thread(monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-fopenmp*) exit 1;; esac\nexec {COMPILED} "$@"\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    assert native.missing("toy") == ""


@pytest.mark.parametrize(
    "command, reason",
    [
        ("g++ '", "CXX is `g++ '`, which is no command: No closing quotation"),
        (" ", "CXX is blank, which is no command"),
    ],
)
def test_compiler_that_is_no_command_is_a_reason(monkeypatch, command, reason):
    monkeypatch.setenv("CXX", command)
    assert native.missing("toy") == reason


def test_compiler_whose_words_are_no_text_is_a_reason(monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_bytes(b"#!/bin/sh\nprintf '\\377\\376' >&2\nexit 1\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    assert native.missing("toy").startswith(f"{compiler} could not compile toy.cpp: ")


def test_library_that_cannot_be_loaded_is_compiled_once_by_a_compiler(monkeypatch, tmp_path):
    for name in ("lying", "other"):
        compiler = tmp_path / name
        compiler.write_text(
            f'#!/bin/sh\necho {name} >> {tmp_path}/runs\nwhile [ "$1" != -o ]; do shift; done\necho nonsense > "$2"\n'
        )
        compiler.chmod(0o700)

    def runs() -> list[str]:
        with pytest.raises(build.Unloadable, match="cannot be loaded: "):
            build.built("toy")
        return (tmp_path / "runs").read_text().split()

    monkeypatch.setenv("CXX", str(tmp_path / "lying"))
    assert runs() == runs() == ["lying"] * 2  # it compiles and it links
    monkeypatch.setenv("CXX", str(tmp_path / "other"))
    assert runs() == runs() == ["lying", "lying", "other", "other"]
    if COMPILED:
        monkeypatch.setenv("CXX", COMPILED)
        assert native.missing("toy") == ""


@needs_compiler
def test_leftovers_of_a_killed_build_are_removed_by_the_next():
    build._make_private(build.folder())
    left = build.folder() / "tmpabcdefgh"
    left.mkdir()
    (left / "kernel.o").write_bytes(b"half")
    assert native.missing("toy") == "" and not left.exists()


def test_folders_are_private_whatever_the_umask_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "one" / "two"))
    before = os.umask(0)
    try:
        build._make_private(build.folder())
    finally:
        os.umask(before)
    assert {os.stat(path).st_mode & 0o777 for path in (build.folder(), *build.folder().parents[:2])} == {0o700}


def test_no_home_for_the_cache_is_a_reason(monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", "~nobody_of_this_name/cache")
    assert native.missing("toy").startswith("there is no home folder to keep them in; next: set ZOO_CACHE (")


def test_off_asks_for_nothing_and_says_nothing(monkeypatch, warnings):
    monkeypatch.setenv("ZOO_NATIVE", "off")
    assert native.library("toy") is None and native.missing("toy") == "ZOO_NATIVE=off"
    assert not build.folder().exists() and warnings() == []


def test_prebuilt_never_compiles(monkeypatch):
    monkeypatch.setenv("ZOO_NATIVE", "prebuilt")
    assert native.missing("toy").endswith("has not been built; next: python -m blocks.ops.native")


@needs_compiler
def test_prebuilt_takes_what_was_built(monkeypatch):
    build.built("toy")
    no_compiler(monkeypatch)
    monkeypatch.setenv("ZOO_NATIVE", "prebuilt")
    assert native.library("toy") is not None


def test_unknown_mode_names_the_nearest(monkeypatch):
    monkeypatch.setenv("ZOO_NATIVE", "pre-built")
    with pytest.raises(BlockError) as caught:
        native.library("toy")
    assert (
        caught.value.problems[0].sentence()
        == "expected `build`, `prebuilt` or `off`; found `pre-built`; nearest `prebuilt`"
    )


def test_cache_that_cannot_be_written_is_a_reason(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    assert native.missing("toy") == f"{tmp_path}/file/native cannot be made: File exists"


@needs_compiler
def test_threads_that_ask_at_once_build_once(monkeypatch):
    compiled = []
    compile_one = build._compile
    monkeypatch.setattr(build, "_compile", lambda *names: compiled.append(names) or compile_one(*names))
    with ThreadPoolExecutor(4) as pool:
        libraries = list(pool.map(native.library, ["toy"] * 4))
    assert len(compiled) == 1 and len(set(map(id, libraries))) == 1


@needs_compiler
def test_processes_that_build_at_once_all_load(toy):
    code = (
        "import pathlib, sys; from blocks.ops.native import build;"
        "build.SOURCES = pathlib.Path(sys.argv[1]); build.built('toy'); print('loaded')"
    )
    root = pathlib.Path(__file__).parents[2]
    ask = [sys.executable, "-c", code, str(toy.parent)]
    started = [subprocess.Popen(ask, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in started] == ["loaded"] * 2


@needs_compiler
@pytest.mark.parametrize(
    "which, function", list(enumerate([torch.exp, F.softplus, torch.sigmoid])), ids=["exp", "softplus", "sigmoid"]
)
def test_functions_of_vectors_equal_those_of_torch(which, function):
    x = torch.cat([torch.linspace(-20, 20, 4001), torch.linspace(-1, 1, 2001), torch.tensor([0.0, -1e-30])])
    y = torch.empty_like(x)
    native.library("toy").functions(*(ctypes.c_void_p(t.data_ptr()) for t in (x, y)), ctypes.c_int64(len(x)), which)
    torch.testing.assert_close(y.double(), function(x.double()), rtol=2e-6, atol=0)


@needs_compiler
@pytest.mark.parametrize(
    "which, ends", list(enumerate([(0, None), (0, torch.inf), (0, 1)])), ids=["exp", "softplus", "sigmoid"]
)
def test_functions_of_vectors_at_their_ends(which, ends):
    x = torch.tensor([-torch.inf, torch.inf, -1e30, 1e30, torch.nan])
    y = torch.empty_like(x)
    native.library("toy").functions(*(ctypes.c_void_p(t.data_ptr()) for t in (x, y)), ctypes.c_int64(len(x)), which)
    below, above = ends
    assert y[0] == y[2] == pytest.approx(below, abs=1e-38) and y[4].isnan()
    assert y[1] > 1e38 if above is None else y[1] == above
