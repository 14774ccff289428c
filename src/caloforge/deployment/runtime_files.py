"""What the C++ runtime opens: plans and weights as the kernels take them, settings with nothing left to be found out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from caloforge.aids.emphasis import EmphasisSettings
from caloforge.atomic import replace_file
from caloforge.detectors import Detector
from caloforge.detectors.grids import PolarGrid
from caloforge.errors import UsageError
from caloforge.kernels.ops.linear_rational import MARGIN, MIN_SIZE, MIN_SLOPE, SLOPE_SHIFT
from caloforge.models import Aid, ShowerModel, aid_class, aid_kinds
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.parts.point_model import PointCloudModel
from caloforge.parts.point_settings import SAMPLERS
from caloforge.representation import ROOM, EnergyScale, LogEnergy
from caloforge.zoo.caloflow import CaloFlow

__all__ = ["FORMAT", "KINDS", "RuntimeFiles", "aid_support", "runtime_files", "write_runtime_files"]

#: Version of runtime.json; model.cpp has the same number.
FORMAT = 1

#: Aids that change generation and that the runtime knows, by kind of model.
_KNOWN_AIDS: Mapping[str, frozenset[str]] = {
    "caloflow": frozenset({"emphasis"}),
    **dict.fromkeys(
        ("caloclouds2", "caloclouds3"), frozenset({"layer-factors", "moment-map", "totals-map", "trend"})
    ),
}  # fmt: skip


@dataclass(frozen=True)
class RuntimeFiles:
    """What is written.

    Attributes:
        settings: the part of ``runtime.json`` that only this kind of model has.
        tensors: what stands in ``runtime.safetensors``.
    """

    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def aid_support(kind: str, aid: str) -> str:
    """What the runtime does with an aid of a model: ``implemented``, ``nothing to do`` in generation, or ``refused``."""
    if aid in _KNOWN_AIDS.get(kind, ()):
        return "implemented"
    known = aid in aid_kinds() and aid_class(aid).constants is Aid.constants
    return "nothing to do" if known else "refused"


def runtime_files(model: ShowerModel) -> RuntimeFiles:
    """What the runtime needs of a model.

    Raises:
        UsageError: if it does not know such models, or an aid or a setting of this one; saying what can be done instead.
    """
    make = KINDS.get(model.kind)
    if make is None:
        raise UsageError(
            f"the C++ runtime knows no models of the kind '{model.kind}', only {', '.join(KINDS)}; "
            f"{_instead(model.kind)}"
        )
    for helper in model.helpers():
        if aid_support(model.kind, helper.kind) == "refused":
            raise UsageError(
                f"the C++ runtime does not know the aid '{helper.kind}' of a model of the kind '{model.kind}'"
            )
    return make(model)


def _instead(kind: str) -> str:
    return "--target onnx carries it" if kind == "caloinn" else "'caloforge generate' makes its showers into a file"


def write_runtime_files(folder: Path, model: ShowerModel, name: str) -> None:
    """Write ``runtime.json`` and ``runtime.safetensors``.

    Args:
        folder: where to; it is there.
        model: a model that was loaded from a directory.
        name: what it is called.

    Raises:
        UsageError: see :func:`runtime_files`.
        OutputError: if they cannot be written.
    """
    files, record, readout = runtime_files(model), model.record, model.detector.readout
    assert record is not None  # loaded from a directory
    tensors = dict(files.tensors)
    if model.shower_kind == "voxels":
        tensors["cells"] = torch.from_numpy(_cells(model.detector))
    content = save({key: _stored(value) for key, value in tensors.items()})
    replace_file(folder / "runtime.safetensors", content)
    description = {
        "format": FORMAT,
        "kind": model.kind,
        "name": name,
        "detector": model.detector.name,
        "model_sha256": record.weights_sha256,
        "weights": hashlib.blake2b(content, digest_size=32).hexdigest(),
        "points": model.shower_kind == "points",
        "particle": record.valid.particle,
        "incident_energy": record.valid.incident_energy,
        "direction": record.valid.direction,
        "layer_sizes": [0] * readout.n_layers if model.shower_kind == "points" else readout.layer_sizes,
        "depths": readout.depths.tolist() if len(readout.depths) else None,
        "polar": [isinstance(layer.grid, PolarGrid) for layer in readout.layers],
        "settings": files.settings,
    }
    # Names of users' detectors may hold any letters; the reader of the runtime knows plain ones only.
    description |= {key: _plain(str(description[key])) for key in ("name", "detector")}
    text = json.dumps(description, indent=1, allow_nan=False).removesuffix("\n}") + ",\n "
    digest = hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
    replace_file(folder / "runtime.json", f'{text}"digest": "{digest}"\n}}\n')


def _plain(text: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "?" for c in text)


def _stored(tensor: Tensor) -> Tensor:
    """As it is stored: in half the room if nothing is lost, as for models that are shipped so."""
    value = tensor.detach().cpu().contiguous()
    if value.dtype == torch.float32 and bool((value.half().float() == value).all()):
        return value.half()
    return value


def _cells(detector: Detector) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Low and high end of the outer and of the inner coordinate of each voxel, (V, 4), mm and radians."""
    rows = []
    for layer in detector.readout.layers:
        assert layer.grid is not None  # there are voxels
        outer, inner = (np.asarray(edges) for edges in layer.grid.edges)
        pairs = [np.stack([edges[:-1], edges[1:]], axis=1) for edges in (outer, inner)]
        rows.append(np.hstack([np.repeat(pairs[0], len(pairs[1]), axis=0), np.tile(pairs[1], (len(pairs[0]), 1))]))
    return np.concatenate(rows).astype(np.float64)


def _network(name: str, unpacked: tuple[list[Tensor], Tensor]) -> dict[str, Tensor]:
    weights, plan = unpacked
    # Copies: safetensors refuses tensors that share memory.
    return {f"{name}.plan": plan} | {f"{name}.weights.{k}": weight.float().clone() for k, weight in enumerate(weights)}


def _log_energy(energy: LogEnergy) -> dict[str, float]:
    assert energy.factor == 1  # other kinds of models have one
    return {"reference": energy.reference, "offset": energy.offset}


# ---- kinds of models ------------------------------------------------------------------------------------------------


def _caloflow(model: ShowerModel) -> RuntimeFiles:
    assert isinstance(model, CaloFlow)
    shares, representation = model.shares, model.energies.representation
    if shares.dropped is not None:
        raise UsageError(
            "the C++ runtime does not know models with 'drop_voxel'; one trained without it makes showers as good"
        )
    scale = representation.scale
    assert isinstance(scale, EnergyScale)
    emphasis = [
        helper.config for helper in model.aids.values() if isinstance(helper, Aid) and helper.kind == "emphasis"
    ]
    factor = emphasis[0].factor if emphasis and isinstance(emphasis[0], EmphasisSettings) else 1.0
    settings = model.config
    flows: dict[str, AutoregressiveFlow] = {"energies": model.energies.flow, "shapes": model.shapes}
    return RuntimeFiles(
        {
            "energies": {
                "spline": flows["energies"].spline_shape,
                "recursive": representation.recursive,
                "scale": float(scale.value),
                "extra": scale.extra,
                "alpha": representation.logit.alpha,
            },
            "log_incident": _log_energy(model.energy_conditions.log_incident),
            "log_layers": _log_energy(model.energy_conditions.log_layers),
            "emphasis": factor,
            "shapes": {
                "spline": flows["shapes"].spline_shape,
                "alpha": shares.logit.alpha,
                "postprocessing": shares.postprocessing,
                "noise": settings.noise,
                "energy_noise": settings.energy_noise,
                "energy_shift": shares.energy_shift.double().tolist(),
                "cut": shares.cut,
                "least": shares.least,
            },
        },
        {key: value for name, flow in flows.items() for key, value in _network(name, flow.unpacked()).items()},
    )


def _caloclouds(model: ShowerModel) -> RuntimeFiles:
    assert isinstance(model, PointCloudModel)
    if model.config.sampler != "consistency":
        raise UsageError(
            f"the C++ runtime has no sampler '{model.config.sampler}', only the one-step one ('consistency'); "
            "this model samples otherwise by its configuration"
        )
    constants = model.operator_constants()
    assert constants is not None  # every aid was looked at
    number = SAMPLERS.index(model.config.sampler)
    constant, slope = model.profiles.most_points.double().tolist()
    most = max(1.0, *model.calibration.occupancy[number].tolist())
    spline = [model.flow.bound, MIN_SIZE, MIN_SLOPE, SLOPE_SHIFT, MARGIN]
    assert float(constants[2]) == ROOM  # the kernel and `point_room` allow the same
    return RuntimeFiles(
        {"flow": {"spline": spline}, "room": [constant, slope, most]},
        {
            "constants": constants,
            **_network("flow", model.flow.unpacked()),
            **_network("points", model.target.unpacked()),
        },
    )


KINDS: Mapping[str, Callable[[ShowerModel], RuntimeFiles]] = {
    "caloflow": _caloflow,
    "caloclouds2": _caloclouds,
    "caloclouds3": _caloclouds,
}
