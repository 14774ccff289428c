"""Showers that a classifier takes for generated ones are drawn again, until what stays follows the training showers."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from model_samples import Rows, sparse_showers, toy_detector, training_batch
from torch import Tensor

from caloforge import datasets
from caloforge.aids.rejection import AcceptanceRate, Rejection, _ClassifierStage
from caloforge.conditions import ConditionRange, Conditions
from caloforge.deployment import export_model
from caloforge.detectors import load_detector
from caloforge.errors import ConfigError, Interrupted, OutputError, UsageError
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import (
    Latents,
    ModelConfig,
    Preset,
    ShowerModel,
    build_model,
    load_model,
    load_preset,
    make_aid,
    save_model,
)
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers, create_showers
from caloforge.stage import FitStage, GradientStage, Stage, TrainingConfig
from caloforge.testing import fit_stages
from caloforge.training import train

DETECTOR = toy_detector()
#: The real response has the density 2 r, the generated one 1; so w = 2 r, and nothing is cut off.
SETTINGS = {"kind": "rejection", "most": 2.0, "networks": 2, "hidden": 24, "draws": 2, "epochs": 60}


class Uniform(ShowerModel):
    """Showers all alike but for their response, which is anything from 0 to 1."""

    kind = "toy-uniform"
    Config = ModelConfig

    def stages(self, training: TrainingConfig) -> list[Stage]:
        return []

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        return {"response": torch.from_numpy(streams.uniform(conditions.index, 1, conditions.attempt))}

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        deposits = (latents["response"] * conditions["incident_energy"][:, None] * pattern()).float()
        return {"deposits": deposits}, torch.ones(len(deposits), dtype=torch.bool)


def pattern() -> Tensor:
    shape = torch.linspace(1, 2, DETECTOR.readout.n_voxels, dtype=torch.float64)
    return shape / shape.sum()


def real_showers(count: int, seed: int) -> Showers:
    rng = np.random.default_rng(seed)
    energy = rng.uniform(5e3, 9e4, count)
    deposits = np.sqrt(rng.random(count))[:, None] * energy[:, None] * pattern().numpy()
    return Showers(deposits.astype(np.float32), energy, 22, DETECTOR.readout)


def judged(model: ShowerModel, showers: Showers, **settings: object) -> Rejection:
    """Give a model the aid, trained without the training loop."""
    torch.manual_seed(1)
    aid = make_aid(SETTINGS | settings, model)
    assert isinstance(aid, Rejection)
    model.aids["rejection"] = aid
    stages = {stage.name: stage for stage in model.training_stages(TrainingConfig())}
    rows, streams = Rows(showers), Streams(2, "training")
    for name, stage in stages.items():
        if name.startswith("rejection"):
            assert set(stage.needs) <= stages.keys()
    first, classifier, last = (stages[name] for name in ("rejection-features", "rejection", "rejection-rate"))
    assert isinstance(first, FitStage)
    assert isinstance(last, FitStage)
    assert isinstance(classifier, GradientStage)
    first.load_state(first.fit(rows, streams))
    optimiser = torch.optim.Adam([p for player in classifier.players for p in player.parameters], 3e-3)
    batch = training_batch(showers)
    for epoch in range(classifier.epochs):
        optimiser.zero_grad()
        classifier.loss("main", replace(batch, epoch=epoch), streams)["loss"].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    last.load_state(last.fit(rows, streams))
    return aid


@pytest.fixture(scope="module")
def model() -> Uniform:
    made = Uniform(ModelConfig(), DETECTOR).eval()
    judged(made, real_showers(3000, 1))
    return made


def responses(showers: Showers) -> np.ndarray:
    found: np.ndarray = showers.deposits.astype(np.float64).sum(axis=1) / showers.incident_energy
    return found


def test_the_probability_is_the_ratio_of_the_densities(model: Uniform) -> None:
    """Mutation: swap the two kinds of showers in the loss; leave out ``most``."""
    aid = model.aids["rejection"]
    assert isinstance(aid, Rejection)
    response, energy = np.repeat(np.linspace(0.1, 0.9, 9), 20), np.tile(np.linspace(6e3, 8e4, 20), 9)
    deposits = torch.from_numpy(response * energy)[:, None] * pattern()
    with torch.no_grad():
        chance = aid.probability(deposits, Conditions.first(energy, 22).tensors()).numpy()
    assert np.abs(chance - response).mean() < 0.12
    np.testing.assert_allclose(chance.reshape(9, 20).mean(axis=1), np.linspace(0.1, 0.9, 9), atol=0.15)
    np.testing.assert_allclose(aid.rate(torch.tensor([6e3, 3e4, 8e4])).numpy(), 0.5, atol=0.06)


def test_what_stays_is_as_the_training_showers_are(model: Uniform) -> None:
    """The mean of a response with density 2 r is 2/3; mutation: accept everything."""
    conditions = Conditions.first(np.random.default_rng(5).uniform(5e3, 9e4, 4000), 22)
    sample = sample_showers(model, conditions, generation_streams(3))
    assert isinstance(sample.showers, Showers)
    found = responses(sample.showers)
    assert found.mean() == pytest.approx(2 / 3, abs=0.02)
    assert found.std() == pytest.approx(np.sqrt(1 / 18), abs=0.02)
    # One draw in two stays.
    assert sample.redrawn == pytest.approx(4000, abs=500)


@pytest.mark.parametrize("most", [3.0, 1.2])
def test_an_exact_classifier_gives_the_exact_density(most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real responses have the density 6 r (1 - r), cut off at the top by ``most`` 1.2; an integral gives share and likelihood.

    Mutations: forget ``most`` in the share that stays; draw the random number of a shower once for all its attempts.
    """
    made = Uniform(ModelConfig(), DETECTOR).eval()
    aid = make_aid(SETTINGS | {"most": most}, made)
    assert isinstance(aid, Rejection)
    made.aids["rejection"] = aid

    def ratio(features: Tensor) -> Tensor:
        response = features[:, 1].sinh().exp()
        return [(6 * response * (1 - response)).clamp_min(1e-30).log()]  # type: ignore[return-value]

    monkeypatch.setattr(aid, "outputs", ratio)
    stages = {stage.name: stage for stage in made.training_stages(TrainingConfig())}
    last = stages["rejection-rate"]
    assert isinstance(last, FitStage)
    last.load_state(last.fit(Rows(real_showers(2000, 1)), Streams(2, "training")))
    places = np.linspace(0, 1, 20001)
    kept = np.minimum(6 * places * (1 - places) / most, 1)
    share = kept.mean()
    np.testing.assert_allclose(aid.rate(torch.tensor([1e4, 3e4, 8e4])).numpy(), share, atol=0.04)
    sample = sample_showers(made, Conditions.first(np.full(8000, 3e4), 22), generation_streams(2))
    assert isinstance(sample.showers, Showers)
    assert 8000 / (8000 + sample.redrawn) == pytest.approx(share, abs=0.01)
    found, _ = np.histogram(responses(sample.showers), 20, (0, 1))
    wanted = kept[:-1].reshape(20, -1).mean(axis=1) / share * 400
    assert ((found - wanted) ** 2 / wanted).sum() < 45  # 99.9 % of chi square with 20 degrees
    deposits = torch.from_numpy(places[1:-1, None]) * 3e4 * pattern()
    grid = Showers(deposits.numpy().astype(np.float32), np.full(19999, 3e4), 22, DETECTOR.readout)
    density = aid.log_factor(grid).exp().numpy()  # that of the model by itself is 1
    np.testing.assert_allclose(density, kept[1:-1] / share, rtol=0.1, atol=0.02)


def test_batches_do_not_change_them(model: Uniform) -> None:
    conditions = Conditions.first(np.linspace(6e3, 8e4, 300), 22)
    made = [sample_showers(model, conditions, generation_streams(3), batch_size=b).showers for b in (300, 7)]
    assert isinstance(made[0], Showers)
    assert isinstance(made[1], Showers)
    assert (made[0].deposits == made[1].deposits).all()


def test_they_may_be_few_but_are_not_alike(model: Uniform) -> None:
    """Each attempt has a random number of its own; mutation: the counter left out, and a rejected shower stays rejected."""
    streams = generation_streams(0)
    conditions = Conditions.first(np.full(50, 3e4), 22)
    one, other = (model.latents(c, streams)["rejection"] for c in (conditions, conditions.again()))
    assert one.shape == (50, 1)
    assert (one != other).all()


def test_the_density_is_that_of_the_showers_that_stay(model: Uniform) -> None:
    """exp(log_factor), over all that is generated, has the mean 1; mutation: leave out the share that stays."""
    aid = model.aids["rejection"]
    assert isinstance(aid, Rejection)
    plain = Uniform(ModelConfig(), DETECTOR)
    made = sample_showers(plain, Conditions.first(np.full(4000, 3e4), 22), generation_streams(7)).showers
    factor = np.exp(aid.log_factor(made).numpy())
    assert factor.mean() == pytest.approx(1.0, abs=0.06)
    assert factor.std() > 0.3


def test_the_share_that_stays_is_linear_between_knots() -> None:
    knots = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    hats = AcceptanceRate.hats(torch.tensor([-1.0, 0.25, 2.0, 3.0, 9.0], dtype=torch.float64), knots)
    wanted = [[1, 0, 0], [0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]]
    np.testing.assert_allclose(hats.numpy(), wanted)


def test_the_likelihood_of_a_flow_has_the_factor() -> None:
    """Mutation: leave ``log_factor`` out of ``VoxelModel.log_prob``."""
    showers = sparse_showers(DETECTOR, 30)
    settings = {"energies": {"blocks": 1, "hidden_features": 4, "hidden_layers": 1}}
    settings["shapes"] = settings["energies"]
    torch.manual_seed(3)
    flow = build_model("caloflow", settings, DETECTOR).eval()
    fit_stages(flow, showers)
    before = flow.log_prob(showers, Streams(1, "x"))
    aid = judged(flow, showers, epochs=1)
    torch.testing.assert_close(flow.log_prob(showers, Streams(1, "x")) - before, aid.log_factor(showers))
    assert aid.log_factor(showers).std() > 0


def test_stored_and_opened_again(tmp_path: Path) -> None:
    showers = sparse_showers(DETECTOR, 40)
    parametrisation = build_model("pca-parametrisation", {}, DETECTOR, aids=[SETTINGS]).eval()
    fit_stages(parametrisation, showers)
    judged(parametrisation, showers, epochs=1)
    save_model(tmp_path / "m", parametrisation, ConditionRange(particle=22, incident_energy=(1e3, 1e5)))
    opened = load_model(tmp_path / "m")
    assert opened.judges() == ["rejection"]
    conditions = Conditions.first(np.linspace(2e3, 9e4, 30), 22)
    one, other = (sample_showers(m, conditions, generation_streams(1)).showers for m in (parametrisation, opened))
    assert isinstance(one, Showers)
    assert isinstance(other, Showers)
    assert (one.deposits == other.deposits).all()


def test_switched_off_and_on(model: Uniform) -> None:
    """Without it a model makes what it makes by itself; mutation: have ``helpers`` give aids that are switched off."""
    conditions, plain = Conditions.first(np.full(50, 3e4), 22), Uniform(ModelConfig(), DETECTOR)

    def made(by: Uniform) -> np.ndarray:
        showers = sample_showers(by, conditions, generation_streams(7)).showers
        assert isinstance(showers, Showers)
        return showers.deposits

    before = made(model)
    try:
        model.adjust({"rejection": False})
        assert model.judges() == []
        assert (made(model) == made(plain)).all()
    finally:
        model.adjust({"rejection": True})
    assert (made(model) == before).all()
    assert (before != made(plain)).any()
    with pytest.raises(ConfigError, match="rejection is 'no', expected true or false"):
        model.adjust({"rejection": "no"})
    with pytest.raises(UsageError, match="has no option 'marginal-start', its options are: rejection"):
        model.adjust({"marginal-start": False})


def test_points_are_not_judged() -> None:
    with pytest.raises(ConfigError, match="does not suit the model 'caloclouds3' here, which makes points"):
        build_model("caloclouds3", {}, load_detector("ild-ecal"), aids=[{"kind": "rejection"}])


def test_graphs_that_cannot_draw_again_are_refused(tmp_path: Path) -> None:
    """Mutation: leave out the check; the export then has showers that the model rejects."""
    made = build_model("caloinn", load_preset("caloinn-tiny").model, DETECTOR, aids=[SETTINGS]).eval()
    fit_stages(made, sparse_showers(DETECTOR, 40))
    save_model(tmp_path / "m", made, ConditionRange(particle=22, incident_energy=(1e3, 1e5)))
    for target in ("onnx", "torchscript"):
        with pytest.raises(UsageError, match="a graph cannot draw showers again that the aid 'rejection' does not let"):
            export_model(tmp_path / "m", target, tmp_path / target)
    assert not (tmp_path / "onnx").exists()


def test_graphs_of_a_model_whose_rejection_is_off(tmp_path: Path) -> None:
    """Mutation: export the stored model, whatever the options of the one at hand."""
    made = build_model("caloinn", load_preset("caloinn-tiny").model, DETECTOR, aids=[SETTINGS]).eval()
    fit_stages(made, sparse_showers(DETECTOR, 40))
    save_model(tmp_path / "m", made, ConditionRange(particle=22, incident_energy=(1e3, 1e5)))
    loaded = load_model(tmp_path / "m", options={"rejection": False})
    done = export_model(loaded, "torchscript", tmp_path / "graph", showers=5)
    assert done.result is not None
    assert done.result.passed
    save_model(tmp_path / "without", loaded, ConditionRange(particle=22, incident_energy=(1e3, 1e5)))
    assert load_model(tmp_path / "without").judges() == []


@pytest.mark.parametrize("kind", ["pca-parametrisation", "gflash", "shower-library", "caloinn"])
def test_every_sort_of_model_is_trained_with_it(kind: str, tmp_path: Path) -> None:
    """Those of tables compute in 64-bit numbers; mutation: generate with the model that the training loop has made 32-bit."""
    showers = datasets.load("calogan-gamma-sample")[:200]
    data = _stored(showers, tmp_path)
    settings = load_preset(f"{kind}-tiny").settings()
    preset = {"kind": kind, "model": settings, "aids": [SETTINGS | {"epochs": 1}], "training": {"epochs": 1}}
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(preset))
    train(tmp_path / "preset.yaml", data, tmp_path / "run")
    made = sample_showers(load_model(tmp_path / "run"), Conditions.of(showers)[:40], generation_streams(1)).showers
    assert isinstance(made, Showers)
    assert (made.deposits.sum(axis=1) > 0).all()


def _stored(showers: Showers | ShowerPoints, folder: Path) -> Path:
    with create_showers(folder / "g.h5", detector=load_detector("calogan"), particle=22) as writer:
        writer.write(showers)
    return folder / "g.h5"


def _preset(**changed: object) -> Preset:
    sizes = {"blocks": 1, "hidden_features": 8, "hidden_layers": 1}
    described = {"kind": "caloflow", "model": {"energies": sizes, "shapes": sizes}, "training": {"epochs": 1}} | changed
    return Preset.model_validate(described)


def _saved(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def test_added_to_a_finished_training(tmp_path: Path) -> None:
    """To the very model that is trained with it from the beginning; mutation: compare all stages in ``check_same``."""
    data = _stored(datasets.load("calogan-gamma-sample")[:150], tmp_path)
    judge = SETTINGS | {"epochs": 2}
    train(_preset(), data, tmp_path / "later", seed=3)
    train(_preset(aids=[judge]), data, tmp_path / "later", seed=3, resume=True)
    train(_preset(aids=[judge]), data, tmp_path / "at once", seed=3)
    assert _saved(tmp_path / "later") == _saved(tmp_path / "at once")
    for other, difference in (
        ([], "aids.rejection = "),
        ([judge | {"epochs": 3}], "aids.rejection.epochs = 2, now it is 3"),
        ([{"kind": "marginal-start"}, judge], "aids.marginal-start not given"),
    ):
        with pytest.raises(OutputError, match=re.escape(difference)):
            train(_preset(aids=other), data, tmp_path / "later", seed=3, resume=True)
    own = ["rejection-features", "rejection", "rejection-rate"]
    train(_preset(aids=[judge | {"hidden": 8}]), data, tmp_path / "later", seed=3, stages=own, overwrite=True)
    assert load_model(tmp_path / "later").helpers()[0].describe()["hidden"] == 8


def test_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stage brings its own number of epochs; mutation: compare them with those of the other stages on resumption."""
    data = _stored(datasets.load("calogan-gamma-sample")[:150], tmp_path)
    preset = _preset(aids=[SETTINGS | {"epochs": 3}])
    train(preset, data, tmp_path / "whole", seed=3)
    loss, calls = _ClassifierStage.loss, []

    def interrupted(stage: _ClassifierStage, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(stage, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(_ClassifierStage, "loss", interrupted)
        with pytest.raises(Interrupted):
            train(preset, data, tmp_path / "cut", seed=3)
    train(preset, data, tmp_path / "cut", seed=3, resume=True)
    assert _saved(tmp_path / "cut") == _saved(tmp_path / "whole")
