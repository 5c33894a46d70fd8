"""Hostile specs, indexes, metadata, key rules and settings, made by a grammar: not damaged good ones, but ill-meant ones of the right form."""

from __future__ import annotations

import json
import random
from typing import Any

from blocks.registry import list_blocks

TEXTS = [
    "", " ", "net", "net_a", "Net", "class", "lambda", "x" * 101, "a" * 5000, "é", "ﬁ", "\x1b[31m", "\u202egnp", "\n", "a\nb", "\0", '"""', "'''", "\\", "'",
    "$(touch x)", "`x`", "<script>", "../..", "/etc/passwd", "hub:a/b", "@", "@a", "@b.c", "**", "<mlp>", "0", "00", "-1", "1e9", "none", "x', f(), '", "{", "}",
    "self", "forward", "training", "__class__", "None", "a.b.c", "stages.0", "%s", "{0}", "🦊" * 50, "\u2028", "\x9b1m", "a" * 99 + "$",
]  # fmt: skip
NUMBERS = [
    0,
    1,
    2,
    -1,
    3,
    7,
    8,
    16,
    64,
    4096,
    4097,
    2**31,
    2**53,
    2**63 - 1,
    0.0,
    -0.5,
    0.1,
    1.5,
    1e-300,
    1e308,
    True,
    False,
]
SOUND = ["mlp", "layer_norm", "batch_norm", "pooling", "gelu", "identity", "depthwise_conv", "attention", "none", "@a"]
"""Blocks that fit nearly everywhere, so that some specs are let in."""
SEGMENTS = [
    "a",
    "aa",
    "a.a",
    "0",
    "weight",
    "layers",
    "x_y",
    "{a}",
    "{a*}",
    "{i+1}",
    "{i-1}",
    "{w:a|b}",
    "{w:a=b|c=d}",
    "{",
    "}",
    "{}",
    "*",
    "**",
    ".",
    "",
]


def _text(rng: random.Random) -> str:
    return rng.choice(TEXTS) if rng.random() < 0.8 else "".join(rng.choice(TEXTS) for _ in range(rng.randint(2, 5)))


def _scalar(rng: random.Random) -> Any:
    return rng.choice(NUMBERS) if rng.random() < 0.5 else _text(rng)


def _call(rng: random.Random, depth: int = 0) -> Any:
    """A block as a name, a table, a wiring, a chain, a part or an indexed value; its parameters are anything."""
    form = rng.choice((0, 0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 7)) if depth < 3 else 0
    if form == 0:
        return (
            rng.choice(SOUND) if rng.random() < 0.9 else rng.choice(list_blocks()) if rng.random() < 0.7 else _text(rng)
        )
    if form == 1:
        return [_call(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 3, 40)))]
    if form == 2:
        return {rng.choice(("residual", "parallel", "within", "gated", _text(rng))): _call(rng, depth + 1)}
    if form == 3:
        return {rng.choice(("per_stage", "cycle")): [_call(rng, depth + 1) for _ in range(rng.randint(0, 3))]}
    if form == 4:
        counts = (0, 1, 2, "rest", -1, 10**9, True, {"per_stage": [1, 2]})
        return {"runs": [[_call(rng, depth + 1), rng.choice(counts)] for _ in range(rng.randint(0, 3))]}
    if form == 5:
        return {"use": rng.choice(("@a", "@b", "@c", _text(rng))), _text(rng): _scalar(rng)}
    keys = (
        "name",
        "reads",
        "writes",
        "out_dim",
        "repeat",
        "dim",
        "kernel_size",
        "ratio",
        "act",
        "norm",
        "causal",
        "num_heads",
        _text(rng),
    )
    table = {
        rng.choice(keys): rng.choice((_scalar(rng), _call(rng, depth + 1))) for _ in range(rng.choice((0, 0, 0, 1, 2)))
    }
    return {"block": rng.choice(SOUND) if rng.random() < 0.9 else _scalar(rng), **table}


def spec(rng: random.Random) -> bytes:
    """A family with variants, as JSON."""
    stages = rng.choice((1, 1, 1, 2, 3, 64, 65, 0))
    ill = rng.randrange(13)  # one place, or none, is ill-meant outright
    size = rng.choice(({"size": _scalar(rng)}, {"kind": "tokens", "vocab_size": 9}, _scalar(rng)))
    body: dict[str, Any] = {
        "input": size if ill == 0 else {"kind": "image", "size": 32},
        "stem": _call(rng) if ill == 1 else {"block": "conv_stack", "convs": [{"kernel_size": 4, "stride": 4}]},
        "dims": [_scalar(rng) for _ in range(stages)] if ill == 2 else [16] * stages,
        "depths": [rng.choice(NUMBERS) for _ in range(stages)] if ill == 3 else [1] * stages,
        _text(rng) if ill == 4 else "layer": _call(rng),
        "head": _call(rng) if ill == 5 else "linear_head",
    }
    if '"@a"' in json.dumps(body):
        body["define"] = {"a": _call(rng)} | ({_text(rng): _call(rng)} if ill == 6 else {})
    if ill == 7:
        body["width"] = {"scale": _scalar(rng), rng.choice(("round_to", "stem", _text(rng))): _scalar(rng)}
    if ill == 8:
        body["stages"] = {
            str(rng.choice((0, 1, "x", "01"))): {
                rng.choice(("layer", "layers", "post", "view", _text(rng))): _call(rng)
            }
        }
    words = ("name", "title", "paper", "licence", "code", "about", "task", "levels", _text(rng))
    family = {rng.choice(words): _text(rng) for _ in range(2 if ill == 9 else 0)}
    paths = ("dims.0", "**.<mlp>.ratio", "stages.*.<token_mixer>", "layer.0", "**", "define.a", "<norm>", _text(rng))
    patch = {rng.choice(paths): rng.choice((_scalar(rng), _call(rng))) for _ in range(rng.randint(0, 3))}
    variants = {_text(rng): patch} if ill == 10 else {"v": patch} if ill == 11 else {}
    whole = {"schema": "zoo.spec/1", "family": family, "spec": body, "variants": variants}
    return json.dumps(whole).encode("utf-8", "surrogatepass")


def index(rng: random.Random) -> bytes:
    """The index of a plugin's models, as JSON."""
    rows = []
    for _ in range(rng.choice((0, 1, 1, 2, 20))):
        row: dict[str, Any] = {
            "name": "net_nano", "family": "net", "file": "net.toml", "task": "image-classification", "digest": "0" * 64, "params": 1,
            "macs": 1, "input_size": [32, 32], "title": "A net", "blocks": ["core/mlp@1"], "tags": ["digits"],
        }  # fmt: skip
        for _ in range(rng.randint(0, 2)):
            row[rng.choice(list(row))] = rng.choice(
                (_scalar(rng), [_scalar(rng)], {_text(rng): 1}, [[]], None, 10**400)
            )
        rows.append(row)
    return json.dumps(rows).encode("utf-8", "surrogatepass")


def metadata(rng: random.Random) -> bytes:
    """METADATA and entry_points.txt, with a line of dashes between."""
    head = [
        f"{rng.choice(('Name', 'Version', 'Name', 'X', _text(rng)))}{rng.choice((': ', ':', ' '))}{_text(rng)}"
        for _ in range(rng.randint(0, 4))
    ]
    if rng.random() < 0.6:
        head = ["Name: acme-blocks", "Version: 1.0", *head]
    groups = ("zoo.blocks", "zoo.models", "zoo.factories", "zoo.api", "console_scripts", _text(rng))
    names = ("acme/x@1", "acme/x", "core/mlp", "acme", "local", "acme/x@" + "9" * 5000, _text(rng))
    values = ("acme.x:X", "acme", "v1", "v" + "9" * 5000, "v²", "os/../..", "a:b:c", "a[b]", _text(rng))
    lines = []
    for _ in range(rng.choice((0, 1, 3, 200))):
        line = f"{rng.choice(names)}{rng.choice((' = ', '=', ' ', '=='))}{rng.choice(values)}"
        lines.append(f"[{rng.choice(groups)}]" if rng.random() < 0.3 else line)
    data = ("\n".join(head) + "\n\n----\n" + "\n".join(lines)).encode("utf-8", "surrogatepass")
    return data if rng.random() < 0.9 else data.replace(b"e", b"\xff", 1)


def rules(rng: random.Random) -> bytes:
    """A key rule, and names to hold against it."""

    def pattern() -> str:
        return rng.choice(("", ".")).join(rng.choice(SEGMENTS) for _ in range(rng.randint(1, 9)))

    form = rng.randrange(6)
    rule: Any = [
        [pattern(), pattern()], {"from": pattern(), "to": pattern(), "shape": rng.choice(("o i -> i o", "o", pattern()))},
        {"ignore": pattern()}, {"tie": pattern(), "with": pattern()},
        {"from": pattern(), "split": {"dim": rng.choice(NUMBERS), "to": [pattern(), pattern()]}},
        {"from": pattern(), "to": pattern(), "stack": {"dim": rng.choice(NUMBERS), "index": rng.choice(("i", "a", _text(rng)))}},
    ][form]  # fmt: skip
    if form == 0 and rng.random() < 0.4:
        rule = [rule[0], rule[0]]
    names = [
        rng.choice("a.0_x") * rng.choice((1, 10, 999, 1001, 20_000)) + rng.choice(("", "!", ".weight"))
        for _ in range(3)
    ]
    return json.dumps([rule, [*names, ".".join(rng.choice(SEGMENTS) for _ in range(9))]]).encode()


def settings(rng: random.Random) -> bytes:
    """What stands behind `--set`, one a line's worth."""
    paths = (
        "dims.0",
        "depths.0",
        "**.<mlp>.ratio",
        "head",
        "stages.*.<token_mixer>",
        "num_classes",
        "a" + ".a" * rng.choice((1, 60, 5000)),
        _text(rng),
    )
    values = (
        "1", "2", '"pooling"', "mlp", "true", _text(rng), json.dumps(_call(rng)), "[" * rng.choice((1, 49, 3000)), "9" * rng.choice((1, 20, 5000)), 
        "[" + "9" * 5000 + "]",
        '"' + '\\"' * 3000,
        "{a" + ".a" * rng.choice((1, 60, 5000)) + "=1}", "1\nother=2", "1979-05-27", "inf", "nan", "0x" + "f" * 5000, "1_000", "'''", "#", str(rng.choice(NUMBERS)),
    )  # fmt: skip
    return json.dumps(f"{rng.choice(paths)}{rng.choice(('=', '=', '==', ''))}{rng.choice(values)}").encode()
