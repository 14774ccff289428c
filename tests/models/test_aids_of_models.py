"""What every aid promises, whichever it is: named, suitable, described, and no trace of it where it is not named."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import fit, sparse_showers, toy_detector

from caloforge import plugins
from caloforge.detectors import load_detector
from caloforge.errors import ConfigError
from caloforge.models import (
    Aid,
    ConditionRange,
    ShowerModel,
    aid_kinds,
    build_model,
    load_model,
    load_preset,
    save_model,
)
from caloforge.representation import Representation
from caloforge.stage import FitStage, GradientStage, Stage, TrainingConfig, TrainingData

SIZES: dict[str, Any] = {name: {"blocks": 1, "hidden_features": 4} for name in ("energies", "shapes")}
EMPHASIS = {"kind": "emphasis", "factor": 2.0}


def caloflow(*aids: dict[str, Any]) -> ShowerModel:
    torch.manual_seed(1)
    return build_model("caloflow", SIZES, toy_detector(), aids=aids)


def cloud(*aids: dict[str, Any], **changes: Any) -> ShowerModel:
    torch.manual_seed(1)
    small = {"flow": {"blocks": 1, "affine_hidden": 4, "spline_hidden": 4}, "widths": [8, 8]}
    return build_model("caloclouds3", small | changes, load_detector("ild-ecal"), aids=aids)


def test_an_unknown_aid_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"aids: the aid 'marginals' is not known, expected one of emphasis, .*"):
        caloflow({"kind": "marginals"})
    with pytest.raises(ConfigError, match="aids: the aid 'None' is not known"):
        caloflow({"factor": 2.0})


def test_an_aid_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="the aid 'emphasis' is named twice"):
        caloflow(EMPHASIS, {"kind": "marginal-start"}, EMPHASIS | {"factor": 3.0})


def test_an_unknown_setting_of_an_aid_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="aids, 'marginal-start': the key 'rows' is not known"):
        caloflow({"kind": "marginal-start", "rows": 10})


@pytest.mark.parametrize("kind", ["trend", "moment-map", "totals-map", "layer-factors", "layer-calibration"])
def test_an_aid_of_clouds_does_not_suit_voxels(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"the aid '{kind}' does not suit the model 'caloflow'") as caught:
        caloflow({"kind": kind})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("aid", [EMPHASIS, {"kind": "marginal-start"}, {"kind": "teacher-start"}])
def test_an_aid_of_voxels_does_not_suit_clouds(aid: dict[str, Any]) -> None:
    """Mutation: let an aid be named that finds nothing to do; nobody would notice."""
    with pytest.raises(ConfigError, match=f"the aid '{aid['kind']}' does not suit the model 'caloclouds3'"):
        cloud(aid)


@pytest.mark.parametrize("kind", ["caloflow-student", "icaloflow-student"])
def test_a_student_has_no_flow_that_learns_by_its_likelihood(kind: str) -> None:
    detector = toy_detector((2, 2), (2, 2))
    with pytest.raises(ConfigError, match=f"'marginal-start' does not suit the model '{kind}', which trains no flow"):
        build_model(kind, load_preset(f"{kind}-tiny").model, detector, aids=[{"kind": "marginal-start"}])


def test_every_aid_has_a_title_and_is_described_as_in_a_preset() -> None:
    for kind in aid_kinds():
        cls = plugins.load("aids", kind)
        assert issubclass(cls, Aid)
        assert cls.title
        assert cls.kind == kind
    model = caloflow(EMPHASIS, {"kind": "marginal-start"})
    assert [helper.describe() for helper in model.helpers()] == [EMPHASIS, {"kind": "marginal-start"}]


def test_model_json_names_the_aids_and_loading_brings_them_back(tmp_path: Path) -> None:
    model = caloflow({"kind": "marginal-start"}, EMPHASIS)
    fit(model, sparse_showers(toy_detector(), 20))
    save_model(tmp_path, model, ConditionRange.of(22, [1e3, 1e5]))
    assert json.loads((tmp_path / "model.json").read_text())["aids"] == [{"kind": "marginal-start"}, EMPHASIS]
    loaded = load_model(tmp_path)
    assert [helper.describe() for helper in loaded.helpers()] == [{"kind": "marginal-start"}, EMPHASIS]


@pytest.mark.parametrize("build", [caloflow, cloud])
def test_a_model_without_aids_calls_nothing_of_them(build: Any) -> None:
    """No function stands at any place, no stage of another's, nothing before a training, no tensor in the state."""
    model = build()
    places = [part for part in model.modules() if isinstance(part, Representation)]
    assert places
    assert all(not part._around for part in places)
    assert all(
        stage.before == () for stage in model.training_stages(TrainingConfig()) if isinstance(stage, GradientStage)
    )
    names = [stage.name for stage in model.stages(TrainingConfig())]
    assert [stage.name for stage in model.training_stages(TrainingConfig())] == names
    assert not [name for name in model.state_dict() if name.startswith("aids.")]
    assert list(model.helpers()) == []


def test_a_model_with_aids_is_let_go_with_its_stages() -> None:
    """Mutation: give what aids do before a training the stage at which it stands; several models stay in memory then."""
    gc.disable()
    try:
        model = load_preset("caloflow-tiny").build(load_detector("calogan"))
        stages = model.training_stages(TrainingConfig())
        gone = [weakref.ref(held) for held in (model, *stages)]
        assert any(stage.before for stage in stages if isinstance(stage, GradientStage))
        del model, stages
        assert [ref() for ref in gone] == [None] * len(gone)
    finally:
        gc.enable()


def test_importing_a_model_of_the_zoo_imports_no_aid() -> None:
    """Mutation: let a zoo file take something from an aid."""
    import subprocess
    import sys

    code = (
        "import sys; from caloforge.models import model_class, model_kinds\n"
        "[model_class(kind) for kind in model_kinds()]\n"
        "print([name for name in sys.modules if name.startswith('caloforge.aids')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class _Fit(FitStage):
    needed_by = ("shapes",)

    def __init__(self, aid: Aid) -> None:
        super().__init__("counted", {"aids.counting": aid}, needs=("scale",))

    def fit(self, data: TrainingData, streams: Any) -> dict[str, torch.Tensor]:
        return {"aids.counting.rows": torch.tensor(len(data))}


class Counting(Aid):
    """Behind the scale, in front of the shapes."""

    kind = "counting"
    title = "counts"

    def __init__(self, config: Any, model: ShowerModel) -> None:
        super().__init__(config, model)
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))
        self.prepared: list[str] = []

    def before_training(self, model: ShowerModel, stage: GradientStage, data: TrainingData, streams: Any) -> None:
        self.prepared.append(stage.name)

    def stages(self, model: ShowerModel) -> list[Stage]:
        return [_Fit(self)]


def test_stages_of_an_aid_stand_where_they_are_needed() -> None:
    model = caloflow()
    aid = Counting(Counting.Config(), model)
    model.aids["counting"] = aid
    stages = model.training_stages(TrainingConfig())
    assert [stage.name for stage in stages] == ["scale", "counted", "energies", "shapes"]
    assert {stage.name: stage.needs for stage in stages} == {
        "scale": (), "counted": ("scale",), "energies": ("scale",), "shapes": ("counted",)
    }  # fmt: skip
    fit(model, sparse_showers(toy_detector(), 20))
    assert model.state_dict()["aids.counting.rows"] == 20
    with torch.no_grad():
        for stage in stages:
            if isinstance(stage, GradientStage):
                stage.begin([], None)  # type: ignore[arg-type]
    assert aid.prepared == ["energies", "shapes"]
