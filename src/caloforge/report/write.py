"""Writing a report: ``report.json``, figures, and one page that holds everything."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from caloforge.arguments import argument, is_typed, switch
from caloforge.atomic import reason, replace_file
from caloforge.detectors import detector_from_toml
from caloforge.errors import OutputError, UsageError
from caloforge.evaluation.results import SCHEMA_VERSION, EvaluationResult
from caloforge.report.figures import drawings
from caloforge.report.page import Picture, render_page
from caloforge.report.published import tables_for
from caloforge.report.style import figure_style
from caloforge.textfiles import read_text

__all__ = ["ReportFiles", "claim_folder", "load_report", "write_report"]

#: Sharp on a phone's screen, and on paper at the width of a column.
_DPI = 170
_PIXELS_PER_INCH = 108


@dataclass(frozen=True)
class ReportFiles:
    """What was written.

    Attributes:
        page: the HTML page, or None if none was wanted.
        data: ``report.json``.
        figures: figure files.
    """

    page: Path | None
    data: Path
    figures: tuple[Path, ...]


def write_report(
    result: EvaluationResult,
    out: Path,
    *,
    formats: Sequence[str] = ("png",),
    page: bool = True,
    advance: Callable[[int, str], None] = lambda amount, note: None,
) -> ReportFiles:
    """Write ``report.json``, ``index.html`` and ``figures/``.

    The page holds its figures and styles, so it can be mailed; it loads nothing from anywhere. Page and figures of an
    earlier report in the same folder are removed, whether or not there are new ones: they would contradict the numbers.

    Args:
        result: of the evaluation.
        out: folder; made if it does not exist.
        formats: formats of the figure files: ``png``, ``pdf``, ``svg``; none writes no figure files.
        page: whether to write the page.
        advance: told of each figure (1).

    Raises:
        OutputError: if the folder cannot be written.
        UsageError: on an unknown figure format.
    """
    for name in formats:
        if name not in ("png", "pdf", "svg"):
            raise UsageError(f"the figure format '{name}' is not known, expected png, pdf or svg")
    folder = out / "figures"
    data = out / "report.json"
    with _changing(out):
        out.mkdir(parents=True, exist_ok=True)
        # The numbers first: if drawing is interrupted, they are there.
        replace_file(data, result.model_dump_json(indent=1))
        _remove(out / "index.html", folder)
        if formats:
            folder.mkdir()
    if not page and not formats:
        return ReportFiles(None, data, ())
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
                replace_file(files[-1], content)
            advance(1, drawing.caption)
    written = out / "index.html" if page else None
    if written is not None:
        replace_file(written, render_page(result, tables, pictures, [style.note] if style.note else []))
    return ReportFiles(written, data, tuple(files))


@contextmanager
def _changing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"the report folder '{out}' cannot be made ready ({reason(error)})") from None


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def claim_folder(out: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Make a folder ready for a report, and say where finished retrainings are kept in it.

    Args:
        out: the folder of the report.
        resume: go on with what is there.
        overwrite: remove what an earlier evaluation left there; other files stay.

    Returns:
        The folder for finished retrainings, which may not exist yet.

    Raises:
        OutputError: if there is a report, finished or not, and neither of the two was asked for.
    """
    kept = out / "retrainings"
    ours = [out / "report.json", out / "index.html", out / "figures", kept]
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file, expected a folder for the report")
    with _changing(out):
        if overwrite:
            _remove(*ours)
        elif not resume and (out / "report.json").exists():
            again = f", {argument('resume')} uses its finished retrainings again" if is_typed() else ""
            raise OutputError(f"{out}: holds a report already; {switch('overwrite')} replaces it{again}")
        elif not resume and kept.exists():
            again = f"{argument('resume')} goes on with it, " if is_typed() else ""
            raise OutputError(f"{out}: holds an interrupted evaluation; {again}{switch('overwrite')} starts anew")
        out.mkdir(parents=True, exist_ok=True)
    return kept


def load_report(path: Path) -> EvaluationResult:
    """Read a ``report.json`` (or the folder that holds one).

    Raises:
        UsageError: if it does not exist, is damaged, or was written by a newer version.
    """
    file = path / "report.json" if path.is_dir() else path
    text = read_text(file, UsageError)
    try:
        version = json.loads(text).get("schema_version")
    except (ValueError, RecursionError, AttributeError):
        raise UsageError(f"'{file}' is not a report (it does not hold one JSON object)") from None
    if version != SCHEMA_VERSION:
        raise UsageError(f"the report '{file}' has schema version {version}, this program reads {SCHEMA_VERSION}")
    try:
        return EvaluationResult.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the report '{file}' is damaged at '{where}' ({first['msg']})") from None
