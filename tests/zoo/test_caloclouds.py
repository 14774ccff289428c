"""CaloClouds2 and CaloClouds3: what is special about them; the contract of all models is tested elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, point_showers, sparse_showers, toy_detector, training_batch

from caloforge.detectors import load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.kernels.ops.pointwise import packed_index
from caloforge.models import Conditions, build_model, load_preset
from caloforge.nn.edm import heun_sample
from caloforge.parts.occupancy import CalibrationFactors
from caloforge.parts.point_calibration import CalibrationStage, _cubic
from caloforge.parts.point_diffusion import ConsistencyStage, training_points
from caloforge.parts.point_model import PointCloudModel
from caloforge.random import Streams
from caloforge.representation import Profiles
from caloforge.showers import ShowerPoints
from caloforge.stage import FitStage, LinearSchedule, TrainingBatch, TrainingConfig

ILD = load_detector("ild-ecal")
SEEDS = Streams(2, "test")
KINDS = ["caloclouds2", "caloclouds3"]


def new_model(kind: str, *, aids: tuple[str, ...] = (), **changes: Any) -> PointCloudModel:
    torch.manual_seed(4)
    wanted = [{"kind": aid} for aid in aids]
    model = build_model(kind, load_preset(f"{kind}-tiny").settings() | changes, ILD, aids=wanted)
    assert isinstance(model, PointCloudModel)
    return model.eval()


def scaled(kind: str, *, aids: tuple[str, ...] = (), **changes: Any) -> PointCloudModel:
    """A model that knows the scales of some showers."""
    model = new_model(kind, aids=aids, **changes)
    for stage in model.training_stages(TrainingConfig()):
        if stage.name in ("scales", "trend"):
            assert isinstance(stage, FitStage)
            stage.load_state(stage.fit(Rows(point_showers(ILD, 40)), SEEDS))
    return model


@pytest.mark.parametrize(
    ("kind", "flow", "points"), [("caloclouds2", 35_235_910, 504_920), ("caloclouds3", 6_026_520, 69_608)]
)
def test_presets_of_published_size(kind: str, flow: int, points: int) -> None:
    model = load_preset(kind).build(ILD)
    assert isinstance(model, PointCloudModel)
    assert sum(p.numel() for p in model.flow.parameters()) == flow
    for network in (model.diffusion, model.student, model.target):
        assert sum(p.numel() for p in network.parameters()) == points
    # The target is no trainable copy.
    assert model.parameter_count() == flow + 2 * points


def published(kind: str) -> PointCloudModel:
    """The published profile in a small size, without aids, that knows the scales of some showers."""
    torch.manual_seed(4)
    small = {"flow": {"blocks": 1, "affine_hidden": 16, "spline_hidden": 16}, "widths": [16, 16]}
    model = build_model(kind, small, ILD, profile="published")
    assert isinstance(model, PointCloudModel)
    stage = model.training_stages(TrainingConfig())[0]
    assert isinstance(stage, FitStage)
    stage.load_state(stage.fit(Rows(point_showers(ILD, 40)), SEEDS))
    return model.eval()


@torch.no_grad()
def test_published_constants_of_the_flow() -> None:
    """CaloClouds3: N_l 30 / 7864 and E_l 30 / 3.4 GeV, typed from its program; CaloClouds2 standardises. No trend, no map."""
    model = published("caloclouds3")
    batch = training_batch(point_showers(ILD, 20))
    cloud = model.cloud(batch)
    uniform = torch.full_like(cloud.counts, 0.25)
    y = model.profiles.encode(model.profile_features(cloud, uniform), {"incident_energy": batch.incident_energy})
    torch.testing.assert_close(y[:, :30], (cloud.counts + 0.25) * 30 / 7864)
    torch.testing.assert_close(y[:, 30:], cloud.energies * 30 / 3400)
    other = published("caloclouds2")
    assert float(other.profiles.mean.abs().min()) > 0
    assert list(model.aids) == list(other.aids) == []
    with pytest.raises(ConfigError, match="needs the 'profiles' linear"):
        new_model("caloclouds3", profile_scale="constants", profiles="sqrt")


@torch.no_grad()
def test_published_conditions_of_point_clouds() -> None:
    """CaloClouds2: 2 E / 100 GeV - 1 and 2 N / 6000 - 1; CaloClouds3: E / 127 GeV and the direction."""
    counts = torch.full((1, 30), 50.0, dtype=torch.float64)
    conditions = {"incident_energy": torch.tensor([2.5e4]), "direction": torch.tensor([[0.0, 0.6, 0.8]])}
    second, third = published("caloclouds2"), published("caloclouds3")
    assert second.point_condition(conditions, counts)[0].tolist() == pytest.approx([-0.5, 2 * 1500 / 6000 - 1])
    assert second.flow_condition(conditions)[0].tolist() == pytest.approx([0.25])
    assert third.point_condition(conditions, counts)[0].tolist() == pytest.approx([25 / 127, 0.0, 0.6, 0.8])
    improved = scaled("caloclouds2")
    highest = point_showers(ILD, 40).incident_energy.max()
    assert improved.flow_condition(conditions)[0].tolist() == pytest.approx([2.5e4 / highest])


@torch.no_grad()
def test_published_points_of_caloclouds2() -> None:
    """MeV as they are, the box from -1 to 1, negative energies 0, places beyond the box kept. Mutation: any of them."""
    points = published("caloclouds2").points
    plain = points.plain(
        torch.tensor([[200.0, -100.0]]).double(), torch.tensor([30.0]).double(), torch.tensor([2.5]).double()
    )
    assert points(plain)[0].tolist() == pytest.approx([1.0, -0.5, 1.0, 2.5])
    place, depth, energy = points.restore(torch.tensor([[1.5, 0.0, 0.0, -3.0]]).double())
    assert (place[0].tolist(), float(depth), float(energy)) == ([300.0, 0.0], 15.0, 0.0)


@torch.no_grad()
def test_caloclouds2_is_told_as_many_points_as_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As published: 0.65 times 98 points are 64, and 64 it is told. Mutation: tell it the flow's number."""
    for told in ("calibrated", "flow"):
        model = scaled("caloclouds2", points_told=told, occupancy="factor")
        model.calibration.occupancy[:] = 0.65
        seen = []
        original = model.point_condition

        def spy(conditions: Any, counts: torch.Tensor, original: Any = original, seen: Any = seen) -> torch.Tensor:
            seen.append(counts.sum(dim=1))
            return original(conditions, counts)  # type: ignore[no-any-return]

        monkeypatch.setattr(model, "point_condition", spy)
        conditions = Conditions.first(np.full(4, 5e4), 22)
        latents = model.latents(conditions, SEEDS)
        tensors = conditions.tensors()
        made, _ = model.decode_reference(tensors, model.flow_outputs(tensors, latents["profile"]), latents)
        points = made["offsets"].diff().double()
        assert bool((points > 30).any())
        if told == "calibrated":
            assert torch.equal(seen[0], points)
        else:
            assert torch.allclose(points / seen[0].clamp_min(1), torch.full((4,), 0.65).double(), atol=0.15)


def test_published_training_and_sampling_of_point_clouds() -> None:
    second, third = load_preset("caloclouds2"), load_preset("caloclouds3")
    assert (second.settings()["edm_steps"], third.build(ILD).config.edm_steps) == (13, 18)  # type: ignore[attr-defined]
    assert third.training.for_stage("flow").schedule == LinearSchedule()
    assert second.settings()["edm_calibration_showers"] is third.settings()["edm_calibration_showers"] is None


@pytest.mark.parametrize(("showers", "blocks"), [(None, 3), (100, 3), (30, 2)])
def test_the_many_step_sampler_is_calibrated_on_as_many_showers(
    showers: int | None, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: take the first hundred whatever is wanted, as was so."""
    model = scaled("caloclouds3", edm_calibration_showers=showers, calibration_showers=75)
    stage = model.stages(TrainingConfig())[-1]
    assert isinstance(stage, CalibrationStage)
    seen: dict[str, set[int]] = {"consistency": set(), "edm": set()}

    def made(reference: Any, factors: torch.Tensor, sampler: str, streams: Streams) -> Any:
        seen[sampler].add(int(reference.rows[0]))
        return reference.cells, 1.0, reference.cloud.counts.sum(dim=1).numpy()

    monkeypatch.setattr(stage, "_made", made)
    monkeypatch.setattr(stage, "_references", lambda data, streams: real(Blocks(), streams))
    real = type(stage)._references.__get__(stage)

    class Blocks:
        def __iter__(self) -> Any:
            for start in (0, 25, 50):
                yield training_batch(point_showers(ILD, 25, seed=start), first_row=start)

    stage.fit(Rows(point_showers(ILD, 10)), SEEDS)
    assert (len(seen["consistency"]), len(seen["edm"])) == (3, blocks)


def test_points_along_the_direction_lie_on_the_axis_and_far_ones_outside_the_box() -> None:
    model = new_model("caloclouds3")
    direction = np.array([[0.3, -0.2, 0.0]], dtype=np.float32)
    direction[:, 2] = np.sqrt(1 - (direction**2).sum())
    depths = ILD.readout.depths.mean(axis=1)
    points = np.zeros((32, 4), dtype=np.float32)
    points[:30, :2] = depths[:, None] * direction[:, :2] / direction[:, 2:]
    points[:30, 2] = np.arange(30)
    points[30] = [300.0, 0.0, 4, 0.0]
    points[31] = [-300.0, 0.0, 4, 0.0]
    points[:, 3] = 1.5
    showers = ShowerPoints(np.array([0, 32]), points, np.array([2e4]), 22, ILD.readout, direction)
    batch = training_batch(showers)
    cloud = model.cloud(type(batch)(**(vars(batch) | {"direction": torch.from_numpy(direction)})))
    assert torch.allclose(cloud.place, torch.zeros(30, 2), atol=1e-4)
    assert cloud.counts.tolist() == [[1.0] * 30]
    assert cloud.energies.tolist() == [[1.5] * 30]
    assert cloud.offsets.tolist() == [0, 30]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("profiles", ["sqrt", "linear"])
def test_profiles_come_back_from_their_features(kind: str, profiles: str) -> None:
    model = new_model(kind, profiles=profiles)
    cloud = model.cloud(training_batch(point_showers(ILD, 20)))
    middle = torch.full_like(cloud.counts, 0.5)
    again = model.profiles_of(model.profile_features(cloud, middle))
    assert torch.equal(again.counts, cloud.counts)
    assert torch.allclose(again.energies, cloud.energies)
    assert bool(again.valid.all())
    if again.gravity is not None:
        weighted = torch.zeros(20, 2, dtype=torch.float64)
        weighted.index_add_(0, cloud.shower, cloud.place.double() * cloud.energy.double()[:, None])
        assert torch.allclose(again.gravity, weighted / cloud.energies.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("kind", KINDS)
def test_unphysical_showers_are_rejected_and_empty(kind: str) -> None:
    model = scaled(kind, aids=("trend",))
    conditions = Conditions.first(np.full(3, 5e4), 22)
    with torch.no_grad():
        features = model.flow.features
        raw = torch.zeros(3, features)
        raw[1, -8:] = -1e3  # eight negative energies
        raw[2, : features // 2] = 1e3  # more points than any shower has
        model.flow.sample = lambda z, context: raw  # type: ignore[method-assign]
        model.flow.sample_packed = lambda weights, z, context: raw  # type: ignore[method-assign]
        made, valid = model.decode(conditions, model.latents(conditions, SEEDS))
    assert valid.tolist() == [True, False, False]
    assert isinstance(made, ShowerPoints)
    assert np.diff(made.offsets)[0] > 0
    assert np.diff(made.offsets)[1:].tolist() == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["consistency", "edm"])
def test_layers_get_the_points_and_the_energy_that_were_asked_for(kind: str, sampler: str) -> None:
    model = scaled(kind)
    generator = np.random.default_rng(0)
    counts = torch.from_numpy(generator.integers(0, 12, (4, 30)))
    energies = torch.from_numpy(generator.random((4, 30))) * (counts > 0)
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.4, 0.0, 0.916515], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    conditions = {"incident_energy": torch.full((4,), 3e4, dtype=torch.float64), "direction": directions}
    gravity = torch.tensor([[1.0, 2.0]] * 4, dtype=torch.float64) if model.moves_gravity else None
    profiles = Profiles(counts.double(), energies, gravity, torch.ones(4, dtype=torch.bool))
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.sum(dim=1).cumsum(0)])
    with torch.no_grad():
        points, offsets = model.make_points(
            conditions,
            profiles,
            counts,
            energies,
            torch.randn(int(starts[-1]), 4),
            starts,
            sampler,  # type: ignore[arg-type]
        )
    assert torch.equal(offsets, starts)
    for k in range(4):
        own = points[offsets[k] : offsets[k + 1]]
        assert torch.equal(torch.bincount(own[:, 2].long(), minlength=30), counts[k])
        held = torch.bincount(own[:, 2].long(), weights=own[:, 3].double(), minlength=30)
        assert torch.allclose(held, energies[k], rtol=1e-5)
        if gravity is not None:
            away = model.shift.displacement(directions[k : k + 1])[0][own[:, 2].long()]
            centre = ((own[:, :2] - away) * own[:, 3:]).sum(dim=0) / own[:, 3].sum()
            assert torch.allclose(centre, torch.tensor([1.0, 2.0]), atol=1e-3)


def test_sampler_and_steps_can_be_changed_after_training_and_nothing_else() -> None:
    model = scaled("caloclouds3")
    conditions = Conditions.first(np.full(2, 5e4), 22)
    latents = model.latents(conditions, SEEDS)
    one, _ = model.decode(conditions, latents)
    model.adjust({"sampler": "edm", "edm_steps": 5})
    assert model.options == {"sampler": "edm", "edm_steps": 5}
    other, _ = model.decode(conditions, latents)
    assert isinstance(one, ShowerPoints)
    assert isinstance(other, ShowerPoints)
    assert np.array_equal(one.offsets, other.offsets)
    assert not np.allclose(one.points, other.points)
    with pytest.raises(UsageError, match="no option 'widths', its options are: edm_steps, max_negative, sampler"):
        model.adjust({"widths": [1]})
    with pytest.raises(ConfigError, match="sampler"):
        model.adjust({"sampler": "ddim"})


def test_a_training_step_takes_as_many_points_as_wanted_from_all_over_the_shower() -> None:
    model = scaled("caloclouds3", training_points=40)
    batch = training_batch(point_showers(ILD, 6))
    points = training_points(model, batch, SEEDS, 4)
    assert points.offsets.diff().tolist() == [10] * 24
    assert points.shower.tolist() == [k for k in range(6) for _ in range(4)]
    assert torch.equal(points.group.bincount(), points.offsets.diff())
    assert len(torch.unique(points.clean, dim=0)) == 240
    everything = scaled("caloclouds3", training_points=None)
    assert torch.equal(training_points(everything, batch, SEEDS, 1).offsets, batch.offsets)


@pytest.mark.parametrize("aids", [(), ("layer-calibration",)])
def test_calibration_finds_the_factor_at_which_cells_agree(
    aids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scaled("caloclouds3", aids=aids)
    stage = model.stages(TrainingConfig())[-1]
    assert isinstance(stage, CalibrationStage)
    references = list(stage._references(Rows(point_showers(ILD, 40)), SEEDS))
    real = sum(reference.cells.sum(axis=0) for reference in references)
    # Cells grow like the 0.8th power of points, and at equal points there are a quarter too many.
    monkeypatch.setattr(
        stage,
        "_made",
        lambda reference, factors, sampler, streams: (1.25 * reference.cells * factors.numpy() ** 0.8, 1.0, None),
    )
    factors = stage._occupancy(references, "consistency", SEEDS)
    assert real.min() > 50
    assert np.allclose(factors, 0.8**1.25, rtol=0.02)


def test_polynomials_turn_points_into_cells_and_cells_into_points() -> None:
    found = CalibrationFactors(30, polynomial=True)
    total = torch.tensor([0.0, 1000.0, 3000.0, 6000.0], dtype=torch.float64)
    assert torch.equal(found.of_points(total, "edm")[1:, 0], torch.ones(3, dtype=torch.float64))
    # Published for the consistency model of CaloClouds2 (its code, highest power first).
    cells = [2.42091454e-09, -2.72191705e-05, 0.295613817, 48.8328360]
    points = [-9.02997505e-07, 2.82747963e-03, 1.01417267, 164.829018]
    found.polynomials[0] = torch.tensor([cells, points], dtype=torch.float64)
    expected = np.polyval(points, np.polyval(cells, [1000.0, 3000.0, 6000.0])) / [1000.0, 3000.0, 6000.0]
    assert np.allclose(found.of_points(total, "consistency")[1:, 0], expected)
    assert float(found.of_points(total, "consistency")[2]) == pytest.approx(0.72, abs=0.01)
    found.occupancy[0] = 0.7
    assert float(found.of_points(total, "consistency").max()) == pytest.approx(0.7)


def test_cubics_need_no_four_different_values() -> None:
    x = np.array([0.0, 1000.0, 2000.0, 3000.0, 4000.0])
    cubic = np.array([2e-9, -3e-5, 0.3, 50.0])
    assert np.allclose(_cubic(x, np.polyval(cubic, x)), cubic)
    assert np.allclose(_cubic(np.full(3, 1000.0), np.array([1.0, 2.0, 3.0])), [0, 0, 0, 2])


def test_calibration_by_polynomials_lights_as_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    showers = point_showers(ILD, 60)
    model = scaled("caloclouds2", occupancy="polynomial", calibration_showers=60)
    stage = model.stages(TrainingConfig())[-1]
    assert isinstance(stage, CalibrationStage)

    def made(reference: Any, factors: torch.Tensor, sampler: str, streams: Streams) -> tuple[Any, float, Any]:
        """Cells grow like the 0.8th power of points, and there are more of them than in real showers."""
        points = (reference.cloud.counts * factors).sum(dim=1).numpy()
        return 2.5 * points[:, None] ** 0.8, 1.0, points

    monkeypatch.setattr(stage, "_made", made)
    before = {name: value.clone() for name, value in stage.state().items()}
    state = stage.fit(Rows(showers), SEEDS)
    assert all(torch.equal(value, before[name]) for name, value in stage.state().items())
    stage.load_state(state)
    references = list(stage._references(Rows(showers), SEEDS))
    real = np.concatenate([reference.cells.sum(axis=1) for reference in references])
    cells = np.concatenate(
        [
            made(r, model.calibration.of_points(r.cloud.counts.sum(dim=1), "edm"), "edm", SEEDS)[0][:, 0]
            for r in references
        ]
    )
    assert cells.mean() == pytest.approx(real.mean(), rel=0.02)
    assert np.abs(cells / real - 1).max() < 0.25
    assert set(model.describe_representation()["calibration"]["edm"]) == {"occupancy", "energy", "polynomials"}


def test_a_student_of_the_whole_path_learns_where_it_ends() -> None:
    model = scaled("caloclouds3", distillation_levels=2, teacher_steps=6, distillation_reuse=3, training_points=40)
    stage = next(stage for stage in model.stages(TrainingConfig()) if isinstance(stage, ConsistencyStage))
    batch = training_batch(point_showers(ILD, 5))
    paths = stage._walked(batch, SEEDS)
    assert paths.high.tolist() == [pytest.approx(10.0)] * 5
    assert paths.low.tolist() == [pytest.approx(0.002)] * 5
    index = packed_index(torch.tensor([0, 40, 80, 120, 160, 200]))

    def teacher(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        offsets = torch.arange(6) * 40
        return model.denoised(model.diffusion, x, sigma, paths.context, offsets, index)

    with torch.no_grad():
        ends = heun_sample(model.edm, teacher, paths.noisy / 10, 5, index, 7)
    assert float((ends - paths.cleaner).abs().max()) < 0.02  # the last level is all that is left between them
    stage.prepare(Rows(point_showers(ILD, 5)), SEEDS)
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.zero_()
        loss = stage.loss("main", batch, SEEDS)["loss"]
    skip, _ = model.edm.consistency_scales(paths.high)
    assert float(loss) == pytest.approx(float((skip[index][:, None] * paths.noisy - paths.cleaner).square().mean()))


def test_paths_are_kept_for_as_many_epochs_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scaled("caloclouds3", distillation_levels=3, teacher_steps=2, distillation_reuse=3, noise_levels=2)
    stage = next(stage for stage in model.stages(TrainingConfig()) if isinstance(stage, ConsistencyStage))
    showers = point_showers(ILD, 6)
    walked: list[int] = []
    walk = stage._walked

    def counted(batch: TrainingBatch, streams: Streams) -> object:
        walked.append(batch.epoch)
        return walk(batch, streams)

    monkeypatch.setattr(stage, "_walked", counted)
    with torch.no_grad():
        whole = [float(stage.loss("main", training_batch(showers, epoch), SEEDS)["loss"]) for epoch in range(4)]
        assert walked == [0, 1]
        assert whole[0] == whole[1] == whole[2] != whole[3]
        # From memory, in other batches.
        halves = [
            stage.loss("main", training_batch(showers[a:b], 4, first_row=a), SEEDS)["loss"] for a, b in ((0, 3), (3, 6))
        ]
    points = np.minimum(np.diff(showers.offsets), model.config.training_points or np.inf)
    mean = np.average([float(half) for half in halves], weights=[points[:3].sum(), points[3:].sum()])
    assert walked == [0, 1]
    assert mean == pytest.approx(whole[3], rel=1e-5)


def test_the_scale_of_the_core_holds_the_share_that_was_asked_for() -> None:
    showers = point_showers(ILD, 40)
    distances = np.abs(showers.points[:, :2])
    for share in (0.25, 0.5):
        model = scaled("caloclouds3", core_share=share)
        assert (distances < float(model.points.core)).mean() == pytest.approx(share, abs=0.01)


def test_places_beyond_the_box_are_reflected_at_its_edge() -> None:
    points = scaled("caloclouds3", positions="box", box=100.0).points
    features = torch.zeros(7, 4, dtype=torch.float64)
    features[:, 0] = torch.tensor([0.3, -1.0, 1.1, -1.4, 2.5, -3.5, 40.0])
    place, _, _ = points.restore(features)
    assert torch.allclose(place[:, 0], 50 * torch.tensor([0.3, -1.0, 0.9, -0.6, -0.5, 0.5, 0.0], dtype=torch.float64))


def test_what_lies_outside_the_box_is_reported() -> None:
    showers = point_showers(ILD, 40)
    model = scaled("caloclouds3", box=60.0)
    outside = (np.abs(showers.points[:, :2]) > 30).any(axis=1)
    energy = showers.points[:, 3].astype(np.float64)
    words = model.describe_representation()["profiles"]["outside_the_box"]
    assert words["points"] == pytest.approx(outside.mean())
    assert words["energy"] == pytest.approx(energy[outside].sum() / energy.sum())


def test_detectors_without_depths_or_cells_are_refused() -> None:
    config = load_preset("caloclouds3-tiny").settings()
    with pytest.raises(ConfigError, match="size of a cell"):
        build_model("caloclouds3", config, load_detector("ild-ecal/points"))
    build_model("caloclouds3", config | {"cell": 5.0}, load_detector("ild-ecal/points"))
    with pytest.raises(ConfigError, match="depth"):
        build_model("caloclouds3", config | {"cell": 5.0}, toy_detector())


def test_voxels_are_refused_as_training_data() -> None:
    model = new_model("caloclouds3")
    voxels = training_batch(sparse_showers(toy_detector(), 3))
    with pytest.raises(UsageError, match="learns from points"):
        model.cloud(voxels)


def test_the_record_says_what_was_fitted() -> None:
    model = new_model("caloclouds2")
    fit(model, point_showers(ILD, 20))
    words = model.describe_representation()
    assert words["profiles"]["incident_energy_MeV"] > 1e4
    assert set(words["calibration"]) == {"consistency", "edm"}
    assert len(words["calibration"]["edm"]["occupancy"]) == 30
