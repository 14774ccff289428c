"""Evaluations that a study makes once and keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from caloforge.atomic import replace_file
from caloforge.evaluation import EvaluationResult
from caloforge.evaluation.files import FileEvaluation
from caloforge.progress import progress
from caloforge.report import claim_folder, load_report, write_report

__all__ = ["kept_report"]


#: What was asked for when the report beside it was made.
_ASKED = "asked.json"


def kept_report(
    folder: Path,
    prepare: Callable[[], FileEvaluation],
    *,
    asked: Mapping[str, Any],
    before: Callable[[Path], None] = lambda keep: None,
) -> EvaluationResult:
    """The report in a folder; made if it is not there, or if something else was asked for then.

    Args:
        folder: of the report, finished or begun.
        prepare: makes the evaluation ready; called only if it is to be made.
        asked: what decides about its content, JSON values.
        before: told of the folder of kept retrainings before the evaluation begins.
    """
    text = json.dumps(dict(asked), indent=2) + "\n"
    former = folder / _ASKED
    report = folder / "report.json"
    # One of a former version does not say it. What is asked for again of its retrainings is used again.
    if former.is_file() and former.read_text(encoding="utf-8") != text:
        report.unlink(missing_ok=True)
    if not report.is_file():
        job = prepare()
        keep = claim_folder(folder, resume=True)
        before(keep)
        with progress("evaluating", job.units, "steps") as bar:
            result = job.run(keep=keep, advance=bar.advance)
        replace_file(former, text)
        write_report(result, folder)
    return load_report(folder)
