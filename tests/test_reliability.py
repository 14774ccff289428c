"""A small reliability campaign; the large one is run by hand (docs/reliability.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "reliability"

#: Part, cases, trials of each (of damaged files and hostile models: in all).
SMALL = [
    ("damage", "", 36),
    ("hostile", "", 6),
    ("kills", "generate, 2 jobs", 2),
    ("kills", "convert to", 2),
    ("kills", "compare", 2),
    ("clocks", "convert to", 1),
    ("writers", "convert to", 2),
    ("disk", "convert to", 2),
]


@pytest.mark.slow
def test_a_small_campaign(tmp_path: Path) -> None:
    """Fails, for instance, if a file is written in its place, or if a reader trusts a length that it finds in a file."""
    program = f"import sys\nsys.path.insert(0, {str(TOOL.parent)!r})\nfrom reliability.__main__ import main\n"
    words = ["--out", str(tmp_path), "--small", "--seed", "1"]
    program += f"sys.exit(max(main([*{words}, '--part', p, '--only', o, '--count', str(n)]) for p, o, n in {SMALL}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    trials: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    parts = {trial["part"] for trial in trials}
    assert {
        "damage",
        "hostile models",
        "kills",
        "clocks",
        "two writers",
    } <= parts  # a tmpfs needs a kernel that allows it
    assert len({trial["case"] for trial in trials if trial["part"] == "damage"}) == 18
    assert {trial["outcome"] for trial in trials if trial["part"] == "damage"} >= {"refused"}
    assert any(trial["outcome"].startswith("killed") for trial in trials)


def test_a_broken_promise_is_told(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(
        json.dumps({"part": "kills", "case": "convert", "outcome": "killed", "problem": "half a file"}) + "\n"
    )
    done = subprocess.run(
        [sys.executable, str(TOOL), "--out", str(tmp_path), "--table"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "| kills | convert | 1 | 1 killed | 1 |" in done.stdout
