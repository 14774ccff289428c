"""Writing a report: ``report.json``, figures, and one page that holds everything."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from caloforge.detectors import detector_from_toml
from caloforge.errors import OutputError, UsageError
from caloforge.evaluation.results import SCHEMA_VERSION, EvaluationResult
from caloforge.report.figures import drawings
from caloforge.report.page import Picture, render_page
from caloforge.report.published import tables_for
from caloforge.report.style import figure_style

__all__ = ["ReportFiles", "load_report", "write_report"]

#: Sharp on a phone's screen, and on paper at the width of a column.
_DPI = 170
_PIXELS_PER_INCH = 108


@dataclass(frozen=True)
class ReportFiles:
    """What was written.

    Attributes:
        page: the HTML page.
        data: ``report.json``.
        figures: figure files.
    """

    page: Path
    data: Path
    figures: tuple[Path, ...]


def _write(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the whole new one."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(content)
        # Temporary files are private, reports are to be read by others.
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written ({error.strerror})") from None


def write_report(
    result: EvaluationResult,
    out: Path,
    *,
    formats: Sequence[str] = ("png",),
    advance: Callable[[int, str], None] = lambda amount, note: None,
) -> ReportFiles:
    """Write ``report.json``, ``index.html`` and ``figures/``.

    The page holds its figures and styles, so it can be mailed; it loads nothing from anywhere.

    Args:
        result: of the evaluation.
        out: folder; made if it does not exist.
        formats: formats of the figure files: ``png``, ``pdf``, ``svg``.
        advance: told of each figure (1).

    Raises:
        OutputError: if the folder cannot be written.
        UsageError: on an unknown figure format.
    """
    for name in formats:
        if name not in ("png", "pdf", "svg"):
            raise UsageError(f"the figure format '{name}' is not known, expected png, pdf or svg")
    folder = out / "figures"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the report folder '{out}' cannot be made ({error.strerror})") from None
    data = out / "report.json"
    # The numbers first: if drawing is interrupted, they are there.
    _write(data, result.model_dump_json(indent=1).encode())
    detector = detector_from_toml(result.detector["toml"], where="report")
    tables = tables_for(result.detector["name"], result.samples["reference"].particle)
    pictures, files = [], []
    with figure_style() as style:
        for drawing in drawings(result, detector):
            buffer = io.BytesIO()
            drawing.figure.savefig(buffer, format="png", dpi=_DPI)
            png = buffer.getvalue()
            width = round(float(drawing.figure.get_figwidth()) * _PIXELS_PER_INCH)
            pictures.append(Picture(drawing.name, drawing.section, drawing.caption, drawing.wide, width, png))
            for name in formats:
                content = png
                if name != "png":
                    buffer = io.BytesIO()
                    drawing.figure.savefig(buffer, format=name, dpi=_DPI)
                    content = buffer.getvalue()
                files.append(folder / f"{drawing.name}.{name}")
                _write(files[-1], content)
            advance(1, drawing.caption)
    page = out / "index.html"
    _write(page, render_page(result, tables, pictures, [style.note] if style.note else []).encode())
    return ReportFiles(page, data, tuple(files))


def load_report(path: Path) -> EvaluationResult:
    """Read a ``report.json`` (or the folder that holds one).

    Raises:
        UsageError: if it does not exist, is damaged, or was written by a newer version.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
        version = json.loads(text).get("schema_version")
    except FileNotFoundError:
        raise UsageError(f"the report '{file}' does not exist") from None
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError):
        raise UsageError(f"'{file}' is not a report (it does not hold one JSON object)") from None
    if version != SCHEMA_VERSION:
        raise UsageError(f"the report '{file}' has schema version {version}, this program reads {SCHEMA_VERSION}")
    try:
        return EvaluationResult.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the report '{file}' is damaged at '{where}' ({first['msg']})") from None
