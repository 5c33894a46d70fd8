"""A manifest is read strictly: every problem at once, each with its place."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest

from zoo.errors import WeightsError
from zoo.weights.manifest import (
    Manifest,
    Preprocess,
    Probe,
    counted_metric,
    manifest_from,
    manifest_json,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from zoo.weights.stats import wilson_interval

GOOD = Manifest(
    model="gmlp_nano",
    tag="digits",
    digest="0" * 64,
    source="embedded:weights/gmlp_nano.safetensors",
    state="embedded",
    size_bytes=1000,
    sha256="a" * 64,
    licence="Apache-2.0",
    licence_class="permissive",
    origin="trained on the digits of scikit-learn",
    preprocess=Preprocess(size=32, channels=1, mean=(0.5,), std=(0.5,)),
    metrics={
        "digits/top1@32": counted_metric(350, 360, command="zoo train digits gmlp_nano", seed=0, date="2026-01-31")
    },
    probe=Probe(seed=0, shape=(1, 1, 32, 32), logits=(0.5, -1.0), norm=2.0),
)


def errors(**changes) -> list[str]:
    data = json.loads(manifest_json(GOOD))
    for key, value in changes.items():
        if value is None:
            del data[key]
        else:
            data[key] = data[key] | value if isinstance(value, dict) else value
    with pytest.raises(WeightsError) as caught:
        parse_manifest(json.dumps(data), "m.json")
    return [f"{problem.where}: {problem.sentence()}" for problem in caught.value.problems]


def test_writing_and_reading_gives_the_same_manifest(tmp_path):
    path = tmp_path / "gmlp_nano.digits.json"
    write_manifest(GOOD, path)
    assert read_manifest(path) == GOOD
    assert json.loads(path.read_text())["schema"] == "zoo.weights/1"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_name_is_model_dot_tag():
    assert GOOD.name == "gmlp_nano.digits"


def test_all_problems_are_named_at_once():
    assert errors(licence=None, stat="pinned", size_bytes="12", preprocess={"size": "x", "maen": [1]}) == [
        "stat: an unknown key; nearest `state`",
        "licence: expected a value; found none",
        'size_bytes: expected int | null; found "12", a string',
        "preprocess.maen: an unknown key; nearest `mean`",
        'preprocess.size: expected int | array; found "x", a string',
    ]


PREPARED = {"size": 8, "channels": 1, "mean": [0.5], "std": [0.5]}

CASES = [
    (dict(stat="x"), ["stat: an unknown key; nearest `state`"]),
    (dict(licence=None), ["licence: expected a value; found none"]),
    (dict(preprocess=PREPARED | {"size": 0}), ["preprocess.size: expected a number >= 1, or two of them; found 0"]),
    (dict(preprocess=PREPARED | {"size": [8]}), ["preprocess.size: expected a number >= 1, or two of them; found [8]"]),
    (dict(preprocess={"maen": 1}), ["preprocess.maen: an unknown key; nearest `mean`"]),
    (dict(sha256="b" * 63), [f'sha256: expected 64 hexadecimal digits; found "{"b" * 63}"']),
    (dict(sha256="B" * 64), [f'sha256: expected 64 hexadecimal digits; found "{"B" * 64}"']),
    (dict(sha256=None), ["sha256: expected 64 hexadecimal digits, because the state is `embedded`; found none"]),
    (dict(size_bytes=None), ["size_bytes: expected the size of the file, because the state is `embedded`; found none"]),
    (dict(sha256_prefix="b" * 8), ['sha256_prefix: expected the beginning of `sha256`; found "bbbbbbbb"']),
    (
        dict(sha256="b" * 8 + "a" * 56, sha256_prefix="a" * 8),
        ['sha256_prefix: expected the beginning of `sha256`; found "aaaaaaaa"'],
    ),
    (dict(state="pinned"), ["state: expected `embedded` for an embedded source, and only for one; found `pinned`"]),
    (
        dict(source="embedded:../x.safetensors"),
        [
            "source: expected a relative path to a file beside the manifest; "
            'found "embedded:../x.safetensors", with `..` in it'
        ],
    ),
    (
        dict(source="embedded:/etc/x.safetensors"),
        [
            "source: expected a relative path to a file beside the manifest; "
            'found "embedded:/etc/x.safetensors", with an absolute path'
        ],
    ),
    (dict(source="embedded:x.pth"), ['source: expected a .safetensors file; found "embedded:x.pth"']),
    (
        dict(source="ftp://x", state="pinned"),
        ['source: expected `embedded:FILE`, `hub:org/repo/file`, `https://...` or `file:PATH`; found "ftp://x"'],
    ),
    (
        dict(source="hub:org/repo/x.safetensors", state="pinned", revision="main"),
        ['revision: expected a commit of 40 hexadecimal digits, because the state is `pinned`; found "main"'],
    ),
    (
        dict(source="hub:org/repo/x.safetensors", state="listed"),
        [
            "sha256: expected none, because the bytes of a `listed` file were never seen; found a hash; "
            "next: put a hash that others published into `sha256_prefix`"
        ],
    ),
    (dict(preprocess={"std": [0.0]}), ["preprocess.std: expected numbers > 0; found [0.0]"]),
    (dict(preprocess={"mean": [0.1, 0.2]}), ["preprocess.mean: expected 1 numbers, one per channel; found 2"]),
    (dict(preprocess={"crop": 1.5}), ["preprocess.crop: expected a share in (0, 1]; found 1.5"]),
    (dict(probe={"rtol": 1.0}), ["probe.rtol: expected a tolerance in [0, 0.1]; found 1.0"]),
    (dict(created="yesterday"), ['created: expected a date like 2026-01-31; found "yesterday"']),
    (
        dict(metrics={"top1": {"value": 0.5, "source": "x"}}),
        ['metrics.top1: expected a name like `digits/top1@32`: data set, figure, input size; found "top1"'],
    ),
    (
        dict(metrics={"digits/top1@32": {"value": 0.9, "n": 10, "correct": 8, "source": "x"}}),
        ["metrics.digits/top1@32.value: expected correct / n = 0.800000; found 0.9"],
    ),
    (
        dict(metrics={"digits/top1@32": {"value": 0.8, "n": 10, "correct": 8, "ci95": [0.7, 0.9], "source": "x"}}),
        ["metrics.digits/top1@32.ci95: expected the Wilson interval [0.4902, 0.9433]; found [0.7, 0.9]"],
    ),
    (dict(metrics={"a/b@1": {"value": 0.8}}), ["metrics.a/b@1: expected a source or a command; found none"]),
]


@pytest.mark.parametrize(("changes", "messages"), CASES, ids=[", ".join(case[0]) for case in CASES])
def test_a_broken_manifest_is_refused_with_its_reason(changes, messages):
    assert errors(**changes) == messages


@pytest.mark.parametrize(
    "path",
    ["", "a//b", "./a", "a/../b", "C:/a", "a\\b", "con.safetensors", "a/NUL", "a. /b", "a\n", "/a", "a/.", "a\x00b"],
)
def test_an_embedded_path_stays_inside_on_every_system(path):
    messages = errors(source=f"embedded:{path}")
    assert len(messages) == 1 and messages[0].startswith(
        "source: expected a relative path to a file beside the manifest"
    )


def test_text_that_is_not_json_is_refused():
    with pytest.raises(WeightsError, match="expected JSON; found text that is not JSON"):
        parse_manifest("{", "m.json")


def test_nan_is_refused():
    with pytest.raises(WeightsError, match="NaN is no JSON"):
        parse_manifest('{"model": NaN}', "m.json")


def test_plain_data_is_a_manifest_as_its_text_is():
    assert manifest_from(json.loads(manifest_json(GOOD)), "m.json") == GOOD


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (manifest_json(GOOD), "expected an object; found "),
        (None, "expected an object; found null, no value"),
        ({"model": float("nan")}, "expected JSON; found text that is not JSON"),
        ({"model": "\ud800"}, "expected JSON; found text that is not JSON"),
    ],
    ids=["text", "nothing", "nan", "surrogate"],
)
def test_plain_data_that_is_no_manifest_is_refused(data, message):
    with pytest.raises(WeightsError) as caught:
        manifest_from(data, "m.json")
    assert str(caught.value).startswith(f"m.json: 1 error\n    {message}")


def test_a_key_twice_is_refused():
    text = manifest_json(GOOD).replace('"tag": "digits"', '"tag": "digits", "tag": "other"')
    with pytest.raises(WeightsError) as caught:
        parse_manifest(text, "m.json")
    assert str(caught.value) == "m.json: 1 error\n  tag\n    expected each key once; found the key twice"


def test_a_manifest_that_breaks_a_rule_is_not_written(tmp_path):
    with pytest.raises(WeightsError, match="because the state is `embedded`"):
        write_manifest(msgspec.structs.replace(GOOD, sha256=""), tmp_path / "m.json")
    assert not list(tmp_path.iterdir())


def test_reading_manifests_does_not_import_torch():
    modules = "zoo.weights, zoo.weights.manifest, zoo.weights.header, zoo.weights.verify"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_wilson_interval_is_that_of_the_literature():
    low, high = wilson_interval(81, 263)  # Newcombe, 1998, table I: 0.2553 to 0.3662
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson_interval(0, 20)[0] == 0.0 and wilson_interval(20, 20)[1] == 1.0


def test_the_wilson_interval_refuses_impossible_counts():
    with pytest.raises(ValueError, match="expected 0 <= correct <= n and n >= 1; found correct = 3, n = 2"):
        wilson_interval(3, 2)
