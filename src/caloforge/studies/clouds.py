"""CaloClouds2 against CaloClouds3: the same showers, the ten observables, and how their flows learn.

The publication shows the losses of both flows (arXiv:2511.01460, figure 2) and the observables of both models at normal
incidence (table 2). Here both are trained on the same file, and everything is compared with the same Geant4 showers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from caloforge.atomic import replace_file, save_figure
from caloforge.errors import UsageError
from caloforge.executor import Executor
from caloforge.models import load_model, load_preset, model_class
from caloforge.options import StudyCloudsOptions
from caloforge.parts.point_model import PointCloudModel
from caloforge.report import Comparison, load_report
from caloforge.report.cloud_figures import cloud_groups, draw_cloud_models
from caloforge.report.style import figure_style
from caloforge.studies.models import Files, study_models
from caloforge.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CloudStudy", "FlowLosses", "study_clouds"]

Say = Callable[[str], None]

_COLOURS = ("#0072b2", "#cc79a7", "#009e73")


@dataclass(frozen=True)
class FlowLosses:
    """How the flow of one model learnt.

    Attributes:
        name: of the model.
        outputs: numbers that the flow gives for a shower; losses are divided by it, since the models differ in it.
        epochs: numbers of the finished epochs.
        training: loss on the training showers, nats per output.
        validation: likewise on the others.
    """

    name: str
    outputs: int
    epochs: tuple[int, ...]
    training: tuple[float, ...]
    validation: tuple[float, ...]

    #: Titles of what :meth:`row` gives.
    columns: ClassVar[tuple[str, ...]] = (
        "flow", "outputs", "lowest validation loss", "at epoch", "end above it", "largest rise of the training loss",
    )  # fmt: skip

    def row(self) -> list[str]:
        """The numbers of the curves for a table."""
        losses = (f"{self.best:.4f}", str(self.best_epoch), f"{self.rise:.4f}", f"{self.largest_jump:.4f}")
        return [self.name, str(self.outputs), *losses]

    @property
    def best(self) -> float:
        """Lowest validation loss, nats per output."""
        return min(self.validation)

    @property
    def best_epoch(self) -> int:
        """When it was reached."""
        return self.epochs[self.validation.index(self.best)]

    @property
    def rise(self) -> float:
        """How far the validation loss ends above its minimum, nats per output: overfitting."""
        return self.validation[-1] - self.best

    @property
    def largest_jump(self) -> float:
        """Largest rise of the training loss from one epoch to the next, nats per output, 0 if it only falls."""
        steps = zip(self.training[1:], self.training[:-1], strict=True)
        return max((max(after - before, 0.0) for after, before in steps), default=0.0)


@dataclass(frozen=True)
class CloudStudy:
    """Result of the study.

    Attributes:
        table: measures of all models.
        losses: of their flows.
        files: what was written.
    """

    table: Comparison
    losses: list[FlowLosses]
    files: list[Path]


def study_clouds(
    data: Files,
    reference: Files,
    out: Path,
    *,
    presets: Sequence[str] = ("caloclouds2-tiny", "caloclouds3-tiny"),
    floor: Files | None = None,
    options: StudyCloudsOptions | None = None,
    executor: Executor | None = None,
    say: Say = print,
    **settings: Any,
) -> CloudStudy:
    """Train point-cloud models on the same showers and compare them.

    What is finished is kept: the same call goes on after an interruption.

    Args:
        data: point file to train on, or one for each preset: the models want their points merged differently.
        reference: Geant4 showers that are not trained on, likewise.
        out: directory for everything that is made.
        presets: names of two or three presets, or YAML files.
        floor: a second reference, likewise.
        say: where progress goes.
        options: see ``StudyCloudsOptions``.
        executor: who works on the models, instead of ``jobs`` processes of this machine.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if a preset is for no point-cloud model, or there are too few or too many.
        OutputError: if the figures cannot be written.
    """
    asked_for = StudyCloudsOptions.merged(options, settings)
    if not 2 <= len(presets) <= 3:
        raise UsageError(f"{len(presets)} presets were given, expected two or three")
    for name in presets:
        kind = load_preset(name).kind
        if not issubclass(model_class(kind), PointCloudModel):
            raise UsageError(f"the preset '{name}' is for '{kind}', expected a CaloClouds model")
    table = study_models(
        presets, data, reference, out, floor=floor, executor=executor, say=say, suite="caloclouds", timing=False,
        **asked_for.plain(),
    )  # fmt: skip
    names = [Path(name).stem for name in presets]
    losses = [_losses(name, out / name / "model") for name in names]
    reports = {name: load_report(out / name / "report") for name in names}
    observables = {name: report.generated.clouds for name, report in reports.items()}
    second = next(iter(reports.values())).floor
    files = [out / "flows.png", out / "flows.md"]
    with figure_style():
        _draw_losses(losses, files[0])
        for title, group in cloud_groups(next(iter(observables.values()))):
            figure = draw_cloud_models(
                observables, second.clouds if second else (), keys=[result.key for result in group]
            )
            FigureCanvasAgg(figure)
            files.append(out / f"{title.replace(' ', '-')}.png")
            save_figure(files[-1], figure, dpi=130)
    replace_file(files[1], _table(losses))
    return CloudStudy(table, losses, [*files, out / "table.md", out / "table.html"])


def _losses(name: str, directory: Path) -> FlowLosses:
    model = load_model(directory)
    assert isinstance(model, PointCloudModel)  # the preset was looked at
    count = model.flow.features
    rows: list[dict[str, Any]] = [r for r in read_metrics(directory / "metrics.jsonl") if r["stage"] == "flow"]
    return FlowLosses(
        name,
        count,
        tuple(row["epoch"] for row in rows),
        tuple(row["training"]["loss"] / count for row in rows),
        tuple(row["validation"]["loss"] / count for row in rows),
    )


def _table(losses: Sequence[FlowLosses]) -> str:
    """The numbers of the curves as a table."""
    lines = [[*FlowLosses.columns], ["---"] * len(FlowLosses.columns), *(loss.row() for loss in losses)]
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in lines), "", "Losses in nats per output.", ""])


def _draw_losses(losses: Sequence[FlowLosses], path: Path) -> None:
    """Losses against epochs (arXiv:2511.01460, figure 2)."""
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes = figure.subplots()
    for loss, colour in zip(losses, _COLOURS, strict=False):
        axes.plot(loss.epochs, loss.training, "--", color=colour, label=f"{loss.name}, training")
        axes.plot(loss.epochs, loss.validation, "-", color=colour, label=f"{loss.name}, validation")
    axes.set(xlabel="epoch", ylabel="loss of the flow [nats per output]")
    axes.legend()
    save_figure(path, figure, dpi=130)
