"""Model directories: ``model.safetensors`` and ``model.json``, and while training ``plan.json`` and ``stages/``.

Nothing in them is executable, and generating needs nothing else. Every file is written beside its place and renamed
into it, ``model.json`` last; it carries the hash of the weights, so a directory is either whole or says what it lacks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from caloforge.atomic import make_folder, output_error, replace_file, written_beside
from caloforge.conditions import ConditionRange
from caloforge.detectors import detector_from_toml
from caloforge.errors import CaloForgeError, ModelFileError
from caloforge.models.base import ShowerModel
from caloforge.models.budget import limited_to
from caloforge.models.checksums import CHECKSUM, check_tensors, checksum_of
from caloforge.models.locating import ROWS, locate_model, missing_stages, read_plan, read_record, stage_directory
from caloforge.models.record import ModelRecord, RunPlan
from caloforge.models.registry import build_model
from caloforge.models.renaming import renamed_tensors
from caloforge.nn.masked import with_masked_weights, without_masked_weights
from caloforge.stage import Stage, TrainingConfig, take_lengths

__all__ = ["assemble_model", "load_model", "planned_model", "read_stage", "save_model", "write_plan", "write_stage"]


def _replace_json(path: Path, value: BaseModel) -> None:
    make_folder(path.parent)
    replace_file(path, json.dumps(value.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")


def _replace_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    make_folder(path.parent)
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        with written_beside(path) as beside:
            save_file(plain, beside, metadata)
    except (OSError, SafetensorError) as error:
        raise output_error(path, error) from None


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"'{path}' cannot be read as safetensors ({error})") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_plan(
    directory: Path,
    model: ShowerModel,
    particle: int,
    training: TrainingConfig,
    *,
    others: Sequence[int] = (),
    inputs: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> RunPlan:
    """Say in ``plan.json`` what is going to be trained.

    Raises:
        OutputError: if it cannot be written.
    """
    plan = RunPlan(
        kind=model.kind,
        profile=model.profile,
        config=model.config.model_dump(mode="json"),
        aids=[helper.describe() for helper in model.helpers()],
        detector=model.detector.to_toml(),
        particle=particle,
        others=list(others),
        training=training,
        stages=[stage.name for stage in model.training_stages(training)],
        inputs=dict(inputs or {}),
        details=dict(details or {}),
    )
    _replace_json(directory / "plan.json", plan)
    return plan


def planned_model(plan: RunPlan, *, inputs: Mapping[str, ShowerModel] | None = None) -> ShowerModel:
    """A new, untrained model as planned.

    Args:
        plan: the plan.
        inputs: models that it is trained from, by name, if it is to be trained on.
    """
    detector = detector_from_toml(plan.detector, where="plan.json, detector")
    model = build_model(
        plan.kind, plan.config, detector, profile=None, aids=plan.aids, inputs=inputs, where="plan.json, config"
    )
    model.profile = plan.profile
    return model


def write_stage(directory: Path, stage: Stage, metrics: Mapping[str, Any]) -> None:
    """Store the present state of a stage as its result, in one atomic step.

    Args:
        directory: the model directory.
        stage: the stage; its state is read from the model.
        metrics: what to keep with it (epoch, losses), JSON values.

    Raises:
        OutputError: if it cannot be written; what was there before is kept then.
    """
    path = stage_directory(directory, stage.name, "best") / "state.safetensors"
    state = {name: value.detach().cpu() for name, value in stage.state().items()}
    text = json.dumps(dict(metrics))
    _replace_tensors(path, state, {"metrics": text, CHECKSUM: checksum_of(state, text)})


def read_stage(directory: Path, stage: Stage) -> dict[str, Any]:
    """Load the result of a stage into its model.

    Returns:
        The metrics that were stored with it.

    Raises:
        ModelFileError: if the stage has no result yet, or one that does not fit.
    """
    path = stage_directory(directory, stage.name, "best") / "state.safetensors"
    if not path.is_file():
        raise ModelFileError(f"the stage '{stage.name}' of '{directory}' has no result yet")
    tensors, metadata = _read_tensors(path)
    try:
        check_tensors(metadata, tensors, metadata.get("metrics", ""))
    except ValueError as error:
        raise ModelFileError(f"'{path}' is damaged ({error})") from None
    stage.load_state(tensors)
    try:
        metrics = json.loads(metadata.get("metrics", "{}"))
    except (ValueError, RecursionError):
        metrics = None
    if not isinstance(metrics, dict):
        raise ModelFileError(f"'{path}' does not say what the stage scored, as it would have to")
    return metrics


def save_model(
    directory: Path,
    model: ShowerModel,
    valid: ConditionRange,
    *,
    row_hashes: NDArray[np.uint64] | None = None,
    training: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str = "Apache-2.0",
    weights: torch.dtype | None = None,
) -> ModelRecord:
    """Write ``model.safetensors`` and ``model.json``.

    Args:
        directory: the model directory; made if it is not there.
        model: the model, as it samples now: without aids that were switched off.
        valid: conditions that it was trained for.
        row_hashes: hashes of the rows that it was trained on, as ``caloforge.showers.row_hashes`` gives them.
        training: how it was trained, JSON values.
        inputs: hashes of the models that it was trained from, by name.
        metrics: what it scores, JSON values.
        licence: licence of the weights.
        weights: precision of the stored parameters (``torch.float16`` for shipping), which then are stored without those
            that a mask keeps at zero; None stores the model's as they are. Buffers keep their precision, since fitted constants
            are few and must stay exact.

    Returns:
        What ``model.json`` says now.

    Raises:
        OutputError: if it cannot be written.
    """
    off = tuple(f"aids.{kind}." for kind in model.switched_off)
    left_out = sum(value.numel() for name, value in model.named_parameters() if name.startswith(off))
    tensors = {name: value.detach() for name, value in model.state_dict().items() if not name.startswith(off)}
    if weights is not None:
        tensors |= {name: value.detach().to(weights) for name, value in model.named_parameters() if name in tensors}
        tensors = without_masked_weights(model, tensors)
    hashes = np.sort(np.asarray([] if row_hashes is None else row_hashes, dtype=np.uint64))
    tensors[ROWS] = torch.from_numpy(hashes.view(np.int64))
    path = directory / "model.safetensors"
    # Without model.json the directory counts as unfinished, so no moment shows old words with new weights.
    (directory / "model.json").unlink(missing_ok=True)
    _replace_tensors(path, tensors)
    record = ModelRecord(
        kind=model.kind,
        profile=model.profile,
        config=model.config.model_dump(mode="json"),
        aids=[helper.describe() for helper in model.helpers()],
        detector=model.detector.to_toml(),
        valid=valid,
        representation=model.describe_representation(),
        training=dict(training or {}),
        training_rows=len(hashes),
        inputs=dict(inputs or {}),
        metrics=dict(metrics or {}),
        licence=licence,
        parameters=model.parameter_count() - left_out,
        weights_sha256=_sha256(path),
    )
    _replace_json(directory / "model.json", record)
    return record


def assemble_model(
    directory: Path,
    valid: ConditionRange,
    *,
    row_hashes: NDArray[np.uint64] | None = None,
    training: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> ModelRecord:
    """Put the results of all stages together into the model files.

    Args:
        directory: a directory with ``plan.json`` and a result for every stage.
        valid: as for :func:`save_model`, and so on.
        row_hashes: see :func:`save_model`.
        training: see :func:`save_model`; the metrics of every stage are added under ``stages``.
        inputs: see :func:`save_model`.
        metrics: see :func:`save_model`.

    Raises:
        ModelFileError: naming the stages that are missing.
        OutputError: if it cannot be written.
    """
    missing = missing_stages(directory)
    if missing:
        raise ModelFileError(
            f"the model in '{directory}' cannot be assembled, these stages are missing: {_list(missing)}"
        )
    plan = read_plan(directory)
    model = planned_model(plan)
    results = {stage.name: read_stage(directory, stage) for stage in model.training_stages(plan.training)}
    story = {"settings": plan.training.model_dump(mode="json"), **plan.details, **(training or {}), "stages": results}
    return save_model(directory, model, valid, row_hashes=row_hashes, training=story, inputs=inputs, metrics=metrics)


def _list(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _alike(one: Tensor, two: Tensor) -> bool:
    """Whether a tensor can stand for another: equal shapes, whole numbers or not; the precision may differ."""
    return one.shape == two.shape and one.is_floating_point() == two.is_floating_point()


def load_model(
    where: str | Path, *, device: torch.device | str = "cpu", options: Mapping[str, Any] | None = None
) -> ShowerModel:
    """Load a finished model, ready for generating (eval mode, float32 or wider).

    Args:
        where: a model directory, or the name of a model that ships with the package.
        device: where to put it.
        options: changes of how it samples, see ``ShowerModel.adjust``.

    Raises:
        ModelFileError: if it is missing, damaged or not finished (naming the missing stages).
        UsageError: if the model has no such option.
        ConfigError: if the value of an option is wrong.
    """
    directory = locate_model(where)
    record = read_record(directory)
    path = directory / "model.safetensors"
    if _sha256(path) != record.weights_sha256:
        with path.open("rb") as file:
            pointer = file.read(64).startswith(b"version https://git-lfs")
        why = "it is a pointer of Git LFS, 'git lfs pull' fetches the file" if pointer else "its hash differs"
        raise ModelFileError(f"'{path}' is not the file that model.json describes ({why})")
    tensors, _ = _read_tensors(path)
    tensors.pop(ROWS, None)
    tensors = renamed_tensors(record.kind, tensors)
    try:
        detector = detector_from_toml(record.detector, where="detector")
        with limited_to(tensors):
            model = build_model(record.kind, record.config, detector, aids=record.aids, where="config")
    except CaloForgeError as error:
        raise ModelFileError(f"'{directory / 'model.json'}': {error}") from None
    if any(tensors[name].dtype == torch.float64 for name, _ in model.named_parameters() if name in tensors):
        model.double()
    take_lengths(model, tensors)
    tensors = with_masked_weights(model, tensors)
    own = model.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in own or name not in tensors or not _alike(own[name], tensors[name]):
            raise ModelFileError(
                f"'{path}' does not fit model.json: the tensor '{name}' is missing, unknown or of another shape or kind"
            )
    model.load_state_dict(tensors)
    model.record, model.directory, model.profile = record, directory, record.profile
    model.freeze()
    model.adjust(options or {})
    return model.to(device).eval()
