"""Faults of names, texts, specs, exported files, plugins and the command line."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.faults.catalogue import fault

SPEC = {
    "schema": "zoo.spec/1",
    "family": {"name": "net"},
    "spec": {
        "input": {"kind": "image", "channels": 1, "size": 32},
        "stem": {"block": "conv_stack", "convs": [{"kernel_size": 4, "stride": 4}]},
        "dims": [16],
        "depths": [1],
        "layer": {"residual": [{"block": "mlp"}]},
        "num_classes": 10,
        "head": "linear_head",
    },
}
ENTRY = {
    "name": "net_nano", "family": "net", "file": "net.toml", "task": "image-classification", "digest": "0" * 64,
    "params": 1, "macs": 1, "input_size": [32, 32],
}  # fmt: skip


def zoo_command(
    *arguments: str, stdout: object = subprocess.PIPE, **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    """The command as it is installed: `-P` keeps the working folder out of it, as its own script does."""
    command = [sys.executable, "-P", "-m", "zoo", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=os.environ | environment)


def installed(name: str, points: bytes, files: dict[str, str] | None = None, metadata: bytes = b"") -> None:
    """A distribution in the folder `site`, as pip would leave it there."""
    info = Path("site", f"{name}-1.0.dist-info")
    info.mkdir(parents=True)
    (info / "METADATA").write_bytes(metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode())
    (info / "entry_points.txt").write_bytes(points)
    for path, text in (files or {}).items():
        Path("site", path).parent.mkdir(parents=True, exist_ok=True)
        Path("site", path).write_text(text)


def beside(tree: str = "site") -> str:
    return os.pathsep.join([os.path.abspath(tree), os.environ["PYTHONPATH"]])


@fault("H2", "high", "zoo export of a hostile family writes no code of the family's")
def export_runs_code():
    import zoo

    name = "x(a='_'':0#'):b='_'')#'\ndef y():\n    0#"
    title = '"""\nopen("RAN", "w")\nif \'\'\''
    try:
        zoo.export(zoo.create({**SPEC, "family": {"name": name, "title": title}}), "net.py")
    except ValueError:
        return None
    subprocess.run([sys.executable, "net.py"], capture_output=True)
    return "the exported file ran the code of the spec" if Path("RAN").exists() else "the family was accepted"


@fault("H3", "high", "child processes run no file of the working folder", seconds=240)
def working_folder():
    Path("data").mkdir()
    Path("torch.py").write_text('open("RAN", "w")\nraise ImportError')
    zoo_command("bench", "gmlp_nano", "--processes", "1", "--seconds", "0.01", ZOO_DATA=os.path.abspath("data"))
    if Path("RAN").exists():
        return "torch.py of the working folder ran in a worker"
    for module in ("zoo.artifacts.pinning", "zoo.authoring.report", "zoo.measure.processes"):
        text = Path(__import__("importlib").util.find_spec(module).origin).read_text()
        if '[sys.executable, "-m"' in text:
            return f"{module} starts Python without -P"
    return None


@fault("H4a", "high", "a spec of 30,000 rows of 4,096 layers is refused before one is built", seconds=30, gigabytes=3)
def layers_bomb():
    from zoo.errors import SpecError
    from zoo.specs.read import family_of
    from zoo.specs.resolve import resolve

    spec = {key: value for key, value in SPEC["spec"].items() if key not in ("layer", "depths")}
    spec["layers"] = [{"block": "mlp", "repeat": 4096}] * 30_000
    try:
        resolve(family_of({**SPEC, "spec": spec}, "bomb"), "")
    except SpecError as error:
        return None if "4,096 layers" in str(error) else str(error)[:200]
    return "it was accepted"


@fault("H4b", "high", "a string without an end is read once", seconds=30)
def endless_string():
    from zoo.errors import SpecError
    from zoo.specs.read import read_bytes

    for data, name in ((b'schema="zoo.spec/1"\na="', "x.toml"), (b'{"a":"', "x.json")):
        with contextlib.suppress(SpecError):
            read_bytes(data + b'\\"' * 400_000 + b"\n", name)
    return None


@fault("H6", "high", "a damaged distribution is named with its cure, and every command works", seconds=120)
def damaged_distributions():
    block = b"[zoo.blocks]\n%s/made@1 = nothing:Made\n"
    installed("latin", block % b"latin", metadata=b"Name: latin\nVersion: 1.0\nSummary: \xff\n")
    installed("points", (block % b"points") + b"\xff\n")
    installed("bare", b"[zoo.blocks]\njusttext\n")
    installed("digits", b"[zoo.api]\nevil = v" + b"9" * 5000 + b"\n" + block % b"digits")
    listed = zoo_command("list", "--names", PYTHONPATH=beside())
    if listed.returncode or b"gmlp_nano" not in listed.stdout:
        return f"zoo list ended with {listed.returncode}: {listed.stderr[-200:]!r}"
    reports = json.loads(zoo_command("plugins", "--no-check", "--json", PYTHONPATH=beside()).stdout)
    causes = {report["name"]: report["cause"] for report in reports if report["state"] == "broken"}
    lost = [
        name
        for name in ("latin", "points", "bare", "digits")
        if f"pip install --force-reinstall {name}" not in causes.get(name, "")
    ]
    return f"not named with their cure: {lost}" if lost else None


@fault("M1", "medium", "pressing Tab runs no command that stands in the data of a plugin")
def completion_expands():
    if subprocess.run([sys.executable, "-c", "import shtab"], capture_output=True).returncode:
        return None
    index = json.dumps([{**ENTRY, "name": "$(touch PWN)"}, ENTRY])
    installed(
        "evil", b"[zoo.models]\nevil = evil_pkg\n", {"evil_pkg/__init__.py": "", "evil_pkg/models/index.json": index}
    )
    Path("bin").mkdir()
    Path("bin/zoo").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m zoo "$@"\n')
    Path("bin/zoo").chmod(0o755)
    script = zoo_command("completion", "bash").stdout.decode()
    ask = (
        script
        + '\nCOMP_WORDS=(zoo info ""); COMP_CWORD=2; $(complete -p zoo | sed "s/.*-F \\([^ ]*\\) .*/\\1/")\n_zoo_models ""'
    )
    path = os.pathsep.join([os.path.abspath("bin"), os.environ["PATH"]])
    subprocess.run(["bash", "-c", ask], env=os.environ | {"PATH": path, "PYTHONPATH": beside()}, capture_output=True)
    return "a name of the index was run as a command" if Path("PWN").exists() else None


@fault("M10", "medium", "no escape sequence reaches the terminal")
def terminal_escapes():
    evil = "a\x1b[31mRED\x1b]0;owned\x07"
    Path("esc.json").write_text(json.dumps({**SPEC, "family": {"name": evil, "title": evil}}))
    index = json.dumps([{**ENTRY, "title": evil}, {**ENTRY, "name": evil}])
    installed("evil", b"[zoo.models]\nevil = evil_pkg\n[zoo.blocks]\nevil/b = evil_mod:B\n", {
        "evil_pkg/__init__.py": "", "evil_pkg/models/index.json": index, "evil_mod.py": f"raise ImportError({evil!r})",
    })  # fmt: skip
    for arguments in (
        ("create", "./esc.json"),
        ("list",),
        ("list", "--names"),
        ("plugins",),
        ("blocks", "evil/b"),
        ("create", evil),
        ("--set", evil),
    ):
        done = zoo_command(*arguments, PYTHONPATH=beside())
        if b"\x1b" in done.stdout + done.stderr or b"\x07" in done.stdout + done.stderr:
            return f"an escape came through `zoo {arguments[0]}`"
        if b"Traceback" in done.stderr:
            return f"`zoo {arguments[0]}` raised {done.stderr[-200:]!r}"
    return None


@fault("M12", "medium", "a key rule looks at a name of any length in bounded time", seconds=30)
def long_names():
    from zoo.weights.key_patterns import compile_patterns

    start = time.process_time()
    compile_patterns(["{a}a{b*}a"], ["{a}a{b*}a"])[0][0].match("a" * 20_000 + "!")
    spent = time.process_time() - start
    return f"it took {spent:.1f} s" if spent > 2 else None


@fault("L5", "low", "--set with huge numbers or endless brackets is refused in a sentence")
def hostile_settings():
    for value in (
        "dims=[" + "9" * 5000 + "]",
        "dims=" + "[" * 3000,
        "dims=" + "[" * 3000 + "]" * 3000,
        "dims={a" + ".a" * 30_000 + "=1}",
    ):
        done = zoo_command("spec", "gmlp_nano", "--set", value)
        if done.returncode != 2 or b"Traceback" in done.stderr:
            return f"--set {value[:20]}…: {done.returncode}, {done.stderr[-200:]!r}"
    return None


@fault("L6", "low", "a name that is too long, a full disk and a closed output are told in a sentence", seconds=120)
def outputs():
    done = zoo_command("export", "gmlp_nano", "a" * 300 + ".py")
    if done.returncode != 2 or b"Traceback" in done.stderr:
        return f"a name of 300 letters: {done.returncode}, {done.stderr[-200:]!r}"
    for arguments in (("list",), ("list", "--names"), ("--help",)):
        with open("/dev/full", "wb") as full:
            done = zoo_command(*arguments, stdout=full)
        if done.returncode != 2 or b"Traceback" in done.stderr or b"No space left" not in done.stderr:
            return f"/dev/full: {done.returncode}, {done.stderr[-200:]!r}"
        command = f"exec {sys.executable} -P -m zoo {' '.join(arguments)} >&-"
        closed = subprocess.run(["bash", "-c", command], capture_output=True)
        if closed.returncode or closed.stderr:
            return f"a closed output: {closed.returncode}, {closed.stderr[-200:]!r}"
    return None


@fault("L11", "low", "a block whose code ends the process is named in a sentence", seconds=120)
def ending_plugins():
    ends = {
        "exits": "import os; os._exit(7)",
        "stops": "raise KeyboardInterrupt",
        "dies": "import ctypes; ctypes.string_at(0)",
    }
    for name, code in ends.items():
        installed(name, f"[zoo.blocks]\n{name}/b = {name}_mod:B\n".encode(), {f"{name}_mod.py": code})
    for name in ends:
        done = zoo_command("blocks", f"{name}/b", PYTHONPATH=beside())
        if done.returncode != 2 or name.encode() not in done.stderr or b"Traceback" in done.stderr:
            return f"{name}: {done.returncode}, {done.stderr[-200:]!r}"
    return None


@fault("L12", "low", "ninety thousand problems are one error of bounded length", seconds=30)
def long_errors():
    from zoo.errors import SpecError
    from zoo.specs.read import family_of

    with contextlib.redirect_stderr(io.StringIO()):
        try:
            family_of({**SPEC, **{f"kee{i}": 1 for i in range(90_000)}}, "many")
        except SpecError as error:
            return f"an error of {len(str(error)):,} letters" if len(str(error)) > 100_000 else None
    return "it was accepted"
