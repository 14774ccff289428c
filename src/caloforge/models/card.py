"""The model card: what a model is, for what it was trained, on what, and what it scores; without weights and without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from caloforge.conditions import ConditionRange
from caloforge.detectors import detector_from_toml, particle_names
from caloforge.errors import ModelFileError
from caloforge.models.locating import locate_model, missing_stages, read_plan, read_record
from caloforge.models.record import ModelRecord, RunPlan
from caloforge.units import format_energy

__all__ = ["card_rows", "describe_model", "is_unfinished"]


def is_unfinished(where: str | Path) -> bool:
    """Whether a folder is a training that has not ended: it has a plan and no model yet."""
    directory = Path(where)
    return (directory / "plan.json").is_file() and not (directory / "model.json").is_file()


def describe_model(where: str | Path) -> dict[str, Any]:
    """What a model directory says of itself, JSON values.

    Args:
        where: a model directory (of a training that has not ended, too), or the name of a trained model.

    Returns:
        ``path``, ``finished``, ``missing`` (stages that are not trained yet) and the content of ``model.json``, or of
        ``plan.json`` for an unfinished one.

    Raises:
        ModelFileError: if it is missing or damaged.
    """
    if is_unfinished(where):
        plan = read_plan(Path(where))
        facts = {"path": str(where), "finished": False, "missing": missing_stages(Path(where))}
        return facts | plan.model_dump(mode="json")
    directory = locate_model(where)
    return {"path": str(directory), "finished": True, "missing": []} | read_record(directory).model_dump(mode="json")


def card_rows(record: ModelRecord | RunPlan) -> list[tuple[str, str]]:
    """The model card as pairs of a title and a text, for people."""
    try:
        detector = detector_from_toml(record.detector, where="detector")
    except Exception as error:
        raise ModelFileError(f"the model's detector cannot be read ({error})") from None
    readout = detector.readout
    cells = f"{readout.n_voxels} voxels" if readout.has_voxels else "points"
    aids = ", ".join(_aid(aid) for aid in record.aids) or "none"
    rows = [("model", record.kind), ("profile", record.profile), ("aids", aids)]
    rows.append(("detector", f"{detector.name} ({readout.n_layers} layers, {cells})"))
    if isinstance(record, RunPlan):
        rows.append(_particles((record.particle, *record.others)))
        return [*rows, ("stages", ", ".join(record.stages)), *_training(record.details)]
    rows += _range(record.valid)
    rows += _training(record.training)
    for name, digest in record.inputs.items():
        rows.append((f"learned from ({name})", f"model {digest[:12]}"))
    rows += [("scores: " + key, _plain(value)) for key, value in record.metrics.items()] or [
        ("scores", "none recorded")
    ]
    if record.parameters:  # a parametrisation has none, and models of former versions do not say
        rows.append(("parameters", f"{record.parameters:,}"))
    rows.append(("licence", record.licence))
    rows.append(("weights", f"sha256 {record.weights_sha256[:12]}, by caloforge {record.caloforge}"))
    return rows


def _aid(aid: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in aid.items() if key != "kind")
    return str(aid.get("kind")) + (f" ({settings})" if settings else "")


def _particles(pdg: Sequence[int]) -> tuple[str, str]:
    return "particle" if len(pdg) == 1 else "particles", particle_names(pdg)


def _range(valid: ConditionRange) -> list[tuple[str, str]]:
    low, high = (format_energy(float(f"{energy:.4g}")) for energy in valid.incident_energy)
    rows = [_particles(valid.particles), ("energy", low if low == high else f"{low} to {high}")]
    if valid.direction is None:
        return [*rows, ("direction", "along the axis")]
    ends = (f"{name} {a:.2f} to {b:.2f}" for name, a, b in zip("xyz", *valid.direction, strict=True))
    return [*rows, ("direction", ", ".join(ends))]


def _training(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    data = training.get("data")
    if isinstance(data, Mapping):
        name = f"{data['file']}, " if data.get("file") else ""
        rows.append(("trained on", f"{name}{data.get('training_rows', data.get('showers', '?'))} showers"))
        held_out = data.get("validation_rows")
        if held_out:
            rows.append(("validated on", f"{held_out} showers, which chose the weights"))
        origin = data.get("provenance")
        if isinstance(origin, Mapping) and origin.get("physics"):
            rows.append(("showers by", f"{_program(origin)}, physics list {_plain(origin['physics'])}"))
    seconds = training.get("seconds")
    if isinstance(seconds, Mapping):
        text = ", ".join(f"{stage} {_duration(float(time))}" for stage, time in seconds.items())
        rows.append(("training time", f"{text} on {training.get('device', '?')}"))
    stages = training.get("stages")
    if isinstance(stages, Mapping):
        found = [f"{name} {_metric(metrics)}" for name, metrics in stages.items() if _metric(metrics)]
        if found:
            rows.append(("validation", "; ".join(found)))
    return rows


def _program(origin: Mapping[str, Any]) -> str:
    return f"Geant4 {_plain(origin['geant4'])}" if origin.get("geant4") else _plain(origin.get("program", "?"))


def _metric(metrics: Any) -> str:
    """The validation losses of a stage, and the epoch that they are from; empty for a stage that has none."""
    if not isinstance(metrics, Mapping) or not isinstance(metrics.get("validation"), Mapping):
        return ""
    epoch = f" (epoch {metrics['epoch']})" if "epoch" in metrics else ""
    return _plain(metrics["validation"]) + epoch


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
