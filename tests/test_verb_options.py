"""One frozen object of options for a verb, the same in Python and on the command line."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from caloforge.cli import evaluate as evaluate_command
from caloforge.cli import generate as generate_command
from caloforge.cli.expand import with_options
from caloforge.errors import UsageError
from caloforge.evaluation import evaluate, plan_evaluation
from caloforge.evaluation.files import prepare_evaluation
from caloforge.generation import generate, likelihood
from caloforge.options import EvaluateOptions, GenerateOptions, LikelihoodOptions, Options, options_of


def test_options_are_frozen_and_checked_where_they_are_made() -> None:
    options = EvaluateOptions(only=["fpd"], retrainings=2)  # type: ignore[arg-type]
    assert options.only == ("fpd",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.seed = 3  # type: ignore[misc]
    for wrong, message in (
        ({"retrainings": 0}, "retrainings is 0, expected 1 or more"),
        ({"max_showers": 9}, "max showers is 9, expected 10 or more"),
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
