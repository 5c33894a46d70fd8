"""The command line: `zoo COMMAND`. Human tables by default, `--json` for machines; exit code 2 for a user's error."""

from __future__ import annotations

import argparse
import importlib
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from blocks.registry.words import LONGEST_NAME, printable
from zoo.display.console import OutputError, broken_off, complain, dump, guarded
from zoo.errors import ProblemsError, listed, nearest

if TYPE_CHECKING:
    from zoo.specs.arguments import Settings


class Parser(argparse.ArgumentParser):
    """argparse with did-you-mean on commands and choices."""

    def error(self, message: str) -> NoReturn:
        what, found, rest = message.partition(": invalid choice: '")
        if found:
            message = self._said(what.removeprefix("argument "), rest.partition("'")[0]) or message
        complain(f"zoo: {message}")
        raise SystemExit(2)

    def _said(self, what: str, word: str) -> str:
        """`what` as argparse names it: an option, or the metavar of a position or of commands."""
        named = [one for one in self._actions if what in ("/".join(one.option_strings), one.metavar, one.dest)]
        if not named:
            return ""
        action = named[0]
        known = [str(choice) for choice in action.choices or ()]
        near = f"; nearest `{close}`" if (close := nearest(word, known)) else ""
        if isinstance(action, argparse._SubParsersAction):
            return f"no command `{word}`{near}; `{self.prog} --help` lists them all"
        return f"{what}: expected one of {listed(known)}; found `{word}`{near}"


def quantity(text: str) -> float:
    """25M, 4.1G or 4.1e9: a number with a prefix, in powers of ten; in powers of two with an i behind it, 512Mi or 512MiB."""
    found = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(?:([kKMGT])(i?)B?)?", text[:LONGEST_NAME].strip())
    try:
        number = float(found[1]) if found else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or found is None:
        raise argparse.ArgumentTypeError(f"expected a number like 25M, 4.1G, 1e9 or 512MiB; found `{text}`")
    steps = "kMGT".index(found[2].replace("K", "k")) + 1 if found[2] else 0
    return number * (1024 if found[3] else 1000) ** steps


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes whole numbers within bounds."""
    words = f"a whole number from {least}" + (f" to {most}" if most is not None else "")

    def read(text: str) -> int:
        if re.fullmatch(r"-?[0-9]{1,18}", text) and least <= int(text) <= (int(text) if most is None else most):
            return int(text)
        raise argparse.ArgumentTypeError(f"expected {words}; found `{printable(text)}`")

    return read


def positive(text: str) -> float:
    """A number above 0, as minutes and milliseconds are."""
    try:
        number = float(text[:LONGEST_NAME])
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0; found `{printable(text)}`")
    return number


def parser() -> Parser:
    """The whole grammar of the command line."""
    top = Parser(prog="zoo", description="A model zoo on one registry of efficient blocks.")
    top.add_argument(
        "--with",
        dest="files",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file that defines blocks; loaded first",
    )
    top.add_argument("--version", action="store_true", help="print the version and stop")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    listing = _command(commands, "list", "catalogue:list_models", "the models, with parameters and MACs")
    listing.add_argument("pattern", nargs="?", default="", help="a glob: '*former_s*'")
    listing.add_argument("--family", default="", help="only this family")
    listing.add_argument("--task", default="", help="only this task")
    listing.add_argument("--block", default="", help="only models that use this block")
    listing.add_argument(
        "--pretrained", action="store_true", help="only models with weights at hand: shipped or pinned"
    )
    listing.add_argument("--listed", action="store_true", help="only models with weights that `zoo pin` fetches")
    listing.add_argument("--names", action="store_true", help="names only, one a line")

    info = _command(commands, "info", "catalogue:info", "all that is known of one model")
    info.add_argument("name", help="a model, or what `zoo.save` wrote")
    info.add_argument("--tree", action="store_true", help="one line for each layer: shape, parameters, MACs")

    listed_blocks = _command(commands, "blocks", "catalogue:blocks", "the registered blocks, or one block's parameters")
    listed_blocks.add_argument("name", nargs="?", default="", help="a block to describe, or a glob")
    listed_blocks.add_argument("--kind", default=None)
    listed_blocks.add_argument("--ability", default=None)

    spec = _command(commands, "spec", "specs:show", "a model's spec")
    spec.add_argument("name")
    spec.add_argument("--filled", action="store_true", help="with every default written in")
    spec.add_argument("--why", metavar="PATH", default="", help="where the value at PATH of the filled spec came from")
    _changes(spec)

    check = _command(commands, "check", "specs:check", "check a spec file, or the blocks of a Python file")
    check.add_argument("path", help="net.toml, net.json or my_block.py")

    create = _command(commands, "create", "models:create", "build a model and report what it is")
    create.add_argument("name")
    create.add_argument(
        "--pretrained", action="store_true", help="with its best weights at hand, instead of initial ones"
    )
    create.add_argument(
        "--form",
        default="train",
        choices=["train", "deploy"],
        help="as trained, or folded for inference (default train)",
    )
    create.add_argument("--out", default="", help="save the model: a .safetensors file, or a folder")
    _changes(create)

    export = _command(commands, "export", "models:export", "write a model as a file that stands alone")
    export.add_argument("name")
    export.add_argument("path", help="the file to write")
    export.add_argument("--to", default="python", choices=["python"], help="one readable file that needs torch alone")
    export.add_argument(
        "--form",
        default="train",
        choices=["train", "deploy"],
        help="as trained, or folded for inference (default train)",
    )
    export.add_argument("--force", action="store_true", help="write over a file that is there")
    _changes(export)

    predict = _command(commands, "predict", "models:predict", "classify image files (`zoo find` predicts latencies)")
    predict.add_argument("name", help="a model with weights, or what `zoo.save` wrote")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG and whatever else Pillow reads")
    predict.add_argument(
        "--top", type=whole(1), default=3, help="classes to show for each image, at least 1 (default 3)"
    )

    generate = _command(commands, "generate", "language:generate", "continue a text with a language model")
    generate.add_argument("name")
    generate.add_argument("--prompt", required=True, metavar="TEXT")
    generate.add_argument("--tokens", type=int, default=200, help="most tokens to add (default 200)")
    generate.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest (default 0)")
    generate.add_argument("--top-k", type=int, default=None, help="draw among so many likeliest tokens")
    generate.add_argument("--stop", default="", metavar="TEXT", help="end behind this text")
    generate.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")

    profile = _command(commands, "profile", "profiling:profile", "MACs, parameters and bytes of a model, exactly")
    profile.add_argument("name")
    profile.add_argument(
        "--form",
        default="train",
        choices=["train", "deploy"],
        help="as trained, or folded for inference (default train)",
    )
    profile.add_argument("--by", default="", choices=["block", "stage", "op"], help="rows below the totals")
    profile.add_argument("--batch", type=whole(1), default=1, help="inputs at one time, at least 1 (default 1)")
    profile.add_argument(
        "--check", action="store_true", help="count in three ways, with fvcore on real tensors, and compare"
    )
    _changes(profile)

    bench = _command(commands, "bench", "measuring:bench", "measure latency on this machine, in fresh processes")
    bench.add_argument("names", nargs="*", metavar="NAME", help="models; globs are fine: 'starnet_*'")
    bench.add_argument("--all", action="store_true", help="every model of the catalogue")
    bench.add_argument("--resume", action="store_true", help="go on where an earlier run was broken off")
    bench.add_argument("--threads", default="1", metavar="N,N", help="numbers of threads (default 1)")
    bench.add_argument("--batch", default="1", metavar="N,N", help="batch sizes (default 1)")
    bench.add_argument("--form", default="train", metavar="FORM,FORM", help="train, deploy or both (default train)")
    bench.add_argument(
        "--dtype", default="float32", metavar="DTYPE,DTYPE", help="float32, bfloat16, float16 (default float32)"
    )
    bench.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to run (default cpu)")
    bench.add_argument("--compile", action="store_true", help="run what torch.compile makes of the model")
    bench.add_argument(
        "--processes",
        type=whole(1),
        default=5,
        help="fresh processes for each row; with fewer than 5 none is clean (default 5)",
    )
    bench.add_argument(
        "--seconds", type=positive, default=0.3, help="of samples, for each row and process (default 0.3)"
    )
    bench.add_argument("--no-retry", action="store_true", help="do not measure rows once more that are not clean")
    bench.add_argument("--export", default="", metavar="FILE", help="write this device's newest rows as JSON lines")
    bench.add_argument("--import", default="", dest="take", metavar="FILE", help="take in rows from JSON lines")

    calibrate = _command(
        commands,
        "calibrate",
        "choosing:calibrate",
        "measure the models that tell most, to predict the latencies of all here",
    )
    calibrate.add_argument("--minutes", type=positive, default=3.0, help="about; a second call goes on (default 3)")
    calibrate.add_argument("--threads", type=whole(1), default=1, help="of one model, at least 1 (default 1)")
    calibrate.add_argument("--batch", type=whole(1), default=1, help="inputs at one time, at least 1 (default 1)")
    calibrate.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="of weights and activations (default float32)",
    )

    find = _command(commands, "find", "choosing:find", "the best models for a device and a budget")
    find.add_argument("--device", default="this", help="this machine, or the id of one that rows name (default this)")
    find.add_argument("--max-latency-ms", type=positive, default=None, metavar="MS", help="what one batch may take")
    find.add_argument(
        "--quantile",
        default="p50",
        choices=["p50", "p90"],
        help="of the latency: half, or nine in ten, are below it (default p50)",
    )
    find.add_argument("--min-throughput", type=positive, default=None, metavar="N", help="inputs per second")
    find.add_argument("--max-macs", type=quantity, default=None, metavar="N", help="500M, 4.1G, 1e9")
    find.add_argument("--max-params", type=quantity, default=None, metavar="N", help="25M")
    find.add_argument("--max-memory", type=quantity, default=None, metavar="BYTES", help="512MiB, 2G")
    find.add_argument(
        "--metric", default="imagenet-1k/top1", metavar="DATA/METRIC", help="what ranks (default imagenet-1k/top1)"
    )
    find.add_argument("--min-metric", type=float, default=None, metavar="VALUE", help="the worst that will do: 80")
    find.add_argument("--licence", default="", metavar="NAME", help="permissive, noncommercial, unknown, or MIT")
    find.add_argument("--commercial", action="store_true", help="permissive licences only")
    find.add_argument("--family", default="", help="only this family")
    find.add_argument(
        "--task", default="image-classification", help="or language-modeling (default image-classification)"
    )
    find.add_argument(
        "--sort",
        default="metric",
        choices=["metric", "latency", "macs", "params", "memory", "name"],
        help="the order (default metric)",
    )
    find.add_argument("--pareto", action="store_true", help="only those that no faster model equals")
    find.add_argument(
        "--form",
        default="deploy",
        choices=["train", "deploy"],
        help="as trained, or folded for inference (default deploy)",
    )
    find.add_argument("--threads", type=whole(1), default=1, help="of one model, at least 1 (default 1)")
    find.add_argument("--batch", type=whole(1), default=1, help="inputs at one time, at least 1 (default 1)")
    find.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (default float32)")
    find.add_argument("--explain", action="store_true", help="also what is left out, and why")
    find.add_argument("--limit", type=whole(0), default=20, help="rows to show (default 20; 0 for all)")
    find.add_argument("--plot", default="", metavar="FILE.png", help="draw accuracy against latency")
    find.add_argument("--html", default="", metavar="FILE.html", help="the same as a page")

    push = _command(commands, "push", "hub:push", "upload a model to a repository of the Hub")
    push.add_argument("name", help="a model, a tag means its weights: starnet_nano.digits")
    push.add_argument("repo", metavar="ORG/REPO", help="a repository of the Hub, or a folder: ./mymodel")
    push.add_argument(
        "--weights", default="", metavar="FILE", help="a .safetensors file of the model, instead of its own weights"
    )
    push.add_argument("--private", action="store_true")
    push.add_argument("--licence", default="", help="of the weights, where they are yours")

    pull = _command(commands, "pull", "hub:pull", "fetch a repository of the Hub, verified, into a folder")
    pull.add_argument("reference", metavar="hub:ORG/REPO[@REVISION]")
    pull.add_argument("folder")

    pin = _command(commands, "pin", "supply:pin", "fetch listed weights, prove them against the spec, keep them")
    pin.add_argument("name", nargs="?", default="", metavar="NAME.TAG")
    pin.add_argument("--revision", default="", help="a branch, tag or commit of the Hub (default: as listed, or main)")
    pin.add_argument("--all", action="store_true", help="every listed name, one after the other")
    pin.add_argument("--report", default="", metavar="FILE", help="write what became of each as JSON")

    lock = _command(commands, "lock", "supply:lock", "write zoo.lock: the spec and the bytes of each name")
    lock.add_argument(
        "names", nargs="*", metavar="NAME", help="MODEL, MODEL.TAG or hub:ORG/REPO (default: all at hand)"
    )
    lock.add_argument("--out", default="zoo.lock", metavar="FILE")

    mirror = _command(commands, "mirror", "supply:mirror", "copy all that a lock names into a folder, for ZOO_MIRROR")
    mirror.add_argument("folder")
    mirror.add_argument("--lock", default="zoo.lock", metavar="FILE")

    cache = _command(commands, "cache", "supply:cache", "the weights files on this machine: list, verify, prune")
    cache.add_argument(
        "action", choices=["list", "verify", "prune"], help="verify sets damaged files aside; prune deletes leftovers"
    )
    cache.add_argument("--dry-run", action="store_true", help="say what prune would delete")

    audit = _command(
        commands,
        "audit",
        "supply:audit",
        "who vouches for each file that weights are loaded from; exit code 1 on a stranger",
    )
    audit.add_argument("--sbom", default="", metavar="FORMAT", help="print a bill of materials: cyclonedx")

    card = _command(commands, "card", "choosing:card", "the page of a model's family, from the data that ships")
    card.add_argument("name", nargs="?", default="", help="a model or a family")
    card.add_argument(
        "--all", default="", metavar="DIR", help="write the pages of all families, an index and an overview"
    )

    pick = _command(
        commands, "pick", "choosing:pick", "measure the finalists for a budget, and write a folder with the best"
    )
    pick.add_argument("--latency-ms", type=positive, required=True, help="what one image may take")
    pick.add_argument(
        "--quantile",
        default="p50",
        choices=["p50", "p90"],
        help="half of all passes, or nine in ten, meet it (default p50)",
    )
    pick.add_argument(
        "--metric", default="imagenet-1k/top1", metavar="DATA/METRIC", help="what ranks (default imagenet-1k/top1)"
    )
    pick.add_argument(
        "--form",
        default="deploy",
        choices=["train", "deploy"],
        help="as trained, or folded for inference (default deploy)",
    )
    pick.add_argument("--threads", type=whole(1), default=1, help="of one model, at least 1 (default 1)")
    pick.add_argument("--minutes", type=positive, default=10.0, help="for measuring finalists, about (default 10)")
    pick.add_argument("--commercial", action="store_true", help="permissive licences only")
    pick.add_argument("--end-to-end", action="store_true", help="the budget includes decoding and resizing")
    pick.add_argument(
        "--images",
        default="",
        metavar="DIR",
        help="images of your own: for --end-to-end, and in folders called like classes to try the finalists on",
    )
    pick.add_argument(
        "--out", default="", metavar="DIR", help="write the model, pre-processing, labels, run.py and a report"
    )

    compare = _command(
        commands, "compare", "choosing:compare", "time models against each other on this machine, in turns"
    )
    compare.add_argument("names", nargs="+", metavar="NAME", help="two models at least; the first is the measure")
    compare.add_argument(
        "--form",
        default="deploy",
        choices=["train", "deploy"],
        help="as trained, or folded for inference (default deploy)",
    )
    compare.add_argument("--threads", type=whole(1), default=1, help="of one model, at least 1 (default 1)")
    compare.add_argument("--batch", type=whole(1), default=1, help="inputs at one time, at least 1 (default 1)")
    compare.add_argument("--rounds", type=whole(5), default=21, help="passes of each model, at least 5 (default 21)")

    train = commands.add_parser("train", help="train a model on data at hand").add_subparsers(
        dest="data", metavar="DATA", required=True
    )
    digits = _command(train, "digits", "training:digits", "train on scikit-learn's handwritten digits")
    digits.add_argument("name")
    digits.add_argument("--epochs", type=int, default=None)
    digits.add_argument("--seed", type=int, default=None)
    digits.add_argument("--out", default="", help="write the weights to this .safetensors file")
    digits.add_argument("--publish", action="store_true", help="make them the weights `digits` of the model's package")

    text = _command(train, "text", "training:text", "train on the docstrings of Python's library, byte by byte")
    text.add_argument("name")
    text.add_argument("--steps", type=int, default=None)
    text.add_argument("--seed", type=int, default=None)
    text.add_argument("--out", default="", help="write the weights to this .safetensors file")
    text.add_argument("--publish", action="store_true", help="make them the weights `pydoc` of the model's package")

    tasks = _command(train, "tasks", "training:tasks", "train sequence mixers on generated tasks: recall, copying, ...")
    tasks.add_argument(
        "mixers", nargs="*", metavar="MIXER", help="token mixers, or Python files that define one (default: all)"
    )
    tasks.add_argument("--tasks", default="", metavar="TASK,TASK", help="the tasks (default: all)")
    tasks.add_argument("--seeds", type=int, default=1)
    tasks.add_argument("--publish", action="store_true", help="fill the table of the package, from where it stands")

    listed_plugins = _command(commands, "plugins", "plugging:plugins", "the installed plugins, and whether they work")
    listed_plugins.add_argument(
        "--no-check", action="store_true", help="what they declare only; their code is not tried"
    )
    listed_plugins.add_argument("--timeout", type=float, default=60.0, help="seconds for each plugin (default 60)")

    made = _command(commands, "new-plugin", "plugging:new_plugin", "begin a package of your own blocks and models")
    made.add_argument("namespace", help="your namespace, as `acme` in acme/my_mixer")
    made.add_argument(
        "--from", dest="source", default="", metavar="FILE.py", help="a file with blocks, instead of the template's"
    )
    made.add_argument("--out", default="", metavar="DIR", help="the folder to make (default NAMESPACE-blocks)")

    renamed = _command(
        commands, "rename", "plugging:rename", "give a block another name; weights and records go with it"
    )
    renamed.add_argument("old", help="local/my_mixer")
    renamed.add_argument("new", help="acme/my_mixer@1")
    renamed.add_argument("folder", help="a folder with zoo.json, or the `models` of a plugin")

    index = _command(commands, "index", "plugging:index", "write the catalogue data of a plugin you are working on")
    index.add_argument("namespace")
    index.add_argument("--check", action="store_true", help="only say whether it is up to date")

    study = _command(
        commands, "study", "studying:study", "does a new block learn better than others, at the same cost?"
    )
    study.add_argument("block", help="a registered block, or a Python file that defines one")
    study.add_argument(
        "--hosts",
        default="convformer_nano,vim_nano,gla_nano",
        metavar="NAME,NAME",
        help="nets to stand in (default convformer_nano,vim_nano,gla_nano)",
    )
    study.add_argument(
        "--against",
        default="attention,mamba2,identity",
        metavar="BLOCK,BLOCK",
        help="its rivals (default attention,mamba2,identity)",
    )
    study.add_argument(
        "--match", default="macs", choices=["macs", "params"], help="what rivals cost the same in (default macs)"
    )
    study.add_argument("--seeds", type=whole(2), default=5, help="runs of each block, at least 2 (default 5)")
    study.add_argument(
        "--minutes", type=positive, default=60.0, help="for everything together, on the clock (default 60)"
    )
    study.add_argument("--out", default="", metavar="DIR", help="write study.json and study.html")

    _command(commands, "demo", "demo:demo", "run every embedded model on real held-out images, offline")
    schema = _command(commands, "schema", "specs:schema", "JSON Schema 2020-12 of specs")
    schema.add_argument("--plugins", action="store_true", help="with the blocks of installed plugins")
    completion = _command(
        commands, "completion", "completing:completion", "a script that completes commands, options and models"
    )
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    _command(commands, "doctor", "doctor:doctor", "what this installation has, and what is broken")
    return top


def _command(commands: Any, name: str, handler: str, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    made.add_argument("--json", action="store_true", help="print JSON")
    made.set_defaults(handler=handler)
    return made


def _changes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change the spec: dims=[32,64], '**.<mlp>.ratio=2'",
    )
    command.add_argument(
        "--swap",
        action="append",
        default=[],
        metavar="ROLE=BLOCK",
        help="another block for a role: token_mixer=pooling",
    )
    command.add_argument("--at", default="", help="where to swap: stages.2-3")


def settings(pairs: Sequence[str], option: str) -> Settings:
    """`k=v` pairs as a mapping; values are TOML values, and bare words strings. Raises SpecError for a value beyond all bounds."""
    from zoo.specs.arguments import Settings
    from zoo.specs.read import read_setting

    out = Settings()
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            complain(f"zoo: {option} {printable(pair)}: expected PATH=VALUE")
            raise SystemExit(2)
        out[key] = read_setting(text, f"{option} {key}")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    with guarded():
        try:
            try:
                return _run(arguments)
            finally:
                sys.stdout.flush()  # what cannot be written is told here, and not by Python when all is over
        except BrokenPipeError:
            broken_off()  # the reader of a pipe went away; that is no error
            return 0
        except OutputError as error:
            broken_off()
            complain(f"zoo: the output cannot be written: {error}")
            return 2
        except KeyboardInterrupt:
            complain("zoo: interrupted")
            return 130


def _run(arguments: Sequence[str] | None) -> int:
    parsed = parser().parse_args(arguments)
    if parsed.version:
        import zoo

        print(f"blockzoo {zoo.__version__}")
        return 0
    if not parsed.command:
        parser().print_help()
        return 0
    try:
        if parsed.files:
            from zoo.catalog.local_files import load_file

            for path in parsed.files:
                load_file(path)
        module, _, function = parsed.handler.partition(":")
        code: int = getattr(importlib.import_module(f"zoo.cli.commands.{module}"), function)(parsed)
        return code
    except ProblemsError as error:
        if getattr(parsed, "json", False):
            problems = [problem._asdict() for problem in error.problems]
            dump({"error": type(error).__name__, "subject": error.subject, "problems": problems})
        else:
            complain(f"{type(error).__name__}: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
