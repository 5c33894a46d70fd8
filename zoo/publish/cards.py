"""Model cards: one generated page per family, and an index, in Markdown, as the Hub reads them. `zoo card --all` writes them.

Everything on a page comes from data that ships: specs, profiles, published figures, manifests, measured rows. Imports no torch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blocks.registry.words import printable, printable_lines, short_name
from zoo import catalog
from zoo.answering.names import ANSWERS, DETECTION
from zoo.catalog.manifests import published as published_weights
from zoo.catalog.published import published_spec, spec_file
from zoo.display.console import count, markdown_table
from zoo.display.markup import fenced, flow, markdown, yaml
from zoo.errors import InputError, Problem
from zoo.measure.latency import Latency
from zoo.measure.profiles import costs
from zoo.measure.published import METRIC, published
from zoo.measure.store import newest, shipped_rows
from zoo.measure.work_hash import is_stale
from zoo.publish.mixer_card import mixer_card
from zoo.selection.figures import Figure, figure_of
from zoo.specs.drawing import mermaid
from zoo.specs.inputs import ImageInput, VideoInput
from zoo.specs.tree import plain
from zoo.system.folders import write_text
from zoo.weights.licences import licence_class
from zoo.weights.manifest import Manifest, Metric, read_manifest

HUB_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit"}
"""Licences that the Hub has a word for; it calls all others `other`."""


HUB_TASKS = {
    "multilabel-classification": "image-classification",
    "language-modeling": "text-generation", "semantic-segmentation": "image-segmentation", "salient-object-detection": "image-segmentation",
    "super-resolution": "image-to-image", "image-restoration": "image-to-image", "pose-estimation": "keypoint-detection",
    "line-detection": "object-detection", "audio-enhancement": "audio-to-audio", "image-generation": "unconditional-image-generation",
    "masked-language-modeling": "fill-mask", "speech-recognition": "automatic-speech-recognition", "sequence-classification": "text-classification",
    "molecule-energy": "graph-ml",
}  # fmt: skip
"""Tasks that the Hub calls otherwise."""


def card(family: str) -> str:
    """The page of a family, Markdown with the front matter that the Hub reads. Raises KeyError for an unknown family."""
    names = [name for name, entry in catalog.entries().items() if entry.family == family]
    entry = catalog.entry(names[0])
    parts = [
        _front_matter(family, names),
        f"# {family}\n\n{markdown(entry.title)}. Paper: {markdown(entry.paper) or 'none'}. Code of the authors: {markdown(entry.code) or 'none'}. "
        f"Licence of the code: {markdown(entry.licence) or 'unknown'}.",
        _licence_note(entry.licence),
        "## Models\n\n" + _models(names) + "\n\n" + (TEXT_FORMS if _reads_text(entry) else FORMS),
        _published_note(names),
        "## Latency\n\n" + _latency(names),
        "## Weights\n\n" + _weights(names),
        "## One layer\n\n" + _layers(names[0]),
        "## Use\n\n" + _use(entry).format(name=_shown(names)),
        _answers(entry.task, names),
        "## Spec\n\n" + fenced(printable_lines(spec_file(entry.name).read_text(encoding="utf-8").strip()), "toml"),
        "## Cite\n\n" + _cite(entry),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


MODEL_COLUMNS = ["model", "parameters", "deployed", "MACs", "deployed", "input", METRIC]
FORMS = '*Deployed* is the form of `zoo.create(name, form="deploy")`: branches merged, norms folded. 1 MAC is 2 FLOPs.'
GRAPH_USE = """```python
import torch
import zoo
from zoo.build.inputs import meta_input

model = zoo.create("{name}")
outputs = model(torch.zeros_like(meta_input(model.spec), device="cpu"))
print({{name: tuple(y.shape) for name, y in outputs.items()}} if isinstance(outputs, dict) else tuple(outputs.shape))
```

`zoo spec {name} --graph` draws it, `zoo profile {name}` says what it costs. A checkpoint of the original code loads with
`zoo.create("{name}", weights=PATH, source="official")`."""
MANY_USE = """```python
import zoo
from zoo.build.inputs import drawn_inputs

model = zoo.create("{name}")
outputs = model(*drawn_inputs(model.spec))
print({{name: tuple(y.shape) for name, y in outputs.items()}} if isinstance(outputs, dict) else tuple(outputs.shape))
print(["x", *(named.name for named in model.spec.inputs)])
```

`zoo spec {name} --graph` draws it, `zoo profile {name}` says what it costs. A checkpoint of the original code loads with
`zoo.create("{name}", weights=PATH, source="official")`."""
USE = """```python
import torch
import zoo

model = zoo.create("{name}")
print(model(torch.zeros(1, model.spec.input.channels, *zoo.transform(model).preprocess.rows_and_columns)).shape)
```

`zoo info {name} --tree` shows every layer, `zoo profile {name}` what it costs, `zoo bench {name}` how fast it is here. A checkpoint of
the original code loads with `zoo.create("{name}", weights=PATH, source="official")` where the family has rules for its names."""


TEXT_COLUMNS = ["model", "parameters", "active", "vocabulary", "MACs", "scan FLOPs"]
TEXT_FORMS = "*Active* are the parameters that one token meets. MACs and scan FLOPs are those of a pass over 128 tokens; 1 MAC is 2 FLOPs."
TEXT_USE = """```python
import torch
import zoo

model = zoo.create("{name}")
logits, state = model(torch.tensor([[72, 105]]), state={{}})  # the state continues the sequence
print(logits.shape, model.generate(torch.tensor([[72, 105]]), max_new_tokens=8))
```

`zoo info {name} --tree` shows every layer, `zoo profile {name}` what it costs. A checkpoint of the original code loads with
`zoo.create("{name}", weights=PATH, source=...)`, source being a heading `[keys.…]` of the spec below."""


def _reads_text(entry: catalog.Entry) -> bool:
    return entry.task == "language-modeling"


def _models(names: list[str]) -> str:
    if not _reads_text(catalog.entry(names[0])):
        return markdown_table(MODEL_COLUMNS, [_model_row(name) for name in names])
    return markdown_table(TEXT_COLUMNS, [_text_row(name) for name in names])


def _text_row(name: str) -> list[str]:
    cost, tokens = costs()[name]["train"], published_spec(name).input
    vocabulary = f"{getattr(tokens, 'vocab_size', 0):,}"
    return [
        f"`{name}`",
        count(cost.params),
        count(cost.active_params),
        vocabulary,
        count(cost.macs),
        count(cost.scan_flops),
    ]


def _front_matter(family: str, names: list[str]) -> str:
    entry = catalog.entry(names[0])
    lines = ["---", f"license: {HUB_LICENCES.get(entry.licence, 'other')}"]
    if entry.licence not in HUB_LICENCES:
        lines.append(f"license_name: {yaml((entry.licence or 'unknown').lower().replace(' ', '-'))}")
    tag = HUB_TASKS.get(entry.task, entry.task)
    lines += ["library_name: blockzoo", f"pipeline_tag: {yaml(tag)}", "tags:", f"- {yaml(entry.task)}", f"- {family}"]
    lines += [f"- {yaml('arxiv:' + entry.paper.removeprefix('arXiv:'))}"] if entry.paper.startswith("arXiv:") else []
    results = [(name, figure) for name in names if (figure := _any_figure(name)) is not None]
    if results:
        lines.append("model-index:")
    lines += [line for name, figure in results for line in model_index(name, entry.task, figure)]
    return "\n".join([*lines, "---"])


def model_index(name: str, task: str, figure: Figure) -> list[str]:
    """One entry of a card's `model-index`, as the Hub reads it."""
    dataset, _, measure = figure.metric.partition("@")[0].partition("/")
    return [
        f"- name: {yaml(name)}", "  results:", f"  - task: {{type: {flow(task)}}}",
        f"    dataset: {{name: {flow(dataset)}, type: {flow(dataset)}}}",
        f"    metrics: [{{type: accuracy, name: {flow(measure)}, value: {figure.value:g}}}]",
        *([f"    source: {{name: published, url: {flow(figure.source)}}}"] if figure.source.startswith("http") else []),
    ]  # fmt: skip


def _any_figure(name: str) -> Figure | None:
    return figure_of(name, METRIC) or figure_of(name, "digits/top1")


def _licence_note(licence: str) -> str:
    if licence_class(licence) == "permissive":
        return ""
    kind = (
        "forbids commercial use"
        if licence_class(licence) == "noncommercial"
        else "is not one of the common permissive ones"
    )
    return f"> The licence, {markdown(licence) or 'unknown'}, {kind}: read it before you use weights or code of the authors."


def _model_row(name: str) -> list[str]:
    entry, train, deploy = catalog.entry(name), costs()[name]["train"], costs()[name]["deploy"]
    return [
        f"`{name}`", count(train.params), count(deploy.params), count(train.macs), count(deploy.macs),
        "x".join(map(str, entry.input_size)), _top1(name),
    ]  # fmt: skip


def _top1(name: str) -> str:
    """A figure at another size than the model's own says so."""
    figure, printed = figure_of(name, METRIC), published().get(name)
    if figure is None and printed is not None and printed.top1 is not None:
        return f"{printed.top1:g} at {printed.size}"
    return f"{figure.value:g}" if figure else ""


def _published_note(names: list[str]) -> str:
    """Where figures of these models are printed, and why ours differ; "" where nobody prints any."""
    rows = [published()[name] for name in names if name in published()]
    figures = [row for row in rows if row.params or row.macs or row.top1]
    if not figures:
        return ""
    what = (
        "Accuracies are published figures of the authors' weights, not ours"
        if any(figure.top1 for figure in figures)
        else "Parameters are held against what is printed elsewhere"
    )
    sources = ", ".join(dict.fromkeys(markdown(figure.source) for figure in figures))
    return " ".join(
        [f"{what}: {sources}.", *dict.fromkeys(markdown(figure.differs) for figure in figures if figure.differs)]
    )


@functools.cache
def _rows() -> list[Latency]:
    return sorted(newest(shipped_rows()), key=lambda row: (row.device, row.runtime.key, row.form))


def _trust(name: str, row: Latency) -> str:
    return f"{row.verdict}, of other operations" if is_stale(row, name) else row.verdict


def _latency(names: list[str]) -> str:
    rows = [(name, row) for name in names for row in _rows() if row.digest == catalog.entry(name).digest]
    if not rows:
        return "Not measured yet: `zoo bench NAME` measures on your machine."
    shown = [
        [f"`{name}`", row.form, row.runtime.key, f"{row.p50_ms:g}", f"{row.low_ms:g} to {row.high_ms:g}", f"{row.ratio:g}", row.device, _trust(name, row)]
        for name, row in rows
    ]  # fmt: skip
    _, first = rows[0]
    table = markdown_table(
        ["model", "form", "run", "p50 ms", "interval", f"x {first.anchor}", "device", "verdict"], shown
    )
    return f"{table}\n\nFive fresh processes each, torch {first.runtime.torch}; made by `zoo bench --all`."


def _weights(names: list[str]) -> str:
    entries = [catalog.entry(name) for name in names]
    manifests = [read_manifest(catalog.weights_manifest(entry.name, tag)) for entry in entries for tag in entry.tags]
    manifests += [published_weights(f"{entry.name}.{tag}") for entry in entries for tag in entry.listed]
    if not manifests:
        return "None ship with the package; a checkpoint of the original code loads through the family's key rules."
    table = markdown_table(
        ["weights", "state", "licence", "metric", "pre-processing"], [_weights_row(manifest) for manifest in manifests]
    )
    smoke = any("digits" in manifest.tag for manifest in manifests)
    if any(manifest.tag == "scenes" for manifest in manifests):
        table += "\n\n*scenes* weights are smoke weights: they prove that the net learns its task on generated pictures, and rank nothing."
    if any("pydoc" in manifest.tag for manifest in manifests):
        table += "\n\n*pydoc* weights are smoke weights: they prove that the block learns text, byte by byte, and rank nothing."
    if any(manifest.state == "listed" for manifest in manifests):
        table += "\n\n`zoo pin NAME` fetches *listed* weights, proves them against the spec and keeps them; nobody of us has seen their bytes."
    return table + (
        "\n\n*digits* weights are smoke weights: they prove the path on 32 x 32 scans, and rank nothing."
        if smoke
        else ""
    )


def _weights_row(manifest: Manifest) -> list[str]:
    prepared = manifest.preprocess
    figures = ", ".join(f"{name} {_figure(value)}" for name, value in manifest.metrics.items())
    preparation = f"{prepared.size} px, {prepared.interpolation}, crop {prepared.crop:g}" if prepared else ""
    return [f"`{manifest.name}`", manifest.state, markdown(manifest.licence), figures, preparation]


def _figure(metric: Metric) -> str:
    """A share in percent, a printed one as it is printed; any other figure as it is."""
    if metric.value > 1:
        return f"{metric.value:g}"
    return f"{metric.value:.1%}" if metric.n else f"{metric.value:.2%}"


def _use(entry: Any) -> str:
    if _reads_text(entry):
        return TEXT_USE
    spec = published_spec(entry.name)
    if spec.inputs:
        return MANY_USE
    is_picture = isinstance(spec.input, ImageInput) and not isinstance(spec.input, VideoInput)
    return USE if is_picture and spec.graph is None else GRAPH_USE


def _outputs(name: str) -> set[str]:
    """The names of what the graph of a net gives; none for a net without one, and for one tensor."""
    graph = published_spec(name).graph
    outputs = [] if graph is None else graph["outputs"]
    return {output["name"] for output in outputs} if isinstance(outputs, list) else set()


def _answers(task: str, names: list[str]) -> str:
    """What nets for a task are read for; "" for others."""
    if task not in ANSWERS:
        return ""
    if task == DETECTION and not {"boxes", "scores"} <= _outputs(names[0]):
        return "## Answers\n\nIts outputs are the maps of its heads. `zoo predict` reads lists of `boxes` and `scores`, and refuses it."
    trained = [name for name in names if "scenes" in catalog.entry(name).tags]
    shown = f" `zoo demo --task {task}` shows it, without a network." if trained else ""
    return (
        f"## Answers\n\n`zoo predict {_shown(names)} PICTURE --out FOLDER` draws what is found and writes it as JSON, where there are weights.{shown}\n"
        f"`zoo.answering.answers.Answering(model)` is the net with the steps behind it: pictures, as `zoo.transform(model)` makes them, to\n{ANSWERS[task]}."
    )


def _layers(name: str) -> str:
    """A drawing of the last stage's first layer, from the filled spec; of a net that is one graph, its chart."""
    spec = published_spec(name)
    if not spec.stages:
        return f"`zoo spec {name} --graph` draws the whole net.\n\n{fenced(mermaid(spec).strip(), 'mermaid')}"
    stage = spec.stages[-1]
    lines = drawing([plain(branch) for branch in stage.layers[0]])
    where = f"Layer 0 of {len(stage.layers)} in the last stage of `{name}`; (+) adds what went round."
    return f"{where}\n\n```\n" + "\n".join(lines) + "\n```"


def drawing(branches: Sequence[Any]) -> list[str]:
    """A layer as two lines of text: its parts from left to right, and below them the connections that go round a residual."""
    upper, lower = "x", " "
    for call in branches:
        parts = call.get("parts") if isinstance(call, dict) else None
        if _name(call) == "residual" and parts:
            inside = " -- ".join(_name(part) for part in parts if part != "none")
            step = f" --+-- {inside} --(+)"
            below = "   " + "'" + "-" * (len(step) - 6) + "^" + " "
        else:
            step, below = f" -- {_name(call)}", ""
        upper, lower = upper + step, lower + below.ljust(len(step))
    lines = [upper + " -->", lower.rstrip()]
    return [line for line in lines if line.strip()]


def _name(call: Any) -> str:
    """The name of a block, or of each of a chain."""
    if isinstance(call, list):
        return " -- ".join(_name(part) for part in call if part != "none")
    return short_name(call if isinstance(call, str) else str(call.get("block", "")))


def _shown(names: list[str]) -> str:
    """The smallest model that has an accuracy, else the smallest."""
    scored = [name for name in names if name in published()] or names
    return min(scored, key=lambda name: costs()[name]["train"].macs)


def _cite(entry: catalog.Entry) -> str:
    cited = bibtex(entry)
    return fenced(cited) if cited else markdown(entry.paper) or "No paper."


def bibtex(entry: catalog.Entry) -> str:
    """The entry of a paper of arXiv; "" for another, of which no number tells the place."""
    number = entry.paper.removeprefix("arXiv:")
    if not re.fullmatch("arXiv:[0-9.v]+", entry.paper):
        return ""
    title = printable(entry.title).replace("{", "(").replace("}", ")")  # a brace would end the field
    return f"@article{{{entry.family}, title = {{{title}}}, journal = {{arXiv:{number}}}, url = {{https://arxiv.org/abs/{number}}}}}"


def index() -> str:
    """The page of all families."""
    rows = []
    for family in sorted({entry.family for entry in catalog.entries().values()}):
        names = [name for name, entry in catalog.entries().items() if entry.family == family]
        entry = catalog.entry(names[0])
        best = max((figure.value for name in names if (figure := figure_of(name, METRIC))), default=None)
        macs = [costs()[name]["train"].macs for name in names]
        span = f"{count(min(macs))} to {count(max(macs))}" if len(names) > 1 else count(macs[0])
        rows.append(
            [
                f"[{family}]({_page(family)})",
                str(len(names)),
                span,
                f"{best:g}" if best else "",
                markdown(entry.licence),
                markdown(entry.title),
            ]
        )
    table = markdown_table(["family", "models", "MACs", f"best {METRIC}", "licence", "title"], rows)
    pointers = "`zoo site OUT` writes pages that filter, sort and draw them; [mixers.md](mixers.md) tells what sequence mixers learn."
    return f"# Model cards\n\n{len(catalog.entries())} models. {pointers}\n\n{table}\n"


def pages(family: str = "") -> dict[str, Callable[[], str]]:
    """File name -> what makes it: of all families, or of one; and of the pages that hold something of each."""
    families = [family] if family else sorted({entry.family for entry in catalog.entries().values()})
    writers: dict[str, Callable[[], str]] = {_page(family): functools.partial(card, family) for family in families}
    return writers | {"README.md": index, "mixers.md": mixer_card}


def _page(family: str) -> str:
    """The file of a family's page; `acme.net.md` for that of a plugin."""
    return f"{family.replace('/', '.')}.md"


def stale(folder: Path) -> list[str]:
    """Pages that are missing, or not what they would be today; and files that no page has."""
    writers = pages()
    wrong = [
        name
        for name, make in writers.items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != make()
    ]
    return wrong + sorted(path.name for path in folder.iterdir() if path.name not in writers)


def write(folder: Path, family: str = "") -> list[str]:
    """All pages, or those that tell of one family; returns their names. Raises InputError where no folder can be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(folder), Problem("", "a place for a folder", error.strerror or str(error))) from None
    writers = pages(family)
    for name, make in writers.items():
        write_text(folder / name, make())
    return list(writers)
