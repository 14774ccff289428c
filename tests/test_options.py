"""One frozen object of options for a verb, the same in Python and on the command line."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from caloforge.cli import evaluate as command
from caloforge.cli.expand import with_options
from caloforge.errors import UsageError
from caloforge.evaluation import evaluate, plan_evaluation
from caloforge.evaluation.files import prepare_evaluation
from caloforge.options import EvaluateOptions, options_of


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


def test_the_command_line_has_every_option_once_and_the_functions_take_the_object() -> None:
    """Mutation: forget a field in ``with_options``."""
    names = {name for name, _, _ in options_of(EvaluateOptions)}
    typed = inspect.signature(command.evaluate).parameters
    assert names <= set(typed)
    assert "options" not in typed
    for function in (evaluate, plan_evaluation, prepare_evaluation):
        parameters = inspect.signature(function).parameters
        assert "options" in parameters
        assert not names & set(parameters)


def test_what_is_typed_becomes_the_object() -> None:
    seen: list[Any] = []

    @with_options(EvaluateOptions)
    def verb(name: str, options: EvaluateOptions) -> None:
        seen.append((name, options))

    verb(name="x", **EvaluateOptions(seed=5).plain() | {"only": ["fpd, kpd", "prdc"], "skip": None})
    assert seen == [("x", EvaluateOptions(seed=5, only=("fpd", "kpd", "prdc")))]
