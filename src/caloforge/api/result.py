"""An evaluation as people see it: sentences, a table of scores, and a report on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from caloforge import html
from caloforge.detectors import Detector
from caloforge.evaluation import EvaluationResult
from caloforge.evaluation.files import prepare_evaluation
from caloforge.evaluation.sources import Named
from caloforge.executor import Executor
from caloforge.options import EvaluateOptions
from caloforge.progress import progress
from caloforge.report import ReportFiles, claim_folder, score_rows, summary_lines, summary_table, write_report

__all__ = ["Result", "evaluate"]


class Result:
    """What an evaluation found.

    Args:
        data: everything, as in ``report.json``.

    Attributes:
        data: likewise.
    """

    def __init__(self, data: EvaluationResult) -> None:
        self.data = data

    @property
    def summary(self) -> list[str]:
        """The sentences that say how good the showers are: classifiers, distributions, and what could not be seen."""
        return summary_lines(self.data)

    @property
    def scores(self) -> dict[str, float]:
        """Every single number of the generated showers by its key."""
        return {key: pair[0] for key, (_, _, pair) in score_rows(self.data.generated).items() if pair is not None}

    @property
    def floor(self) -> dict[str, float]:
        """The same of the second reference; empty if there was none."""
        if self.data.floor is None:
            return {}
        return {key: pair[0] for key, (_, _, pair) in score_rows(self.data.floor).items() if pair is not None}

    def save(
        self, folder: str | Path, *, formats: Sequence[str] = ("png",), page: bool = True, overwrite: bool = False
    ) -> ReportFiles:
        """Write the report: one HTML page, ``report.json`` and figures.

        Args:
            folder: where; made if it is not there.
            formats: of the figure files: ``png``, ``pdf``, ``svg``.
            page: whether to write the page.
            overwrite: replace a report that is there.

        Raises:
            OutputError: if there is a report already, or the folder cannot be written.
            UsageError: on an unknown figure format.
        """
        claim_folder(Path(folder), overwrite=overwrite)
        return write_report(self.data, Path(folder), formats=formats, page=page)

    def __repr__(self) -> str:
        return "\n".join(self.summary)

    def _repr_html_(self) -> str:
        sentences = "".join(f"<p>{html.escape(line)}</p>" for line in self.summary)
        head = ("measure", "these showers", "floor", "ideal")
        return html.block("Evaluation", sentences, html.table(head, summary_table(self.data)))


def evaluate(
    generated: Named,
    reference: Named,
    *,
    floor: Named | None = None,
    others: Mapping[str, Named] | None = None,
    model: str | None = None,
    detector: Detector | str | Path | None = None,
    particle: int | str | None = None,
    keep: str | Path | None = None,
    executor: Executor | None = None,
    options: EvaluateOptions | None = None,
    **settings: Any,
) -> Result:
    """Judge generated showers by Geant4 showers, with the checks of ``caloforge evaluate``.

    Args:
        generated: showers to be judged: in memory, a file, or several as one.
        reference: Geant4 showers that the model was not trained on, likewise.
        floor: a second, independent reference: every number is also given for Geant4 against Geant4.
        others: further generated showers by name, for the multi-class test.
        model: the model that made them; None for the one that the showers name, if it is here.
        detector: for showers that do not say which detector they are of.
        particle: for files that do not say which particle they hold.
        keep: folder in which finished retrainings are kept, so that an interrupted evaluation goes on where it was.
        executor: who does the retrainings, instead of ``jobs`` processes of this machine.
        options: how they are judged; see ``EvaluateOptions``.
        settings: single options, instead of or beside ``options``: ``suite="calogan"``, ``only=["fpd"]``, ``skip``, ``seed``,
            ``retrainings``, ``epochs``, ``max_showers``, ``device``, ``allow_mismatch``, ``uncut``, ``timing``, ``jobs``; and
            ``cross_particle``.

    Raises:
        UsageError: if the samples cannot be compared, or a name is not known.
        ShowerFileError: if a file is damaged, or showers hold impossible values.
    """
    job = prepare_evaluation(
        generated, reference, floor=floor, others=others, model=model, detector=detector, particle=particle,
        options=options, **settings,
    )  # fmt: skip
    with progress("evaluating", job.units, "steps") as bar:
        return Result(job.run(keep=None if keep is None else Path(keep), advance=bar.advance, executor=executor))
