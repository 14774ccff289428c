"""Model directories of former layouts: read under their new names, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from caloforge.detectors import detector_from_toml
from caloforge.errors import CaloForgeError, ModelFileError
from caloforge.models.record import FORMAT

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["renamed_tensors", "upgraded"]

_SCALE = "energies.representation.scale.value"

#: For each kind, beginnings of tensor names in format 1 and what they are now.
_TENSORS: dict[str, dict[str, str]] = {
    "caloflow": {
        "energies.blocks.": "energies.flow.blocks.",
        "energies.permutations.": "energies.flow.permutations.",
        "scale.value": _SCALE,
    },
    "l2lflows": {"energies.scale.value": _SCALE},
    "caloinn": {"scale.value": "representation.energies.scale.value"},
    "caloinn-factorised": {"energies.scale.value": _SCALE},
}
_TENSORS["icaloflow"] = _TENSORS["caloflow"]
_TENSORS["l2lflows-conv"] = _TENSORS["l2lflows"]
#: Parts of tensor names that have other names now.
_PARTS = {".which.numbers": ".place.numbers"}

#: Keys of CaloINN's configuration in format 1 that are settings of its flow now.
_COUPLING = (
    "blocks", "hidden_features", "layers", "spline", "bins", "bound", "least", "act_norm", "batch_norm", "dropout",
    "permutations", "permutation_seed",
)  # fmt: skip


#: For each kind, keys of former configurations that had to have these values, and are no more.
_GONE: dict[str, dict[str, Any]] = {
    "caloinn": {"layer_reference": None, "layer_offset": 1e-3},
    "icaloflow": {"energy_fractions": "single"},
    "l2lflows": {"energy_flow": True},
    "l2lflows-conv": {"drop_voxel": False},
}
#: For each kind, keys that former configurations have not, and the values that they had as it were.
_ADDED: dict[str, dict[str, Any]] = {
    "bib-ae": {"cell_bend": None},
    "bib-ae-two-angles": {"cell_bend": None},
    "calo-gan": {"layer_energies": "images", "particles": [], "type_weight": 0.2, "type_flips": 0.3},
}


def upgraded(data: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """What ``model.json`` or ``plan.json`` says, in the present layout.

    Args:
        data: as read; a layout that is not known comes back as it is.
        where: the file, for an error.

    Raises:
        ModelFileError: if it is of a former layout that cannot be read any more, with the reason.
    """
    found = dict(data)
    if found.get("format") != 1:
        return (
            found | {"config": _with_present_keys(str(found.get("kind")), found["config"])}
            if "config" in found
            else found
        )
    kind, config = str(found.get("kind")), found.get("config")
    if "valid" not in found:
        raise ModelFileError(
            f"'{where}' is of a training that a former version began, whose parts were arranged otherwise; begin it anew"
        )
    change = _CONFIGS.get(kind)
    if change is None or not isinstance(config, dict):
        raise ModelFileError(
            f"'{where}' is of a '{kind}' that a former version trained, whose parts were arranged otherwise; train it anew"
        )
    try:
        layers = detector_from_toml(str(found.get("detector")), where="detector").readout.n_layers
    except CaloForgeError as error:
        raise ModelFileError(f"'{where}': {error}") from None
    kind, config, aids = change(dict(config), layers)
    found.pop("transforms", None)
    # Which profile a model of that time followed, nobody said; its switches are all in its configuration.
    config = _with_present_keys(kind, config)
    return found | {"format": FORMAT, "kind": kind, "config": config, "aids": aids, "profile": "improved"}


def _with_present_keys(kind: str, config: Any) -> Any:
    """A configuration, and that of a teacher in it, without keys that had one possible value, and with those that are new."""
    if not isinstance(config, Mapping):
        return config
    gone = _GONE.get(kind, {})
    kept = _ADDED.get(kind, {}) | {key: value for key, value in config.items() if key not in gone or value != gone[key]}
    if "teacher" in kept:
        kept["teacher"] = _with_present_keys(kind.removesuffix("-student"), kept["teacher"])
    return kept


def renamed_tensors(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of any layout under their present names.

    Args:
        kind: of the model.
        tensors: as stored.
    """
    table = _TENSORS.get(kind, {})

    def renamed(name: str) -> str:
        for old, new in table.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        for old, new in _PARTS.items():
            name = name.replace(old, new)
        return name

    return {renamed(name): _packed(name, value) for name, value in tensors.items()}


def _packed(name: str, value: Tensor) -> Tensor:
    """Triangles of 1 x 1 convolutions, which were stored as whole matrices, without what is no number of theirs."""
    if ".mixings." not in name or value.ndim != 2 or not name.endswith((".lower", ".upper")):
        return value
    import torch

    size = len(value)
    low = name.endswith(".lower")
    return value[tuple(torch.tril_indices(size, size, -1) if low else torch.triu_indices(size, size, 1))]


_Changed = tuple[str, dict[str, Any], list[dict[str, Any]]]


def _start(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The aid that initial weights from marginals are now."""
    return [{"kind": "marginal-start"}] if config.pop("start", None) == "marginals" else []


def _single(wanted: Any, layers: int) -> bool:
    """Whether each layer has a fraction of its own."""
    from caloforge.representation import SingleFractions, energy_fractions  # brings torch, which most models need not

    return isinstance(energy_fractions(wanted, layers), SingleFractions)


def _caloflow(config: dict[str, Any], layers: int) -> _Changed:
    config = {"energy_fractions": "recursive"} | config
    if config["energy_fractions"] != "recursive" and _single(config["energy_fractions"], layers):
        raise ModelFileError(
            "the model was trained on single energy fractions in a random order, which is that of the layers now; train it anew"
        )
    if config.get("postprocessing") == "published":
        config["postprocessing"] = "renormalise"
    aids = _start(config)
    return "caloflow", config, aids


def _icaloflow(config: dict[str, Any], layers: int) -> _Changed:
    config["postprocessing"] = "multiply" if config.get("postprocessing") == "published" else "exact"
    config["conditions"] = "logits" if config.get("conditions") == "published" else "logarithms"
    config["energies_relative_to"] = "scale" if config.get("energy_reference") is None else "fixed"
    config["energy_noise_per"] = "voxel" if config.get("drop_voxel") else "layer"
    return "icaloflow", config, _start(config)


def _l2lflows(kind: str) -> Callable[[dict[str, Any], int], _Changed]:
    def change(config: dict[str, Any], layers: int) -> _Changed:
        aids = _start(config)
        return kind, {"energy_fractions": "recursive"} | config, aids

    return change


def _caloinn(config: dict[str, Any], layers: int) -> _Changed:
    aids = _start(config)
    emphasis = float(config.pop("emphasis", 1.0))
    if emphasis != 1.0:
        aids.append({"kind": "emphasis", "factor": emphasis})
    published = config.pop("preprocessing", "logit") == "published"
    seed = config.get("permutation_seed", 0)
    config["flow"] = {key: config.pop(key) for key in _COUPLING if key in config}
    config = {"energy_fractions": "recursive"} | config
    for gone in ("highest_energy",):
        if config.pop(gone, None) is not None:
            raise ModelFileError(
                f"the model was trained with '{gone}', which this version does not know; train it anew"
            )
    if config.get("energies") is not None:
        for key in ("relative_noise", "log_alpha"):
            config.pop(key, None)
        return "caloinn-factorised", config | {"permutation_seed": seed}, aids
    if published:
        raise ModelFileError("the model was trained on logarithms, which are scaled otherwise now; train it anew")
    for key in ("energies", "energy_alpha", "layer_reference", "layer_offset"):
        config.pop(key, None)
    return "caloinn", config, aids


_CONFIGS: dict[str, Callable[[dict[str, Any], int], _Changed]] = {
    "caloflow": _caloflow,
    "icaloflow": _icaloflow,
    "l2lflows": _l2lflows("l2lflows"),
    "l2lflows-conv": _l2lflows("l2lflows-conv"),
    "caloinn": _caloinn,
}
