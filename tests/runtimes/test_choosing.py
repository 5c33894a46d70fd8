"""The choice: what is refused, what is chosen of what passes, and what the rows say; with sessions whose speed and errors are set."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.runtimes import choosing
from zoo.runtimes.candidates import PLAIN, Candidate, Plan
from zoo.runtimes.choosing import Choosing, Chosen, Made, Wish
from zoo.runtimes.drawing import drawn
from zoo.runtimes.evidence import Evidence
from zoo.runtimes.judging import BROKEN, Judge
from zoo.runtimes.net import Flat, signature_of
from zoo.runtimes.protocol import Session
from zoo.runtimes.signature import Signature

MODEL = zoo.create("starnet_nano", pretrained=True)
SIGNATURE = signature_of(MODEL, (8, 1, 32, 32))
JUDGE = Judge(MODEL, SIGNATURE)


class Kind(NamedTuple):
    """How a session of the tests runs: seconds of a call, a factor on its outputs, the share of inputs whose answer is another."""

    seconds: float = 1e-4
    factor: float = 1.0
    wrong: float = 0.0
    size_bytes: int = 100
    fails: str = ""


class Clock:
    """Time that passes only when a session runs, or by `step` at each look."""

    def __init__(self, step: float = 0.0):
        self.now, self.step = 0.0, step

    def wall(self) -> float:
        self.now += self.step
        return self.now

    cpu = wall

    def wait(self) -> None:
        return None


class Fake:
    """The deploy form, slowed down and made wrong, but for the inputs of the judge."""

    def __init__(self, kind: Kind, clock: Clock):
        self.clock = clock
        self.kind, self.signature, self.closed = kind, SIGNATURE, 0
        self.net = Flat(zoo.deploy(MODEL), SIGNATURE).eval()

    def __call__(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        self.clock.now += self.kind.seconds
        with torch.inference_mode():
            (y,) = self.net(*arrays)
            y = y * self.kind.factor
            if any(arrays[0] is batch[0] for batch in JUDGE.batches):
                return (y,)
            # whether an answer is another hangs on the input, as it does in a rounded net
            is_wrong = (arrays[0].double().sum((1, 2, 3)) * 1e3 % 1).abs() < self.kind.wrong
            return (torch.where(is_wrong[:, None], -y, y),)

    def close(self) -> None:
        self.closed += 1


BFLOAT16 = {runtime: Candidate(runtime, "bfloat16") for runtime in ("torch", "fast", "other")}
FLOAT32 = {runtime: Candidate(runtime, "float32") for runtime in ("torch", "fast", "other")}


class Try(NamedTuple):
    chosen: Chosen
    sessions: dict[Candidate, Fake]

    def row(self, candidate: Candidate) -> choosing.Tried:
        return next(row for row in self.chosen.rows if (row.runtime, row.precision) == candidate)


def tried(
    kinds: dict[Candidate, Kind],
    minutes: float = 10.0,
    max_loss: float = 0.005,
    eligible: list[Candidate] | None = None,
    step: float = 0.0,
) -> Try:
    sessions: dict[Candidate, Fake] = {}
    clock = Clock(step)

    def make(candidate: Candidate) -> Made:
        kind = kinds[candidate]
        if kind.fails:
            raise zoo.InputError("deploy", zoo.errors.Problem("", "a net that it can run", kind.fails))
        sessions[candidate] = Fake(kind, clock)
        return Made(sessions[candidate], 0.5, kind.size_bytes)

    def evidence() -> Evidence:
        x = torch.randn(800, 1, 32, 32, generator=torch.Generator().manual_seed(5))
        return Evidence(800, lambda start, stop: (x[start:stop],), None, "random inputs")

    plan = Plan(list(kinds), eligible or list(kinds), [])
    choice = Choosing(plan, Wish(max_loss, minutes, True), make, JUDGE, evidence, clock=clock, pause_s=0.0)
    return Try(choice.choose(), sessions)


def test_the_fastest_that_is_equal_is_chosen_and_the_others_are_closed() -> None:
    done = tried({PLAIN: Kind(0.006), FLOAT32["fast"]: Kind(0.001), FLOAT32["other"]: Kind(0.002)})
    assert done.chosen.candidate == FLOAT32["fast"]
    assert [session.closed for session in done.sessions.values()] == [1, 0, 1]
    assert [row.outcome for row in done.chosen.rows] == ["chosen", "equal", "equal"]
    row = done.chosen.rows[0]
    assert row.p50_ms is not None and row.low_ms is not None and row.high_ms is not None and row.speed is not None
    assert row.low_ms <= row.p50_ms <= row.high_ms and row.speed > 1.5
    assert row.compile_s == 0.5 and row.size_bytes == 100 and row.error is not None and row.error <= JUDGE.bound


@pytest.mark.parametrize(
    ("factor", "reason"),
    [(1.001, "its outputs are off by 1.0e-03"), (math.nan, "its outputs are not finite"), (math.inf, "its outputs are not finite")],
)  # fmt: skip
def test_a_candidate_that_is_not_equal_is_refused_with_its_error(factor: float, reason: str) -> None:
    done = tried({PLAIN: Kind(0.004), FLOAT32["fast"]: Kind(0.0005, factor=factor)})
    assert done.chosen.candidate == PLAIN
    row = done.row(FLOAT32["fast"])
    assert row.outcome == "refused" and row.reason.startswith(reason)
    assert done.sessions[FLOAT32["fast"]].closed == 1


def test_a_candidate_that_cannot_be_made_is_a_row_with_the_reason() -> None:
    done = tried({PLAIN: Kind(), FLOAT32["fast"]: Kind(fails="operator `aten::rms_norm`")})
    assert done.chosen.candidate == PLAIN
    assert done.row(FLOAT32["fast"]).reason == "expected a net that it can run; found operator `aten::rms_norm`"


def test_nothing_that_is_slower_than_the_deploy_form_of_torch_is_chosen() -> None:
    done = tried({PLAIN: Kind(0.002), FLOAT32["fast"]: Kind(0.003), FLOAT32["other"]: Kind(0.004)})
    assert done.chosen.candidate == PLAIN


def test_of_two_that_are_as_fast_the_simpler_is_chosen() -> None:
    same = {FLOAT32["fast"]: Kind(0.01, size_bytes=200), FLOAT32["other"]: Kind(0.01, size_bytes=100)}
    assert tried({PLAIN: Kind(0.02), **same}).chosen.candidate == FLOAT32["other"]
    assert tried({PLAIN: Kind(0.01), **same}).chosen.candidate == PLAIN


def test_a_lower_precision_is_chosen_when_it_is_faster_and_its_loss_is_known_to_be_small() -> None:
    done = tried({PLAIN: Kind(0.004), BFLOAT16["fast"]: Kind(0.0005, factor=1.01)})
    assert done.chosen.candidate == BFLOAT16["fast"]
    row = done.chosen.rows[0]
    assert row.loss == 0.0 and row.loss_high is not None and 0 < row.loss_high <= 0.005
    assert row.loss_of == "800 answers to random inputs, whose changes are counted"


def test_a_lower_precision_that_loses_too_much_is_refused_with_the_figure_and_the_next_is_tried() -> None:
    done = tried({PLAIN: Kind(0.004), BFLOAT16["fast"]: Kind(0.0005, wrong=0.1), FLOAT32["other"]: Kind(0.001)})
    assert done.chosen.candidate == FLOAT32["other"]
    row = done.row(BFLOAT16["fast"])
    assert (
        row.outcome == "refused"
        and row.reason.startswith("it may lose ")
        and row.reason.endswith("and 0.5 is the limit")
    )
    assert row.loss is not None and 0.005 < row.loss < 0.5


def test_a_loss_that_is_allowed_is_taken() -> None:
    kinds = {PLAIN: Kind(0.004), BFLOAT16["fast"]: Kind(0.0005, wrong=0.1)}
    assert tried(kinds, max_loss=0.3).chosen.candidate == BFLOAT16["fast"]


def test_a_lower_precision_that_is_not_faster_is_not_even_tried() -> None:
    done = tried({PLAIN: Kind(0.002), BFLOAT16["fast"]: Kind(0.004)})
    assert done.chosen.candidate == PLAIN and done.row(BFLOAT16["fast"]).loss is None


def test_a_broken_lower_precision_is_refused_before_it_is_timed() -> None:
    done = tried({PLAIN: Kind(), BFLOAT16["fast"]: Kind(factor=1 + 2 * BROKEN)})
    assert done.row(BFLOAT16["fast"]).p50_ms is None and done.chosen.candidate == PLAIN


def test_a_candidate_that_is_only_compared_with_is_never_chosen() -> None:
    done = tried(
        {PLAIN: Kind(0.0005), FLOAT32["fast"]: Kind(0.002), FLOAT32["other"]: Kind(0.004)},
        eligible=list(FLOAT32.values())[1:],
    )
    assert done.chosen.candidate == FLOAT32["fast"]


def test_where_none_passes_all_reasons_are_told() -> None:
    kinds = {PLAIN: Kind(0.0005), BFLOAT16["fast"]: Kind(wrong=0.2)}
    with pytest.raises(zoo.InputError) as caught:
        tried(kinds, eligible=[BFLOAT16["fast"]])
    assert "fast, bfloat16" in str(caught.value) and "it may lose" in str(caught.value)


def test_minutes_that_are_over_leave_candidates_untried() -> None:
    done = tried({PLAIN: Kind(), FLOAT32["fast"]: Kind(), FLOAT32["other"]: Kind()}, minutes=0.25, step=5.0)
    row = done.row(FLOAT32["other"])
    assert row.outcome == "untried" and row.reason.startswith("the minutes were over")


def test_the_judge_knows_the_models_own_error_in_float32() -> None:
    assert 0 < JUDGE.own < 1e-5 and JUDGE.own < JUDGE.bound <= 1e-2 and JUDGE.is_exact
    assert JUDGE.error(Flat(MODEL, SIGNATURE).eval()) == JUDGE.own


class Short(nn.Module):
    signature: Signature = SIGNATURE

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.zeros(x.shape[0], 3),)


def test_outputs_of_another_shape_equal_nothing() -> None:
    assert JUDGE.error(Short()) == math.inf
    assert JUDGE.refusal(math.inf, "float32") == "its outputs are not finite, or not of the shapes of the model's"


def test_drawn_inputs_follow_the_signature() -> None:
    model = zoo.create("mamba_nano")
    ids, *leaves = drawn(signature_of(model, (2, 9)), seed=0)
    assert ids.shape == (2, 9) and ids.dtype == torch.int64 and 0 <= int(ids.min()) <= int(ids.max()) < 256
    assert leaves and all(leaf.shape[0] == 2 and not leaf.any() for leaf in leaves)


def test_sessions_of_the_tests_are_sessions() -> None:
    assert isinstance(Fake(Kind(), Clock()), Session)
