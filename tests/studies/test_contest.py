"""What a contest between a model and a control says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from caloforge.evaluation import EvaluationResult
from caloforge.evaluation.results import Value
from caloforge.studies.controls import contest


def _result(separations: dict[str, tuple[float, float]], layer: dict[str, int] | None = None) -> EvaluationResult:
    observables = [
        SimpleNamespace(
            key=f"suite/{name}",
            separation=Value(value=value, error=error),
            chi2_ndf=1.0,
            layer=(layer or {}).get(name),
        )
        for name, (value, error) in separations.items()
    ]
    means: Any = None if layer is None else SimpleNamespace(share=(0.995, 0.005))
    return cast(
        "EvaluationResult",
        SimpleNamespace(generated=SimpleNamespace(observables=observables, layers=means, classifiers={})),
    )


def test_clear_defeats_are_told_from_those_within_the_errors() -> None:
    ours = _result({"a": (0.1, 0.01), "b": (0.1, 0.01), "c": (0.1, 0.01), "d": (0.1, 0.01)})
    control = _result({"a": (0.2, 0.01), "b": (0.09, 0.01), "c": (0.05, 0.01), "d": (0.1, 0.01)})
    found = contest(ours, control)
    assert found.worse == ("suite/b", "suite/c")
    assert found.clearly == {"suite/c"}
    assert found.equal == 1
    assert found.sentence() == (
        "1 of 4 separation powers are smaller, 1 equal, 2 larger, 1 of them by more than two standard errors (not b, c)"
    )


@pytest.mark.parametrize(("value", "sentence"), [(0.3, "1 of 2 separation powers are smaller"), (0.01, "0 of 2")])
def test_faint_layers_are_counted_by_themselves(value: float, sentence: str) -> None:
    layer = {"a": 0, "b": 1}
    found = contest(
        _result({"a": (0.1, 0.0), "b": (0.1, 0.0)}, layer), _result({"a": (value, 0.0), "b": (0.0, 0.0)}, layer)
    )
    assert found.faint == {"suite/b"}
    assert found.sentence().startswith(sentence)
    assert "of 1 larger without layers of less than 1 % of the energy" in found.sentence()
