"""`zoo generate`: a text continued by a language model."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from blocks.registry.words import printable_lines
from zoo.cli.options import command
from zoo.display.console import dump


def add(commands: Any) -> None:
    parser = command(commands, "generate", generate)
    parser.add_argument("name")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument(
        "--tokenizer",
        default=None,
        metavar="FILE",
        help="tokenizer.json, or its folder or repository, of a model that reads no bytes",
    )
    parser.add_argument("--tokens", type=int, default=200, help="most tokens to add (default 200)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest (default 0)")
    parser.add_argument("--top-k", type=int, default=None, help="draw among so many likeliest tokens")
    parser.add_argument("--stop", default="", metavar="TEXT", help="end behind this text")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")


def generate(arguments: Namespace) -> int:
    """Prints the prompt and what follows it, as it comes. A model of bytes reads text as it is; another through its `tokenizer.json`."""
    import torch

    from zoo import factory

    _check_tokenizer(arguments.name, arguments.tokenizer)  # before a word of weights
    model: Any = factory.create(arguments.name, pretrained=True)
    torch.manual_seed(arguments.seed)
    parts: Any = model.stream(
        arguments.prompt, arguments.tokens, temperature=arguments.temperature, top_k=arguments.top_k,
        stop=arguments.stop or None, tokenizer=arguments.tokenizer,
    )  # fmt: skip
    answer, new = "", 0
    show = (lambda part: None) if arguments.json else _show
    show(arguments.prompt)
    for part in parts:
        new += 1
        answer += part
        show(part)
    if arguments.json:
        dump({"model": arguments.name, "prompt": arguments.prompt, "text": answer, "tokens": new})
    else:
        print()
    return 0


def _check_tokenizer(name: str, given: str | None) -> None:
    """Raises InputError for a model that reads no tokens, and where nothing is at hand that makes tokens of text."""
    from zoo.artifacts.client import is_hub
    from zoo.catalog.sources import find_source
    from zoo.data.tokens import home_of, tokenizer_of

    if is_hub(name):  # its spec is fetched with its weights
        return
    source = find_source(name)
    spec: Any = source.spec
    home = home_of(name, next(iter(source.manifests), None))
    tokenizer_of(spec.name, getattr(spec.input, "vocab_size", None), given, home)


def _show(part: str) -> None:
    """A model writes what it likes, and a terminal obeys control characters."""
    sys.stdout.write(printable_lines(part))
    sys.stdout.flush()
