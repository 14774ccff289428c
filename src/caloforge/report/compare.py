"""One table of many models: their reports side by side, beside floor and published numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from caloforge.arguments import argument, switch
from caloforge.atomic import refuse_existing, replace_file
from caloforge.errors import UsageError
from caloforge.evaluation.results import EvaluationResult
from caloforge.options import CompareOptions
from caloforge.report.page import style_sheet
from caloforge.report.published import tables_for
from caloforge.report.tables import number, score_rows
from caloforge.report.write import load_report

__all__ = ["LIBRARY_COLUMN", "Comparison", "compare_files", "compare_reports", "is_library"]

#: Batch sizes of the rows on speed; reports hold more of them.
_BATCHES = (1, 100, 10_000)
#: What the column of a library of showers is called, whatever its report was called.
LIBRARY_COLUMN = "library (training showers re-used)"


class Comparison:
    """Scores of several models by measure.

    Attributes:
        columns: names of the models, then ``floor``, then published models.
        rows: title of each measure and its value in every column, ``–`` where there is none.
        notes: differences between the reports that a reader must know.
    """

    def __init__(self, columns: list[str], rows: list[tuple[str, list[str]]], notes: list[str]) -> None:
        self.columns, self.rows, self.notes = columns, rows, notes

    def to_markdown(self) -> str:
        """The table in Markdown."""
        lines = ["| measure | " + " | ".join(self.columns) + " |", "|---" * (len(self.columns) + 1) + "|"]
        lines += [f"| {title} | " + " | ".join(cells) + " |" for title, cells in self.rows]
        return "\n".join([*lines, *([""] if self.notes else []), *(f"- {n}" for n in self.notes)]) + "\n"

    def to_html(self) -> str:
        """The table as an HTML fragment; see :meth:`to_page` for a whole page."""
        head = "".join(f"<th>{escape(c)}</th>" for c in ("measure", *self.columns))
        body = "".join(
            "<tr><td>" + escape(title) + "</td>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>"
            for title, cells in self.rows
        )
        notes = "".join(f"<li>{escape(n)}</li>" for n in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><ul>{notes}</ul>"

    def to_page(self) -> str:
        """The table as one HTML page that needs nothing beside it."""
        models = [c for c in self.columns if c != "floor" and not c.endswith(" (published)")]
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(', '.join(models))}</title>\n<style>{style_sheet()}</style>\n</head>\n<body>\n<header>"
            f'<p class="kicker">CaloForge comparison</p><h1>{escape(", ".join(models))}</h1></header>\n'
            f'<main><h2>Scores</h2><div class="scroll">{self.to_html()}</div></main>\n</body>\n</html>\n'
        )

    def to_json(self) -> str:
        """The table as JSON: ``columns``, ``rows`` (``measure`` and one text for each column) and ``notes``."""
        rows = [{"measure": title} | dict(zip(self.columns, cells, strict=True)) for title, cells in self.rows]
        return json.dumps({"columns": self.columns, "rows": rows, "notes": self.notes}, indent=1, ensure_ascii=False)


def compare_files(
    reports: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    options: CompareOptions | None = None,
    **settings: Any,
) -> Comparison:
    """Put several reports beside each other, and write the table, as ``caloforge compare`` does.

    Args:
        reports: ``report.json`` files, or the folders that hold them.
        out: file to write, by its name an HTML page, Markdown or JSON; None writes none.
        options: see :class:`caloforge.options.CompareOptions`.
        settings: single options, instead of or beside ``options``: ``names``, ``overwrite``.

    Raises:
        UsageError: if there is not one name for each report, the file has another ending, or the reports are of different
            detectors or particles.
        ReportError: if a report is missing or damaged.
        OutputError: if the file is there already or cannot be written.
    """
    chosen = CompareOptions.merged(options, settings)
    if chosen.names and len(chosen.names) != len(reports):
        raise UsageError(
            f"{argument('names', '--name')} was given {len(chosen.names)} times for {len(reports)} reports, expected one for each"
        )
    if out is not None:
        out = Path(out)
        if out.suffix not in (".html", ".md", ".json"):
            raise UsageError(f"{argument('out')} is '{out}', expected a name that ends in .html, .md or .json")
        if not chosen.overwrite:
            refuse_existing(out, f"{switch('overwrite')} replaces it")
    table = compare_reports([load_report(Path(path)) for path in reports], chosen.names or None)
    if out is not None:
        replace_file(out, {".html": table.to_page, ".md": table.to_markdown, ".json": table.to_json}[out.suffix]())
    return table


def compare_reports(reports: Sequence[EvaluationResult], names: Sequence[str] | None = None) -> Comparison:
    """Put several reports beside each other.

    Args:
        reports: at least one; all of one detector and particle.
        names: what to call them; by default the labels of their generated samples. A library of training showers is called
            so, and stands last, beside the floor.

    Raises:
        UsageError: if they are of different detectors or particles.
    """
    if not reports:
        raise UsageError("a comparison needs at least one report")
    given = list(names or (r.samples["generated"].label for r in reports))
    # What is made of training showers stands beside the floor, under a name that says so.
    order = sorted(range(len(reports)), key=lambda k: is_library(reports[k]))
    reports = [reports[k] for k in order]
    given = [LIBRARY_COLUMN if is_library(r) else given[k] for k, r in zip(order, reports, strict=True)]
    first = reports[0]
    for other in reports[1:]:
        if other.detector["hash"] != first.detector["hash"]:
            raise UsageError(
                f"the reports are of different detectors ('{first.detector['name']}' and '{other.detector['name']}')"
            )
        if other.samples["reference"].particle != first.samples["reference"].particle:
            raise UsageError("the reports are of different particles")
    labels = _distinct(given)
    scores = [score_rows(r.generated) for r in reports]
    floors = [score_rows(r.floor) for r in reports if r.floor is not None]
    tables = tables_for(first.detector["name"], first.samples["reference"].particle)
    published = [m for t in tables for m in t.models]
    keys = list(dict.fromkeys(key for s in scores for key in s))
    # A published model that was never measured by any of these has no column.
    published = [m for m in published if any(key in m.numbers for key in keys)]
    rows = []
    for key in keys:
        title, _, _ = next(s[key] for s in scores if key in s)
        cells = [_cell(s, key) for s in scores]
        if floors:
            cells.append(next((_cell(f, key) for f in floors if key in f), "–"))
        for model in published:
            found = model.numbers.get(key)
            cells.append("–" if found is None else number(found.value, found.std))
        rows.append((title, cells))
    others = (1 if floors else 0) + len(published)
    rows += [(title, [*cells, *["–"] * others]) for title, cells in _speed_rows(reports)]
    columns = [*labels, *(["floor"] if floors else []), *(f"{m.name} (published)" for m in published)]
    return Comparison(columns, rows, _notes(reports, labels) + [f"{t.title}: {t.source}. {t.setup}." for t in tables])


def _speed_rows(reports: Sequence[EvaluationResult]) -> list[tuple[str, list[str]]]:
    """How fast and how large the models are, as far as that was measured: title, and a cell for each of them."""
    timings = [r.timing for r in reports]
    places = list(dict.fromkeys((row.device, row.batch) for t in timings if t is not None for row in t.rows))
    found = []
    for device, batch in sorted((place for place in places if place[1] in _BATCHES), key=lambda p: (p[0], p[1])):
        cells = []
        for t in timings:
            row = next((r for r in t.rows if (r.device, r.batch) == (device, batch)), None) if t is not None else None
            cells.append("–" if row is None else number(row.milliseconds, row.std))
        found.append((f"ms per shower in batches of {batch:,}, {device}", cells))
    for title, values in (
        ("training, seconds", [None if t is None else t.training_seconds for t in timings]),
        ("parameters", [None if t is None else t.parameters for t in timings]),
        ("on disk, MB", [None if t is None else t.megabytes for t in timings]),
    ):
        if any(value is not None for value in values):
            found.append((title, ["–" if value is None else _plain(value) for value in values]))
    return found


def _plain(value: float) -> str:
    """A whole number with its thousands, or three digits of another one."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def is_library(report: EvaluationResult) -> bool:
    """Whether the generated showers are training showers that a library gave out again."""
    return report.samples["generated"].made_by.partition(",")[0] == "shower-library"


def _cell(scores: dict[str, tuple[str, str, tuple[float, float | None] | None]], key: str) -> str:
    value = scores[key][2] if key in scores else None
    return "–" if value is None else number(*value)


def _distinct(labels: list[str]) -> list[str]:
    return [label if labels.count(label) == 1 else f"{label} ({k + 1})" for k, label in enumerate(labels)]


def _notes(reports: Sequence[EvaluationResult], labels: Sequence[str]) -> list[str]:
    notes = []
    if len({r.samples["reference"].fingerprint for r in reports}) > 1:
        notes.append("The reports use different reference showers.")
    sizes = {label: min(s.showers for s in r.samples.values()) for label, r in zip(labels, reports, strict=True)}
    if len(set(sizes.values())) > 1:
        text = ", ".join(f"{label} {size:,}" for label, size in sizes.items())
        notes.append(f"The sample sizes differ, and with them what classifiers and FPD can see: {text}.")
    notes += [
        f"{label}: not independent: {s.text}." for label, r in zip(labels, reports, strict=True) for s in r.shared
    ]
    if len({r.uncut for r in reports}) > 1:
        cut = [label for label, r in zip(labels, reports, strict=True) if not r.uncut]
        notes.append(f"The analysis threshold was applied in some of the reports only ({', '.join(cut)}).")
    if len({r.suite for r in reports}) > 1:
        notes.append("The reports are of different suites.")
    settings = {
        (name, tuple(sorted((k, str(v)) for k, v in c.settings.items())))
        for r in reports
        for name, c in r.generated.classifiers.items()
    }
    if len(settings) > len({name for name, _ in settings}):
        notes.append("Classifiers were trained differently in some of the reports.")
    return notes
