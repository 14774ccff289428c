"""Several files as one: the same showers in their order, and refused if they do not belong together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caloforge.cli.main import main
from caloforge.datasets import open_named
from caloforge.detectors import Detector
from caloforge.errors import ShowerFileError, UsageError
from caloforge.showers import ShowerPoints, Showers, create_showers, open_showers
from caloforge.showers.joining import join_showers, open_several
from caloforge.testing import toy_detector, toy_points, toy_showers

DETECTOR = toy_detector()


def write(path: Path, showers: Showers | ShowerPoints, detector: Detector = DETECTOR, name: str = "") -> Path:
    kind = "voxels" if isinstance(showers, Showers) else "points"
    provenance = {"program": name or path.stem}
    with create_showers(path, detector=detector, particle=showers.particle, kind=kind, provenance=provenance) as writer:  # type: ignore[arg-type]
        writer.write(showers)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{k}.h5", toy_showers(DETECTOR, 10 + k, seed=k, faint=False)) for k in range(3)]


def test_several_files_are_read_like_one(files: list[Path]) -> None:
    """Mutation: read the pieces of a range in another order, or leave out the last file."""
    whole = Showers.concatenate([open_showers(file).read() for file in files])  # type: ignore[misc]
    with open_several(files) as reader:
        assert (len(reader), reader.particle, reader.complete) == (33, 22, True)
        assert [part["program"] for part in reader.provenance["parts"]] == ["0", "1", "2"]
        for start, stop in ((0, 33), (0, 1), (9, 11), (5, 30), (32, 33), (20, 20), (30, 99)):
            block = reader.read(start, stop)
            assert isinstance(block, Showers)
            assert np.array_equal(block.deposits, whole.deposits[start:stop])
            assert block.detector == DETECTOR
            assert np.array_equal(reader.incident_energies(start, min(stop, 33)), whole.incident_energy[start:stop])
        assert sum(len(block) for block in reader.blocks(7)) == 33


def test_a_join_holds_all_showers_and_says_where_they_are_from(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "all.h5"
    assert main(["join", *map(str, files), "--out", str(out)]) == 0
    with open_showers(out) as joined, open_several(files) as several:
        one, two = joined.read(), several.read()
        assert isinstance(one, Showers)
        assert isinstance(two, Showers)
        assert np.array_equal(one.deposits, two.deposits)
        assert joined.provenance["joined"]["files"] == ["0.h5", "1.h5", "2.h5"]
        assert len(joined.provenance["parts"]) == 3


def test_points_and_more_than_a_block_are_joined(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{k}.h5", toy_points(DETECTOR, 600, seed=k)) for k in range(2)]
    assert join_showers(files, tmp_path / "all.h5").showers == 1200
    with open_showers(tmp_path / "all.h5") as joined, open_several(files) as several:
        one, two = joined.read(), several.read()
        assert isinstance(one, ShowerPoints)
        assert isinstance(two, ShowerPoints)
        assert np.array_equal(one.points, two.points)
        assert np.array_equal(one.offsets, two.offsets)


def other(change: Callable[[Showers], Showers]) -> Callable[[Path], Path]:
    return lambda path: write(path, change(toy_showers(DETECTOR, 12, seed=8, faint=False)))


def _direction(showers: Showers) -> Showers:
    direction = np.tile(np.array([0, 0, 1], dtype=np.float32), (len(showers), 1))
    return replace(showers, direction=direction)


def _repeated(showers: Showers) -> Showers:
    return Showers.concatenate([showers, toy_showers(DETECTOR, 10, seed=0, faint=False)[4:6]])


WRONG = {
    "hold voxels|holds voxels": lambda path: write(path, toy_points(DETECTOR, 5)),
    "of different detectors, 'toy'": lambda path: write(path, toy_showers(d := toy_detector((2, 2)), 5), d),
    "of different particles, gamma and e-": other(lambda s: replace(s, particle=11)),
    "so their units seem to differ": other(lambda s: replace(s, deposits=s.deposits / 1000)),
    "has directions and .* has none": other(_direction),
    "2 of the 14 showers of .*x.h5 are also in .*0.h5": other(_repeated),
}


@pytest.mark.filterwarnings("ignore:.*may be in the wrong unit")
@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_belong_together_is_refused(message: str, files: list[Path], tmp_path: Path) -> None:
    """Each is joined all the same without the check that its message is of."""
    odd = WRONG[message](tmp_path / "x.h5")
    with pytest.raises(ShowerFileError, match=message) as caught:
        join_showers([files[0], odd], tmp_path / "out.h5")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.h5").exists()


def test_wrong_usage_gets_one_sentence(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = map(str, files[:2])
    for arguments, code, message in (
        ((one, "--out", "o.h5"), 2, "one file alone cannot be joined"),
        ((one, one, "--out", "o.h5"), 2, "is named twice"),
        ((one, two, "--out", two, "--overwrite"), 2, "is one of the files to be joined"),
        ((one, str(tmp_path / "no.h5"), "--out", "o.h5"), 1, "no.h5"),
        ((one, "calogan-gamma-sample", "--out", "o.h5"), 2, "has several splits"),
        ((one, two), 2, "--out"),
    ):
        assert main(["join", *arguments]) == code
        said = capsys.readouterr().err
        assert message in said
        assert said.count("caloforge: ") == 1
    plain = tmp_path / "plain.h5"
    assert main(["convert", one, str(plain), "--to", "calochallenge"]) == 0
    with pytest.raises(UsageError, match="no shower file was named"):
        open_named([])


def test_commands_take_several_files(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``train``, ``likelihood`` and ``evaluate``: the same as with the joined file."""
    monkeypatch.chdir(tmp_path)
    more = [write(tmp_path / f"{k}.h5", toy_showers(DETECTOR, 60, seed=k, faint=False)) for k in range(3, 7)]
    a, b, c, d = (path.name for path in more)
    assert main(["join", a, b, "--out", "ab.h5"]) == 0
    options = ["--set", "training.epochs=1", "--val-fraction", "0.1"]
    assert main(["train", "caloflow-tiny", "--data", a, "--data", b, "--out", "m", *options]) == 0
    assert main(["train", "caloflow-tiny", "--data", "ab.h5", "--out", "n", *options]) == 0
    weights = [json.loads((tmp_path / m / "model.json").read_text())["weights_sha256"] for m in ("m", "n")]
    assert weights[0] == weights[1]
    assert json.loads((tmp_path / "m" / "model.json").read_text())["training"]["data"]["file"] == f"{a}, {b}"
    assert main(["likelihood", "m", a, b, "--out", "two.csv"]) == 0
    assert main(["likelihood", "m", "ab.h5", "--out", "one.csv"]) == 0
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()
    several = [a, c, "--more-generated", b, "--more-reference", d, "--only", "response", "--out", "r"]
    assert main(["evaluate", *several]) == 0
    samples = json.loads((tmp_path / "r" / "report.json").read_text())["samples"]
    assert (samples["generated"]["showers"], samples["generated"]["label"]) == (120, f"{a}, {b}")
    assert (samples["reference"]["showers"], samples["reference"]["label"]) == (120, f"{c}, {d}")


def test_a_reference_of_the_package_is_never_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mutation: take ``datasets.refuse_references`` out of the training."""
    out = str(tmp_path / "m")
    assert main(["train", "caloflow-tiny", "--data", "calogan-gamma-sample:test", "--out", out]) == 2
    assert "is a reference of evaluations and never trained on, expected 'calogan-gamma-sample:train'" in (
        capsys.readouterr().err
    )
