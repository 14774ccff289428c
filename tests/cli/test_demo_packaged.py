"""The demonstration also judges the model that ships with the package, by the same test."""

from __future__ import annotations

from pathlib import Path

from caloforge.demo import Demo


def test_the_packaged_model_is_judged_by_boosted_trees_once(tmp_path: Path) -> None:
    """Mutation: generate anew in the next call."""
    demo = Demo(tmp_path, seed=3, showers=400, jobs=1)
    first = demo.judge_packaged()
    assert first is not None
    auc, error = first
    assert 0.4 < auc < 0.7  # 400 showers of each kind cannot be told apart
    assert 0 < error < 0.05
    made = (tmp_path / "packaged.h5").stat().st_mtime_ns
    assert demo.judge_packaged() == first
    assert (tmp_path / "packaged.h5").stat().st_mtime_ns == made
