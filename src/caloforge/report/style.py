"""How figures look: mplhep's style at a size that fits a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["FLOOR", "GENERATED", "REFERENCE", "Style", "figure_style"]

# Distinguishable for colour-blind readers and in print (Okabe and Ito's palette).
REFERENCE = "#4d4d4d"
GENERATED = "#0072b2"
FLOOR = "#d55e00"

_SIZES: dict[Any, Any] = {
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 5,
    "xtick.minor.size": 2.5,
    "ytick.major.size": 5,
    "ytick.minor.size": 2.5,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "xtick.minor.width": 0.6,
    "ytick.minor.width": 0.6,
    "xtick.major.pad": 3,
    "ytick.major.pad": 3,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.3,
    "savefig.facecolor": "white",
    "figure.facecolor": "white",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Style:
    """The style in use.

    Attributes:
        name: of the style.
        note: what a reader should be told, or empty.
    """

    name: str
    note: str = ""


@contextmanager
def figure_style() -> Iterator[Style]:
    """Draw in mplhep's CMS style; without mplhep in matplotlib's own, and say so in ``note``."""
    import matplotlib as mpl

    base: dict[Any, Any] = {}
    style = Style("mplhep CMS")
    try:
        import mplhep
    except ImportError:
        style = Style(
            "matplotlib",
            "The figures are in matplotlib's own style, because mplhep is not installed (pip install 'caloforge[report]').",
        )
    else:
        base = {key: value for key, value in mplhep.style.CMS.items() if key in mpl.rcParams}
    with mpl.rc_context({**base, **_SIZES}):
        yield style
