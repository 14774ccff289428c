"""What Python checks as the command line does, and that a caller's model is given back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_model import Toy, ToyConfig, toy_detector, toy_file, toy_showers

from caloforge.errors import CaloForgeError, OutputError, UsageError
from caloforge.evaluation.timing import measure_timing
from caloforge.generation import ListedConditions, generate, generation_streams, likelihood, sample_showers
from caloforge.generation.generate import _Job
from caloforge.models import ConditionRange, Conditions, load_model, save_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for photons of 2 to 9 GeV along the axis."""
    path = tmp_path_factory.mktemp("model") / "m"
    save_model(path, Toy(ToyConfig(), toy_detector()), ConditionRange(particle=22, incident_energy=(2e3, 9e3)))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_file(tmp_path_factory.mktemp("data") / "g.h5", 30)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Conditions.first(np.asarray([5e3, 20e3]), 22), r"from 2 GeV to 9 GeV, an energy of 20 GeV is outside"),
        (Conditions.first(np.asarray([5e3]), 11), "trained for gamma, showers of e- were asked for"),
        (Conditions.first(np.asarray([5e3]), 22, direction=np.asarray([[0.6, 0, 0.8]], np.float32)), "1 directions"),
    ],
)
def test_showers_in_memory_keep_to_the_trained_range(saved: Path, asked: Conditions, message: str) -> None:
    """Mutation: leave the check out of ``sample_showers``."""
    model, streams = load_model(saved), generation_streams(0)
    with pytest.raises(UsageError, match=message):
        sample_showers(model, asked, streams)
    assert len(sample_showers(model, asked, streams, extrapolate=True).showers) == len(asked)
    inside = Conditions.first(np.asarray([2e3, 9e3]), 22)
    assert len(sample_showers(model, inside, streams).showers) == 2


class Travelling(Toy):
    """A toy that notes where it was sent, and in which mode it worked."""

    def __init__(self, config: ToyConfig) -> None:
        self.sent: list[str] = []
        self.modes: list[bool] = []
        self.broken = False
        super().__init__(config, toy_detector())

    def to(self, *places: Any, **words: Any) -> Any:
        self.sent += [str(place) for place in places]
        return self

    def decode_tensors(self, conditions: Any, latents: Any) -> Any:
        self.modes.append(any(module.training for module in self.modules()))
        if self.broken:
            raise CaloForgeError("no more showers")
        return super().decode_tensors(conditions, latents)

    def log_prob(self, showers: Any, streams: Any, **words: Any) -> Any:
        self.modes.append(any(module.training for module in self.modules()))
        if self.broken:
            raise CaloForgeError("no more densities")
        return super().log_prob(showers, streams, **words)


@pytest.fixture
def model() -> Travelling:
    """In train mode, but for one part."""
    made = Travelling(ToyConfig())
    made.maker.eval()
    return made


def modes(model: Travelling) -> list[bool]:
    return [module.training for module in model.modules()]


def asked(n: int = 40) -> ListedConditions:
    return ListedConditions(np.linspace(2e3, 9e3, n), 22)


@pytest.mark.parametrize("broken", [False, True], ids=["done", "failed"])
def test_a_model_comes_home_as_it_left(model: Travelling, data: Path, tmp_path: Path, broken: bool) -> None:
    """Mutation: ``model.to(device).eval()`` without the way back, or only on success."""
    before, model.broken = modes(model), broken
    calls = [
        lambda: generate(model, asked(), tmp_path / "g.h5", device="cpu", show=False),
        lambda: likelihood(model, data, tmp_path / "p.csv", device="cpu", show=False),
        lambda: sample_showers(model, asked().block(0, 5), generation_streams(0)),
        lambda: measure_timing(model, toy_showers(10), batches=[1], devices=["cpu"]),
    ]
    for call in calls:
        model.sent.clear()
        if broken:
            with pytest.raises(CaloForgeError, match="no more"):
                call()
        else:
            call()
        assert modes(model) == before
        assert model.sent[-1] == str(model.device)
    assert model.modes
    assert not any(model.modes)


def test_a_model_is_home_before_an_error_of_writing_arrives(
    model: Travelling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: do not close the generator of samples; it then ends when the error is forgotten."""

    def full(*anything: object) -> None:
        raise OutputError("disk full")

    monkeypatch.setattr(_Job, "_write", full)
    before, threads = modes(model), torch.get_num_threads()
    with pytest.raises(OutputError, match="disk full") as caught:
        generate(model, asked(), tmp_path / "g.h5", threads=threads + 1, show=False)
    assert modes(model) == before
    assert torch.get_num_threads() == threads
    assert caught.value.__traceback__ is not None  # which holds the frames of the generation


def test_a_model_at_hand_works_where_it_is_unless_told_otherwise(
    model: Travelling, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: the CPU as the default device, which brings every model of a GPU down to it."""
    monkeypatch.setattr(Toy, "device", torch.device("cuda:3"))
    monkeypatch.setattr(
        Toy, "decode", lambda self, conditions, latents: (toy_showers(len(conditions)), np.ones(40, bool))
    )
    generate(model, asked(), tmp_path / "g.h5", show=False)
    likelihood(model, data, tmp_path / "p.csv", show=False)
    assert set(model.sent) == {"cuda:3"}


def test_options_are_not_for_a_model_at_hand(model: Travelling, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'adjust'"):
        generate(model, asked(), tmp_path / "g.h5", options={"steps": 3}, show=False)
