"""Time of a training step of any model: the whole loop of ``caloforge train``, with the compiled kernels and without.

Random weights, and showers that need not be real: the packaged sample of the detector, or numbers that look like deposits.
With and without kernels take turns within one training, so that what else happens on the machine hits both alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from caloforge.bench.models import detector_for, in_float32
from caloforge.datasets import load, names
from caloforge.detectors import Detector, catalogue, load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.kernels.ops.registry import kernel_library, plain_only
from caloforge.models import Preset, ShowerModel, load_preset, model_class, preset_names
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import FitStage, GradientStage, Player, StageTraining, TrainingBatch, TrainingData
from caloforge.training.data import RowOrder, TrainingSet
from caloforge.training.interruption import Interruption
from caloforge.training.loop import Run, train_stage
from caloforge.training.memory import memory_kept
from caloforge.training.processes import Processes

__all__ = ["KINDS", "StageTime", "bench_stages", "made_up_showers", "with_teacher"]

Say = Callable[[str], None]

#: The preset of published size that stands for a kind of model, where there is one.
KINDS = {
    "caloflow": "caloflow-calogan-gamma",
    "caloflow-student": "caloflow-student-calogan",
    "caloinn": "caloinn-ds1-photons",
    "caloinn-factorised": "caloinn-par04-ds2-tiny",
    "icaloflow": "icaloflow-par04-ds2",
    "icaloflow-student": "icaloflow-student-par04-ds2",
    "l2lflows": "l2lflows-calogan",
    "l2lflows-conv": "l2lflows-conv-par04-ds2",
    "caloclouds2": "caloclouds2",
    "caloclouds3": "caloclouds3",
    "calo-gan": "calo-gan-calogan",
    "bib-ae": "bib-ae-calogan",
    "bib-ae-two-angles": "bib-ae-two-angles-tiny",
    "gflash": "gflash",
    "pca-parametrisation": "pca-parametrisation",
    "shower-library": "shower-library",
}


@dataclass(frozen=True)
class StageTime:
    """Time of one training step of a stage, medians, milliseconds.

    Attributes:
        preset: name of the preset.
        stage: name of the stage.
        kernels: whether compiled kernels were used.
        batch_size: showers of a step.
        parameters: how many are trained.
        step: the whole step.
        forward: loss.
        backward: gradients.
        optimiser: the optimiser.
        rest: whatever else there is (data, bookkeeping).
        steps: how many steps were measured.
        showers_per_second: throughput.
    """

    preset: str
    stage: str
    kernels: bool
    batch_size: int
    parameters: int
    step: float
    forward: float
    backward: float
    optimiser: float
    rest: float
    steps: int
    showers_per_second: float


def made_up_showers(detector: Detector, rows: int, seed: int = 0) -> Showers | ShowerPoints:
    """Showers of a detector for measurements of speed: the packaged sample, over and over, or made-up deposits.

    Args:
        detector: which.
        rows: how many.
        seed: of made-up ones.

    Raises:
        UsageError: if the readout has no voxels and there is no sample of it.
    """
    for name in names():
        sample = load(name)
        if sample.readout == detector.readout:
            return sample[np.resize(np.arange(len(sample)), rows)]
    readout = detector.readout
    if not readout.n_voxels:
        raise UsageError(f"there are no showers of '{detector.name}' at hand, so a file of them is needed")
    generator = np.random.default_rng(seed)
    incident = generator.uniform(1e3, 1e5, rows)
    deposits = np.exp(generator.normal(0, 2, (rows, readout.n_voxels))) * (
        generator.random((rows, readout.n_voxels)) < 0.6
    )
    deposits *= (0.9 * generator.uniform(0.5, 1, rows) * incident / deposits.sum(axis=1))[:, None]
    return Showers(deposits.astype(np.float32), incident, 22, readout)


def _detector_of(preset: Preset, name: str | Path) -> Detector:
    """The detector to measure a preset with: a point model that names none takes that of a packaged sample of points."""
    if preset.detector is None and model_class(preset.kind).shower_kind == "points":
        clouds = [sample.readout for sample in map(load, names()) if isinstance(sample, ShowerPoints)]
        for detector in map(load_detector, catalogue()):
            if detector.readout in clouds:
                return detector
    return detector_for(preset, name)


@dataclass(frozen=True)
class _Memory:
    """Showers in memory as the training reads them."""

    detector: Detector
    showers: Showers | ShowerPoints

    @property
    def particle(self) -> int:
        return self.showers.particle

    def __len__(self) -> int:
        return len(self.showers)

    def read(self, start: int, stop: int) -> Showers | ShowerPoints:
        return self.showers[start:stop]


def with_teacher(preset: Preset, detector: Detector) -> tuple[ShowerModel, ShowerModel]:
    """An untrained student, and the untrained teacher that it can follow: of published size if there is one.

    Raises:
        UsageError: if no preset makes one.
    """
    wanted = getattr(model_class(preset.kind), "taught_by", None)
    named = [load_preset(name) for name in sorted(preset_names(), key=len, reverse=True)]
    for other in sorted(named, key=lambda other: other.detector is None):
        if other.kind != wanted or (other.detector and load_detector(other.detector).readout != detector.readout):
            continue
        try:
            teacher = other.build(detector)
            return preset.build(detector, inputs={"teacher": teacher}), teacher
        except ConfigError:  # of another shape
            continue
    raise UsageError(f"no preset makes a teacher for '{preset.kind}' on '{detector.name}'")


def bench_stages(
    name: str,
    *,
    stages: Sequence[str] = (),
    overrides: Sequence[str] = (),
    showers: Showers | ShowerPoints | None = None,
    threads: int = 2,
    device: str = "cpu",
    rounds: int = 3,
    steps: int = 2,
    plain: bool = True,
    seed: int = 0,
    say: Say = print,
) -> list[StageTime]:
    """Time the gradient stages of a preset.

    Args:
        name: of the preset.
        stages: names of the stages; all gradient stages if empty.
        overrides: changes to the preset, for example ``training.batch_size=1024``; it trains in float32 unless they say
            otherwise.
        showers: of the preset's detector; None takes :func:`made_up_showers`.
        threads: CPU threads.
        device: ``cpu`` or ``cuda``.
        rounds: number of turns, one more to warm up.
        steps: steps in each turn.
        plain: also measure without compiled kernels.
        seed: of weights and order.
        say: where progress goes.

    Raises:
        UsageError: if the preset names no detector, or has no such stage.
    """
    preset = load_preset(name, in_float32(overrides))
    detector, where = _detector_of(preset, name), Processes.local_device(device)
    former = torch.get_num_threads()
    with ExitStack() as on_exit:
        on_exit.callback(torch.set_num_threads, former)
        torch.set_num_threads(threads)
        on_exit.enter_context(memory_kept())
        model = _ready(preset, detector, showers, seed).to(where)
        named = {
            stage.name: stage for stage in model.training_stages(preset.training) if isinstance(stage, GradientStage)
        }
        for wanted in stages:
            if wanted not in named:
                raise UsageError(
                    f"the preset '{name}' has no gradient stage '{wanted}', its stages are: {', '.join(named)}"
                )
        found = []
        for stage in named.values():
            if stages and stage.name not in stages:
                continue
            say(f"{name}, stage {stage.name}, batch {stage.batch_size}")
            turns = sum(player.steps_per_batch for player in stage.players) if stage.fresh_batches else 1
            rows = stage.batch_size * steps * turns
            data = TrainingSet(
                _Memory(detector, _enough(detector, showers, rows)),
                seed=seed,
                val_fraction=0.0,
                order=RowOrder(None),
                device=where,
            )
            found += _time(name, model, stage, data, rounds, steps, seed, plain=plain and kernel_library() is not None)
        return found


def _enough(detector: Detector, showers: Showers | ShowerPoints | None, rows: int) -> Showers | ShowerPoints:
    return made_up_showers(detector, rows) if showers is None else showers[np.resize(np.arange(len(showers)), rows)]


def _ready(preset: Preset, detector: Detector, showers: Showers | ShowerPoints | None, seed: int) -> ShowerModel:
    """An untrained model whose fit stages know some showers, as far as they can before anything is trained."""
    torch.manual_seed(seed)
    student = bool(model_class(preset.kind).inputs)
    model, teacher = with_teacher(preset, detector) if student else (preset.build(detector), None)
    data = TrainingSet(
        _Memory(detector, _enough(detector, showers, 400)), seed=seed, val_fraction=0.0, order=RowOrder(None)
    )
    if teacher is not None:
        _fit(teacher, preset, data, seed)
    _fit(model, preset, data, seed)
    return model


@torch.no_grad()
def _fit(model: ShowerModel, preset: Preset, data: TrainingSet, seed: int) -> None:
    trained: set[str] = set()
    for stage in model.training_stages(preset.training):
        if isinstance(stage, FitStage) and not trained.intersection(stage.needs):
            stage.load_state(stage.fit(data.for_fit(stage.rows), Streams(seed, stage.name)))
        else:
            trained.add(stage.name)


def _time(
    name: str,
    model: ShowerModel,
    stage: GradientStage,
    data: TrainingSet,
    rounds: int,
    steps: int,
    seed: int,
    *,
    plain: bool,
) -> list[StageTime]:
    turns = (True, False) if plain else (kernel_library() is not None,)
    clock = _Clock(stage, steps, turns, rounds, torch.device(next(model.parameters()).device))
    with tempfile.TemporaryDirectory() as folder, Interruption() as interruption, clock:
        run = Run(
            directory=Path(folder), model=model, data=data, processes=Processes(), interruption=interruption, seed=seed,
            checkpoint_seconds=1e9, show=False,
        )  # fmt: skip
        train_stage(clock, run)
    parameters = sum(p.numel() for player in stage.players for p in player.parameters)
    return [clock.result(name, kernels, parameters) for kernels in turns]


class _Clock(GradientStage):
    """A stage that looks at the clock, and switches the kernels off and on at the end of every turn."""

    def __init__(
        self, stage: GradientStage, steps: int, turns: Sequence[bool], rounds: int, device: torch.device
    ) -> None:
        epochs = {
            "epochs": (rounds + 1) * len(turns),
            "steps": None,
            "selection": "last",
            "ema": None,
            "ema_warmup": None,
        }
        training = StageTraining.model_validate(stage.training.model_dump() | epochs)
        super().__init__(stage.name, stage.parts, training)
        self.metric, self.fresh_batches = stage.metric, stage.fresh_batches
        self._stage, self._turns, self._device = stage, turns, device
        self._each = steps * sum(player.steps_per_batch for player in stage.players)
        self._count = 0
        self._marks: list[float] = []
        self._times: dict[bool, list[tuple[float, ...]]] = defaultdict(list)
        self._plain = ExitStack()
        self._hooks = [
            register_optimizer_step_pre_hook(lambda *_: self._mark()),
            register_optimizer_step_post_hook(lambda *_: self._mark()),
        ]

    def __enter__(self) -> _Clock:
        return self

    def __exit__(self, *_: object) -> None:
        self._plain.close()
        for hook in self._hooks:
            hook.remove()

    @property
    def players(self) -> tuple[Player, ...]:
        """Those of the stage."""
        return self._stage.players

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        """As the stage does it."""
        self._stage.begin(data, streams)

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """That of the stage."""
        self._mark()
        losses = self._stage.loss(player, batch, streams)
        self._mark()
        return losses

    def after_step(self, player: str, step: int) -> None:
        """Note how long the parts of the step took, the first from the end of the one before."""
        self._stage.after_step(player, step)
        self._mark()
        turn, number = divmod(self._count, self._each)
        self._count += 1
        if number and turn >= len(self._turns):  # the first step of a turn has no beginning, the first turns warm up
            self._times[self._turns[turn % len(self._turns)]].append(tuple(self._marks))
        self._marks = self._marks[-1:]
        if number + 1 == self._each:
            self._plain.close()
            if not self._turns[(turn + 1) % len(self._turns)]:
                self._plain.enter_context(plain_only())

    def _mark(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._marks.append(time.perf_counter())

    def result(self, preset: str, kernels: bool, parameters: int) -> StageTime:
        """Medians over the steps with kernels, or without."""
        parts = [
            (marks[-1] - marks[0], marks[2] - marks[1], marks[3] - marks[2], marks[4] - marks[3])
            for marks in self._times[kernels]
        ]
        step, forward, backward, optimiser = (1000 * statistics.median(part) for part in zip(*parts, strict=True))
        size = self.batch_size
        return StageTime(
            preset, self.name, kernels, size, parameters, step, forward, backward, optimiser,
            step - forward - backward - optimiser, len(parts), 1000 * size / step,
        )  # fmt: skip
