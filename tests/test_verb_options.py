"""One frozen object of options for a verb, the same in Python and on the command line."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import caloforge as cf
from caloforge.arguments import typed
from caloforge.bench.options import (
    GenerationBenchOptions,
    RuntimeBenchOptions,
    SamplingBenchOptions,
    SimulationBenchOptions,
    TrainingBenchOptions,
)
from caloforge.bench.verbs import (
    time_generation,
    time_runtime,
    time_sampling,
    time_simulation,
    time_stages,
    time_training,
)
from caloforge.cli import bench as bench_command
from caloforge.cli import demo as demo_command
from caloforge.cli import evaluate as evaluate_command
from caloforge.cli import export as export_command
from caloforge.cli import files as files_command
from caloforge.cli import generate as generate_command
from caloforge.cli import hybrid as hybrid_command
from caloforge.cli import join as join_command
from caloforge.cli import simulate as simulate_command
from caloforge.cli import study as study_command
from caloforge.cli import train as train_command
from caloforge.cli.expand import with_options
from caloforge.demo import Demo
from caloforge.deployment import export_model
from caloforge.deployment.hybrid import hybrid_simulation
from caloforge.errors import UsageError
from caloforge.evaluation import evaluate, plan_evaluation
from caloforge.evaluation.files import prepare_evaluation
from caloforge.generation import generate, likelihood
from caloforge.options import (
    CompareOptions,
    ConvertOptions,
    DemoOptions,
    EvaluateOptions,
    ExportOptions,
    GenerateOptions,
    HybridOptions,
    JoinOptions,
    LikelihoodOptions,
    Options,
    SimulateOptions,
    StudyCloudsOptions,
    StudyLearningOptions,
    StudyModelsOptions,
    StudyParticlesOptions,
    StudyVariantsOptions,
    TrainOptions,
    options_of,
)
from caloforge.report import compare_files
from caloforge.simulation import simulate_to_file
from caloforge.studies import run_study, study_clouds, study_learning, study_models, study_particles
from caloforge.training import train


def test_options_are_frozen_and_checked_where_they_are_made() -> None:
    options = EvaluateOptions(only=["fpd"], retrainings=2)  # type: ignore[arg-type]
    assert options.only == ("fpd",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.seed = 3  # type: ignore[misc]
    for wrong, message in (
        ({"retrainings": 0}, "retrainings is 0, expected 1 or more"),
        ({"max_showers": 9}, "max_showers is 9, expected 10 or more"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"only": "fpd"}, r"only is 'fpd', expected a list of words such as only=\['fpd'\]"),
    ):
        with pytest.raises(UsageError, match=message):
            EvaluateOptions(**wrong)  # type: ignore[arg-type]
    assert EvaluateOptions.merged(options, {"seed": 4}).only == ("fpd",)
    with pytest.raises(TypeError, match="nonsense"):
        EvaluateOptions.merged(None, {"nonsense": 1})


VERBS = [
    (EvaluateOptions, evaluate_command.evaluate, (evaluate, plan_evaluation, prepare_evaluation)),
    (GenerateOptions, generate_command.generate, (generate,)),
    (LikelihoodOptions, generate_command.likelihood, (likelihood,)),
    (SimulateOptions, simulate_command.simulate, (simulate_to_file, cf.simulate)),
    (HybridOptions, hybrid_command.hybrid, (hybrid_simulation,)),
    (StudyModelsOptions, study_command.models, (study_models,)),
    (StudyCloudsOptions, study_command.clouds, (study_clouds,)),
    (StudyVariantsOptions, study_command.noise, (run_study,)),
    (StudyVariantsOptions, study_command.symmetries, (run_study,)),
    (StudyLearningOptions, study_command.learning, (study_learning,)),
    (StudyParticlesOptions, study_command.particles, (study_particles,)),
    (TrainOptions, train_command.train, (train, cf.train)),
    (ConvertOptions, files_command.convert, (cf.convert,)),
    (JoinOptions, join_command.join, (cf.join,)),
    (ExportOptions, export_command.export, (export_model,)),
    (CompareOptions, evaluate_command.compare, (compare_files,)),
    (DemoOptions, demo_command.demo, (Demo,)),
    (SamplingBenchOptions, bench_command.sampling, (time_sampling,)),
    (GenerationBenchOptions, bench_command.generation, (time_generation,)),
    (RuntimeBenchOptions, bench_command.runtime, (time_runtime,)),
    (TrainingBenchOptions, bench_command.training, (time_training, time_stages)),
    (SimulationBenchOptions, bench_command.simulation, (time_simulation,)),
]


@pytest.mark.parametrize(("cls", "command", "functions"), VERBS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_command_line_has_every_option_once_and_the_functions_take_the_object(
    cls: type[Options], command: Callable[..., None], functions: tuple[Callable[..., Any], ...]
) -> None:
    """Mutation: forget a field in ``with_options``."""
    names = {name for name, _, _ in options_of(cls)}
    assert names <= set(inspect.signature(command).parameters)
    for function in functions:
        parameters = inspect.signature(function).parameters
        assert {"options", "asked"} & set(parameters)
        assert not names & set(parameters)
        assert "settings" in parameters


def test_what_is_typed_becomes_the_object() -> None:
    seen: list[Any] = []

    @with_options(EvaluateOptions)
    def verb(name: str, options: EvaluateOptions) -> None:
        seen.append((name, options))

    verb(name="x", **EvaluateOptions(seed=5).plain() | {"only": ["fpd, kpd", "prdc"], "skip": None})
    assert seen == [("x", EvaluateOptions(seed=5, only=("fpd", "kpd", "prdc")))]


@pytest.mark.parametrize(
    ("cls", "wrong", "python", "command_line"),
    [
        (SimulateOptions, {"direction": "up"}, "direction is 'up', expected fixed, random, angles or barrel", "--direction is"),
        (ConvertOptions, {"sub_cells": 0}, "sub_cells is 0, expected 1 or more", "--sub-cells is 0"),
        (GenerateOptions, {"batch_size": 0}, "batch_size is 0, expected 1 or more", "--batch-size is 0"),
        (SamplingBenchOptions, {"batches": (3, 0)}, "batches is 0, expected 1 or more", "--batch is 0"),
        (SamplingBenchOptions, {"against": "pyro"}, "against is 'pyro', expected nflows", "--against is"),
        (DemoOptions, {"showers": 99}, "showers is 99, expected 100 or more", "--showers is 99"),
    ],
)  # fmt: skip
def test_errors_call_an_argument_what_the_reader_calls_it(
    cls: type[Options], wrong: dict[str, Any], python: str, command_line: str
) -> None:
    """Mutation: one of the two words for both."""
    with pytest.raises(UsageError, match=f"^{python}"):
        cls(**wrong)
    with typed(), pytest.raises(UsageError, match=f"^{command_line}"):
        cls(**wrong)
