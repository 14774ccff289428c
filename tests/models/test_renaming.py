"""Model directories of a former layout: the same model under new names, or refused with the reason."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import fit, sparse_showers, toy_detector
from safetensors.torch import load_file, save_file

from caloforge.detectors import Detector
from caloforge.errors import ModelFileError
from caloforge.models import ConditionRange, Conditions, ShowerModel, build_model, load_model, read_plan, save_model
from caloforge.random import Streams

STREAMS = Streams(4, "renaming")
RANGE = ConditionRange.of(22, [1e3, 1e5])
SIZE: dict[str, Any] = {"blocks": 2, "hidden_features": 6}
COUPLING: dict[str, Any] = {"blocks": 2, "hidden_features": 6, "layers": 2, "permutation_seed": 3}
EMBEDDING: dict[str, Any] = {"hidden_features": 6, "features": 3}
FLOW_OF_ENERGIES = {
    "energies.flow.blocks.": "energies.blocks.",
    "energies.flow.permutations.": "energies.permutations.",
    "energies.representation.scale.": "scale.",
}
SCALE = {"energies.representation.scale.": "energies.scale."}
EQUAL, ALIKE = toy_detector((2, 3), (3, 2), (1, 6)), toy_detector((2, 2), (2, 2), (2, 2), (3, 1))

#: For each former configuration: kind, detector, what it is today (configuration and aids), and how its tensors were called.
FORMER: dict[str, tuple[str, Detector, dict[str, Any], str, dict[str, Any], list[dict[str, Any]], dict[str, str]]] = {
    "caloflow": (
        "caloflow",
        toy_detector(),
        {"energies": SIZE, "shapes": SIZE, "start": "marginals"},
        "caloflow",
        {"energies": SIZE, "shapes": SIZE, "energy_fractions": "recursive"},
        [{"kind": "marginal-start"}],
        FLOW_OF_ENERGIES,
    ),
    "caloflow as published": (
        "caloflow",
        toy_detector(),
        {"energies": SIZE, "shapes": SIZE, "masks": "published", "energy_noise_per": "voxel", "cut_first": False,
         "postprocessing": "published", "start": "random"},
        "caloflow",
        {"energies": SIZE, "shapes": SIZE, "energy_fractions": "recursive", "masks": "published",
         "energy_noise_per": "voxel", "cut_first": False, "postprocessing": "renormalise"},
        [],
        FLOW_OF_ENERGIES,
    ),
    "icaloflow": (
        "icaloflow",
        EQUAL,
        {"energies": SIZE, "first": SIZE, "following": SIZE, "conditions": "published", "energy_reference": 6.5e4,
         "postprocessing": "published", "start": "random"},
        "icaloflow",
        {"energies": SIZE, "first": SIZE, "following": SIZE, "conditions": "logits", "energy_reference": 6.5e4,
         "energies_relative_to": "fixed", "postprocessing": "multiply"},
        [],
        FLOW_OF_ENERGIES,
    ),
    "icaloflow with a voxel left out": (
        "icaloflow",
        EQUAL,
        {"energies": SIZE, "first": SIZE, "following": SIZE, "drop_voxel": True},
        "icaloflow",
        {"energies": SIZE, "first": SIZE, "following": SIZE, "drop_voxel": True, "energy_noise_per": "voxel"},
        [],
        FLOW_OF_ENERGIES,
    ),
    "l2lflows": (
        "l2lflows",
        ALIKE,
        {"energies": SIZE, "layer": SIZE, "embedding": EMBEDDING, "share": True, "start": "marginals"},
        "l2lflows",
        {"energies": SIZE, "layer": SIZE, "embedding": EMBEDDING, "share": True, "energy_fractions": "recursive"},
        [{"kind": "marginal-start"}],
        SCALE | {".place.numbers": ".which.numbers"},
    ),
    "l2lflows-conv": (
        "l2lflows-conv",
        ALIKE,
        {"energies": SIZE, "steps": 1, "hidden_channels": 2, "levels": 1, "share": True, "energy_fractions": "auto"},
        "l2lflows-conv",
        {"energies": SIZE, "steps": 1, "hidden_channels": 2, "levels": 1, "share": True, "energy_fractions": "auto"},
        [],
        SCALE | {".place.numbers": ".which.numbers"},
    ),
    "caloinn": (
        "caloinn",
        toy_detector(),
        COUPLING
        | {"energies": None, "emphasis": 2.0, "relative_noise": 5e-6, "highest_energy": None, "layer_reference": 7.0},
        "caloinn",
        {"flow": COUPLING, "energy_fractions": "recursive"},
        [{"kind": "emphasis", "factor": 2.0}],
        {"representation.energies.scale.": "scale."},
    ),
    "caloinn with a flow of the energies": (
        "caloinn",
        toy_detector(),
        COUPLING | {"energies": SIZE, "emphasis": 1.0, "start": "marginals", "energy_fractions": "single"},
        "caloinn-factorised",
        {"flow": COUPLING, "energies": SIZE, "energy_fractions": "single", "permutation_seed": 3},
        [{"kind": "marginal-start"}],
        SCALE,
    ),
}  # fmt: skip


def _whole(name: str, value: torch.Tensor) -> torch.Tensor:
    """Triangles of 1 x 1 convolutions as they were stored: matrices, with numbers in the other half that meant nothing."""
    if ".mixings." not in name or not name.endswith((".lower", ".upper")):
        return value
    size = round((1 + (1 + 8 * value.numel()) ** 0.5) / 2)
    low = name.endswith(".lower")
    matrix = torch.full((size, size), 7.0)
    matrix[tuple(torch.tril_indices(size, size, -1) if low else torch.triu_indices(size, size, 1))] = value
    return matrix


def former_directory(
    folder: Path, kind: str, config: dict[str, Any], model: ShowerModel, names: dict[str, str]
) -> None:
    """A directory of format 1 with the weights of a model of today."""
    save_model(folder, model, RANGE)
    tensors = load_file(folder / "model.safetensors")

    def former(name: str) -> str:
        for new, old in names.items():
            name = name.replace(new, old, 1)
        return name

    save_file({former(name): _whole(name, value) for name, value in tensors.items()}, folder / "model.safetensors")
    record = json.loads((folder / "model.json").read_text())
    for key in ("profile", "aids", "representation"):
        del record[key]
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    record |= {"format": 1, "kind": kind, "config": config, "transforms": {"cut_MeV": 0.01}, "weights_sha256": digest}
    (folder / "model.json").write_text(json.dumps(record))


@pytest.mark.parametrize("name", FORMER)
def test_a_model_of_the_former_layout_is_the_one_built_anew(name: str, tmp_path: Path) -> None:
    kind, detector, config, kind_now, config_now, aids, names = FORMER[name]
    torch.manual_seed(6)
    model = build_model(kind_now, config_now, detector, aids=aids).eval()
    showers = sparse_showers(detector, 20)
    fit(model, showers)
    former_directory(tmp_path, kind, config, model, names)
    before = load_file(tmp_path / "model.safetensors")
    assert before.keys() - {"training-row-hashes"} != model.state_dict().keys()
    loaded = load_model(tmp_path)
    assert (loaded.kind, loaded.config) == (kind_now, model.config)
    assert [helper.describe() for helper in loaded.helpers()] == aids
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    conditions = Conditions.first(sparse_showers(detector, 10).incident_energy, 22)
    one, other = (m.decode(conditions, m.latents(conditions, STREAMS))[0] for m in (model, loaded))
    assert (one.deposits == other.deposits).all()  # type: ignore[union-attr]
    assert torch.equal(model.log_prob(showers, STREAMS), loaded.log_prob(showers, STREAMS))


#: Options with one possible value, which models were stored with until they went.
GONE = {
    "caloinn": {"layer_reference": None, "layer_offset": 1e-3},
    "icaloflow": {"energy_fractions": "single"},
    "l2lflows": {"energy_flow": True},
    "l2lflows-conv": {"drop_voxel": False},
}


@pytest.mark.parametrize("kind", GONE)
def test_a_stored_option_of_one_value_is_forgotten(kind: str, tmp_path: Path) -> None:
    """Mutation: leave ``_with_present_keys`` out; every model of the last version is then refused."""
    kind, detector, _, kind, config, *_ = FORMER[kind]
    model = build_model(kind, config, detector).eval()
    fit(model, sparse_showers(detector, 20))
    save_model(tmp_path, model, RANGE)
    record = json.loads((tmp_path / "model.json").read_text())
    record["config"] |= GONE[kind]
    (tmp_path / "model.json").write_text(json.dumps(record))
    assert load_model(tmp_path).config == model.config
    key = next(iter(GONE[kind]))
    record["config"][key] = 7.0
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(ModelFileError, match=key):
        load_model(tmp_path)


_SMALL_BOTTLENECK = {"latents": 2, "noise_latents": 2, "hidden": [4], "post_width": 2, "post_layers": 3}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bib-ae", _SMALL_BOTTLENECK | {"cell_bend": None}),
        ("bib-ae-two-angles", _SMALL_BOTTLENECK | {"cell_bend": None}),
        ("calo-gan", {"latent": 4, "channels": 2, "critic_channels": [2, 2, 2, 2], "layer_energies": "images"}),
    ],
)
def test_a_key_that_former_models_lack_is_what_they_were(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Mutation: let them take today's default; a cell is then the exponential of what it was trained to be."""
    model = build_model(kind, settings, toy_detector()).eval()
    fit(model, sparse_showers(toy_detector(), 20))
    save_model(tmp_path, model, RANGE)
    record = json.loads((tmp_path / "model.json").read_text())
    key = list(settings)[-1]
    assert record["config"].pop(key) == settings[key]
    (tmp_path / "model.json").write_text(json.dumps(record))
    assert load_model(tmp_path).config == model.config


@pytest.mark.parametrize(
    "kind", ["caloclouds2", "caloclouds3", "caloflow-student", "icaloflow-student", "no-such-model"]
)
def test_kinds_whose_parts_were_arranged_otherwise_are_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    model = build_model("caloflow", {"energies": SIZE, "shapes": SIZE}, toy_detector())
    former_directory(tmp_path, kind, {}, model, {})
    with pytest.raises(ModelFileError, match=f"of a '{kind}' that a former version trained, .* train it anew"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("kind", "config", "layers", "message"),
    [
        ("caloflow", {"energy_fractions": "single"}, 3, "single energy fractions in a random order"),
        # What the tiny preset was for a detector of many layers.
        ("caloflow", {"energy_fractions": "auto"}, 11, "single energy fractions in a random order"),
        ("caloinn", {"preprocessing": "published"}, 3, "trained on logarithms, which are scaled otherwise now"),
        ("caloinn", {"highest_energy": 1e5}, 3, "trained with 'highest_energy', which this version does not know"),
    ],
)
def test_settings_that_are_no_more_are_refused_with_the_reason(
    kind: str, config: dict[str, Any], layers: int, message: str, tmp_path: Path
) -> None:
    """Mutation: rename the tensors and the keys all the same; a flow would get its variables in another order."""
    detector = toy_detector(*[(2, 1)] * layers)
    model = build_model("caloflow", {"energies": SIZE, "shapes": SIZE, "energy_fractions": "recursive"}, detector)
    former_directory(tmp_path, kind, config, model, {})
    with pytest.raises(ModelFileError, match=f"{message}.*; train it anew"):
        load_model(tmp_path)


def test_a_training_that_a_former_version_began_is_to_begin_anew(tmp_path: Path) -> None:
    plan = {"format": 1, "kind": "caloflow", "config": {}, "detector": toy_detector().to_toml(), "particle": 22}
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"training": {}, "stages": ["scale"]}))
    with pytest.raises(
        ModelFileError, match=r"plan\.json' is of a training that a former version began.*begin it anew"
    ):
        read_plan(tmp_path)


@pytest.mark.parametrize("changes", [{"detector": "name = 3"}, {"config": [1]}, {"config": {"surprise": 1}}])
def test_a_damaged_description_of_the_former_layout_is_one_sentence(changes: dict[str, Any], tmp_path: Path) -> None:
    model = build_model("caloflow", {"energies": SIZE, "shapes": SIZE}, toy_detector())
    former_directory(tmp_path, "caloflow", {}, model, {})
    path = tmp_path / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelFileError):
        load_model(tmp_path)
