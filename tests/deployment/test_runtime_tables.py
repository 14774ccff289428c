"""GFlash, parametrisation and shower library in the C++ runtime, against their references in 64-bit numbers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, lead_argon, point_showers, sparse_showers, toy_detector
from runtime_built import Built
from runtime_exports import DIRECTIONS, ENERGIES, checked, damaged, exported
from runtime_library import DAMAGED, EXTRAPOLATE, OK, SPACE, SUCCESS, particles
from safetensors.torch import load_file

from caloforge.deployment.parity import run_parity
from caloforge.detectors import Detector, load_detector
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import Conditions, ShowerModel, build_model, load_model
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import TrainingBatch, TrainingConfig

POLAR = load_detector("par04-ds2")
ILD = load_detector("ild-ecal")


class Directed(Rows):
    """Training rows with the directions of their showers."""

    def __iter__(self) -> Iterator[TrainingBatch]:
        given = self.showers.direction
        for batch in super().__iter__():
            yield batch if given is None else replace(batch, direction=torch.from_numpy(given[batch.row]))


def fitted(
    kind: str, detector: Detector, showers: Showers | ShowerPoints | None, settings: dict[str, Any]
) -> ShowerModel:
    model = build_model(kind, settings, detector)
    (stage,) = model.training_stages(TrainingConfig())
    if showers is not None:
        stage.load_state(stage.fit(Directed(showers), Streams(1, "fit")))  # type: ignore[attr-defined]
    return model.eval()


# ---- shower library ---------------------------------------------------------------------------------------------------

#: Name: settings, and whether showers come at an angle or are points.
LIBRARY: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "images": ({"neighbours": 5}, False, False),
    "layers": ({"neighbours": 3, "scaling": "layers", "symmetries": "none"}, False, False),
    "more neighbours than showers": ({"neighbours": 1000}, False, False),
    "at an angle": ({"neighbours": 4, "scaling": "layers"}, True, False),
    "points": ({"scaling": "layers", "points": True}, False, True),
    "points at an angle": ({"neighbours": 2, "points": True}, True, True),
}


def stored_showers(tilted: bool, points: bool) -> tuple[Detector, Showers | ShowerPoints]:
    detector = ILD if points else toy_detector()
    showers = point_showers(ILD, 30) if points else sparse_showers(detector, 50)
    directions = np.random.default_rng(3).normal(0, 0.2, (len(showers), 3)).astype(np.float32)
    directions[:, 2] = np.sqrt(1 - (directions[:, :2] ** 2).sum(axis=1))
    return detector, replace(showers, direction=directions if tilted else None)


@pytest.mark.parametrize("name", list(LIBRARY))
def test_libraries_of_every_sort(name: str, built: Built, tmp_path: Path) -> None:
    """Mutation: another neighbour, image or factor; the energy of a layer of the asked-for shower instead of its own."""
    settings, tilted, points = LIBRARY[name]
    detector, showers = stored_showers(tilted, points)
    model = fitted("shower-library", detector, showers, settings)
    checked(built, exported(tmp_path, model, direction=DIRECTIONS if tilted else None))


def test_discrete_energies_share_their_showers(built: Built, tmp_path: Path) -> None:
    """Many are equally near then; mutation: choose among `neighbours` alone."""
    detector = toy_detector()
    showers = sparse_showers(detector, 60)
    energies = np.repeat([2e3, 1e4, 5e4], 20)
    showers = replace(showers, incident_energy=energies)
    model = fitted("shower-library", detector, showers, {"neighbours": 2, "symmetries": "none"})
    opened = built.library.opened(exported(tmp_path, model) / "model")
    asked = np.full(300, 1e4)
    made, status = opened.generate(particles(asked), 1, np.arange(300, dtype=np.uint64))
    opened.close()
    assert (status == OK).all()
    assert len(np.unique(made, axis=0)) == len(np.unique(showers.deposits[20:40], axis=0))
    python = sample_showers(model, Conditions.first(asked, 22), generation_streams(1)).showers
    assert isinstance(python, Showers)
    assert (python.deposits == made).all()


def test_scaled_deposits_below_the_threshold_are_left_out(built: Built, tmp_path: Path) -> None:
    """Mutation: keep them."""
    detector = lead_argon()
    showers = sparse_showers(detector, 20)
    faint = (showers.deposits / showers.deposits.max()).astype(np.float32)
    showers = replace(showers, deposits=faint, incident_energy=np.full(20, 9e4))
    folder = exported(tmp_path, fitted("shower-library", detector, showers, {}))
    deposits = load_file(folder / "parity.safetensors")["deposits"]
    lit = deposits > 0
    assert lit.sum(dim=1).min() < (showers.deposits > 0).sum(axis=1).min()
    assert deposits[lit].min() >= 0.01
    checked(built, folder)


# ---- parametrisation --------------------------------------------------------------------------------------------------

PARAMETRISATION: dict[str, tuple[Detector, dict[str, Any]]] = {
    "cells": (toy_detector(), {"nodes": 4}),
    "hits": (toy_detector(), {"nodes": 3, "lateral": "hits", "fractions": "plain", "cut_first": False}),
    "showers": (toy_detector(), {"nodes": 5, "lateral": "showers", "symmetries": "none"}),
    "turned showers": (toy_detector(), {"lateral": "showers"}),
    "faint layers": (toy_detector((2, 2), (3, 3), (2, 2), (2, 1)), {"least_share": 0.3, "symmetries": "none"}),
    "plain with faint layers": (toy_detector((2, 2), (3, 3), (2, 2)), {"least_share": 0.4, "fractions": "plain"}),
    "single voxels": (toy_detector((1, 1), (3, 3), (1, 1)), {}),
}


@pytest.mark.parametrize("name", list(PARAMETRISATION))
def test_parametrisations_of_every_sort(name: str, built: Built, tmp_path: Path) -> None:
    """Mutation: another group, neighbouring rows of the sorted values, or a share of another cell."""
    detector, settings = PARAMETRISATION[name]
    checked(built, exported(tmp_path, fitted("pca-parametrisation", detector, sparse_showers(detector, 300), settings)))


def test_many_hits_and_few(built: Built, tmp_path: Path) -> None:
    """Poisson numbers of hits are counted up to a mean of 16 and rounded beyond; mutation: either way for both."""
    detector = toy_detector((2, 2), (3, 3))
    model = fitted("pca-parametrisation", detector, sparse_showers(detector, 200), {"lateral": "hits"})
    hits = model.lateral.hits  # type: ignore[union-attr]
    hits.copy_(torch.linspace(5, 400, hits.numel()).reshape(hits.shape))  # type: ignore[operator, union-attr]
    checked(built, exported(tmp_path, model))


def test_the_first_of_equal_cells_is_kept(built: Built, tmp_path: Path) -> None:
    """A faint layer that lights no cell is spread as the mean shower, whose cells are equal in pairs; one of them is kept.

    Mutation: a sort that is not stable, in Python as it was or in C++.
    """
    detector = toy_detector((12, 12), (12, 12))
    model = fitted("pca-parametrisation", detector, sparse_showers(detector, 100), {"nodes": 1, "bins": 1})
    assert 0 < detector.analysis_threshold == model.cut
    with torch.no_grad():
        model.lateral.lit.zero_()  # type: ignore[operator, union-attr]
        model.lateral.mean.fill_(1 / 144)  # type: ignore[operator, union-attr]
        model.energies.values[:, -1] = 1e-4 * model.cut  # type: ignore[index, operator, union-attr]
    folder = exported(tmp_path, model)
    lit = load_file(folder / "parity.safetensors")["deposits"] > 0
    assert lit.sum(dim=1).max() == 2
    checked(built, folder)


# ---- GFlash -----------------------------------------------------------------------------------------------------------

#: Name: detector, settings, particle, directions, showers to fit.
GFLASH: dict[str, tuple[Detector, dict[str, Any], int, Any, int]] = {
    "photons": (load_detector("calogan"), {}, 22, None, 0),
    "electrons, any direction": (load_detector("calogan"), {}, 11, DIRECTIONS, 0),
    "sampling": (lead_argon(), {"core_quantum": 7.3}, 22, None, 0),
    "sampling, fitted": (lead_argon(), {}, 22, None, 120),
    "rings": (POLAR, {}, 11, DIRECTIONS, 0),
    "few spots": (lead_argon(), {"fluctuations": "spots", "spots": 300}, 11, None, 0),
    "spots in rings": (POLAR, {"fluctuations": "spots", "spots": 500}, 22, DIRECTIONS, 0),
    "points": (ILD, {"points": True, "spots": 400}, 22, DIRECTIONS, 0),
    "points along z": (ILD, {"points": True, "spots": 400, "stochastic": 0.2}, -11, None, 0),
}  # fmt: skip


def gflash(name: str) -> ShowerModel:
    detector, settings, _, _, showers = GFLASH[name]
    return fitted("gflash", detector, sparse_showers(detector, showers) if showers else None, settings)


@pytest.mark.parametrize("name", list(GFLASH))
def test_gflash_of_every_sort(name: str, built: Built, tmp_path: Path) -> None:
    """Mutation: any number of the formulas in electrons.hpp, or any branch of gflash.cpp as another one."""
    _, _, particle, direction, _ = GFLASH[name]
    checked(built, exported(tmp_path, gflash(name), particle=particle, direction=direction))


def test_showers_of_many_sizes_at_once(built: Built, tmp_path: Path) -> None:
    """The number of spots depends on the energy, so latents have several lengths; mutation: take the first one's for all."""
    folder = exported(tmp_path, gflash("electrons, any direction"), particle=11, direction=DIRECTIONS)
    opened = built.library.opened(folder / "model")
    energies, numbers = np.geomspace(*ENERGIES, 40), np.arange(40, dtype=np.uint64)
    directions = np.tile([0.0, 0.0, 1.0], (40, 1))
    directions[::3] = [0.28, 0.0, 0.96]
    asked = particles(energies, pdg=11, directions=directions)
    sizes = [len(row) for row in opened.latents(asked, 3, numbers, np.zeros(40, dtype=np.uint64))]
    assert len(set(sizes)) > 10
    batch, status = opened.generate(asked, 3, numbers)
    assert (status == OK).all()
    for k in range(40):
        alone = opened.generate(particles(energies[k : k + 1], 11, directions[k : k + 1]), 3, numbers[k : k + 1])[0]
        assert (alone[0] == batch[k]).all()
    assert opened.generate(particles([5e5], pdg=11), 3, numbers[:1], EXTRAPOLATE)[1][0] == OK
    opened.close()


def test_a_direction_along_z_is_none(built: Built, tmp_path: Path) -> None:
    """As of `caloforge generate` without directions, which makes cells; mutation: spots for whatever has a direction."""
    folder = exported(tmp_path, gflash("electrons, any direction"), particle=11, direction=DIRECTIONS)
    opened = built.library.opened(folder / "model")
    energies, numbers = np.geomspace(*ENERGIES, 12), np.arange(12, dtype=np.uint64)
    made, _ = opened.generate(particles(energies, pdg=11), 9, numbers)
    opened.close()
    python = sample_showers(
        load_model(tmp_path / "model"), Conditions.first(energies, 11), generation_streams(9)
    ).showers
    assert isinstance(python, Showers)
    assert (np.abs(made - python.deposits).max(axis=1) < 1e-5 * energies).all()


def test_points_need_room(built: Built, tmp_path: Path) -> None:
    folder = exported(tmp_path, gflash("points along z"), particle=-11)
    opened = built.library.opened(folder / "model")
    numbers = np.arange(5, dtype=np.uint64)
    asked = particles(np.geomspace(*ENERGIES, 5), pdg=-11)
    code, points, offsets, status = opened.generate_points(asked, 1, numbers, 10_000)
    assert code == SUCCESS
    assert (status == OK).all()
    small = opened.generate_points(asked, 1, numbers, int(offsets[3]))
    assert (small[0], small[2].tolist()) == (SPACE, offsets.tolist())
    assert (small[1][: offsets[3]] == points[: offsets[3]]).all()
    opened.close()


# ---- damaged files ----------------------------------------------------------------------------------------------------


def moved(by: int) -> Any:
    return lambda tensor: tensor + by


WRONG: list[tuple[str, str, Any]] = [
    ("library", "stored.starts", moved(1)),
    ("library", "stored.starts", lambda t: t.flip(0)),
    ("library", "stored.starts", lambda t: t[:-1]),
    ("library", "stored.place", moved(10**6)),
    ("library", "stored.place", moved(-1)),
    ("library", "stored.images", moved(1)),
    ("library", "stored.images", lambda t: t[:, 1:]),
    ("library", "stored.energy", lambda t: t[1:]),
    ("library", "stored.energy", lambda t: t.double()),
    ("library", "log_energy", lambda t: t.flip(0)),
    ("library", "log_energy", lambda t: t * float("nan")),
    ("library", "log_energy", lambda t: t[1:]),
    ("library", "trend", lambda t: t[1:]),
    ("parametrisation", "node_rows", moved(1)),
    ("parametrisation", "node_rows", lambda t: t[1:]),
    ("parametrisation", "group_rows", lambda t: torch.cat([t[:1], t[:1], t[1:]])),
    ("parametrisation", "group_rows", lambda t: t[:-1]),
    ("parametrisation", "factor", lambda t: t[1:]),
    ("parametrisation", "values", lambda t: t[1:]),
    ("parametrisation", "lit", lambda t: t[1:]),
    ("parametrisation", "mean", lambda t: t[1:]),
    ("gflash", "steps.first", moved(1000)),
    ("gflash", "steps.last", moved(-1000)),
    ("gflash", "steps.layer", moved(3)),
    ("gflash", "steps.weight", lambda t: t[1:]),
    ("gflash", "edges.outer", lambda t: t[1:]),
    ("gflash", "tables", lambda t: t[1:]),
    ("gflash", "core_portions", lambda t: t[1:]),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One export of each kind."""
    detector, folder = toy_detector(), tmp_path_factory.mktemp("whole")
    showers = sparse_showers(detector, 60)
    models = {
        "library": fitted("shower-library", detector, showers, {}),
        "parametrisation": fitted("pca-parametrisation", detector, showers, {"nodes": 3}),
        "gflash": gflash("sampling"),
    }
    found = {}
    for name, model in models.items():
        (folder / name).mkdir()
        found[name] = exported(folder / name, model, showers=2)
    return found


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_inconsistent_tables_are_refused(number: int, whole: dict[str, Path], built: Built, tmp_path: Path) -> None:
    """Mutation: leave out any check of a size, an order or a range when a model is opened."""
    kind, name, change = WRONG[number]
    folder = Path(shutil.copytree(whole[kind], tmp_path / "copy"))
    code, _, message = built.library.open(damaged(folder, name, change))
    assert (code, bool(message)) == (DAMAGED, True), message


def test_whole_tables_open(whole: dict[str, Path], built: Built, tmp_path: Path) -> None:
    """Also with a digest made anew, so that the test above fails for the reasons that it names."""
    names = {"library": "trend", "parametrisation": "values", "gflash": "tables"}
    for kind, folder in whole.items():
        copy = Path(shutil.copytree(folder, tmp_path / kind))
        built.library.opened(damaged(copy, names[kind], lambda tensor: tensor)).close()


def test_any_random_numbers_can_be_decoded(whole: dict[str, Path], built: Built) -> None:
    """Hosts may hand over what they like; mutation: look up a row by a number that is none, or beyond 1."""
    asked = particles(np.geomspace(*ENERGIES, 6))
    numbers = np.arange(6, dtype=np.uint64)
    for folder in whole.values():
        model = built.library.opened(folder / "model")
        size = sum(len(row) for row in model.latents(asked, 1, numbers, numbers))
        doubles = [np.full(size // 2 + 1, value).view(np.float32) for value in (np.nan, 1e300, -1.0)]
        for latents in [*doubles, *(np.full(size, value, dtype=np.float32) for value in (np.nan, np.inf, -1.0, 1e30))]:
            assert model.decode(asked, latents)[0] == SUCCESS
        model.close()


@pytest.mark.slow
def test_sanitisers_find_nothing_in_tables(
    whole: dict[str, Path], sanitised: Path, built: Built, tmp_path: Path
) -> None:
    """Of whole files, spots and points, and of those that are refused."""
    exports = list(whole.values())
    for name in ("spots in rings", "points"):
        _, _, particle, direction, _ = GFLASH[name]
        exports.append(exported(tmp_path / name, gflash(name), particle=particle, direction=direction, showers=5))
    for folder in exports:
        result = run_parity(sanitised, folder)
        assert result.passed, result.text
    for number, (kind, name, change) in enumerate(WRONG):
        copy = Path(shutil.copytree(whole[kind], tmp_path / str(number)))
        damaged(copy, name, change)
        done = subprocess.run([sanitised, copy], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "")
