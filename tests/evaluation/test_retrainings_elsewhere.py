"""Retrainings that other processes do: the same numbers, and finished ones are kept whatever happens to the others."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from executors import Backwards

from caloforge.detectors import Detector, detector_from_toml
from caloforge.errors import TrainingError
from caloforge.evaluation import evaluate
from caloforge.evaluation.classifiers import (
    ClassifierSettings,
    ParticlePair,
    Work,
    cross_particle_test,
    log_posterior_test,
    recipe,
    two_sample_test,
)
from caloforge.evaluation.classifiers.retraining import Retraining, retrained
from caloforge.executor import InThisProcess, LocalProcesses
from caloforge.random import Streams
from caloforge.showers import Showers

SMALL = replace(recipe("caloflow-dnn-unnormalised"), network="dense-64")
SETTINGS = ClassifierSettings(retrainings=3, epochs=2, slices=1, threads=1)


def detector() -> Detector:
    return detector_from_toml(
        'name = "four"\n[readout]\n[[readout.layers]]\nx = {bins = 2, range = [-1, 1]}\ny = {bins = 2, range = [-1, 1]}\n',
        where="test",
    )


def some(shift: float, seed: int, particle: int = 22, n: int = 200) -> Showers:
    rng = np.random.default_rng(seed)
    deposits = (50 + 10 * rng.normal(size=(n, 4))).astype(np.float32)
    deposits[:, 0] += 10 * shift
    return Showers(np.maximum(deposits, 0), rng.uniform(1e5, 2e5, n), particle, detector().readout)


def two_samples(work: Work) -> Any:
    return two_sample_test(SMALL, some(1, 1), some(0, 2), settings=SETTINGS, streams=Streams(1, "t"), work=work)


def several_samples(work: Work) -> Any:
    samples = {"a": some(1, 1), "b": some(2, 3)}
    return log_posterior_test(SMALL, samples, some(0, 2), settings=SETTINGS, streams=Streams(1, "t"), work=work)


def two_particles(work: Work) -> Any:
    pairs = [ParticlePair(some(a, 10 * k), some(b, 10 * k + 1, 11)) for k, (a, b) in enumerate(((0, 1), (0, 2)))]
    return cross_particle_test(*pairs, SMALL, settings=SETTINGS, streams=Streams(1, "t"), work=work)


@pytest.mark.parametrize("test", [two_samples, several_samples, two_particles])
def test_who_retrains_changes_nothing(test: Callable[[Work], Any]) -> None:
    """Mutation: gather results in the order in which they come (``Backwards`` brings the last one first)."""
    told: list[int] = []
    alone = test(Work(advance=lambda epochs, note: told.append(epochs)))
    elsewhere: list[int] = []
    executors = [Backwards(), LocalProcesses(2)] if test is two_samples else [Backwards()]
    for executor in executors:
        elsewhere.clear()
        assert test(Work(executor=executor, advance=lambda epochs, note: elsewhere.append(epochs))) == alone
        assert sum(elsewhere) == sum(told)


def test_an_evaluation_takes_jobs_and_an_executor() -> None:
    asked: dict[str, Any] = {
        "detector": detector(), "only": ["high-level", "caloflow-dnn-unnormalised"], "retrainings": 2, "epochs": 1,
    }  # fmt: skip
    generated, reference = some(1, 1), some(0, 2)

    def numbers(**settings: Any) -> dict[str, Any]:
        result: dict[str, Any] = evaluate(generated, reference, **asked, **settings).model_dump()
        return {key: value for key, value in result.items() if key != "seconds"}

    alone = numbers()
    seen: list[int] = []

    class Counting(InThisProcess):
        def run(self, prepare: Any, settings: Any, tasks: Any) -> Any:
            seen.extend(tasks)
            yield from super().run(prepare, settings, tasks)

    assert numbers(executor=Counting()) == alone
    assert seen
    assert numbers(jobs=2) == alone


class Threads(Retraining):
    """Says how many threads it may use."""

    def __call__(self, number: int, after_epoch: Callable[[], None]) -> dict[str, Any]:
        return {"threads": torch.get_num_threads()}


@pytest.mark.parametrize("asked", [None, 2])
def test_a_retraining_has_the_same_number_of_threads_whoever_does_it(asked: int | None) -> None:
    """Mutations: torch's own number here, the share of the cores elsewhere; networks would differ in their last digits."""
    former = torch.get_num_threads()
    settings = replace(SETTINGS, threads=asked)
    for executor in (None, Backwards(), LocalProcesses(2)):
        torch.set_num_threads(3)
        try:
            found = retrained(
                Threads(), name="t", recipe=SMALL, settings=settings, streams=Streams(1, "t"), identity={},
                work=Work(executor=executor), note=lambda result: "",
            )  # fmt: skip
            assert executor is not None or torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(former)
        assert found == [{"threads": asked or 1}] * 3


class Dying(Retraining):
    """Its second retraining kills the process that does it."""

    def __call__(self, number: int, after_epoch: Callable[[], None]) -> dict[str, Any]:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"number": number}


def test_a_process_that_dies_takes_no_finished_retraining_with_it(tmp_path: Path) -> None:
    """Mutation: keep results only when all of them are there."""
    asked: dict[str, Any] = {
        "name": "t", "recipe": SMALL, "streams": Streams(1, "t"), "identity": {}, "note": lambda result: "",
    }  # fmt: skip
    with pytest.raises(TrainingError, match=r"a worker process died \(killed by hand.*finished retrainings are kept"):
        retrained(Dying(), settings=SETTINGS, work=Work(tmp_path, executor=LocalProcesses(1)), **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["t-00.json"]
