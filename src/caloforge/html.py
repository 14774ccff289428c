"""Small pieces of HTML for notebooks: tables and pictures in one fragment that needs nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

__all__ = ["block", "escape", "page", "pairs", "picture", "register_page", "table"]

#: Of pictures in notebooks: sharp enough at their width, small enough to be kept in the notebook's file.
_DPI = 96


_PAGES: dict[type, Callable[[Any], str]] = {}


def register_page(cls: type, make: Callable[[Any], str]) -> None:
    """Say what makes the page of a class; rooms do so, since what draws a class knows it and not the other way round."""
    _PAGES[cls] = make


def page(what: object) -> str:
    """What a notebook shows of something whose class has a page."""
    return _PAGES[type(what)](what)


def block(title: str, *parts: str) -> str:
    """A fragment with a heading."""
    return f'<div class="caloforge"><p><strong>{escape(title)}</strong></p>{"".join(parts)}</div>'


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """A table of titles and texts."""
    cells = "".join(
        f'<tr><th style="text-align:left;padding-right:1em">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(text)}</td></tr>'
        for name, text in rows
    )
    return f"<table>{cells}</table>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a head; the first column is to the left."""
    titles = "".join(f'<th style="text-align:left">{escape(text)}</th>' for text in head)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{escape(text)}</td>' for text in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def picture(figure: Any, what: str) -> str:
    """A matplotlib figure as a picture of its own, with a text for those who do not see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(what)}" style="max-width:100%" src="data:image/png;base64,{data}">'
