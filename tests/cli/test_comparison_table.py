"""Tables of many models on narrow terminals."""

from __future__ import annotations

import pytest

from caloforge.cli.common import console, print_comparison, print_table

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


def test_names_that_people_type_again_stay_in_one_piece(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: fold the first column as the others; 'caloflow-student-calogan' then stands in two lines."""
    monkeypatch.setattr(console, "width", 60)
    name = "caloflow-student-calogan"
    print_table("", ["preset", "model", "what it is"], [[name, "caloflow-student", "a title of many words " * 5]])
    assert name in capsys.readouterr().out
    print_table("", ["", ""], [["x" * 50, "short"]])  # what is no name is still folded
    assert "x" * 50 not in capsys.readouterr().out
