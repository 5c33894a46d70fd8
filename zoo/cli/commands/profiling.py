"""`zoo profile`: what a model costs, in totals and in rows."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from zoo.cli.options import add_batch, add_changes, add_form, command, settings
from zoo.display.console import dump, size, table

if TYPE_CHECKING:
    from zoo.measure.profile import Profile


def add(commands: Any) -> None:
    parser = command(commands, "profile", profile)
    parser.add_argument("name")
    add_form(parser, "train")
    parser.add_argument("--by", default="", choices=["block", "stage", "op"], help="rows below the totals")
    add_batch(parser)
    parser.add_argument(
        "--check", action="store_true", help="count in three ways, with fvcore on real tensors, and compare"
    )
    parser.add_argument("--answers", action="store_true", help="of a net for a task, with the steps behind it")
    add_changes(parser)


def profile(arguments: Namespace) -> int:
    """Exit code 1 when counters disagree, or something cannot be counted."""
    import msgspec

    from zoo import factory
    from zoo.build.inputs import meta_input
    from zoo.catalog.saved import described
    from zoo.measure.profile import profile as measured

    swap = settings(arguments.swap, "--swap") or None
    changes = settings(arguments.settings, "--set") or None
    saved = described(arguments.name)
    form = saved.made.form if saved and saved.made.form == "deploy" else arguments.form
    net = factory.create(arguments.name, changes, swap=swap, at=arguments.at, form=form, device="meta")
    if arguments.answers:
        from zoo.answering.answers import Answering

        net = Answering(net)
    cost = measured(net, tuple(meta_input(net.spec, arguments.batch).shape), form)
    counts = _three_counts(net.spec, form, cost) if arguments.check else {}
    agree = all(row == counts["analytic"] for row in counts.values()) if counts else True
    if arguments.json:
        dump(msgspec.to_builtins(cost) | ({"counts": counts, "agree": agree} if counts else {}))
        return 0 if cost.complete and agree else 1
    _show_totals(cost)
    if arguments.by:
        _show_rows(cost, arguments.by)
    if counts:
        print()
        table(
            ["counted by", *counts["analytic"]],
            [[who, *(f"{n:,}" for n in row.values())] for who, row in counts.items()],
        )
        print("all agree" if agree else "they do not agree")
    return 0 if cost.complete and agree else 1


def _three_counts(spec: Any, form: Any, found: Profile) -> dict[str, dict[str, int]]:
    from zoo import factory
    from zoo.build.inputs import drawn_inputs
    from zoo.measure.fvcore_counts import fvcore_macs
    from zoo.measure.op_counter import EXACT

    real = fvcore_macs(factory.create(spec, form=form), *drawn_inputs(spec, found.input[0]))
    return {"analytic": {kind: found.analytic[kind] for kind in EXACT}, "operations": found.by_class, "fvcore": real}


def _show_totals(found: Profile) -> None:
    shown = {
        "MACs": f"{found.macs:,} ({found.flops:,} FLOPs)",
        "  range": "{:,} to {:,}, as the router decides".format(*found.macs_range) if found.macs_range else "",
        **{f"  {kind}": f"{macs:,}" for kind, macs in found.by_class.items() if macs},
        "scan FLOPs": f"{found.scan_flops:,}" if found.scan_flops else "",
        "FFT FLOPs": f"{found.fft_flops:,}" if found.fft_flops else "",
        "element-wise": f"{found.elements:,} elements",
        "parameters": f"{found.params:,}"
        + (f", {found.active_params:,} active" if found.active_params != found.params else ""),
        "weights": size(found.weight_bytes),
        "activations": f"{size(found.activation_bytes)} written, {size(found.peak_activation_bytes)} at one time",
        "next token": _token(found),
        "intensity": f"{found.intensity:g} FLOPs for each byte moved",
        "not counted": ", ".join(f"{op} ({calls})" for op, calls in found.uncounted.items()),
    }
    print(f"{found.model}, {found.form} form, input {' x '.join(map(str, found.input))}")
    for key, value in shown.items():
        if value:
            print(f"  {key:14}{value}")


def _token(found: Profile) -> str:
    cost = found.per_token
    scan = f" and {cost.scan_flops:,} scan FLOPs" if cost and cost.scan_flops else ""
    return (
        f"{cost.macs:,} MACs{scan}, behind {cost.length} tokens; {size(cost.state_bytes)} are kept between them"
        if cost
        else ""
    )


def _show_rows(found: Profile, by: str) -> None:
    from zoo.measure.stages import by_stage

    print()
    if by == "op":
        rows = sorted(found.ops, key=lambda row: (-row.flops, -row.elements))
        table(
            ["operation", "class", "calls", "elements", "FLOPs"],
            [[r.op, r.kind, r.calls, f"{r.elements:,}", f"{r.flops:,}"] for r in rows],
        )
        return
    if by == "stage":
        stages = by_stage(found.blocks)
        table(
            ["stage", "parameters", "MACs"],
            [[name, f"{total.params:,}", f"{total.macs:,}"] for name, total in stages.items()],
        )
        return
    shown = [[b.path, b.block, " x ".join(map(str, b.shape)), f"{b.params:,}", f"{b.macs:,}"] for b in found.blocks]
    table(["path", "block", "output", "parameters", "MACs"], shown)
