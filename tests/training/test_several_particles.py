"""A model of several particles from files of each, on the command line and in Python: trained, resumed, asked, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import caloforge as cf
from caloforge import datasets
from caloforge.cli.main import main
from caloforge.deployment import export_model
from caloforge.deployment.hybrid.answering import load_models
from caloforge.errors import OutputError, ShowerFileError, UsageError
from caloforge.evaluation import files as evaluation_files
from caloforge.models import ModelRecord, load_preset, read_plan
from caloforge.showers import Showers, create_showers, open_showers
from caloforge.showers.joining import open_several
from caloforge.stage import StageTraining
from caloforge.testing import toy_detector, toy_showers
from caloforge.training import loop, train
from caloforge.training.data import RowOrder, TrainingSet

DETECTOR = toy_detector()
SMALL = [
    "training.steps=100",
    "training.batch_size=32",
    "training.ema=0.9",
    "training.optimiser.learning_rate=3e-3",
    "model.latent=8",
    "model.critic_channels=[2,2,2,2]",
]
BOTH = "model.particles=[gamma, e+]"


def write(path: Path, particle: int, rows: int, share: float, seed: int) -> Path:
    showers = toy_showers(DETECTOR, rows + 20, seed=seed, faint=False)
    showers = showers[np.flatnonzero(showers.total_energy() > 0)[:rows]]
    deposits = showers.deposits / showers.deposits.sum(axis=1, keepdims=True) * showers.incident_energy[:, None] * share
    with create_showers(path, detector=DETECTOR, particle=particle) as writer:
        writer.write(replace(showers, deposits=deposits.astype(np.float32), particle=particle))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photons deposit 0.9 of their energy, positrons 0.5, pions 0.2."""
    folder = tmp_path_factory.mktemp("particles")
    return {
        "gamma": write(folder / "g.h5", 22, 260, 0.9, 1),
        "e+": write(folder / "e.h5", -11, 200, 0.5, 2),
        "pi+": write(folder / "p.h5", 211, 20, 0.2, 3),
    }


@pytest.fixture(scope="module")
def model(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the command line."""
    out = tmp_path_factory.mktemp("model") / "both"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw_curves", lambda *_, **__: None)
        command = [
            "train",
            "calo-gan-tiny",
            "--data",
            str(files["gamma"]),
            "--data",
            str(files["e+"]),
            "--out",
            str(out),
        ]
        settings = [word for text in (BOTH, *SMALL) for word in ("--set", text)]
        assert main([*command, *settings, "--threads", "1", "--val-fraction", "0.1"]) == 0
    return out


@pytest.fixture(autouse=True)
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "draw_curves", lambda *_, **__: None)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


# ---- rows of several particles --------------------------------------------------------------------------------------


def test_files_of_several_particles_are_one_source_only_if_asked_for(files: dict[str, Path]) -> None:
    """Mutations: the first file's particle for all; counts of the files instead of the rows asked for."""
    names = [files["gamma"], files["pi+"], files["e+"]]
    with pytest.raises(ShowerFileError, match=r"are of different particles, gamma and pi\+"):
        open_several(names)
    with open_several(names, mixed=True) as several:
        assert several.particles == (22, 211, -11)  # type: ignore[attr-defined]
        assert several.particles_of(258, 283).tolist() == [22] * 2 + [211] * 20 + [-11] * 3  # type: ignore[attr-defined]
        rows = several.read(258, 283)
        assert isinstance(rows, Showers)
        share = rows.total_energy() / rows.incident_energy
        np.testing.assert_allclose(share, [0.9] * 2 + [0.2] * 20 + [0.5] * 3, rtol=1e-5)


@pytest.mark.parametrize("block", [None, 16])
def test_every_row_of_a_batch_names_its_particle(files: dict[str, Path], block: int | None) -> None:
    """In memory, and read again in blocks. Mutation: particles by the place in the batch or block."""
    with open_several([files["gamma"], files["e+"]], mixed=True) as source:
        data = TrainingSet(source, seed=3, val_fraction=0.2, order=RowOrder(block, 3))
        training = StageTraining(batch_size=23, augmentation="exact", precision="float64")
        batches = [*data.batches(training, 1), *data.validation(training), *data.for_fit(), *data.for_fit("validation")]
        seen = set()
        for batch in batches:
            assert batch.particle is not None
            share = batch.deposits.sum(dim=1).double() / batch.incident_energy.double()  # type: ignore[attr-defined]
            wanted = [0.9 if pdg == 22 else 0.5 for pdg in batch.particle.tolist()]
            np.testing.assert_allclose(share.numpy(), wanted, rtol=1e-4)
            seen |= set(batch.particle.tolist())
        assert seen == {22, -11}
    with open_several([files["gamma"]], mixed=True) as alone:
        data = TrainingSet(alone, seed=3, val_fraction=0.2, order=RowOrder(block, 3))
        assert all(batch.particle is None for batch in data.validation(training))


@pytest.mark.parametrize(
    ("data", "settings", "kind", "message"),
    [
        (("gamma", "e+"), (), "caloflow-tiny", r"g.h5 and .*e.h5 are of different particles, gamma and e\+$"),
        (
            ("gamma", "e+"),
            (),
            "calo-gan-tiny",
            r"several particles \(gamma, e\+\).* one; model.particles=\[gamma, e\+\] makes",
        ),
        (("gamma", "e+", "pi+"), (BOTH,), "calo-gan-tiny", r"showers of pi\+, and the model is to make gamma, e\+ "),
        (("gamma",), (BOTH,), "calo-gan-tiny", r"is to make gamma, e\+ .*, and the data hold no showers of e\+$"),
        (("gamma",), (BOTH,), "caloflow-tiny", "'particles' is not known"),
    ],
)
def test_wrong_files_get_one_sentence(
    data: tuple[str, ...], settings: tuple[str, ...], kind: str, message: str, files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(cf.CaloForgeError, match=message) as caught:
        train(kind, [files[name] for name in data], tmp_path / "m", overrides=settings, threads=1, show=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


def test_a_stopped_training_goes_on_and_the_plan_tells_the_particles(files: dict[str, Path], tmp_path: Path) -> None:
    """The same bits as without a stop; other particles are another training. Mutation: the batch order forgets the particles."""
    data = [files["gamma"], files["e+"]]
    words: dict[str, Any] = {"threads": 1, "show": False, "val_fraction": 0.1}
    tiny = [BOTH, *SMALL[1:], "training.schedule={kind: constant}"]
    preset = load_preset("calo-gan-tiny", [*tiny, "training.steps=24"])
    train(preset, data, tmp_path / "whole", **words)
    shorter = load_preset("calo-gan-tiny", [*tiny, "training.steps=13"])
    train(shorter, data, tmp_path / "parts", **words)
    plan = read_plan(tmp_path / "parts")
    assert (plan.particle, plan.others) == (22, [-11])
    other = load_preset("calo-gan-tiny", ["model.particles=[e+, gamma]", *tiny[1:], "training.steps=24"])
    with pytest.raises(OutputError, match="holds another training"):
        train(other, data, tmp_path / "parts", resume=True, **words)
    train(preset, data, tmp_path / "parts", resume=True, **words)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(one[name].equal(two[name]) for name in one)


# ---- what such a model is asked -------------------------------------------------------------------------------------


def test_each_particle_deposits_its_own_share(model: Path) -> None:
    """After 100 steps. Mutations: the type not among the inputs; energies compared without it; types of rows exchanged."""
    gan = cf.load(model)
    assert gan.particles == ("gamma", "e+")
    assert gan.particle == "gamma"
    shares = {}
    for name in gan.particles:
        made = gan.sample(300, "1:100", particle=name, seed=2)
        assert made.particle == (22 if name == "gamma" else -11)
        shares[name] = float((made.total_energy() / made.incident_energy).mean())
    assert shares["gamma"] > shares["e+"] + 0.1


def test_the_command_line_makes_the_particle_that_it_is_told(
    model: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mutations: the first particle whatever was asked for; that of the request for one of a file; silence about the choice."""

    def made(name: str, *words: str) -> Showers:
        out = tmp_path / name
        assert main(["generate", str(model), "--out", str(out), "--seed", "7", *words]) == 0
        with open_showers(out) as source:
            found = source.read()
        assert isinstance(found, Showers)
        return found

    spectrum = ("--energy", "1:100", "--events", "120")
    first = made("a.h5", *spectrum)
    assert first.particle == 22
    assert "gamma (the model makes gamma, e+; --particle says which)" in said(capsys)
    positrons = made("b.h5", *spectrum, "--particle", "e+", "--batch-size", "17")
    assert positrons.particle == -11
    assert not np.array_equal(first.deposits, positrons.deposits)
    again = made("c.h5", *spectrum, "--particle", "positron", "--batch-size", "50")
    np.testing.assert_allclose(again.deposits, positrons.deposits, rtol=1e-4, atol=1e-3)
    same = cf.load(model).sample(120, "1:100", particle=-11, seed=7)
    np.testing.assert_allclose(same.deposits, positrons.deposits, rtol=1e-4, atol=1e-3)  # type: ignore[union-attr]
    assert made("d.h5", "--conditions-from", str(files["e+"]), "--events", "9").particle == -11
    assert cf.load(model).sample(9, like=files["e+"]).particle == -11
    for words, message in (
        ((*spectrum, "--particle", "pi+"), "the model was trained for gamma, e+, showers of pi+ were asked for"),
        ((*spectrum, "--particle", "pi9"), "pi9"),
        (("--conditions-from", str(files["pi+"])), "makes showers of gamma, e+, not of pi+"),
        (("--conditions-from", str(files["pi+"]), "--extrapolate"), "makes showers of gamma, e+, not of pi+"),
        (
            ("--conditions-from", str(files["e+"]), "--particle", "gamma"),
            "e.h5: holds showers of e+, and --particle gamma asks for others",
        ),
    ):
        capsys.readouterr()
        assert main(["generate", str(model), "--out", str(tmp_path / "x.h5"), *words]) == 2
        assert message in said(capsys)
        assert not (tmp_path / "x.h5").exists()
    with pytest.raises(UsageError, match=r"these are showers of e\+, and particle='gamma' asks for others"):
        cf.load(model).sample(like=positrons, particle="gamma")


def test_a_model_of_one_particle_is_told_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["generate", "calogan-gamma", "--energy", "5", "--events", "2"]
    assert main([*words, "--particle", "gamma", "--out", str(tmp_path / "a.h5")]) == 0
    assert "the model makes" not in said(capsys)
    assert main([*words, "--particle", "e+", "--extrapolate", "--out", str(tmp_path / "b.h5")]) == 2
    assert "the model was trained for gamma, showers of e+ were asked for" in said(capsys)


def test_cards_name_all_particles(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(model)]) == 0
    assert "particles │ gamma, e+" in said(capsys)
    assert dict(cf.load(model).card())["particles"] == "gamma, e+"
    assert "gamma, e+" in repr(cf.load(model))
    facts = json.loads((model / "model.json").read_text())
    assert facts["valid"]["others"] == [-11]
    assert facts["config"]["particles"] == ["gamma", "e+"]
    # What a former version wrote of a model of one particle.
    del facts["valid"]["others"]
    assert ModelRecord.model_validate(facts).valid.particles == (22,)


def test_an_evaluation_asks_for_the_particle_that_is_judged(model: Path) -> None:
    """Mutation: for the first of the model."""
    network = cf.load(model).network
    for pdg in (22, -11):
        assert evaluation_files._sampler(network, 0, pdg)(2e4, 5).particle == pdg


def test_one_model_answers_all_of_its_particles_in_a_hybrid_simulation(model: Path) -> None:
    """Mutation: the first only."""
    found = load_models([model], DETECTOR, points=False)
    assert {pdg: name for pdg, (name, _) in found.items()} == {22: model, -11: model}
    assert list(load_models({"e+": model}, DETECTOR, points=False)) == [-11]
    with pytest.raises(UsageError, match=r"makes showers of gamma, e\+, not of pi\+"):
        load_models({"pi+": model}, DETECTOR, points=False)
    with pytest.raises(UsageError, match="two models answer gamma"):
        load_models([model, ("gamma", model)], DETECTOR, points=False)


@pytest.mark.parametrize("target", ["cpp", "onnx"])
def test_no_export_carries_it(model: Path, target: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"makes showers of gamma, e\+, and no target lets its host say which"):
        export_model(model, target, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_nothing_else_opens_files_of_several_particles(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ShowerFileError, match="different particles"):
        datasets.open_named([files["gamma"], files["e+"]])
    assert main(["join", str(files["gamma"]), str(files["e+"]), "--out", str(tmp_path / "j.h5")]) == 1
