"""Models whose rejection is on or off: what they and all that is made of them say, and cost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, sparse_showers, toy_detector

import caloforge as cf
from caloforge.aids import rejection
from caloforge.aids.rejection import Rejection
from caloforge.conditions import ConditionRange, Conditions
from caloforge.deployment import export_model
from caloforge.errors import ConfigError, GenerationError
from caloforge.evaluation import files
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import (
    ShowerModel,
    build_model,
    load_model,
    load_preset,
    read_record,
    save_model,
    training_row_hashes,
)
from caloforge.random import Streams
from caloforge.showers import Showers
from caloforge.stage import FitStage, TrainingConfig

DETECTOR = toy_detector()
GeV = 1e3
JUDGE = {"kind": "rejection", "most": 2.0, "networks": 2, "hidden": 6}
RANGE = ConditionRange(particle=22, incident_energy=(1e3, 1e5))


def tiny(kind: str, *aids: dict[str, Any], inputs: dict[str, ShowerModel] | None = None) -> ShowerModel:
    torch.manual_seed(3)
    model = build_model(kind, load_preset(f"{kind}-tiny").model, DETECTOR, aids=aids, inputs=inputs).eval()
    fit(model, sparse_showers(DETECTOR, 40))
    return model


def stored(folder: Path) -> Path:
    hashes = np.arange(7, dtype=np.uint64)
    model, story = tiny("pca-parametrisation", JUDGE), {"seconds": {"rejection": 4.0}}
    save_model(folder, model, RANGE, row_hashes=hashes, training=story, metrics={"auc": 0.5})
    return folder


def test_the_likelihood_of_a_student_has_the_factor() -> None:
    """Mutation: the student's ``log_prob`` is that of the model in it, which has no aids."""
    pupil = tiny("caloflow-student", JUDGE, inputs={"teacher": tiny("caloflow")})
    showers = sparse_showers(DETECTOR, 12)
    whole = pupil.log_prob(showers, Streams(1, "x"))
    (aid,) = pupil.helpers()
    factor = aid.log_factor(showers)
    assert factor is not None
    pupil.adjust({"rejection": False})
    torch.testing.assert_close(whole - pupil.log_prob(showers, Streams(1, "x")), factor)
    assert factor.abs().max() > 0


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_no_batch_is_larger_than_asked_for(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: give showers that are drawn again more company than the batch size allows, which costs time and memory."""
    model, seen = tiny("pca-parametrisation", JUDGE), []
    decode = ShowerModel.decode

    def watched(self: ShowerModel, conditions: Conditions, latents: Any) -> Any:
        seen.append(len(conditions))
        return decode(self, conditions, latents)

    monkeypatch.setattr(ShowerModel, "decode", watched)
    conditions = Conditions.first(np.linspace(2e3, 9e4, 60), 22)
    assert sample_showers(model, conditions, generation_streams(1), batch_size=size).redrawn > 20
    assert max(seen) == min(size, 60)


def test_showers_in_memory_say_how_they_were_made(tmp_path: Path) -> None:
    """As those of a file do; mutation: leave aids and options out of their provenance."""
    made = {}
    for name, options in (("on", {}), ("off", {"rejection": False})):
        model = cf.load(stored(tmp_path / name), options=options)
        showers = model.sample(5, energy="2:90")
        assert isinstance(showers, Showers)
        out = tmp_path / f"{name}.h5"
        model.generate(out, 5, "2:90")
        kept = cf.read(out).provenance["model"]
        assert kept == {key: value for key, value in showers.provenance["model"].items() if key != "directory"}
        made[name] = files.made_by(showers.provenance)
        changed = dict(model.card()).get("options", "")
        assert changed.startswith("rejection=False;") == (name == "off")
    assert made["on"].endswith("aids: rejection")
    assert made["off"].endswith("aids: none; options: rejection=False")


def test_the_speed_that_is_measured_is_that_of_the_model_as_it_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: load the model without the options that the showers name."""
    where, asked = stored(tmp_path / "m"), []
    for name, options in (("on", {}), ("off", {"rejection": False})):
        cf.load(where, options=options).generate(tmp_path / f"{name}.h5", 30, "2:90")
    cf.load(where).generate(tmp_path / "r.h5", 30, "2:90", seed=5)

    def measured(model: ShowerModel, *arguments: object, **further: object) -> object:
        asked.append(model.judges())
        raise SystemExit

    monkeypatch.setattr(files, "measure_timing", measured)
    monkeypatch.setattr(files, "evaluate", lambda *a, **k: SimpleNamespace(samples={}, model_copy=lambda **_: None))
    for name in ("on", "off"):
        plan = files.prepare_evaluation(
            tmp_path / f"{name}.h5", tmp_path / "r.h5", model=str(where), only=["response"], timing=True
        )
        with pytest.raises(SystemExit):
            plan.run()
    assert asked == [["rejection"], []]


def test_an_export_without_it_knows_on_what_the_model_was_trained(tmp_path: Path) -> None:
    """Mutation: store the model anew with nothing but its weights; a comparison with its training rows then goes unnoticed."""
    loaded = load_model(stored(tmp_path / "m"), options={"rejection": False})
    export_model(loaded, "cpp", tmp_path / "out", verify=False, showers=5)
    folder = tmp_path / "out" / "model"
    assert training_row_hashes(folder).tolist() == list(range(7))
    before, after = read_record(tmp_path / "m"), read_record(folder)
    assert after.training == before.training
    assert (after.metrics, after.aids) == ({}, [])  # the scores are those of the model with it
    assert before.parameters > 0
    assert after.parameters == 0


def test_the_share_that_stays_is_right_at_the_lower_end_of_a_uniform_beam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it changes most; mutation: equally many rows between knots, or draws that the classifier has learnt from."""
    model, energy = tiny("pca-parametrisation", JUDGE | {"draws": 2}), np.linspace(1, 100, 3000) * GeV
    (aid,) = model.helpers()
    assert isinstance(aid, Rejection)
    deposits = np.full((3000, DETECTOR.readout.n_voxels), 1.0, dtype=np.float32)
    asked = set()

    def drawn(aid: Rejection, model: ShowerModel, batch: Any, *arguments: Any, first: int) -> torch.Tensor:
        asked.add(first)
        features: torch.Tensor = batch.incident_energy[:, None, None]
        return features

    def chance(features: torch.Tensor) -> torch.Tensor:
        return 0.38 + 0.08 * torch.exp(1 - features[:, 0] / GeV)

    monkeypatch.setattr(rejection, "_drawn", drawn)
    monkeypatch.setattr(aid, "chance", chance)
    (stage,) = (s for s in model.training_stages(TrainingConfig()) if s.name == "rejection-rate")
    assert isinstance(stage, FitStage)
    stage.load_state(stage.fit(Rows(Showers(deposits, energy, 22, DETECTOR.readout)), Streams(1, "x")))
    assert asked == {2}
    places = torch.tensor([1.0, 2.0, 6.0, 50.0, 100.0]) * GeV
    np.testing.assert_allclose(aid.rate(places).numpy(), chance(places[:, None].double()).numpy(), atol=0.02)


def test_who_rejects_too_often_is_named() -> None:
    """A classifier that takes all showers for generated ones; mutation: leave the aid out of the sentence."""
    model = tiny("pca-parametrisation", JUDGE)
    (aid,) = model.helpers()
    assert isinstance(aid, Rejection)
    for network in aid.networks:
        assert isinstance(network, torch.nn.Sequential)
        torch.nn.init.constant_(network[-1].bias, -1e3)  # type: ignore[arg-type]
    wanted = r"rejected shower 0 \(3 GeV\) 100 times, .*; without its aid 'rejection' it may \(option rejection=false\)"
    with pytest.raises(GenerationError, match=wanted):
        sample_showers(model, Conditions.first(np.full(3, 3e3), 22), generation_streams(1))
    model.adjust({"rejection": False})
    assert sample_showers(model, Conditions.first(np.full(3, 3e3), 22), generation_streams(1)).redrawn == 0


def test_no_more_draws_for_a_shower_than_it_may_have() -> None:
    """With 10 draws for each one in 40,000 would be rejected 100 times, and end the generation; mutation: no upper limit."""
    with pytest.raises(ConfigError, match="at 'most' input should be less than or equal to 5, got 10"):
        tiny("pca-parametrisation", JUDGE | {"most": 10})
