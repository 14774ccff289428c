"""Conversions by several processes: the same file, byte for byte, and one can go on where two have stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from executors import Backwards

import caloforge as cf
from caloforge import datasets
from caloforge.errors import UsageError
from caloforge.showers import convert as module
from caloforge.showers import open_showers
from caloforge.showers.convert import MergePoints, convert
from caloforge.workers import WorkerDiedError

SOURCE = datasets.path("ild-gamma-clouds", split="test")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4 * 2**20)


def content(path: Path) -> dict[str, Any]:
    with open_showers(path) as reader:
        points = reader.read()
        return {
            "points": points.points.tobytes(), "offsets": points.offsets.tolist(),  # type: ignore[union-attr]
            "energy": points.incident_energy.tolist(), "provenance": reader.provenance,
        }  # fmt: skip


def test_who_converts_changes_nothing(tmp_path: Path) -> None:
    """Mutations: number the random shifts of the sub-cells from each block's own beginning; write in the order of arrival."""
    change = MergePoints((5.0, 5.0), 4, "highest", 3)
    one = convert(SOURCE, tmp_path / "1.h5", change=change)
    back = convert(SOURCE, tmp_path / "b.h5", change=change, executor=Backwards())
    two = convert(SOURCE, tmp_path / "2.h5", change=change, jobs=2)
    assert one == back == two
    assert one.energy > 0
    assert content(tmp_path / "1.h5") == content(tmp_path / "b.h5") == content(tmp_path / "2.h5")
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


class Stopping(Backwards):
    """Stops before the last of its tasks."""

    def run(self, prepare: Any, settings: Any, tasks: Any) -> Any:
        yield from super().run(prepare, settings, tasks[1:])
        raise WorkerDiedError("a worker process died")


def test_what_two_have_begun_one_finishes(tmp_path: Path) -> None:
    """Mutation: keep blocks only when those before them are there."""
    change = MergePoints((5.0, 5.0), 4, "highest", 3)
    with pytest.raises(WorkerDiedError):
        convert(SOURCE, tmp_path / "p.h5", change=change, executor=Stopping())
    seen: list[int] = []
    convert(SOURCE, tmp_path / "p.h5", change=change, resume=True, progress=lambda done, total: seen.append(done))
    assert len(seen) == 1
    convert(SOURCE, tmp_path / "1.h5", change=change)
    assert content(tmp_path / "p.h5") == content(tmp_path / "1.h5")


def test_a_format_of_one_process_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="jobs does not go with format='edm4hep'"):
        cf.convert(SOURCE, tmp_path / "x.root", format="edm4hep", jobs=2)
