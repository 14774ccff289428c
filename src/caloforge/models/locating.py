"""Where models are and what their directories say, without weights and without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open

from caloforge import plugins
from caloforge.containment import check_contained
from caloforge.errors import ConfigError, ModelFileError, PluginError
from caloforge.models.record import FORMAT, ModelRecord, RunPlan
from caloforge.models.renaming import upgraded
from caloforge.names import is_builtin
from caloforge.textfiles import read_text
from caloforge.validation import validated

__all__ = [
    "CONTENT",
    "ROWS",
    "locate_model",
    "missing_stages",
    "pretrained_names",
    "read_plan",
    "read_record",
    "stage_directory",
    "training_row_hashes",
]

#: What a model directory holds, while it is trained and afterwards.
CONTENT = ("plan.json", "config.yaml", "metrics.jsonl", "model.json", "model.safetensors", "stages", "tensorboard")
#: Tensor beside the weights that holds the hashes of the training rows; the model itself has none of this name.
ROWS = "training-row-hashes"

R = TypeVar("R", bound=BaseModel)


def _read_json(cls: type[R], path: Path) -> R:
    text = read_text(path, ModelFileError)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"'{path}' cannot be read as JSON ({error})") from None
    if not isinstance(data, dict):
        raise ModelFileError(f"'{path}' holds no JSON object")
    data = upgraded(data, where=str(path))
    if data.get("format") != FORMAT:
        raise ModelFileError(f"'{path}' has format {data.get('format')!r}, this version reads format {FORMAT}")
    try:
        return validated(cls, data, where=str(path))
    except ConfigError as error:
        raise ModelFileError(str(error)) from None


def read_plan(directory: Path) -> RunPlan:
    """Read ``plan.json``.

    Raises:
        ModelFileError: if it is not there or damaged.
    """
    return _read_json(RunPlan, directory / "plan.json")


def stage_directory(directory: Path, stage: str, which: Literal["last", "best"]) -> Path:
    """Where a stage keeps its ``last`` state (for resuming) and its ``best`` one (the result)."""
    return directory / "stages" / stage / which


def missing_stages(directory: Path) -> list[str]:
    """Names of the planned stages that have no result yet."""
    plan = read_plan(directory)
    return [
        name for name in plan.stages if not (stage_directory(directory, name, "best") / "state.safetensors").is_file()
    ]


def pretrained_names() -> list[str]:
    """Names of the trained models of the package and of other distributions, sorted."""
    return plugins.names("pretrained")


def locate_model(where: str | Path) -> Path:
    """The directory of a finished model.

    Args:
        where: a model directory, or the name of a trained model of the package or of another distribution.

    Raises:
        ModelFileError: if it is missing or not finished (naming the missing stages).
    """
    directory = Path(where)
    if is_builtin(where, known := pretrained_names(), "model") or (str(where) in known and not directory.is_dir()):
        try:
            directory = plugins.locate("pretrained", str(where))
        except PluginError as error:
            raise ModelFileError(str(error)) from None
    elif not directory.is_dir():
        also = f", and the package has no model of that name (it has {', '.join(known)})" if known else ""
        raise ModelFileError(f"there is no model directory '{where}'{also}")
    check_contained(directory, CONTENT, ModelFileError)
    if (directory / "model.json").is_file() and (directory / "model.safetensors").is_file():
        return directory
    if (directory / "plan.json").is_file():
        missing = missing_stages(directory)
        names = ", ".join(f"'{name}'" for name in missing)
        what = f"these stages are missing: {names}" if missing else "its stages are trained but not assembled"
        raise ModelFileError(
            f"the model in '{directory}' is not finished, {what}; continue with caloforge train --resume"
        )
    raise ModelFileError(f"'{directory}' is no model directory: it has no model.json and model.safetensors")


def read_record(where: str | Path) -> ModelRecord:
    """What a model directory says about itself, without its weights.

    Args:
        where: a model directory, or the name of a model that ships with the package.

    Raises:
        ModelFileError: if it is missing, damaged or not finished (naming the missing stages).
    """
    return _read_json(ModelRecord, locate_model(where) / "model.json")


def training_row_hashes(where: str | Path) -> NDArray[np.uint64]:
    """Hashes of the rows that a model was trained on, sorted, uint64.

    Raises:
        ModelFileError: as for :func:`read_record`.
    """
    path = locate_model(where) / "model.safetensors"
    try:
        with safe_open(path, framework="np") as file:
            hashes: NDArray[np.int64] = file.get_tensor(ROWS)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"'{path}' cannot be read as safetensors ({error})") from None
    return hashes.view(np.uint64)
