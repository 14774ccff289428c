"""Log-likelihoods of the showers of a file under a model, as a table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caloforge import datasets
from caloforge.atomic import output_error, refuse_existing, written_beside
from caloforge.cores import available_cores
from caloforge.errors import UsageError
from caloforge.executor import Executor, InThisProcess, on_this_machine
from caloforge.generation.sampling import borrowed
from caloforge.models import ShowerModel, load_model
from caloforge.options import LikelihoodOptions
from caloforge.progress import progress
from caloforge.random import Streams
from caloforge.scaleout import check_choice, open_executor
from caloforge.showers import Reader
from caloforge.showers.joining import open_several
from caloforge.training.processes import Processes

__all__ = ["LikelihoodResult", "likelihood"]


@dataclass(frozen=True)
class LikelihoodResult:
    """What a call of ``likelihood`` found.

    Attributes:
        path: the table.
        showers: rows in it.
        mean: mean log-likelihood of the rows that have a finite one, nats.
        error: its statistical error, nats.
        impossible: rows that the model holds for impossible (log-likelihood minus infinity).
        seconds: wall time.
    """

    path: Path
    showers: int
    mean: float
    error: float
    impossible: int
    seconds: float


def likelihood(
    model: str | Path | ShowerModel,
    data: str | Path | Sequence[str | Path] | Reader,
    out: str | Path,
    *,
    options: LikelihoodOptions | None = None,
    executor: Executor | None = None,
    show: bool = True,
    **settings: Any,
) -> LikelihoodResult:
    """Write the log-likelihood of every shower of a file.

    The table (CSV) has the columns ``shower`` (row in the file), ``incident_energy_MeV`` and ``log_prob_nats``; in which
    variables the density is, the model's page in the documentation says. It appears when it is complete.

    Args:
        model: model directory, name of a model that ships with the package, or a model, which is left in its mode and on its
            device.
        data: shower file, a sample of the package (``NAME:SPLIT``), several of these as one, or an open file.
        out: table to write.
        options: how it is done.
        executor: who computes the blocks, instead of ``jobs`` processes of this machine or a ``cluster``, whose workers read
            the files under the same names.
        show: whether to show progress.
        settings: single fields of ``LikelihoodOptions``, instead of or beside ``options``: ``seed``, ``jobs`` ...

    Raises:
        UsageError: if the model has no likelihood or the showers do not suit it.
        ShowerFileError: if the file is damaged.
        ModelFileError: if the model is missing, damaged or not finished.
        WorkerDiedError: if a worker dies.
        ClusterError: if a cluster cannot be started or reached, or does not do the work.
        OutputError: if the table exists or cannot be written.
    """
    chosen = LikelihoodOptions.merged(options, settings)
    check_choice(chosen.jobs, chosen.cluster)
    elsewhere = executor is not None or chosen.jobs > 1 or chosen.cluster is not None
    if elsewhere and isinstance(data, Reader):
        raise UsageError("an open file cannot be sent to other processes, expected its name")
    out = Path(out)
    if not chosen.overwrite:
        refuse_existing(out, "overwrite it, or choose another name")
    began, former = time.perf_counter(), torch.get_num_threads()
    where = None if chosen.device is None else Processes.local_device(chosen.device)
    loaded = model if isinstance(model, ShowerModel) else load_model(model)
    if not loaded.has_likelihood:
        raise UsageError(f"the model '{loaded.kind}' has no likelihood")
    opened = nullcontext(data) if isinstance(data, Reader) else datasets.open_named(data, loaded.detector)
    try:
        if chosen.threads is not None:
            torch.set_num_threads(chosen.threads)
        with (
            opened as reader,
            borrowed(loaded, where) as ready,
            open_executor(executor, chosen.jobs, chosen.cluster) as who,
        ):
            size = chosen.batch_size
            blocks = [(k, min(k + size, len(reader))) for k in range(0, len(reader), size)]
            if who is None:
                found = InThisProcess().run(_Here(ready, reader, chosen.seed, chosen.noise_draws), None, blocks)
            else:
                assert not isinstance(data, Reader)  # refused above
                needed = _Settings(
                    model if on_this_machine(who) else loaded,
                    [datasets.from_anywhere(name) for name in ([data] if isinstance(data, str | Path) else data)],
                    chosen.seed,
                    chosen.noise_draws,
                    chosen.threads or max(1, available_cores() // who.jobs),
                    str(ready.device),
                )
                found = who.run(_prepare, needed, blocks)
            with closing(found):
                values = _write_table(_in_order(found, blocks), len(reader), out, show=show)
    finally:
        torch.set_num_threads(former)
    finite = values[values.isfinite()]
    n = len(finite)
    return LikelihoodResult(
        path=out,
        showers=len(values),
        mean=float(finite.mean()) if n else math.nan,
        error=float(finite.std() / math.sqrt(n)) if n > 1 else math.nan,
        impossible=len(values) - n,
        seconds=time.perf_counter() - began,
    )


#: First row and the row behind the last one; incident energies (MeV) and log-likelihoods (nats) of the rows between.
_Block = tuple[int, int]
_Values = tuple[NDArray[np.float64], torch.Tensor]


@dataclass(frozen=True)
class _Settings:
    """What every worker needs to know; see :func:`likelihood`."""

    model: str | Path | ShowerModel
    data: list[str]
    seed: int
    noise_draws: int
    threads: int
    device: str


@dataclass(frozen=True)
class _Here:
    """The likelihoods of blocks of an open file; as what prepares a worker, it is its own result."""

    model: ShowerModel
    reader: Reader
    seed: int
    draws: int

    def __call__(self, _: None) -> Callable[[_Block], _Values]:
        return self.block

    def block(self, rows: _Block) -> _Values:
        start, stop = rows
        showers = self.reader.read(start, stop)
        streams = Streams(self.seed, "likelihood")
        return showers.incident_energy, self.model.log_prob(showers, streams, draws=self.draws, first_row=start)


def _prepare(settings: _Settings) -> Callable[[_Block], _Values]:
    """What a worker does before its first block."""
    torch.set_num_threads(settings.threads)
    model = settings.model
    if not isinstance(model, ShowerModel):
        model = load_model(model)
    model = model.to(settings.device).eval()
    # Whether they belong together was looked at before the workers were called.
    reader = open_several([datasets.file_of(name) for name in settings.data], model.detector, check_rows=False)
    return _Here(model, reader, settings.seed, settings.noise_draws).block


def _in_order(found: Iterable[tuple[_Block, _Values]], blocks: Sequence[_Block]) -> Iterator[tuple[_Block, _Values]]:
    """The blocks in the order of the file, in whatever order they come."""
    waiting: dict[_Block, _Values] = {}
    todo = iter(blocks)
    wanted = next(todo, None)
    for block, values in found:
        waiting[block] = values
        while wanted in waiting:
            yield wanted, waiting.pop(wanted)
            wanted = next(todo, None)


def _write_table(found: Iterable[tuple[_Block, _Values]], rows: int, out: Path, *, show: bool) -> torch.Tensor:
    """Write the table beside its place, move it there, and give back its last column."""
    columns = []
    shown = progress("likelihood", rows, "showers") if show else nullcontext()
    try:
        with written_beside(out) as beside, beside.open("w", encoding="utf-8") as file, shown as display:
            file.write("shower,incident_energy_MeV,log_prob_nats\n")
            for (start, stop), (energies, values) in found:
                columns.append(values)
                file.writelines(
                    f"{start + k},{energy!r},{value!r}\n"
                    for k, (energy, value) in enumerate(zip(energies.tolist(), values.tolist(), strict=True))
                )
                if display is not None:
                    display.advance(stop - start)
    except OSError as error:
        raise output_error(out, error) from None
    return torch.cat(columns)
