"""`python -m tests.faults [--tree DIR] [--only C1,H2] [--json]`: runs every reproduction and counts what still fails."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.catalogue import SEVERITIES, Fault, faults

ROOT = Path(__file__).parents[2]


def outcome(one: Fault, tree: Path = ROOT) -> str | None:
    """None where the product of `tree` behaves rightly, else what it did. The fault runs in a process and a folder of its own."""
    call = "import sys; sys.path.insert(1, sys.argv[1]); from tests.faults.__main__ import child; child(sys.argv[2])"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        work = Path(folder, "work")
        home.mkdir()
        work.mkdir()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ZOO_")}
        environment |= {"PYTHONPATH": str(tree), "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
        command = [sys.executable, "-P", "-c", call, str(ROOT), one.id]
        process = subprocess.Popen(
            command, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, errors = process.communicate(timeout=one.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"it ran past {one.seconds} s"
    if process.returncode < 0:
        return f"the process ended by {signal.Signals(-process.returncode).name}"
    if process.returncode:
        last = errors.decode(errors="replace").strip().splitlines()
        return f"it raised {last[-1][:200]}" if last else f"it ended with {process.returncode}"
    return json.loads(out.decode().splitlines()[-1])


def child(id: str) -> None:
    """Runs one fault within its bounds and prints what it returned, as the last line, in JSON."""
    one = next(one for one in faults() if one.id == id)
    limit = one.gigabytes << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("\n" + json.dumps(one.run()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose `zoo` and `blocks` are tried")
    parser.add_argument("--only", default="", help="ids, separated by commas")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    wanted = [one for one in faults() if not options.only or one.id in options.only.split(",")]
    failures: dict[str, str | None] = {}
    for one in wanted:
        failures[one.id] = outcome(one, options.tree.resolve())
        if not options.json:
            print(
                f"{one.id:5} {one.severity:9} {'right' if failures[one.id] is None else 'WRONG'}  {one.title}",
                flush=True,
            )
            if failures[one.id]:
                print(f"      {failures[one.id]}")
    counts = {
        severity: [sum(failures[one.id] is not None for one in wanted if one.severity == severity),
                   sum(one.severity == severity for one in wanted)]
        for severity in SEVERITIES
    }  # fmt: skip
    if options.json:
        print(json.dumps({"failures": failures, "counts": counts}, indent=1))
    else:
        print(", ".join(f"{severity}: {wrong} of {all} wrong" for severity, (wrong, all) in counts.items()))
    return int(any(failures.values()))


if __name__ == "__main__":
    sys.exit(main())
