"""Showers from a trained model into a file, in any number of processes, resumable at any moment."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from caloforge.arguments import argument
from caloforge.cores import available_cores
from caloforge.detectors import Detector, particle_name
from caloforge.errors import Interrupted, UsageError
from caloforge.executor import Executor, on_this_machine, origin
from caloforge.generation.conditions import ConditionSource
from caloforge.generation.sampling import MAX_ATTEMPTS, Sample, Timing, borrowed, generation_streams, sample_showers
from caloforge.generation.workers import Answer, Task, WorkerSettings, run_tasks
from caloforge.models import ShowerModel, load_model
from caloforge.options import GenerateOptions
from caloforge.progress import progress
from caloforge.scaleout import check_choice, open_executor
from caloforge.showers import Writer, create_showers
from caloforge.showers.files import open_any
from caloforge.showers.interruption import interrupted
from caloforge.training.processes import Processes
from caloforge.version import __version__

__all__ = ["GenerationResult", "block_rows", "generate"]

#: Showers in a block of the file. Blocks are what is resumed, so their size depends on the detector alone.
_BLOCK_ROWS, _LEAST_ROWS, _BLOCK_BYTES, _POINTS_ROWS = 500, 50, 4_000_000, 200
#: Blocks of a task of a worker, if it still has so many tasks.
_TASK_BLOCKS, _TASKS = 8, 16


@dataclass(frozen=True)
class GenerationResult:
    """What a call of ``generate`` did.

    Attributes:
        path: the file.
        showers: showers in it.
        made: showers made by this call.
        redrawn: how many of all showers were rejected and drawn again, counting every attempt.
        extrapolated: whether conditions outside the model's range were allowed.
        seconds: wall time of this call.
        timing: seconds spent on ``latents``, ``decode``, ``assembly``, ``packing`` (summed over all workers), ``writing`` and
            ``loading`` (model and workers until the first showers come, at most one block).
    """

    path: Path
    showers: int
    made: int
    redrawn: int
    extrapolated: bool
    seconds: float
    timing: dict[str, float] = field(default_factory=dict)

    @property
    def milliseconds_per_shower(self) -> float:
        """Wall time of this call per shower that it made; 0 if there was nothing to do."""
        return 1000 * self.seconds / self.made if self.made else 0.0


def block_rows(detector: Detector, kind: str = "voxels") -> int:
    """Showers in a block of a generated file: about 4 MB, but 50 to 500 showers; 200 of points."""
    readout = detector.readout
    if kind == "points" or not readout.has_voxels:
        return _POINTS_ROWS
    return max(_LEAST_ROWS, min(_BLOCK_ROWS, _BLOCK_BYTES // (4 * readout.n_voxels)))


def generate(
    model: str | Path | ShowerModel,
    conditions: ConditionSource,
    out: str | Path,
    *,
    asked: GenerateOptions | None = None,
    executor: Executor | None = None,
    max_attempts: int = MAX_ATTEMPTS,
    options: Mapping[str, Any] | None = None,
    show: bool = True,
    command: str | None = None,
    **settings: Any,
) -> GenerationResult:
    """Generate showers into a file.

    The showers depend on the model, the conditions and the seed; batch size, workers and device change nothing but
    rounding.

    Args:
        model: model directory, name of a model that ships with the package, or a model, which is left in its mode and on its
            device.
        conditions: what is asked for.
        out: shower file.
        asked: how it is done.
        executor: who makes the blocks, instead of ``jobs`` processes of this machine or a ``cluster``.
        max_attempts: how often a shower may be drawn.
        options: changes of how the model samples, see ``ShowerModel.adjust``; for a model that is loaded here.
        show: whether to show progress.
        command: what the user typed, for the record.
        settings: single fields of ``GenerateOptions``, instead of or beside ``asked``: ``seed``, ``jobs``, ``format`` ...

    Raises:
        UsageError: if something was asked for that makes no sense, or conditions lie outside the model's range.
        ModelFileError: if the model is missing, damaged or not finished.
        GenerationError: if the model rejects a shower too often, or a worker dies.
        ClusterError: if a cluster cannot be started or reached, or does not do the work.
        OutputError: if the file cannot be written; finished blocks are kept.
        Interrupted: if the user stopped it; the message says what was kept.
    """
    chosen = GenerateOptions.merged(asked, settings)
    seed, device, extrapolate = chosen.seed, chosen.device, chosen.extrapolate
    check_choice(chosen.jobs, chosen.cluster)
    if chosen.parts and chosen.cluster is None and executor is None:
        raise UsageError(
            f"{argument('parts')} is for the workers of a cluster, and none was named ({argument('cluster')})"
        )
    began = time.perf_counter()
    out = Path(out)
    if device is not None:
        Processes.local_device(device)  # a wrong name is noticed here rather than in a worker
    if options and isinstance(model, ShowerModel):
        raise UsageError(
            "options are for a model that is loaded here; those of a model at hand are changed by its 'adjust'"
        )
    loaded = model if isinstance(model, ShowerModel) else load_model(model, options=options)
    valid = None if loaded.record is None else loaded.record.valid
    loaded.check_particle(conditions.particle)
    if valid is not None and not extrapolate:
        conditions.check(valid)
    needed = WorkerSettings(
        model=model,
        conditions=conditions,
        streams=generation_streams(seed),
        batch_size=chosen.batch_size,
        max_attempts=max_attempts,
        device=str(loaded.device) if device is None else device,
        threads=chosen.threads or 0,
        options=loaded.options,
    )
    identity = _identity(loaded)
    adjusted = {"options": loaded.options} if loaded.options else {}
    rows = block_rows(loaded.detector, loaded.shower_kind)
    provenance = {
        "program": "caloforge generate",
        "caloforge": __version__,
        "torch": torch.__version__,
        "model": loaded.described()
        | {"sha256": identity}
        # Made for a detector on the spot, so nobody need look for rows that it was trained on.
        | ({"untrained": True} if loaded.record is not None and loaded.directory is None else {}),
        "seed": seed,
        "particle": particle_name(conditions.particle),
        "extrapolated": extrapolate,
        "command": command,
    } | conditions.request()
    writer = create_showers(
        out,
        chosen.format,
        detector=loaded.detector,
        particle=conditions.particle,
        kind=loaded.shower_kind,
        provenance=provenance | {"redrawn": 0},
        request={"model": identity, "seed": seed, "block": rows, "extrapolate": extrapolate}
        | adjusted
        | conditions.request(),
        expected=len(conditions),
        resume=chosen.resume,
        overwrite=chosen.overwrite,
    )
    job = _Job(writer, conditions, rows, provenance, _redrawn_before(out))
    before = len(writer)
    try:
        with writer, open_executor(executor, chosen.jobs, chosen.cluster) as who:
            job.run(loaded, needed, who, parts=chosen.parts, show=show)
    except KeyboardInterrupt:
        told = (
            interrupted(writer, len(conditions)) if len(writer) else Interrupted("interrupted; no block was finished")
        )
        raise told from None
    closed = time.perf_counter()
    return GenerationResult(
        path=out,
        showers=len(conditions),
        made=len(conditions) - before,
        redrawn=job.redrawn,
        extrapolated=extrapolate,
        seconds=closed - began,
        timing=vars(job.timing) | {"writing": job.writing, "loading": job.loading},
    )


class _Job:
    """One generation into one file."""

    def __init__(
        self,
        writer: Writer,
        conditions: ConditionSource,
        rows: int,
        provenance: Mapping[str, Any],
        redrawn: int,
    ) -> None:
        self._writer, self._conditions, self._rows, self._provenance = writer, conditions, rows, dict(provenance)
        self.redrawn = redrawn
        writer.set_provenance(self._provenance | {"redrawn": redrawn})
        self.timing = Timing()
        self.writing = self.loading = 0.0
        self._executor: Executor | None = None

    def run(
        self, model: ShowerModel, settings: WorkerSettings, executor: Executor | None, *, parts: bool, show: bool
    ) -> None:
        """Make all missing blocks; ``parts``: workers write them into the folder of the parts."""
        jobs = 1 if executor is None else executor.jobs
        tasks = self._tasks(settings.batch_size, jobs, elsewhere=executor is not None)
        if not tasks:
            return
        settings = replace(settings, threads=settings.threads or max(1, available_cores() // jobs))
        if executor is None or not on_this_machine(executor):
            settings = replace(settings, model=model)  # others may not find it under its name
        if executor is not None:
            settings = replace(settings, portions=self._writer.portions(self._rows, shared=parts))
        self._executor = executor
        began = time.perf_counter()
        shown = progress("generating", len(self._conditions), "showers", done=len(self._writer))
        samples: Generator[tuple[Task, Sample | Answer]]
        samples = self._here(tasks, model, settings) if executor is None else run_tasks(executor, settings, tasks)
        # Closed at once if writing fails, so that the model goes home before the error does.
        with shown if show else nullcontext() as display, closing(samples):
            for task, sample in samples:
                if not self.loading:
                    self.loading = time.perf_counter() - began - sample.timing.latents - sample.timing.decode
                self._write(task, sample)
                if display is not None:
                    display.advance(task.stop - task.start)

    def _tasks(self, batch_size: int, workers: int, *, elsewhere: bool) -> list[Task]:
        """Missing blocks, neighbours together where a batch can hold them and every worker still has something.

        Elsewhere more of them, where each worker still has many tasks: every one costs the way there and back.
        """
        total = len(self._conditions)
        missing = self._writer.missing(-(-total // self._rows))
        together = max(1, min(batch_size // self._rows, -(-len(missing) // workers)))
        if elsewhere:
            together = max(together, min(_TASK_BLOCKS, len(missing) // (_TASKS * workers)))
        tasks: list[list[int]] = []
        for block in missing:
            if tasks and tasks[-1][1] == block and block - tasks[-1][0] < together:
                tasks[-1][1] = block + 1
            else:
                tasks.append([block, block + 1])
        return [Task(first * self._rows, min(end * self._rows, total)) for first, end in tasks]

    def _here(
        self, tasks: Sequence[Task], model: ShowerModel, settings: WorkerSettings
    ) -> Generator[tuple[Task, Sample]]:
        former = torch.get_num_threads()
        torch.set_num_threads(settings.threads)
        try:
            with borrowed(model, settings.device) as ready:
                for task in tasks:
                    sample = sample_showers(
                        ready,
                        self._conditions.block(task.start, task.stop),
                        settings.streams,
                        batch_size=settings.batch_size,
                        max_attempts=settings.max_attempts,
                        extrapolate=True,  # looked at before the file was begun
                    )
                    yield task, sample
        finally:
            torch.set_num_threads(former)

    def _write(self, task: Task, sample: Sample | Answer) -> None:
        began = time.perf_counter()
        self.timing.add(sample.timing)
        self.redrawn += sample.redrawn
        who = origin(self._executor)
        if sample.redrawn or who:
            self._writer.set_provenance(self._provenance | who | {"redrawn": self.redrawn})
        if isinstance(sample, Answer):
            self._writer.take(sample.portion)
        else:
            for start in range(task.start, task.stop, self._rows):
                piece = sample.showers[start - task.start : start - task.start + self._rows]
                self._writer.write(piece, position=start // self._rows)
        self.writing += time.perf_counter() - began


def _redrawn_before(path: Path) -> int:
    """How many redrawn showers the file tells of that is being resumed (or was just begun)."""
    with open_any(path, None, None) as reader:
        redrawn = reader.provenance.get("redrawn", 0)
        return redrawn if isinstance(redrawn, int) else 0


def _identity(model: ShowerModel) -> str:
    """Hash of the weights, as in ``model.json`` if the model was loaded from a directory."""
    if model.record is not None:
        return model.record.weights_sha256
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
