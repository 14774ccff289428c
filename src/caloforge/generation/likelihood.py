"""Log-likelihoods of the showers of a file under a model, as a table."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from caloforge import datasets
from caloforge.atomic import output_error, refuse_existing, written_beside
from caloforge.errors import UsageError
from caloforge.generation.sampling import borrowed
from caloforge.models import ShowerModel, load_model
from caloforge.progress import progress
from caloforge.random import Streams
from caloforge.showers import Reader
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
    noise_draws: int = 1,
    seed: int = 0,
    batch_size: int = 500,
    threads: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    show: bool = True,
) -> LikelihoodResult:
    """Write the log-likelihood of every shower of a file.

    The table (CSV) has the columns ``shower`` (row in the file), ``incident_energy_MeV`` and ``log_prob_nats``; in which
    variables the density is, the model's page in the documentation says. It appears when it is complete.

    Args:
        model: model directory, name of a model that ships with the package, or a model, which is left in its mode and on its
            device.
        data: shower file, a sample of the package (``NAME:SPLIT``), several of these as one, or an open file.
        out: table to write.
        noise_draws: draws of the training noise to average the density over.
        seed: of the noise; a shower's noise depends on it and on the row alone.
        batch_size: showers in a batch.
        threads: CPU threads; None leaves torch's choice.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None means where the model is, the CPU for one that is loaded here.
        overwrite: replace the table if it exists.
        show: whether to show progress.

    Raises:
        UsageError: if the model has no likelihood or the showers do not suit it.
        ShowerFileError: if the file is damaged.
        ModelFileError: if the model is missing, damaged or not finished.
        OutputError: if the table exists or cannot be written.
    """
    if noise_draws < 1 or batch_size < 1:
        raise UsageError(
            f"{noise_draws} noise draws in batches of {batch_size} were asked for, expected 1 or more of each"
        )
    out = Path(out)
    if not overwrite:
        refuse_existing(out, "overwrite it, or choose another name")
    began, former = time.perf_counter(), torch.get_num_threads()
    where = None if device is None else Processes.local_device(device)
    loaded = model if isinstance(model, ShowerModel) else load_model(model)
    if not loaded.has_likelihood:
        raise UsageError(f"the model '{loaded.kind}' has no likelihood")
    opened = nullcontext(data) if isinstance(data, Reader) else datasets.open_named(data, loaded.detector)
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        with opened as reader, borrowed(loaded, where) as ready:
            values = _write_table(ready, reader, out, Streams(seed, "likelihood"), noise_draws, batch_size, show=show)
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


def _write_table(
    model: ShowerModel, reader: Reader, out: Path, streams: Streams, draws: int, batch_size: int, *, show: bool
) -> torch.Tensor:
    """Write the table beside its place, move it there, and give back its last column."""
    columns = []
    shown = progress("likelihood", len(reader), "showers") if show else nullcontext()
    try:
        with written_beside(out) as beside, beside.open("w", encoding="utf-8") as file, shown as display:
            file.write("shower,incident_energy_MeV,log_prob_nats\n")
            for start in range(0, len(reader), batch_size):
                block = reader.read(start, start + batch_size)
                values = model.log_prob(block, streams, draws=draws, first_row=start)
                columns.append(values)
                energies = block.incident_energy.tolist()
                file.writelines(
                    f"{start + k},{energy!r},{value!r}\n"
                    for k, (energy, value) in enumerate(zip(energies, values.tolist(), strict=True))
                )
                if display is not None:
                    display.advance(len(block))
    except OSError as error:
        raise output_error(out, error) from None
    return torch.cat(columns)
