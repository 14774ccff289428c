"""Showers by name, and what is said of differences between files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caloforge.detectors import load_detector
from caloforge.errors import Interrupted, UsageError
from caloforge.evaluation.files import prepare_evaluation
from caloforge.evaluation.sources import Source, differences, find_model, open_source
from caloforge.random import Streams
from caloforge.showers import Showers
from caloforge.showers.files import create_showers

DETECTOR = load_detector("calogan")
STREAMS = Streams(1, "t")


def showers(n: int, seed: int = 1) -> Showers:
    rng = np.random.default_rng(seed)
    energy = rng.uniform(1e3, 1e5, n)
    return Showers((rng.random((n, 504)) * energy[:, None] / 252).astype(np.float32), energy, 22, DETECTOR.readout)


def source(label: str, n: int = 5, **changes: object) -> Source:
    whole = Source(label, showers(n), DETECTOR, Path(label), n, True)
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_some_showers_of_a_large_file_are_chosen_at_random_and_always_the_same(tmp_path: Path) -> None:
    everything = showers(4500)
    with create_showers(tmp_path / "a.h5", detector=DETECTOR, particle=22) as writer:
        writer.write(everything)
    some = open_source(tmp_path / "a.h5", max_showers=300, streams=STREAMS)
    assert isinstance(some.showers, Showers)
    rows = np.searchsorted(np.sort(everything.incident_energy), some.showers.incident_energy)
    assert len(some.showers) == 300
    assert some.total == 4500
    order = np.argsort(everything.incident_energy)
    assert np.array_equal(everything.deposits[order[rows]], some.showers.deposits)
    assert (np.diff(order[rows]) > 0).all()
    assert order[rows].max() > 4000
    again = open_source(tmp_path / "a.h5", max_showers=300, streams=STREAMS)
    assert np.array_equal(again.showers.incident_energy, some.showers.incident_energy)


def test_a_file_that_does_not_name_its_particle_needs_one(tmp_path: Path) -> None:
    with create_showers(tmp_path / "a.h5", detector=DETECTOR, particle=0) as writer:
        writer.write(replace(showers(5), particle=0))
    with pytest.raises(UsageError, match="must be named \\(particle\\)"):
        open_source(tmp_path / "a.h5", streams=STREAMS)
    assert open_source(tmp_path / "a.h5", particle="gamma", streams=STREAMS).showers.particle == 22


def test_differences_are_said() -> None:
    reference = source("test.h5", provenance={"geant4": "11.4.0", "tables": {"kind": "builtin", "x": 1}})
    assert differences(source("g.h5"), reference, source("floor.h5")) == []
    floor = source("floor.h5", provenance={"geant4": "11.3.0", "tables": {"kind": "official"}})
    found = differences(
        source("g.h5", 3, complete=False, provenance={"extrapolated": True}, remarks=("odd units",)), reference, floor
    )
    assert found == [
        "g.h5: odd units",
        "g.h5 is incomplete; only its 3 finished showers count.",
        "g.h5 was generated at energies outside the range that its model was trained for.",
        "Reference and floor are of different productions, so the floor is no pure one: Geant4 version (11.4.0 and "
        "11.3.0), physics tables (builtin and official).",
        "The samples differ in size (g.h5 3, test.h5 5, floor.h5 5); classifiers use equal numbers.",
    ]


def test_a_model_is_only_found_by_its_hash(tmp_path: Path) -> None:
    assert find_model(source("g.h5").provenance) is None
    (tmp_path / "runs").mkdir()
    named = {"model": {"sha256": "0" * 64}, "command": f"caloforge generate {tmp_path / 'runs'} --out 'unfinished"}
    assert find_model(named) is None


def test_ctrl_c_says_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seed in (("g", 1), ("r", 2)):
        with create_showers(tmp_path / f"{name}.h5", detector=DETECTOR, particle=22) as writer:
            writer.write(showers(60, seed))
    job = prepare_evaluation(tmp_path / "g.h5", tmp_path / "r.h5", only=["voxels"])
    kept = tmp_path / "kept" / "generated"
    kept.mkdir(parents=True)
    (kept / "high-level-00.json").write_text("{}")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("caloforge.evaluation.files.evaluate", interrupted)
    with pytest.raises(
        Interrupted, match=r"finished retrainings are kept in .* \(1\), the same call goes on"
    ) as caught:
        job.run(keep=tmp_path / "kept")
    assert caught.value.exit_code == 130
    with pytest.raises(Interrupted, match="no retraining was finished"):
        job.run()
