"""The picture of an event, and how far apart two photons have to be."""

from __future__ import annotations

import numpy as np
import pytest

from caloforge.cli.main import main
from caloforge.deployment.hybrid import hybrid_simulation, plan_hybrid, read_faces
from caloforge.deployment.hybrid.acceptance import Acceptance
from caloforge.deployment.hybrid.faces import face_columns
from caloforge.deployment.hybrid.picture import picture_of
from caloforge.deployment.hybrid.separation import BINS, photon_separation, told_apart
from caloforge.detectors import Upstream, load_detector
from caloforge.errors import UsageError
from caloforge.options import HybridOptions
from caloforge.showers import Showers, open_showers
from caloforge.showers.files import create_showers
from caloforge.showers.voxelise import to_points
from caloforge.simulation import Removed

CALOGAN = load_detector("calogan")
PLATE = Upstream.model_validate({"plates": [{"material": "G4_Al", "thickness": 10.0}], "gap": 100.0})
OPTIONS = HybridOptions(events=20, seed=4, geant4_data="builtin", engine="calzone", jobs=1, picture=16)


@pytest.mark.geant4
def test_the_picture_shows_the_event_of_the_file(tmp_path):
    """Mutation: the seed of another block, or of the first event of the block."""
    out = tmp_path / "h.h5"
    summary = hybrid_simulation(
        CALOGAN, out, models=["calogan-gamma"], particle="pi0", energy="20", upstream=PLATE, options=OPTIONS, show=False
    )
    assert summary.picture == tmp_path / "h.event16.png"
    assert summary.picture.read_bytes().startswith(b"\x89PNG")
    faces = read_faces(out)
    rows = slice(faces.offsets[16], faces.offsets[17])
    work = plan_hybrid(CALOGAN, ["calogan-gamma"], "pi0", "20", PLATE, OPTIONS).work
    picture = picture_of(work, 16)
    np.testing.assert_allclose(picture.seen.energy, faces.energy[rows], rtol=1e-12)
    np.testing.assert_allclose(picture.seen.position[:, :2], faces.position[rows], atol=1e-3)
    assert picture.seen.stopped.tolist() == (faces.reason[rows] == 0).tolist()
    answered = float(faces.energy[rows][faces.reason[rows] == 0].sum())
    assert picture.showers.total_energy()[0] == pytest.approx(answered, rel=0.1)
    front = [track for track in picture.tracks if not track.behind]
    behind = [track for track in picture.tracks if track.behind]
    primary = next(track for track in front if track.particle == 111)
    np.testing.assert_allclose(primary.points[0], [0, 0, -158], atol=1e-3)
    # This photon converted: its pair crosses the gap, and goes on behind the face.
    pair = {track.particle: track for track in front if abs(track.particle) == 11 and track.energy > 1000}
    assert set(pair) == {11, -11}
    assert max(track.points[-1, 2] for track in pair.values()) == pytest.approx(0, abs=2e-3)
    assert len(behind) > 100
    assert min(float(track.points[:, 2].max()) for track in behind) > -160


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture": 20}, "event 20 cannot be drawn, the events are 0 to 19"),
        ({"engine": "geant4-pybind"}, "needs the tracks"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_done(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        hybrid_simulation(
            CALOGAN, tmp_path / "h.h5", models=["calogan-gamma"], particle="pi0", energy="20", upstream=PLATE,
            options=OPTIONS, show=False, **changes,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


# ---- two photons ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "apart"),
    [
        ([0, 1, 5, 1, 0], False),
        ([0, 5, 1, 5, 0], True),
        ([0, 5, 3, 5, 0], False),  # the valley is not deep enough
        ([0, 50, 1, 4, 0], False),  # the second peak is too low
        ([0, 50, 1, 6, 0], True),
        ([5, 5, 5, 5, 5], False),
        ([5, 0, 0, 0, 5], True),  # at the edges
        ([0, 9, 8, 9, 3, 9, 0], True),
        ([0, 0, 0, 0, 0], False),
    ],
)
def test_two_peaks_with_a_valley_between(profile, apart):
    assert told_apart(np.array(profile, dtype=float)) == apart


def pairs_file(path, width, events=400):
    """Events of two photons whose profiles in layer 0 are boxes of a width: told apart from that distance on."""
    rng = np.random.default_rng(3)
    distance = rng.uniform(0, 40, events)
    centre = (np.arange(96) + 0.5) * 5 - 240
    deposits = np.zeros((events, 504), np.float32)
    layer = deposits[:, :288].reshape(events, 3, 96)
    position = np.zeros((2 * events, 3))
    for k, d in enumerate(distance):
        for n, place in enumerate((-d / 2, d / 2)):
            layer[k, 1] += 1000 * np.exp(-(((centre - place) / width) ** 2))
            position[2 * k + n] = [0, place, 0]
    energy = np.full(2 * events, 5000.0)
    # One in ten has a converted photon, and would be told apart at any distance.
    particle = np.full(2 * events, 22)
    particle[0::20] = 11
    layer[::10, 1, 20] = 1000
    seen = Removed(
        np.repeat(np.arange(events), 2), particle, energy, position, np.tile([0.0, 0.0, 1.0], (2 * events, 1)),
        np.zeros(2 * events), np.arange(2 * events), np.zeros(2 * events, bool),
    )  # fmt: skip
    showers = Showers(deposits, np.full(events, 10_000.0), 111, CALOGAN.readout)
    with create_showers(path, detector=CALOGAN, particle=111, expected=events) as writer:
        writer.write(showers, 0, face_columns(seen, Acceptance({}).reasons(seen), events))
    return path


def test_the_separation_of_made_up_pairs_is_found(tmp_path, capsys):
    """Two Gaussians exp(-(y/w)^2) of equal height have a valley of half their height at a distance of 2.35 w.

    Mutation: keep events with a converted photon, or take another axis than that of the strips.
    """
    narrow, wide = pairs_file(tmp_path / "narrow.h5", 5.0), pairs_file(tmp_path / "wide.h5", 10.0)
    first, second = photon_separation([narrow]), photon_separation([wide])
    assert first.pairs == second.pairs == 360
    # Strips of 5 mm look at the valley where they have their middles.
    assert first.distance[0] == pytest.approx(2.35 * 5, abs=2.5)
    assert second.distance[0] == pytest.approx(2.35 * 10, abs=2.5)
    assert 0 < second.distance[1] < 1
    assert sum(second.numbers) == 360
    assert second.told[0] == 0
    assert second.told[BINS.index(30.0)] == 1
    both = photon_separation([narrow, wide])
    assert first.distance[0] < both.distance[0] < second.distance[0]
    assert main(["study", "separation", str(narrow), f"{narrow},{wide}"]) == 0
    assert f"{first.distance[0]:.2f}" in capsys.readouterr().out
    few = pairs_file(tmp_path / "few.h5", 5.0, events=20)
    with pytest.raises(UsageError, match="are too few"):
        photon_separation([few])
    with open_showers(narrow) as reader:
        showers = reader.read(0, 400)
    faces = read_faces(narrow)
    seen = Removed(
        np.repeat(np.arange(400), np.diff(faces.offsets)), faces.particle, faces.energy,
        np.column_stack([faces.position, 0 * faces.energy]), faces.direction, faces.time, faces.track,
        np.zeros(len(faces.energy), bool),
    )  # fmt: skip
    with create_showers(tmp_path / "p.h5", detector=CALOGAN, particle=111, kind="points", expected=400) as writer:
        writer.write(to_points(showers), 0, face_columns(seen, faces.reason, 400))
    assert photon_separation([tmp_path / "p.h5"]) == first  # points fall into the voxels
    never = pairs_file(tmp_path / "never.h5", 60.0)
    with pytest.raises(UsageError, match="none of the 360 pairs"):
        photon_separation([never])
