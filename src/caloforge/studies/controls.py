"""Samples that a trained model must beat: training showers with shuffled voxels, and an untrained copy of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from caloforge.atomic import make_folder
from caloforge.errors import UsageError
from caloforge.evaluation import EvaluationResult
from caloforge.evaluation.layers import SIGNIFICANT_SHARE, largest_deviation
from caloforge.evaluation.results import ObservableResult, Scores, Value, observable_name
from caloforge.models import build_model, load_model, read_record, save_model
from caloforge.random import Streams
from caloforge.report.tables import Pair, auc_pair, number
from caloforge.showers import Showers, create_showers
from caloforge.showers.files import open_showers
from caloforge.stage import FitStage, TrainingConfig

__all__ = ["Contest", "contest", "layer_verdict", "shuffle_voxels", "untrained_copy"]

#: So many observables are named at most.
_NAMED = 6
#: A separation power is clearly larger than another from so many standard errors on.
_CLEAR = 2.0


def shuffle_voxels(data: str | Path, out: Path, *, showers: int, seed: int) -> None:
    """Write showers of which every voxel comes from another shower.

    Each voxel keeps its spectrum, and loses what it has to do with the other voxels and with the incident energy.

    Args:
        data: showers on voxels; the first ones are taken.
        out: file to write; what is there already is kept if it is complete.
        showers: how many.
        seed: of the permutations.

    Raises:
        UsageError: if there are fewer showers, or they are points.
    """
    request = {"control": "shuffled voxels", "showers": showers, "seed": seed}
    with open_showers(data) as source:
        if len(source) < showers:
            raise UsageError(f"{data}: holds {len(source)} showers, expected at least the reference's {showers}")
        read = source.read(0, showers)
        if not isinstance(read, Showers):
            raise UsageError(f"{data}: voxels are shuffled, and these showers are points")
        if out.exists():
            with open_showers(out) as finished:
                if len(finished) == showers and finished.provenance.get("control") == request["control"]:
                    return
        rng = Streams(seed, "study/shuffle").generator(0)
        deposits = rng.permuted(read.deposits, axis=0)
        make_folder(out.parent)
        writer = create_showers(
            out, detector=source.detector, particle=source.particle, provenance=request, request=request,
            expected=showers, overwrite=True,
        )  # fmt: skip
        with writer:
            writer.write(Showers(deposits, read.incident_energy, read.particle, read.readout, read.direction))


def untrained_copy(trained: Path, out: Path, *, seed: int) -> None:
    """Write the same model with random weights; what was fitted rather than trained (scales, calibrations) is kept.

    Args:
        trained: model directory.
        out: model directory to write; a finished one is kept.
        seed: of the weights.
    """
    if (out / "model.json").is_file():
        return
    model, record = load_model(trained), read_record(trained)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Streams(seed, "study/untrained").integer(0))
        fresh = build_model(record.kind, record.config, model.detector, aids=record.aids, where="config")
        fresh.profile = record.profile
    training = TrainingConfig.model_validate(record.training["settings"])
    fitted = {stage.name: stage for stage in model.training_stages(training) if isinstance(stage, FitStage)}
    for stage in fresh.training_stages(training):
        if stage.name in fitted:
            stage.load_state(fitted[stage.name].state())
    make_folder(out)
    save_model(out, fresh, record.valid, training={"settings": record.training["settings"], "seconds": {}})


@dataclass(frozen=True)
class Contest:
    """How a model does against a control.

    Attributes:
        compared: names of the observables whose separation powers were compared.
        worse: those in which the control is better.
        clearly: those of them in which it is better by more than two standard errors of the difference.
        equal: how many are equal, as where a student and its untrained copy have the layer energies of the same teacher.
        faint: those of layers with less than 1 % of the energy. What is nearly always empty has little to shuffle.
        auc: mean AUC of the model and of the control, each with its error, for each classifier that judged both.
    """

    compared: tuple[str, ...]
    worse: tuple[str, ...]
    clearly: frozenset[str]
    equal: int
    faint: frozenset[str]
    auc: dict[str, tuple[Pair, Pair]]

    def sentence(self) -> str:
        """The same in words."""
        smaller = len(self.compared) - len(self.worse) - self.equal
        text = f"{smaller} of {len(self.compared)} separation powers are smaller"
        if self.equal:
            text += f", {self.equal} equal"
        matter = [key for key in self.compared if key not in self.faint]
        lost = [key for key in self.worse if key not in self.faint]
        if self.faint and self.worse:
            text += f", {len(lost)} of {len(matter)} larger without layers of less than 1 % of the energy"
        elif lost:
            text += f", {len(lost)} larger"
        if lost:
            text += f", {sum(key in self.clearly for key in lost)} of them by more than two standard errors"
        if lost:
            named = [observable_name(key) for key in lost[:_NAMED]]
            more = len(lost) - len(named)
            text += f" (not {', '.join(named)}{f' and {more} more' if more else ''})"
        scores = [f"AUC {number(*ours)} for {number(*other)} ({name})" for name, (ours, other) in self.auc.items()]
        return "; ".join([text, *scores])


def contest(ours: EvaluationResult, control: EvaluationResult) -> Contest:
    """Compare the scores of a model with those of a control on the same reference.

    The spectrum of the voxels is left out, since shuffling does not change it.
    """
    mine, other = (_by_key(r.generated) for r in (ours, control))
    keys = tuple(key for key in mine if key in other)
    means = ours.generated.layers
    dim = {k for k, share in enumerate(means.share) if share <= SIGNIFICANT_SHARE} if means is not None else set()
    auc: dict[str, tuple[Pair, Pair]] = {
        name: (auc_pair(score), auc_pair(control.generated.classifiers[name]))
        for name, score in ours.generated.classifiers.items()
        if name in control.generated.classifiers
    }
    worse = tuple(key for key in keys if mine[key].separation.value > other[key].separation.value)
    return Contest(
        compared=keys,
        worse=worse,
        clearly=frozenset(key for key in worse if _excess(mine[key].separation, other[key].separation) > _CLEAR),
        equal=sum(mine[key].separation.value == other[key].separation.value for key in keys),
        faint=frozenset(key for key in keys if mine[key].layer in dim),
        auc=auc,
    )


def _excess(ours: Value, other: Value) -> float:
    """How many standard errors a separation power lies above another."""
    error = math.hypot(ours.error, other.error)
    return (ours.value - other.value) / error if error else math.inf


def _by_key(scores: Scores) -> dict[str, ObservableResult]:
    return {r.key: r for r in scores.observables if r.chi2_ndf is not None}


def layer_verdict(result: EvaluationResult, limit: float = 0.05) -> str:
    """In words: the largest deviation of a layer's mean energy, and whether it is within the limit."""
    means = result.generated.layers
    worst = None if means is None else largest_deviation(means, means.energy)
    if worst is None:
        return "layer means were not measured"
    word = "within" if worst.value <= limit else "beyond"
    return f"largest deviation of a layer's mean energy {worst.value:.1%} ± {worst.error:.1%}, {word} {limit:.0%}"
