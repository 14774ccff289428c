"""Evaluations that a study makes once and keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from caloforge.evaluation import EvaluationResult
from caloforge.evaluation.files import FileEvaluation
from caloforge.progress import progress
from caloforge.report import claim_folder, load_report, write_report

__all__ = ["kept_report"]


def kept_report(
    folder: Path, prepare: Callable[[], FileEvaluation], *, before: Callable[[Path], None] = lambda keep: None
) -> EvaluationResult:
    """The report in a folder; made if it is not there.

    Args:
        folder: of the report, finished or begun.
        prepare: makes the evaluation ready; called only if there is no report.
        before: told of the folder of kept retrainings before the evaluation begins.
    """
    if not (folder / "report.json").is_file():
        job = prepare()
        keep = claim_folder(folder, resume=True)
        before(keep)
        with progress("evaluating", job.units, "steps") as bar:
            result = job.run(keep=keep, advance=bar.advance)
        write_report(result, folder)
    return load_report(folder)
