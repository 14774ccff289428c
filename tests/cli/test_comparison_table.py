"""Tables of many models on narrow terminals."""

from __future__ import annotations

import pytest

from caloforge.cli.common import console, print_comparison

COLUMNS = ["ours", "floor", *(f"model{k} (published)" for k in range(18))]
ROWS = [("AUC of a classifier", [f"0.{k:02d}" for k in range(20)])]


@pytest.mark.parametrize(("width", "all_shown"), [(80, False), (400, True)])
def test_published_models_are_left_out_where_they_do_not_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, all_shown: bool
) -> None:
    monkeypatch.setattr(console, "width", width)
    print_comparison(COLUMNS, ROWS)
    out = capsys.readouterr().out
    assert "0.00" in out
    assert "0.01" in out
    assert ("0.17" in out) == all_shown
    assert ("18 published models do not fit" in out) == (not all_shown)
