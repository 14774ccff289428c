"""The pages of the models: tables made from the code, and no page too long to read."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "models").glob("*.md"))


def test_the_tables_of_differences_are_those_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a difference, a switch or a kind is added without running tools/make_differences.py."""
    main = runpy.run_path(str(ROOT / "tools" / "make_differences.py"))["main"]
    assert main(check=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_of_a_model_has_at_most_120_lines(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 120
