"""`zoo generate`: a text continued by a language model."""

from __future__ import annotations

import codecs
import sys
from argparse import Namespace
from typing import Any

from zoo.cli.options import command
from zoo.display.console import dump


def add(commands: Any) -> None:
    parser = command(commands, "generate", generate)
    parser.add_argument("name")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument("--tokens", type=int, default=200, help="most tokens to add (default 200)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest (default 0)")
    parser.add_argument("--top-k", type=int, default=None, help="draw among so many likeliest tokens")
    parser.add_argument("--stop", default="", metavar="TEXT", help="end behind this text")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")


def generate(arguments: Namespace) -> int:
    """Prints the prompt and what follows it, as it comes. The model reads bytes; others need a tokenizer, which is not ours."""
    import torch

    from zoo import factory
    from zoo.artifacts.client import is_hub
    from zoo.catalog.saved import saved_path
    from zoo.catalog.sources import spec as find_spec
    from zoo.data import pydoc as text
    from zoo.training.pydoc import check_bytes, check_bytes_of

    if not is_hub(arguments.name) and saved_path(arguments.name) is None:
        check_bytes_of(find_spec(arguments.name))  # before a word of weights
    model: Any = factory.create(arguments.name, pretrained=True)
    check_bytes(model)
    torch.manual_seed(arguments.seed)
    columns = model.stream(
        text.encode(arguments.prompt), arguments.tokens, temperature=arguments.temperature, top_k=arguments.top_k
    )
    read, answer, new = codecs.getincrementaldecoder("utf-8")(errors="replace"), "", 0
    show = (lambda part: None) if arguments.json else _show
    show(arguments.prompt)
    for column in columns:
        new += 1
        part = read.decode(bytes([int(column[0])]))
        answer += part
        show(part)
        if arguments.stop and answer.endswith(arguments.stop):
            break
    if arguments.json:
        dump({"model": arguments.name, "prompt": arguments.prompt, "text": answer, "tokens": new})
    else:
        print()
    return 0


def _show(part: str) -> None:
    sys.stdout.write(part)
    sys.stdout.flush()
