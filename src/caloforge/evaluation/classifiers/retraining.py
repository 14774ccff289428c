"""What all classifier tests share: how thoroughly they train, which rows they take, and retrainings that are kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caloforge.detectors import Readout
from caloforge.errors import TrainingError, UsageError
from caloforge.evaluation.classifiers.kept import KeptResults
from caloforge.evaluation.classifiers.networks import build_network
from caloforge.evaluation.classifiers.recipes import ClassifierRecipe, batch_size, split_sizes
from caloforge.evaluation.classifiers.training import Indices, Outputs, fit, seeded
from caloforge.executor import Executor
from caloforge.random import Streams
from caloforge.workers import WorkerDiedError

__all__ = ["ClassifierSettings", "Retraining", "Work", "class_rows", "retrained", "train_classifier"]

#: CPU threads of a retraining, if nobody asks for more.
THREADS = 1
#: Raised whenever kept results hold something else than before.
_FORM = 2


@dataclass(frozen=True)
class ClassifierSettings:
    """How thoroughly classifiers are trained.

    Attributes:
        retrainings: independent trainings, each with its own split, initial weights and order.
        epochs: None for the published number.
        max_showers: at most so many of each class, None for all.
        patience: stop after so many epochs without a better accuracy; None trains all epochs, as published.
        precision: CaloChallenge's script uses float64.
        device: torch device.
        threads: CPU threads of a retraining, on which its numbers depend in their last digits; None for one, wherever and
            beside however many others it runs.
        slices: number of parts of the energy range with about equally many showers.
    """

    retrainings: int = 10
    epochs: int | None = None
    max_showers: int | None = None
    patience: int | None = None
    precision: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    threads: int | None = None
    slices: int = 5

    def __post_init__(self) -> None:
        for name in ("retrainings", "epochs", "max_showers", "patience", "threads", "slices"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"the classifier setting '{name}' is {value}, expected 1 or more")

    def tensor(self, rows: NDArray[np.float32]) -> Tensor:
        """Inputs of a network, where and as precisely as it is trained."""
        return torch.from_numpy(rows).to(device=self.device, dtype=getattr(torch, self.precision))


def class_rows(count: int, wanted: int, generator: np.random.Generator) -> Indices:
    """``wanted`` of ``count`` rows, drawn without replacement and sorted; all of them if that many are wanted."""
    if wanted >= count:
        return np.arange(count)
    return np.sort(generator.choice(count, wanted, replace=False))


def train_classifier(
    recipe: ClassifierRecipe,
    settings: ClassifierSettings,
    rows: Tensor,
    classes: Tensor,
    parts: tuple[Indices, Indices, Indices],
    *,
    per_class: int,
    readout: Readout | None,
    generator: np.random.Generator,
    after_epoch: Callable[[], None],
    outputs: int = 1,
) -> tuple[nn.Module, Outputs]:
    """Train one network by a recipe.

    Args:
        recipe: network and training.
        settings: how thoroughly.
        rows: inputs, shape (N, inputs), on the device where the work is done.
        classes: class of each row, int64 (N,), on the same device.
        parts: rows for training, for choosing the epoch, and for the score.
        per_class: showers of each class, of which the batch size is a function.
        readout: of the showers.
        generator: initial weights and order of the batches.
        after_epoch: called after each epoch.
        outputs: numbers that the network gives: 1 for two classes, else one for each.

    Returns:
        The network and its outputs in the best epoch.
    """
    seed = int(generator.integers(0, 2**63))
    network = seeded(seed, lambda: build_network(recipe.network, rows.shape[1], readout, outputs=outputs))
    return network, fit(
        network,
        rows,
        classes,
        parts,
        epochs=settings.epochs or recipe.epochs,
        batch_size=batch_size(recipe, split_sizes(recipe, per_class)[0]),
        learning_rate=recipe.learning_rate,
        patience=settings.patience,
        generator=generator,
        after_epoch=after_epoch,
    )


class Retraining(Protocol):
    """One test, ready to be trained; it travels to whoever trains it, so it can be pickled."""

    def __call__(self, number: int, after_epoch: Callable[[], None]) -> dict[str, Any]:
        """Do retraining number n.

        Args:
            number: of the retraining.
            after_epoch: called after every epoch.

        Returns:
            What it found, as JSON can hold it.
        """
        ...


@dataclass(frozen=True)
class Work:
    """Who retrains, where finished retrainings are kept, and who is told.

    Attributes:
        keep: folder in which finished retrainings are kept, so that an interrupted test goes on where it was; None keeps none.
        advance: told of every epoch (1), or of a retraining that was kept or made elsewhere (all of its epochs).
        executor: who does the retrainings; None for this process, one after the other.
    """

    keep: Path | None = None
    advance: Callable[[int, str], None] = lambda epochs, note: None
    executor: Executor | None = None


def retrained(
    train: Retraining,
    *,
    name: str,
    recipe: ClassifierRecipe,
    settings: ClassifierSettings,
    streams: Streams,
    identity: Mapping[str, Any],
    work: Work,
    note: Callable[[dict[str, Any]], str],
    networks: int = 1,
) -> list[dict[str, Any]]:
    """The results of all retrainings; those that an earlier run finished are taken from the disk.

    Args:
        train: does one retraining.
        name: of the test, also of its files.
        recipe: what is trained.
        settings: how thoroughly.
        streams: random numbers of the test.
        identity: what else the results depend on, the rows above all, as JSON can hold it.
        work: who does it.
        note: what to say about a result.
        networks: how many networks a retraining trains.

    Raises:
        TrainingError: if a process that retrains dies; finished retrainings are kept.
    """
    # How many retrainings there are and where they run does not change any one of them; the rows are known.
    elsewhere = ("retrainings", "max_showers", "device", "threads")
    lasting = {k: v for k, v in asdict(settings).items() if k not in elsewhere}
    kept = KeptResults(
        work.keep,
        name,
        {
            "recipe": asdict(recipe), "seed": streams.seed, "purpose": streams.purpose, "settings": lasting,
            "form": _FORM, **identity,
        },
    )  # fmt: skip
    epochs = networks * (settings.epochs or recipe.epochs)
    results: dict[int, dict[str, Any]] = {}
    for number in range(settings.retrainings):
        found = kept.get(number)
        if found is not None:
            results[number] = found
            work.advance(epochs, f"{note(found)} (kept)")
    missing = [number for number in range(settings.retrainings) if number not in results]
    made = (
        _here(train, missing, settings, work) if work.executor is None else _elsewhere(train, missing, settings, work)
    )
    with closing(made):
        for number, result, trained in made:
            # An early end must not leave the progress display short.
            work.advance(epochs - trained, note(result))
            kept.put(number, result)
            results[number] = result
    return [results[number] for number in range(settings.retrainings)]


_Made = Generator[tuple[int, dict[str, Any], int]]


def _here(train: Retraining, numbers: list[int], settings: ClassifierSettings, work: Work) -> _Made:
    """Results with their numbers, and epochs that were told of."""
    trained = 0

    def after_epoch() -> None:
        nonlocal trained
        trained += 1
        work.advance(1, "")

    former = torch.get_num_threads()
    torch.set_num_threads(settings.threads or THREADS)
    try:
        for number in numbers:
            trained = 0
            yield number, train(number, after_epoch), trained
    finally:
        torch.set_num_threads(former)


def _elsewhere(train: Retraining, numbers: list[int], settings: ClassifierSettings, work: Work) -> _Made:
    assert work.executor is not None
    try:
        with closing(work.executor.run(_prepare, (train, settings.threads or THREADS), numbers)) as answers:
            for number, result in answers:
                yield number, result, 0
    except WorkerDiedError as error:
        raise TrainingError(f"{error}; finished retrainings are kept") from None


def _prepare(settings: tuple[Retraining, int]) -> Callable[[int], dict[str, Any]]:
    """See ``caloforge.executor``."""
    train, threads = settings
    torch.set_num_threads(threads)
    return lambda number: train(number, lambda: None)
