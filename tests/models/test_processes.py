"""A training is the same in one process and in two: every kind of model, with batch norm and dropout and without.

float64, 21 steps on batches of seven rows (shares of three and four), unequal numbers of points, gradient clip, moving
averages. What each mechanism is worth is shown by taking it away: see ``MUTATIONS`` in ``trained_kinds.py``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trained_kinds import MUTATIONS, cases, train_all

from caloforge.models import model_class, model_kinds
from caloforge.training.processes import Processes

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensors, Tensors, Tensors]:
    """Results of one process and of both ranks of two."""
    folder = tmp_path_factory.mktemp("trained")
    script = Path(__file__).with_name("trained_kinds.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(script), str(rank), str(folder / "store"), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    one = train_all(folder / "one", Processes())
    for rank in ranks:
        _, errors = rank.communicate(timeout=1200)
        assert rank.returncode == 0, errors
    return one, *(load_file(folder / f"rank{rank}.safetensors") for rank in range(2))  # type: ignore[return-value]


def difference(one: torch.Tensor, two: torch.Tensor) -> float:
    """Norm of the difference over the norm; where a bias cancels in what is computed, both are rounding alone."""
    if one.isnan().any():
        return float("inf")
    return float((one.double() - two.double()).norm() / one.double().norm().clamp_min(1e-5))


def of_case(tensors: Tensors, case: str) -> Tensors:
    return {name: value for name, value in tensors.items() if name.startswith(f"{case}: ")}


def test_every_kind_is_among_them() -> None:
    kinds = {kind for kind in model_kinds() if model_class(kind).__module__.startswith("caloforge.")}
    assert {kind for kind, _ in cases().values()} == kinds


@pytest.mark.parametrize("case", cases())
def test_two_processes_train_what_one_trains(trained: tuple[Tensors, Tensors, Tensors], case: str) -> None:
    one, first, second = (of_case(tensors, case) for tensors in trained)
    assert one.keys() == first.keys()
    for name, value in one.items():
        assert difference(value, first[name]) < 1e-9, name
    for name, value in second.items():
        assert torch.equal(value, first[name]), name


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_they_would_not_without(trained: tuple[Tensors, Tensors, Tensors], mutation: str) -> None:
    one, two, _ = trained
    case = MUTATIONS[mutation][1]
    assert max(difference(v, two[f"{mutation}; {k}"]) for k, v in of_case(one, case).items()) > 1e-4
