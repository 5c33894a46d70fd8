"""One training of pictures, from the recipe's parts to the last epoch."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import nn

from blocks.context import Context
from zoo.artifacts.record import Made
from zoo.data.labelled import Labelled
from zoo.data.survey import Survey
from zoo.data.transforms import preprocess_of
from zoo.errors import InputError, Problem
from zoo.system.folders import forget_drafts, write_text
from zoo.training import adapters, outcome, sharding
from zoo.training.augmentation import Augmented, mixer
from zoo.training.batches import Order, Pictures, Share, balanced_weights, in_turn, loader, seeded, targets_of
from zoo.training.engine import broadcast
from zoo.training.freezing import freeze, norms_of
from zoo.training.idle_experts import attend
from zoo.training.judging import Batches, Judgement, judge, judge_together, rows_of
from zoo.training.loop import Course, Engine, RunningAverage
from zoo.training.loop import train as steps_of
from zoo.training.objectives import Objective, Student, class_weights
from zoo.training.optimizers import optimizer_of
from zoo.training.outcome import LAST, LAST_PARTS, Run
from zoo.training.recipe import Recipe, read_recipe, to_toml, values
from zoo.training.seeds import sow
from zoo.training.starting import Start, Teacher, teacher
from zoo.training.state import Epoch, Facts, load_state, read_facts, save_state
from zoo.training.synced_norms import synchronise

INDIFFERENT = ("data.workers", "engine.save_minutes")
"""Fields that a run may change when it goes on."""


class Moment(NamedTuple):
    """Where a training is, for whoever watches. `left` are seconds; `figure` is that of the last epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    left: float
    figure: float | None


class Watch(NamedTuple):
    """Who hears what: sentences before the first step, pictures that were looked at, and steps."""

    say: Callable[[str], None] = lambda text: None
    looked: Callable[[int, int], None] = lambda done, total: None
    step: Callable[[Moment], None] = lambda moment: None
    data: Callable[[Labelled, Survey], None] = lambda data, found: None


class Trainer:
    """One training: what it is made of, and the loop over its epochs."""

    def __init__(self, start: Start, data: Labelled, recipe: Recipe, out: Path, accelerator: Any, name: str):
        self.start, self.net, self.data, self.recipe, self.out = start, start.net, data, recipe, out
        self.accelerator, self.name = accelerator, name
        self.is_main = accelerator.is_main_process
        self.share = Share(accelerator.process_index, accelerator.num_processes, recipe.optimizer.accumulate)
        self.preprocess = preprocess_of(self.net)
        self.scale = outcome.scale_of(data)
        self.train_set, self.val_set = self._pictures("train"), self._pictures("val")
        self.order = self._order()
        self.steps = self.order.epoch_steps * recipe.schedule.epochs
        self.frozen, self.adapted = self._prepared_net()
        teacher_net = teacher(recipe.distill.teacher, data.labels, self.preprocess) if recipe.distill.teacher else None
        self.student = Student(self.net, teacher_net.width if teacher_net and recipe.distill.features else 0)
        self.objective = self._objective(teacher_net)
        self.outline = sharding.Outline(self.student) if recipe.engine.sharded and self.share.processes > 1 else None
        if self.outline is not None:
            sharding.shard(self.student, accelerator.device, recipe.engine.compile)
        self.average = self._average(recipe.optimizer.ema) if recipe.optimizer.ema else None
        self.optimizer = optimizer_of(self.net, self.student.projection, recipe.optimizer)
        self.facts = Facts(self._subject())
        self.judgement: Judgement | None = None
        self.made: Made | None = None
        """How the net that is kept is made of its spec, from the first time on that it is written."""

    @property
    def about(self) -> str:
        """What is about to happen, in a line."""
        learned = sum(parameter.numel() for parameter in self.student.parameters() if parameter.requires_grad)
        adapted = f", {self.adapted} adapters" if self.adapted else ""
        processes = f" in {self.share.processes} processes" if self.share.processes > 1 else ""
        rows, columns = self.preprocess.rows_and_columns
        grey = " in grey" if self.preprocess.channels == 1 else ""
        return (
            f"{learned:,} parameters learn{adapted}; {len(self.train_set)} pictures of {rows} x {columns}{grey}, "
            f"{self.recipe.schedule.epochs} epochs of {self.order.epoch_steps} steps of {self.order.batch_size}{processes}"
        )

    def prepare(self, resume: bool) -> None:
        """Takes its place in `out`, from where a run was broken off or anew. Raises InputError where another run is there."""
        last = next((self.out / name for name in (LAST, LAST_PARTS) if (self.out / name).exists()), None)
        if last is not None:
            facts = read_facts(last) if last == self.out / LAST else _of_parts().read_record(last)
            if not resume:
                step = "--resume goes on with it; another --out, or removing the folder, begins anew"
                raise InputError(
                    "train", Problem(str(self.out), "a new folder", f"a run after step {facts.step}", next=step)
                )
            if facts.subject != self.facts.subject:
                raise InputError(
                    "train", Problem(str(self.out), "a run of this model, recipe and data", self._differences())
                )
            load = _of_parts().load_parts if self.recipe.engine.sharded else load_state
            self.facts = load(last, self.student, self.average, self.optimizer)
        elif self.is_main:
            write_text(self.out / "recipe.toml", to_toml(self.recipe))
        if self.is_main:
            forget_drafts(self.out, self.out / LAST.parent)
        if self.recipe.engine.compile and self.outline is None:
            self.net.compile()
        if self.recipe.engine.checkpointing:
            self.net.set_grad_checkpointing()
        self.engine: Engine = self.accelerator
        if self.outline is None:
            self.model, self.engine_optimizer = self.accelerator.prepare(self.student, self.optimizer)
        else:
            self.engine = sharding.Engine(self.accelerator)
            self.model = self.accelerator.prepare_model(self.student, device_placement=False, evaluation_mode=True)
            self.engine_optimizer = self.accelerator.prepare_optimizer(self.optimizer, device_placement=False)
        if self.accelerator.scaler is not None and self.facts.scaler:
            self.accelerator.scaler.load_state_dict(self.facts.scaler)
        replicas = self.average.model if self.average is not None and self.outline is None else None
        for part in (replicas, self.objective.teacher):
            if part is not None:
                part.to(self.accelerator.device)

    def run(self, watch: Watch, data: Path, found: Survey) -> Run:
        """All epochs that are left, the report, the folder."""
        begun, first, saved = time.perf_counter(), self.facts.step, time.perf_counter()
        schedule = self.recipe.schedule
        course = Course(
            schedule.shape, first, self.share.accumulate, self.recipe.optimizer.clip, self.engine, self._enter
        )
        batches = loader(self.train_set, self.order, first, self.steps, self.share, self.recipe.data.workers)
        losses = steps_of(
            self.model, self.engine_optimizer, self._fed(batches, first), self.objective, steps=self.steps,
            warmup=schedule.warmup, average=self.average, adapts_routers=True, course=course,
        )  # fmt: skip
        if not self._is_over():
            for own in losses:
                loss = self._mean(own)
                self._refuse_lost(loss)
                self.facts.step += 1
                self.facts.losses.append(loss)
                if self.facts.step % self.order.epoch_steps == 0:
                    self._end_epoch()
                    saved = self._saved()
                elif self._is_time(time.perf_counter() - saved):
                    saved = self._saved()
                done, left = self.facts.step - first, self.steps - self.facts.step
                watch.step(self._moment(loss, (time.perf_counter() - begun) / done * left))
                if self._is_over():
                    break
        self.accelerator.end_training()
        seconds = time.perf_counter() - begun
        return outcome.finish(self, data, found, seconds) if self.is_main else outcome.of_others(self, seconds)

    def _fed(self, batches: Any, first: int) -> Any:
        device = self.accelerator.device
        for x, targets in seeded(batches, self.recipe.seed, first, self.share):
            yield x.to(device, non_blocking=True), targets.to(device, non_blocking=True)

    def _end_epoch(self) -> None:
        """The epoch's place in the history, and its weights where no epoch was better."""
        facts, accelerator = self.facts, self.accelerator
        loss, facts.losses = math.fsum(facts.losses) / len(facts.losses), []
        number = facts.step // self.order.epoch_steps
        figures, self.judgement = [(0.0, 0.0)], self.judge()
        if self.judgement is not None:
            figures = [(self.judgement.figure, -self.judgement.loss)]
        broadcast(accelerator, figures)
        figure = figures[0]
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        facts.history.append(Epoch(number, loss, -figure[1], figure[0], rate))
        accelerator.log({"loss": loss, "held_out_loss": -figure[1], "figure": figure[0], "rate": rate}, step=facts.step)
        facts.waited += 1
        if facts.best is None or tuple(figure) > tuple(facts.best):
            facts.best, facts.best_epoch, facts.waited = figure, number, 0
            kept = self.kept if self.outline is None else self.outline.filled(self.kept)
            if self.is_main:
                outcome.keep_best(self, kept.net)
        self._enter(self.model)

    @property
    def kept(self) -> Any:
        """The student whose weights count: their average, or as they are."""
        return self.average.model if self.average is not None else self.student

    def judge(self) -> Judgement | None:
        """What counts on the held-out part, by all processes; None but in the first."""
        student, device = self.kept.eval(), self.accelerator.device
        if self.share.processes == 1:
            return judge(student.net, self.held_out, self.objective, device)
        sharding.same_buffers(student)
        answer = student.net if self.outline is None else lambda x: student(x, Context())[0]
        return judge_together(answer, self.held_out, self.objective, self.share, device)

    @functools.cached_property
    def held_out(self) -> Batches:
        """What this process sees of the held-out part after each epoch."""
        size = max(1, self.order.batch_size // self.share.accumulate)
        rows = rows_of(len(self.val_set), size, self.share)
        return in_turn(self.val_set, rows, self.recipe.data.workers, again=True)

    def _is_time(self, seconds: float) -> bool:
        """Whether to save, so long after it was saved; where all take part, the clock of the first process says so."""
        due = [seconds > 60 * self.recipe.engine.save_minutes]
        if self.outline is not None:
            broadcast(self.accelerator, due)
        return due[0]

    def _saved(self) -> float:
        """Keeps where the training stands; returns when that was. Where one process keeps all, none of the others waits for it here."""
        if self.recipe.engine.sharded:
            _of_parts().save_parts(self.out / LAST_PARTS, self.facts, self.student, self.average, self.optimizer)
        elif self.is_main:
            if self.accelerator.scaler is not None:
                self.facts.scaler = self.accelerator.scaler.state_dict()
            save_state(self.out / LAST, self.facts, self.student, self.average, self.optimizer)
        return time.perf_counter()

    def _is_over(self) -> bool:
        patience = self.recipe.schedule.patience
        return self.facts.step >= self.steps or bool(patience and self.facts.waited >= patience)

    def _enter(self, model: nn.Module) -> None:
        """Into training mode, but for what stays as it is."""
        model.train()
        for module in self.frozen:
            module.eval()

    def _moment(self, loss: float, left: float) -> Moment:
        facts, epochs = self.facts, self.recipe.schedule.epochs
        figure = facts.history[-1].figure if facts.history else None
        epoch = min(epochs, facts.step // self.order.epoch_steps + 1)
        return Moment(epoch, epochs, facts.step, self.steps, loss, left, figure)

    def _mean(self, loss: float) -> float:
        """The loss of the whole batch, in each process: so none waits for another that stops for what it lost."""
        if self.share.processes == 1:
            return loss
        mean = torch.tensor(loss, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(mean, "mean"))

    def _refuse_lost(self, loss: float) -> None:
        if not math.isfinite(loss):
            step = "a lower optimizer.lr, optimizer.clip = 1, or engine.precision = float32; --resume goes on from the last epoch"
            found = f"{loss} at step {self.facts.step + 1}"
            raise InputError("train", Problem("loss", "a finite number", found, next=step))

    def _pictures(self, part: str) -> Pictures:
        examples = self.data.parts[part]
        targets = targets_of(examples, self.data.task, len(self.data.labels))
        if self.scale is not None:
            targets = (targets - self.scale.mean) / self.scale.std
        prepare = Augmented(self.preprocess, self.recipe.augment) if part == "train" else outcome.plain(self.preprocess)
        return Pictures(examples, targets, prepare, self.recipe.seed)

    def _order(self) -> Order:
        """Raises InputError for batches that do not divide, and for fewer pictures than parts of a batch."""
        recipe, count = self.recipe, len(self.train_set)
        mixes = bool(recipe.augment.mixup or recipe.augment.cutmix)
        if mixes and self.data.task != "classification":
            raise InputError(
                "train", Problem("augment.mixup", "0, and cutmix 0: they blend single classes", self.data.task)
            )
        unit = self.share.processes * self.share.accumulate * (2 if mixes else 1)
        size = recipe.data.batch_size
        if size % unit:
            expected = f"a multiple of {unit}: processes x optimizer.accumulate" + (
                " x 2, since pairs are mixed" if mixes else ""
            )
            raise InputError("train", Problem("data.batch_size", expected, str(size)))
        size = min(size, count // unit * unit)
        if not size:
            raise InputError("train", Problem("train", f"{unit} pictures at least", str(count)))
        weights = balanced_weights(self.data.parts["train"], len(self.data.labels)) if recipe.data.balanced else None
        if weights and self.data.task == "regression":
            raise InputError("train", Problem("data.balanced", "false where numbers are learned", "true"))
        return Order(count, size, recipe.seed, weights)

    def _prepared_net(self) -> tuple[list[nn.Module], int]:
        """What is frozen, and how many adapters there are."""
        recipe = self.recipe.model
        frozen = freeze(self.net, recipe.freeze)
        if recipe.batch_norm == "frozen":
            frozen += norms_of(self.net)
        if recipe.batch_norm == "sync":
            synchronise(self.net)
        if self.share.processes > 1:
            attend(self.net)
        sow("adapters", self.recipe.seed)
        return frozen, adapters.adapt(self.net, recipe.lora, recipe.lora_alpha) if recipe.lora else 0

    def _average(self, decay: float) -> RunningAverage:
        if self.outline is None:
            return RunningAverage(self.student, decay)
        return self.outline.average(self.student, decay, self.accelerator.device)

    def _objective(self, teacher_net: Teacher | None) -> Objective:
        recipe, task = self.recipe, self.data.task
        weights = None
        if recipe.loss.class_weights and task != "regression":
            weights = class_weights(self.data.counts("train"), task)
        mix = (
            mixer(recipe.augment, recipe.loss.label_smoothing, len(self.data.labels))
            if task == "classification"
            else None
        )
        return Objective(task, recipe.loss, weights, mix, teacher_net, recipe.distill)

    def _subject(self) -> str:
        """A hash of all that decides about the result."""
        parts = {
            name: [(example.picture.name, example.target) for example in examples] for name, examples in self.data.parts.items()
        }  # fmt: skip
        facts = [_decisive(self.recipe), self.net.spec.digest, self.start.words, self.data.labels, parts]
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()

    def _differences(self) -> str:
        """In what the run in `out` is another."""
        before, now = _decisive(read_recipe(self.out / "recipe.toml")), _decisive(self.recipe)
        changed = [f"{path} = {before[path]} instead of {now[path]}" for path in now if before[path] != now[path]]
        return ", ".join(changed[:3]) or "another model, or other pictures"


def _of_parts() -> Any:
    """What keeps a sharded training; torch takes a second to import its checkpoints."""
    from zoo.training import sharded_state

    return sharded_state


def _decisive(recipe: Recipe) -> dict[str, Any]:
    """The fields on which the result depends."""
    return {path: value for path, value in values(recipe).items() if path not in INDIFFERENT}
