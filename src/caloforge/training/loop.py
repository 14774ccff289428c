"""The training loop. All of it is here: what a stage computes is its own affair, when and how often is decided here.

For every batch: each player in turn, as many times as it wants: loss, backward, sum over processes, clip, step (or every
turn takes a batch of its own, if the stage wants it so; then a round is as many batches as there are turns). After every
epoch: validation, selection, metrics, checkpoint. Everything random is a function of the seed and of counters, so
a run that was stopped goes on as if nothing had happened.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.arguments import switch
from caloforge.atomic import make_folder
from caloforge.errors import Interrupted, TrainingError, UsageError
from caloforge.models import ShowerModel, read_stage
from caloforge.nn.batch_layers import training_step
from caloforge.progress import Progress, progress
from caloforge.random import Streams
from caloforge.stage import FitStage, GradientStage, Player, TrainingBatch
from caloforge.training.curves import draw_curves
from caloforge.training.data import TrainingSet
from caloforge.training.ema import MovingAverage
from caloforge.training.interruption import Interruption
from caloforge.training.longer import batches_per_round, rounds_per_epoch, stretches
from caloforge.training.metrics import MetricsLog
from caloforge.training.optimisers import apply_schedule, make_optimiser, scheduled
from caloforge.training.processes import Processes
from caloforge.training.state import StageState, finish_fit, last_state_file

__all__ = ["Run", "StageResult", "run_fit_stage", "train_stage"]

#: On a GPU, batches between two looks at what it has computed; looking makes it wait.
_GPU_CHECK = 25
#: Seconds between two notes on the progress display, between two drawings of unfinished curves.
_NOTE, _DRAWING = 0.5, 60.0


@dataclass(frozen=True)
class Run:
    """What all stages of a run share.

    Attributes:
        directory: the run.
        model: the model, on its device.
        data: training and validation rows.
        processes: who else trains.
        interruption: the user's wish to stop.
        seed: of the run.
        checkpoint_seconds: longest time between two checkpoints.
        tensorboard: whether to log for TensorBoard too.
        show: whether to show progress.
    """

    directory: Path
    model: ShowerModel
    data: TrainingSet
    processes: Processes
    interruption: Interruption
    seed: int
    checkpoint_seconds: float = 300.0
    tensorboard: bool = False
    show: bool = True

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def streams(self, stage: str) -> Streams:
        """Random streams of a stage."""
        return Streams(self.seed, f"training/{stage}")


@dataclass(frozen=True)
class StageResult:
    """How the training of a stage ended.

    Attributes:
        stage: its name.
        epochs: finished epochs, in all.
        best: value of the selection metric, None if the last weights were taken.
        best_epoch: the epoch it belongs to.
        seconds: time spent, over all resumptions.
        samples_per_second: rows trained on per second of this call, 0 if there was nothing left to do.
    """

    stage: str
    epochs: int
    best: float | None
    best_epoch: int
    seconds: float
    samples_per_second: float


def train_stage(stage: GradientStage, run: Run) -> StageResult:
    """Train a stage to its end, from the beginning or from where it was left.

    Args:
        stage: one of the model's stages; the results of those it needs are in the model.
        run: everything else.

    Raises:
        Interrupted: if the user wants to stop; the state was saved.
        TrainingError: if a loss or the weights are no longer numbers; the last good state is kept.
        OutputError: if a checkpoint cannot be written; the one before it is kept.
    """
    settings, players = stage.training, stage.players
    with ExitStack() as on_exit:
        on_exit.enter_context(_only_trainable(run.model, players))
        run.model.to(torch.float64 if settings.precision == "float64" else torch.float32)
        if not last_state_file(run.directory, stage.name).is_file():
            _prepare(stage, run)
        optimisers = {player.name: make_optimiser(player.optimiser, player.parameters) for player in players}
        weights = [parameter for player in players for parameter in player.parameters]
        average = None if settings.ema is None else MovingAverage(weights, settings.ema, settings.ema_warmup)
        state = StageState(run.directory, stage, players, optimisers, average, writes=run.processes.first)
        state.load()
        counters = state.counters
        if counters.finished:
            return StageResult(stage.name, counters.epoch, counters.best, counters.best_epoch, counters.seconds, 0.0)
        log = on_exit.enter_context(_metrics(stage, run, counters.epoch))
        trainer = _Trainer(stage, run, state, players, optimisers, log)
        batch_size = min(stage.batch_size, len(run.data.training_rows))
        per_epoch = trainer.rounds_per_epoch * trainer.batches_per_round * batch_size
        done = counters.epoch * per_epoch + counters.batch * trainer.batches_per_round * batch_size
        display = on_exit.enter_context(_display(run, f"stage {stage.name}", stage.epochs * per_epoch, done))
        began = time.monotonic()
        while counters.epoch < stage.epochs:
            trainer.epoch(display)
        trainer.finish()
        return StageResult(
            stage.name,
            counters.epoch,
            counters.best,
            counters.best_epoch,
            state.seconds,
            (stage.epochs * per_epoch - done) / max(time.monotonic() - began, 1e-9),
        )


class _Trainer:
    """The loop over one stage; its parts are methods so that each can be read alone."""

    def __init__(
        self,
        stage: GradientStage,
        run: Run,
        state: StageState,
        players: Sequence[Player],
        optimisers: dict[str, torch.optim.Optimizer],
        log: MetricsLog | None,
    ) -> None:
        self.stage, self.run, self.state, self.players, self.optimisers, self.log = (
            stage, run, state, players, optimisers, log,
        )  # fmt: skip
        self.settings = stage.training
        self.streams = run.streams(stage.name)
        self.batch_size = min(stage.batch_size, len(run.data.training_rows))
        self.turns = [(player, turn) for player in players for turn in range(player.steps_per_batch)]
        self.batches_per_round = batches_per_round(stage)
        batches = run.data.steps_per_epoch(self.batch_size)
        self.rounds_per_epoch = rounds_per_epoch(stage, run.data)
        if not self.rounds_per_epoch:
            raise UsageError(
                f"an epoch has {batches} batches of {self.batch_size} showers, but the players of stage '{stage.name}' "
                f"need {self.batches_per_round} for a turn each; it needs more showers or smaller batches"
            )
        self.on_gpu = run.device.type == "cuda"
        self.noted = self.drawn = time.monotonic()

    # ---- one epoch

    def epoch(self, display: Progress) -> None:
        """The rest of an epoch, and what comes after it."""
        counters = self.state.counters
        began, first = time.monotonic(), counters.batch
        size = self.batches_per_round * self.batch_size
        self._mode(training=True)
        if first == 0:
            torch.manual_seed(self.streams.child("torch/epoch").integer(counters.epoch))
            for name in self.stage.start_epoch(counters.epoch):
                self.optimisers[name].state.clear()
        for batches in self._rounds(first):
            steps_before = sum(counters.steps.values())
            try:
                for number, (player, turn) in enumerate(self.turns):
                    self._step(player, turn, batches[number % len(batches)])
            except TrainingError:
                # No step of this batch was done yet: then the state is one from which training could go on.
                self.state.keep_good(whole=sum(counters.steps.values()) == steps_before)
                raise
            if self.state.average is not None:
                self.state.average.update(counters.epoch * self.rounds_per_epoch + counters.batch)
            counters.batch += 1
            display.advance(size, self._note())
            if not self.on_gpu or counters.batch % _GPU_CHECK == 0:
                self._look()
        self._look()
        rate = (counters.batch - first) * size / max(time.monotonic() - began, 1e-9)
        training = {name: float(total) / counters.batch for name, total in self.state.sums.items()}
        counters.epoch, counters.batch, self.state.sums = counters.epoch + 1, 0, {}
        self._after_epoch(training, rate)

    def _rounds(self, first: int) -> Iterator[list[TrainingBatch]]:
        """The batches of every round of this epoch: one for all turns, or one for each."""
        processes, each = self.run.processes, self.batches_per_round
        batches = self.run.data.batches(
            self.settings, self.state.counters.epoch, first=first * each, rank=processes.rank, size=processes.size
        )
        for _ in range(first, self.rounds_per_epoch):
            yield list(islice(batches, each))

    def _step(self, player: Player, turn: int, batch: TrainingBatch) -> None:
        """One optimiser step of one player."""
        counters, optimiser, processes = self.state.counters, self.optimisers[player.name], self.run.processes
        if len(self.players) > 1:
            for other in self.players:  # no work for gradients that nobody will use
                for parameter in other.parameters:
                    parameter.requires_grad_(other is player)
        step = sum(counters.steps.values())
        torch.manual_seed(self.streams.child("torch").integer(step, processes.rank))
        optimiser.zero_grad(set_to_none=True)
        masks = self.streams.child("dropout")
        first = processes.rank * self.batch_size // processes.size
        with self._autocast(), training_step(batch.row, masks, step, processes.add_up, (first, self.batch_size)):
            losses = dict(self.stage.loss(player.name, batch, self._streams_of(player, turn)))
        weight = losses.pop("weight", None)
        share = len(batch) / self.batch_size if weight is None else processes.share_of(weight)
        # Weighted before it goes back, since batch norm sums gradients on the way.
        whole = losses["loss"] if processes.size == 1 else losses["loss"] * share
        whole.backward()  # type: ignore[no-untyped-call]
        processes.sum_gradients(player.parameters)
        logged = processes.sum_values(losses, share)
        if self.settings.gradient_clip is not None:
            norm = nn.utils.clip_grad_norm_(player.parameters, self.settings.gradient_clip)
            logged["gradient_norm"] = norm.double()
        if not self.on_gpu:
            self._check(player, logged)
        done = counters.steps[player.name]
        rate, momentum = self._rate(player, done)
        apply_schedule(optimiser, rate, momentum)
        optimiser.step()
        counters.steps[player.name] = done + 1
        self.stage.after_step(player.name, done + 1)
        for name, value in logged.items():
            key = name if len(self.players) == 1 else f"{player.name} {name}"
            value = value / player.steps_per_batch
            self.state.sums[key] = self.state.sums[key] + value if key in self.state.sums else value

    def _streams_of(self, player: Player, turn: int) -> Streams:
        """Random streams of a turn; those of the stage where there is only one."""
        return self.streams if len(self.turns) == 1 else self.streams.child(f"{player.name}/{turn}")

    def _rate(self, player: Player, step: int) -> tuple[float, float | None]:
        per_epoch = self.rounds_per_epoch * player.steps_per_batch
        steps = per_epoch * self.stage.epochs
        return scheduled(player.schedule, player.optimiser.learning_rate, step, steps=steps, steps_per_epoch=per_epoch)

    def _autocast(self) -> Any:
        if self.settings.precision != "bfloat16":
            return nullcontext()
        return torch.autocast(self.run.device.type, torch.bfloat16)

    def _mode(self, *, training: bool) -> None:
        for part in self.stage.parts.values():
            part.train(training)

    # ---- looking at what was computed

    def _check(self, player: Player, logged: dict[str, Tensor]) -> None:
        """Stop before a step that would spoil the weights."""
        for name, value in logged.items():
            if name in ("loss", "gradient_norm") and not math.isfinite(value.item()):
                who = "" if len(self.players) == 1 else f" of player '{player.name}'"
                raise self._failure(f"the {name.replace('_', ' ')}{who}", value.item())

    def _look(self) -> None:
        """Fetch what the device has computed, and act on it and on the user's wishes."""
        for name, total in self.state.sums.items():
            if self.on_gpu and name.endswith(("loss", "gradient_norm")) and not math.isfinite(total.item()):
                self.state.keep_good(whole=False)
                raise self._failure(f"the {name.replace('_', ' ')}", total.item())
        if self.run.processes.any(self.run.interruption.requested, self.run.device):
            self.state.save()
            counters = self.state.counters
            raise Interrupted(
                f"stopped in stage '{self.stage.name}' after {counters.epoch} of {self.stage.epochs} epochs and "
                f"{counters.batch} batches; everything so far is kept in '{self.run.directory}', go on with {switch('resume')}"
            )
        self.state.save_if_due(self.run.checkpoint_seconds)

    def _failure(self, what: str, value: float) -> TrainingError:
        counters = self.state.counters
        best = "" if counters.best is None else f", the best ones (epoch {counters.best_epoch}) in its folder 'best'"
        return TrainingError(
            f"{what} of stage '{self.stage.name}' is {value:g} in epoch {counters.epoch + 1}, batch {counters.batch + 1}; the "
            f"last good weights are kept in '{last_state_file(self.run.directory, self.stage.name).parent}'{best}; a lower "
            "learning rate, training.gradient_clip or training.precision=float64 may help"
        )

    def _note(self) -> str:
        if time.monotonic() - self.noted < _NOTE:
            return ""
        self.noted = time.monotonic()
        counters = self.state.counters
        sums = self.state.sums.items()
        losses = "  ".join(f"{name} {float(total) / counters.batch:.5g}" for name, total in sums)
        best = "" if counters.best is None else f"  best {counters.best:.5g}"
        return f"epoch {counters.epoch + 1}/{self.stage.epochs}  {losses}{best}"

    # ---- after an epoch

    def _after_epoch(self, training: dict[str, float], rate: float) -> None:
        counters, validation, better = self.state.counters, {}, False
        last = counters.epoch == self.stage.epochs
        with nullcontext() if self.state.average is None else self.state.average.applied():
            if len(self.run.data.validation_rows):
                validation = self._validate()
                better = self._is_better(validation[self.stage.metric])
            if better:
                counters.best, counters.best_epoch = validation[self.stage.metric], counters.epoch
            selects = self.settings.selection == "best" and bool(validation)
            row = {
                "stage": self.stage.name,
                "epoch": counters.epoch,
                "steps": sum(counters.steps.values()),
                "training": training,
                "validation": validation,
                "learning_rate": {p.name: self._rate(p, counters.steps[p.name] - 1)[0] for p in self.players},
                "samples_per_second": round(rate, 1),
                "seconds": round(self.state.seconds, 2),
            }
            if better if selects else last:
                self.state.keep_best(row)
        if self.log is not None:
            self.log.write(row)
            if time.monotonic() - self.drawn > _DRAWING:
                self._draw()
        if not last:
            self.state.save_if_due(self.run.checkpoint_seconds, epoch_ends=True)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Averages over the validation rows; the same noise each time."""
        processes = self.run.processes
        self._mode(training=False)
        torch.manual_seed(self.streams.child("torch/validation").integer(0))
        sums: dict[str, Tensor] = {}
        for batch in self.run.data.validation(self.settings, rank=processes.rank, size=processes.size):
            with self._autocast():
                metrics = dict(self.stage.validate(batch, self.streams))
            number = torch.tensor(float(len(batch)), dtype=torch.float64, device=self.run.device)
            number = metrics.pop("weight", number).double()
            totals = {name: value.detach().double() * number for name, value in metrics.items()} | {"weight": number}
            sums = {name: sums[name] + total if name in sums else total for name, total in totals.items()}
        self._mode(training=True)
        sums = processes.sum_values(sums, 1.0)
        number = sums.pop("weight")
        concluded = self.stage.conclude({name: total / number for name, total in sums.items()})
        return {name: float(value) for name, value in concluded.items()}

    def _is_better(self, value: float) -> bool:
        best = self.state.counters.best
        if not math.isfinite(value):
            return False
        return best is None or (value < best if self.stage.lower_is_better else value > best)

    def finish(self) -> None:
        """Write the result and the curves."""
        counters = self.state.counters
        if self.settings.selection == "best" and len(self.run.data.validation_rows) and counters.best is None:
            raise TrainingError(
                f"the validation metric '{self.stage.metric}' of stage '{self.stage.name}' was not a finite number in any "
                f"of the {counters.epoch} epochs, so no weights could be selected"
            )
        self.state.save(finished=True, whole=not stretches(self.stage))
        self._draw()
        self.run.processes.wait()

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        if self.log is None:
            return
        selection = self.stage.metric if self.settings.selection == "best" else None
        path = self.run.directory / "stages" / self.stage.name / "losses.png"
        draw_curves(
            self.log.rows, path, title=f"Stage {self.stage.name}", selection=selection, lower=self.stage.lower_is_better
        )


@torch.no_grad()
def _prepare(stage: GradientStage, run: Run) -> None:
    """Let a stage set initial weights that depend on the data; all processes begin with those of the first."""
    streams = run.streams(stage.name).child("prepare")
    torch.manual_seed(streams.child("torch").integer(0))
    if run.processes.first:
        stage.begin(run.data.for_fit(), streams)
    run.processes.share(stage.state())


def run_fit_stage(stage: FitStage, run: Run) -> StageResult:
    """Compute the state of a fit stage, put it into the model and write it.

    Args:
        stage: one of the model's stages; the results of those it needs are in the model.
        run: everything else.

    Raises:
        TrainingError: if the result is not finite.
        OutputError: if it cannot be written.
    """
    began = time.monotonic()
    run.model.to(torch.float32).eval()
    torch.manual_seed(run.streams(stage.name).child("torch").integer(0))
    if run.processes.first:
        with torch.no_grad():
            found = stage.fit(run.data.for_fit(stage.rows), run.streams(stage.name))
        for name, value in found.items():
            if not bool(value.isfinite().all()):
                raise TrainingError(f"the fit stage '{stage.name}' found a value that is not finite for '{name}'")
        stage.load_state(found)
        finish_fit(run.directory, stage, time.monotonic() - began)
    run.processes.wait()
    # How long some tensors are, the data decided, so the others could not have received them; the file says it.
    read_stage(run.directory, stage)
    return StageResult(stage.name, 0, None, 0, time.monotonic() - began, 0.0)


@contextmanager
def _only_trainable(model: nn.Module, players: Sequence[Player]) -> Iterator[None]:
    """Within, only the players' parameters want gradients."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for player in players:
        for parameter in player.parameters:
            parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)


@contextmanager
def _metrics(stage: GradientStage, run: Run, epochs: int) -> Iterator[MetricsLog | None]:
    if not run.processes.first:
        yield None
        return
    folder = run.directory / "stages" / stage.name
    make_folder(folder)
    board = run.directory / "tensorboard" / stage.name if run.tensorboard else None
    log = MetricsLog(folder / "metrics.jsonl", epochs=epochs, tensorboard=board)
    try:
        yield log
    finally:
        log.close()


@contextmanager
def _display(run: Run, title: str, total: int, done: int) -> Iterator[Progress]:
    if run.show and run.processes.first:
        with progress(title, total, "showers", done=done) as display:
            yield display
    else:
        yield _Silent()


class _Silent:
    def advance(self, amount: int, note: str = "") -> None:
        """Show nothing."""
