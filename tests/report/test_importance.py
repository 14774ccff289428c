"""Which features a classifier used, drawn beside the floor's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from caloforge.report.score_figures import draw_importance


def _classifier(*names: str) -> Any:
    items = [SimpleNamespace(name=name, drop=SimpleNamespace(value=0.1, error=0.01)) for name in names]
    return SimpleNamespace(importance=items, families=items[:1])


@pytest.mark.parametrize(
    ("known", "legends"), [(("response",), [True, True]), (("x-width/3",), [False, False]), ((), [False, False])]
)
def test_the_floor_may_hold_other_features(known: tuple[str, ...], legends: list[bool]) -> None:
    """Of dozens of features it keeps those that matter most to it; mutation: always draw a legend, which warns without labels."""
    figure = draw_importance(_classifier("response", "x-width/0"), _classifier(*known))
    drawn = [axes.get_legend_handles_labels()[0] != [] for axes in figure.axes]
    assert drawn == legends
    assert (figure.axes[0].get_legend() is not None) == legends[0]
