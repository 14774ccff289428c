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
from torch import Tensor, nn

from caloforge.aids.emphasis import EmphasisSettings
from caloforge.aids.rejection import Rejection
from caloforge.arguments import given
from caloforge.atomic import replace_file
from caloforge.deployment.one_pass import one_pass_autoregressive, one_pass_coupling
from caloforge.deployment.runtime_tables import gflash_files, library_files, parametrisation_files
from caloforge.detectors import Detector
from caloforge.detectors.grids import PolarGrid
from caloforge.errors import UsageError
from caloforge.kernels.ops.linear_rational import MARGIN, MIN_SIZE, MIN_SLOPE, SLOPE_SHIFT
from caloforge.models import Aid, ShowerModel, aid_class, aid_kinds
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.coupling import CouplingFlow
from caloforge.parts.distillation import DistilledModel
from caloforge.parts.layer_energies import LayerEnergyFlow
from caloforge.parts.point_model import PointCloudModel
from caloforge.parts.point_settings import SAMPLERS
from caloforge.parts.shower_features import RANKS
from caloforge.representation import (
    ROOM,
    EnergyConditions,
    EnergyScale,
    FixedEnergy,
    LayerEnergies,
    LogEnergy,
    LogShares,
    VoxelShares,
)
from caloforge.zoo.caloflow import CaloFlow
from caloforge.zoo.caloinn import CaloINN
from caloforge.zoo.caloinn_factorised import CaloINNFactorised
from caloforge.zoo.icaloflow import ICaloFlow
from caloforge.zoo.l2lflows import AutoregressiveLayer, L2LFlows

__all__ = ["FORMAT", "KINDS", "RuntimeFiles", "aid_support", "runtime_files", "write_runtime_files"]

#: Version of runtime.json; model.cpp has the same number.
FORMAT = 2

#: Aids that change generation and that the runtime knows, by kind of model.
_KNOWN_AIDS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        ("caloflow", "caloflow-student", "caloinn", "caloinn-factorised", "icaloflow", "icaloflow-student", "l2lflows"),
        frozenset({"emphasis", "rejection"}),
    ),
    **dict.fromkeys(("gflash", "pca-parametrisation", "shower-library"), frozenset({"rejection"})),
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
    return (
        f"{given('target', 'ddml-l2lflows')} carries it on 'ild-ecal/90x90'"
        if kind == "l2lflows-conv"
        else "'caloforge generate' makes its showers into a file"
    )


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
    judge = _rejection(model)
    if judge is not None:
        tensors |= judge.tensors
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
    } | ({} if judge is None else {"rejection": judge.settings})
    # Names of users' detectors may hold any letters; the reader of the runtime knows plain ones only.
    description |= {key: _plain(str(description[key])) for key in ("name", "detector")}
    text = json.dumps(description, indent=1, allow_nan=False).removesuffix("\n}") + ",\n "
    digest = hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
    replace_file(folder / "runtime.json", f'{text}"digest": "{digest}"\n}}\n')


def _rejection(model: ShowerModel) -> RuntimeFiles | None:
    """What the runtime needs of the aid that judges showers, if the model has it."""
    aid = next((helper for helper in model.helpers() if isinstance(helper, Rejection)), None)
    if aid is None:
        return None
    features, config = aid.features, aid.config
    tensors = {f"rejection.{name}": getattr(features, name).double() for name in ("x", "y", "centre", "scale")}
    for number, network in enumerate(aid.networks):
        assert isinstance(network, nn.Sequential)
        for place, layer in enumerate(part for part in network if isinstance(part, nn.Linear)):
            tensors[f"rejection.{number}.{place}.weight"] = layer.weight.double()
            tensors[f"rejection.{number}.{place}.bias"] = layer.bias.double()
    settings = {
        "cut": features.cut, "steps": list(features.steps), "ranks": RANKS,
        "most": config.most, "networks": config.networks, "hidden": config.hidden,
    }  # fmt: skip
    return RuntimeFiles(settings, tensors)


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


def _flow(name: str, flow: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a flow of vectors.

    Raises:
        UsageError: if the runtime does not know it.
    """
    if isinstance(flow, CouplingFlow):
        return one_pass_coupling(name, flow)
    assert isinstance(flow, AutoregressiveFlow)  # there are no others
    if flow.reads_latents:
        return one_pass_autoregressive(name, flow)
    return {"kind": "autoregressive", "spline": flow.spline_shape}, _network(name, flow.unpacked())


def _log_energy(energy: LogEnergy) -> dict[str, float]:
    return {"reference": energy.reference, "offset": energy.offset, "factor": energy.factor}


def _energies(representation: LayerEnergies) -> dict[str, Any]:
    scale = representation.scale
    fixed = scale.reference if isinstance(scale, FixedEnergy) else 0.0
    return {
        "recursive": representation.recursive,
        "scale": float(scale.value) if isinstance(scale, EnergyScale) else 1.0,
        "extra": scale.extra if isinstance(scale, EnergyScale) else 0.0,
        "alpha": representation.logit.alpha,
        "fixed": fixed,
    }


def _shares(shares: VoxelShares) -> dict[str, Any]:
    dropped: list[int] = []
    if shares.dropped is not None:
        starts = np.cumsum([0, *shares.sums.layer_sizes])[:-1]
        dropped = (shares.dropped.dropped.numpy() - starts).tolist()
    noisy = not shares.share_noise
    return {
        "alpha": shares.logit.alpha,
        "postprocessing": shares.postprocessing,
        "noise": shares.settings.noise if noisy else 0.0,
        "energy_noise": shares.settings.energy_noise,
        "share_noise": shares.share_noise,
        "energy_shift": shares.energy_shift.double().tolist(),
        "cut": shares.cut,
        "least": shares.least,
        "dropped": dropped,
    }


def _emphasis(model: ShowerModel) -> float:
    found = [aid.config for aid in model.aids.values() if isinstance(aid, Aid) and aid.kind == "emphasis"]
    return found[0].factor if found and isinstance(found[0], EmphasisSettings) else 1.0


# ---- kinds of models ------------------------------------------------------------------------------------------------


def _two_flows(
    model: ShowerModel, energies: LayerEnergyFlow, shapes: nn.Module, shares: VoxelShares, conditions: EnergyConditions,
    stream: str, *, first: bool,
) -> RuntimeFiles:  # fmt: skip
    """Energies of the layers from one flow, shares of the voxels from another."""
    of_energies, energy_tensors = _flow("energies", energies.flow)
    of_shapes, shape_tensors = _flow("shapes", shapes)
    return RuntimeFiles(
        {
            "energies": _energies(energies.representation) | {"flow": of_energies},
            "log_incident": _log_energy(conditions.log_incident),
            "log_layers": _log_energy(conditions.log_layers),
            "emphasis": _emphasis(model),
            "shapes": _shares(shares) | {"flow": of_shapes, "stream": stream, "first": first},
        },
        energy_tensors | shape_tensors,
    )


def _caloflow(model: ShowerModel) -> RuntimeFiles:
    made = model.model if isinstance(model, DistilledModel) else model
    assert isinstance(made, CaloFlow)
    return _two_flows(model, made.energies, made.shapes, made.shares, made.energy_conditions, "shapes", first=False)


def _caloinn_factorised(model: ShowerModel) -> RuntimeFiles:
    assert isinstance(model, CaloINNFactorised)
    return _two_flows(model, model.energies, model.flow, model.shares, model.energy_conditions, "flow", first=True)


def _caloinn(model: ShowerModel) -> RuntimeFiles:
    assert isinstance(model, CaloINN)
    of_flow, tensors = _flow("flow", model.flow)
    made, settings = model.representation, {"flow": of_flow, "emphasis": _emphasis(model)}
    settings |= {"log_incident": _log_energy(model.energy_conditions.log_incident)}
    if isinstance(made, LogShares):
        shapes = {"whole": made.of == "shower", "width": made.width, "alpha": made.log.alpha}
        return RuntimeFiles(settings | {"logarithms": True, "shapes": shapes}, tensors)
    own = {"logarithms": False, "energies": _energies(made.energies), "shapes": _shares(made.shares)}
    return RuntimeFiles(settings | own, tensors)


def _icaloflow(model: ShowerModel) -> RuntimeFiles:
    made = model.model if isinstance(model, DistilledModel) else model
    assert isinstance(made, ICaloFlow)
    tensors: dict[str, Tensor] = {}
    flows: dict[str, Any] = {}
    for name in ("first", "following"):
        flow = getattr(made, name)
        if flow is not None:
            flows[name], own = _flow(name, flow)
            tensors |= own
    of_energies, own = _flow("energies", made.energies.flow)
    conditions = made.conditions
    return RuntimeFiles(
        flows
        | {
            "energies": _energies(made.energies.representation) | {"flow": of_energies},
            "log_incident": _log_energy(conditions.energies.log_incident),
            "log_layers": _log_energy(conditions.energies.log_layers),
            "emphasis": _emphasis(model),
            "shapes": _shares(made.shares),
            "noise": made.config.noise,
            "reference": conditions.reference,
            "alpha": made.config.alpha,
            "logits": conditions.kind == "logits",
        },
        tensors | own,
    )


def _l2lflows(model: ShowerModel) -> RuntimeFiles:
    assert isinstance(model, L2LFlows)
    assert model.energies is not None  # only the convolutional ones may have none
    of_energies, tensors = _flow("energies", model.energies.flow)
    flows: dict[str, Any] = {}
    for name, layer in model.layers.items():
        assert isinstance(layer, AutoregressiveLayer)
        of_flow, own = _flow(name, layer.flow)
        tensors |= own
        linear = [part for part in layer.embedding or () if isinstance(part, nn.Linear)]
        weights = [weight for part in linear for weight in (part.weight, part.bias)]
        tensors |= {f"{name}.embedding.weights.{k}": w.detach().float().clone() for k, w in enumerate(weights)}
        if layer.place is not None:
            tensors[f"{name}.place.weights.0"] = layer.place.numbers.detach().float().clone()
        flows[name] = {
            "flow": of_flow,
            "shares": _shares(layer.shares),
            "size": layer.shares.sums.layer_sizes[0],
            "each": 0 if layer.place is None else layer.place.features,
            "sharing": len(model.groups[name]),
            "seen": linear[0].in_features if linear else 0,
            "hidden": linear[0].out_features if linear else 1,
            "made": linear[1].out_features if linear else 1,
        }
    layers = []
    for number, name in enumerate(model.names):
        flow = next((key for key in flows if number in model.groups[key]), "")
        before = max(0, model.config.previous - number) if model.config.share and flow else 0
        layers.append(
            {
                "name": name,
                "flow": flow,
                "place": model.groups[flow].index(number) if flow else 0,
                "missing": before * model.detector.readout.layer_sizes[number],
            }
        )
    conditions = model.energy_conditions
    return RuntimeFiles(
        {
            "energies": _energies(model.energies.representation) | {"flow": of_energies},
            "log_incident": _log_energy(conditions.log_incident),
            "log_layers": _log_energy(conditions.log_layers),
            "emphasis": _emphasis(model),
            "least": model.least,
            "shift": model.dequantisation.energy_shift.double().tolist(),
            "previous": model.config.previous,
            "flows": flows,
            "layers": layers,
        },
        tensors,
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
    "caloflow-student": _caloflow,
    "caloinn": _caloinn,
    "caloinn-factorised": _caloinn_factorised,
    "icaloflow": _icaloflow,
    "icaloflow-student": _icaloflow,
    "l2lflows": _l2lflows,
    "caloclouds2": _caloclouds,
    "caloclouds3": _caloclouds,
    "gflash": lambda model: RuntimeFiles(*gflash_files(model)),
    "pca-parametrisation": lambda model: RuntimeFiles(*parametrisation_files(model)),
    "shower-library": lambda model: RuntimeFiles(*library_files(model)),
}
