"""Options of former versions are understood, and not shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from caloforge.cli.main import main


def test_the_former_word_for_processes_means_the_present_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mutation: drop ``_FORMER``."""
    out = str(tmp_path / "g.h5")
    asked = ["generate", "calogan-gamma", "--energy", "10", "--events", "4", "--out", out]
    assert main([*asked, "--workers", "0"]) == 2
    assert "'--jobs'" in capsys.readouterr().err
    assert main([*asked, "--workers=1", "--jobs", "1"]) == 2
    assert "--jobs is given twice" in capsys.readouterr().err
    assert main([*asked, "--workers=1"]) == 0
    capsys.readouterr()
    assert main(["generate", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--jobs" in shown
    assert "--workers" not in shown
    assert main(["info", "calogan", "--workers", "2"]) == 2
    assert "--workers" in capsys.readouterr().err
