"""One model for one target: written beside its place, proven, and only then given its name."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caloforge.arguments import switch
from caloforge.atomic import output_error, replace_file
from caloforge.deployment.parity import ParityResult
from caloforge.deployment.targets import cpp, ddml_caloclouds, ddml_l2lflows, fastcalosim, onnx, par04, torchscript
from caloforge.detectors import particle_names
from caloforge.errors import GenerationError, OutputError, UsageError
from caloforge.models import ShowerModel, load_model, save_model, training_row_hashes
from caloforge.options import ExportOptions
from caloforge.version import __version__

__all__ = ["TARGETS", "Exported", "export_model"]

#: What a target needs: the folder to fill, the model's place, the model, showers, seed and whether to verify.
Target = Callable[[Path, str | Path, ShowerModel, int, int, bool], ParityResult | None]

TARGETS: Mapping[str, tuple[str, Target]] = {
    "cpp": (
        "C++ library without dependencies, with adapters for Geant4 and DD4hep, examples, CMake package and parity program",
        cpp.write,
    ),
    "onnx": ("one graph for ONNX Runtime, for models that sample in one pass", onnx.write),
    "ddml-caloclouds": ("TorchScript module for the CaloClouds model of key4hep's DDML", ddml_caloclouds.write),
    "ddml-l2lflows": ("TorchScript module for the L2LFlows model of key4hep's DDML", ddml_l2lflows.write),
    "fastcalosim": ("ONNX graph and HDF5 for FastCaloSim", fastcalosim.write),
    "par04": ("TorchScript module and macro for Geant4's example Par04", par04.write),
    "torchscript": ("one traced module for libtorch, for models that sample in one pass", torchscript.write),
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the folder.
        target: for what.
        result: the comparison with the model; None if nobody asked for it.
    """

    path: Path
    target: str
    result: ParityResult | None


def export_model(
    model: str | Path | ShowerModel,
    target: str,
    out: str | Path,
    *,
    options: ExportOptions | None = None,
    **settings: Any,
) -> Exported:
    """Export a trained model.

    Args:
        model: model directory, the name of a model that ships with the package, or a model that was loaded, or needs no training
            (:func:`caloforge.models.ready_model`).
        target: one of ``TARGETS``.
        out: folder to make.
        options: see :class:`caloforge.options.ExportOptions`; what was asked to be verified and fails is not written.
        settings: single options, instead of or beside ``options``: ``verify``, ``showers``, ``seed``, ``overwrite``.

    Raises:
        UsageError: if there is no such target, or it cannot carry this model; the message says what can be used instead.
        ModelFileError: if the model is missing, damaged or not finished.
        MissingDependencyError: if a compiler or CMake is missing.
        GenerationError: if the export makes other showers than the model.
        OutputError: if the folder is there already, or cannot be written.
    """
    chosen = ExportOptions.merged(options, settings)
    showers, seed = chosen.showers, chosen.seed
    if target not in TARGETS:
        raise UsageError(
            f"there is no target '{target}', expected one of {', '.join(TARGETS)}; 'cpp' is for Geant4 and DD4hep, too"
        )
    with _located(model) as where, _folder_beside(Path(out), overwrite=chosen.overwrite) as beside:
        loaded = load_model(where)
        if loaded.particles:
            made = particle_names(loaded.particles)
            raise UsageError(f"the model makes showers of {made}, and no target lets its host say which it wants")
        result = TARGETS[target][1](beside, where, loaded, showers, seed, chosen.verify)
        if result is not None and not result.passed:
            raise GenerationError(
                f"the export makes other showers than the model ({result.reason()}); nothing was written"
            )
        replace_file(
            beside / "parity.json", json.dumps(_record(loaded, target, showers, seed, result), indent=2) + "\n"
        )
    return Exported(Path(out), target, result)


def _record(model: ShowerModel, target: str, showers: int, seed: int, result: ParityResult | None) -> dict[str, Any]:
    assert model.record is not None  # loaded from a directory
    checks = [] if result is None else [asdict(check) for check in result.checks]
    return {
        "target": target,
        "caloforge": __version__,
        "kind": model.kind,
        "model_sha256": model.record.weights_sha256,
        "showers": showers,
        "seed": seed,
        "verified": result is not None,
        "checks": checks,
    }


@contextmanager
def _located(model: str | Path | ShowerModel) -> Iterator[str | Path]:
    """Where a model lies; one that was never stored, or samples otherwise than the stored one, is stored for a while.

    Raises:
        UsageError: if it was neither loaded nor needs no training.
    """
    if not isinstance(model, ShowerModel):
        yield model
    elif model.directory is not None and not model.options:
        yield model.directory
    elif model.record is None:
        raise UsageError(
            "the model was neither loaded from a directory nor made by 'ready_model', so its range is not known"
        )
    else:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / (model.kind if model.directory is None else model.directory.name)
            # Scores are left out: they are of the model as it was stored.
            save_model(
                place, model, model.record.valid, licence=model.record.licence, inputs=model.record.inputs,
                training=model.record.training,
                row_hashes=None if model.directory is None else training_row_hashes(model.directory),
            )  # fmt: skip
            yield place


@contextmanager
def _folder_beside(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder beside a place, which gets its name when the block ends without an error.

    Raises:
        OutputError: if there is something else, or it cannot be written.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"'{path}' is there already ({switch('overwrite')} replaces it)")
    if path.exists() and not ((path / "parity.json").is_file() and path.is_dir()):
        raise OutputError(f"'{path}' is no export of this program, so it is not replaced")
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise output_error(path, error) from None
    try:
        yield beside
        if path.exists():
            former = path.with_name(f".{path.name}.{secrets.token_hex(6)}.former")
            path.rename(former)
            beside.rename(path)
            shutil.rmtree(former)
        else:
            beside.rename(path)
    except OSError as error:
        raise output_error(path, error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
