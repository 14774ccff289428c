"""GFlash against the formulas, against Geant4, and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import lead_argon
from scipy.special import gammainc
from scipy.stats import gamma, kstest

from caloforge.cli.main import main
from caloforge.datasets import load
from caloforge.detectors import Detector, load_detector
from caloforge.detectors.materials import matter_of, mixed, sampling_of
from caloforge.errors import ConfigError, UsageError
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import Conditions, ready_model
from caloforge.parts.cell_shares import CellShares, rectangle_shares, ring_shares
from caloforge.parts.electron_profile import (
    LongitudinalFormula,
    RadialFormula,
    mean_profile,
    shares_before,
    spot_number,
)
from caloforge.parts.gamma_numbers import log_gamma_numbers
from caloforge.parts.shower_spots import choose_steps, place_spots, radius_of
from caloforge.showers import ShowerPoints, Showers, open_showers
from caloforge.training import train
from caloforge.zoo.gflash import GFlash, GFlashConfig

CALOGAN = load_detector("calogan")


def model(detector: Detector = CALOGAN, **settings: Any) -> GFlash:
    return GFlash(GFlashConfig(**settings), detector).eval()


def made(by: GFlash, energies: Any, particle: int = 11, direction: Any = None) -> Any:
    conditions = Conditions.first(np.asarray(energies, dtype=np.float64), particle, direction=direction)
    return sample_showers(by, conditions, generation_streams(5)).showers


def f64(value: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


# ---- material --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "length", "critical", "moliere"),
    [
        ("G4_Pb", 0.561, 7.36, 1.618),
        ("G4_lAr", 14.00, 29.1, 10.19),
        ("G4_W", 0.350, 8.00, 0.928),
        ("G4_Si", 9.365, 36.7, 5.41),
        ("G4_PbWO4", 0.890, 8.74, 2.16),
    ],
)
def test_materials_have_pdgs_radiation_lengths(name: str, length: float, critical: float, moliere: float) -> None:
    found = matter_of(name)
    assert found.radiation_length_mm / 10 == pytest.approx(length, rel=4e-3)
    assert found.critical_energy == pytest.approx(critical, rel=4e-3)
    assert found.moliere_radius / 10 == pytest.approx(moliere, rel=4e-3)


def test_a_pure_material_is_a_stack_of_itself() -> None:
    lead = matter_of("G4_Pb")
    again = mixed([(lead, 2.0), (lead, 5.0)])
    for name in ("z", "a", "density", "radiation_length", "critical_energy", "moliere_radius"):
        assert getattr(again, name) == pytest.approx(getattr(lead, name))


@pytest.mark.parametrize(
    ("name", "length", "critical", "moliere", "z", "frequency", "mip"),
    [("calogan", 1.559, 8.97, 3.684, 69.36, 2.598, 0.6906), ("par04-ds2", 0.422, 8.23, 1.087, 72.49, 2.482, 0.7042)],
)
def test_stacks_are_averaged_by_mass(
    name: str, length: float, critical: float, moliere: float, z: float, frequency: float, mip: float
) -> None:
    """Geant4 11.4 has 19.8 MeV and 167 mm for calogan: its radiation length is in mm there."""
    stack = load_detector(name).stack
    assert stack is not None
    found = sampling_of(stack)
    assert found.whole.radiation_length_mm / 10 == pytest.approx(length, rel=1e-3)
    assert found.whole.critical_energy == pytest.approx(critical, rel=1e-3)
    assert found.whole.moliere_radius / 10 == pytest.approx(moliere, rel=1e-3)
    assert found.whole.z == pytest.approx(z, abs=0.01)
    assert found.frequency == pytest.approx(frequency, rel=1e-3)
    assert found.e_over_mip == pytest.approx(mip, abs=1e-4)


# ---- longitudinal ----------------------------------------------------------------------------------------------------


def test_the_maximum_moves_by_one_radiation_length_for_each_unit_of_the_logarithm() -> None:
    sampling = model().steps.sampling
    for stack in (None, sampling):
        peaks = [mean_profile(log_y, 69.36, stack)[0] for log_y in (4.0, 5.0, 9.0)]
        assert np.diff(peaks) == pytest.approx([1.0, 4.0])
    assert mean_profile(7.0, 69.36)[0] == pytest.approx(7 - 0.858)
    table = {1.0: (3.86, 2.69, 3.46, 2.52), 10.0: (6.16, 3.90, 5.77, 3.73), 100.0: (8.46, 5.11, 8.07, 4.94)}
    for energy, expected in table.items():
        log_y = np.log(energy * 1e3 / model().steps.matter.critical_energy)
        found = (*mean_profile(log_y, 69.36), *mean_profile(log_y, 69.36, sampling))
        assert found == pytest.approx(expected, abs=0.006)


def test_layers_are_differences_of_the_incomplete_gamma_function() -> None:
    """Those of the mean profile at 100 GeV in calogan, homogeneous and sampling."""
    steps = model().steps
    edges = f64([0.0, 5.77, 28.0, 30.8])
    log_y = np.log(1e5 / steps.matter.critical_energy)
    for stack, expected in ((None, (0.1403, 0.8570, 0.0017)), (steps.sampling, (0.1626, 0.8353, 0.0013))):
        peak, alpha = mean_profile(log_y, 69.36, stack)
        beta = (alpha - 1) / peak
        before = shares_before(f64(alpha), f64(beta), edges)
        assert np.allclose(before, gammainc(alpha, beta * edges.numpy()))
        assert before.diff().tolist() == pytest.approx(expected, abs=4e-4)
        depth = np.linspace(0.01, 100, 100_000)
        density = gamma.pdf(depth, alpha, scale=1 / beta)
        assert depth[density.argmax()] == pytest.approx(peak, abs=0.002)
        assert (density * depth).sum() / density.sum() == pytest.approx(alpha / beta, rel=2e-3)


@pytest.mark.parametrize("energy", [10e3, 100e3])
def test_drawn_logarithms_have_the_published_means_widths_and_correlation(energy: float) -> None:
    steps = model().steps
    log_y = np.log(energy / steps.matter.critical_energy)
    normal = torch.from_numpy(np.random.default_rng(0).standard_normal((100_000, 2)))
    numbers = LongitudinalFormula.of(steps.matter.z, steps.sampling).numbers()
    peak, alpha, typical = LongitudinalFormula.draw(numbers, torch.full((100_000,), log_y, dtype=torch.float64), normal)
    widths = {10e3: (0.159, 0.212, 0.623), 100e3: (0.109, 0.153, 0.570)}[energy]
    assert 1 / (-2.5 + 1.25 * log_y) == pytest.approx(widths[0], abs=6e-4)
    for values, width in ((peak.log(), 1 / (-2.5 + 1.25 * log_y)), (alpha.log(), 1 / (-0.82 + 0.79 * log_y))):
        assert float(values.std()) == pytest.approx(width, abs=4 * width / np.sqrt(200_000))
    assert np.corrcoef(peak.log(), alpha.log())[0, 1] == pytest.approx(0.784 - 0.023 * log_y, abs=0.008)
    assert 0.784 - 0.023 * log_y == pytest.approx(widths[2], abs=1e-3)
    s = steps.sampling
    median = np.log(log_y - 0.812 - 0.55 / s.frequency - 0.69 * (1 - s.e_over_mip))
    assert float(peak.log().mean()) == pytest.approx(median, abs=4 * widths[0] / np.sqrt(1e5))
    assert float(typical[0]) == pytest.approx(0.81 + (0.458 + 2.26 / steps.matter.z) * log_y - 0.476 / s.frequency)


@pytest.mark.parametrize(("particle", "offset"), [(11, -0.5), (22, 0.5)])
def test_the_maximum_of_the_mean_shower_is_where_pdg_has_it(particle: int, offset: float) -> None:
    """PDG's rule of thumb: ln y - 0.5 for electrons, + 0.5 for photons. Mutation: let a photon begin as one electron at once."""
    by = model()
    conditions = Conditions.first(np.full(3000, 2e4), particle)
    latents = by.latents(conditions, generation_streams(1))
    energy = 2e4 * torch.cat([latents["pair"][:, 1:], 1 - latents["pair"][:, 1:]], dim=1)
    log_y = (energy / by.steps.matter.critical_energy).clamp_min(1).log()
    numbers = by.numbers.longitudinal
    peak, alpha, _ = LongitudinalFormula.draw(numbers, log_y, latents["shape"][:, :4].double().reshape(-1, 2, 2))
    depth = torch.arange(0, 20, 0.1, dtype=torch.float64)
    moved = (depth + 9 / 7 * torch.log1p(-latents["pair"][:, :1]))[:, None]
    before = energy[..., None] * shares_before(alpha[..., None], ((alpha - 1) / peak)[..., None], moved)
    mean = before.sum(dim=(0, 1)).diff()
    found = float(depth[:-1][mean.argmax()]) + 0.05
    assert found == pytest.approx(np.log(2e4 / by.steps.matter.critical_energy) + offset, abs=0.5)


def test_soft_electrons_are_finite() -> None:
    """Geant4's homogeneous class gives NaN here."""
    numbers = LongitudinalFormula.of(69.36).numbers()
    draws = LongitudinalFormula.draw(numbers, f64([0.0, 0.5, 2.0]), torch.zeros(3, 2, dtype=torch.float64))
    assert all(bool((value.isfinite() & (value > 0)).all()) for value in draws)


# ---- radial ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "sampled", "core", "tail", "share"),
    [
        (69.36, True, (0.080, 0.122, 0.208), (0.905, 0.587, 0.768), (0.992, 0.910, 0.623)),
        (68.36, False, (0.078, 0.123, 0.213), (1.071, 0.705, 0.843), (0.944, 0.878, 0.543)),
    ],
)
def test_radial_profile_has_the_numbers_of_the_formulas(
    z: float, sampled: bool, core: tuple[float, ...], tail: tuple[float, ...], share: tuple[float, ...]
) -> None:
    formula = RadialFormula(z, model().steps.sampling if sampled else None)
    found = formula(f64(np.log(10.0)), f64([0.5, 1.0, 2.0]))
    for values, expected in zip(found, (share, core, tail), strict=True):
        assert values.tolist() == pytest.approx(expected, abs=1e-3)


def test_one_component_has_its_median_at_the_radius() -> None:
    chance = f64(np.random.default_rng(1).random(200_000))
    r = radius_of(f64(1.0), f64(2.0), f64(5.0), chance).numpy()
    assert np.median(r) == pytest.approx(2.0, rel=0.01)
    assert np.quantile(r, 0.9) == pytest.approx(6.0, rel=0.01)
    inside = r[r < 20]
    assert (inside**2).mean() * (400 / 404) == pytest.approx(4 * (np.log1p(100) - 400 / 404), rel=0.02)
    both = radius_of(f64(0.3), f64(1.0), f64(3.0), chance).numpy()
    assert kstest(both, lambda r: 0.3 * r**2 / (r**2 + 1) + 0.7 * r**2 / (r**2 + 9)).pvalue > 1e-3


def test_shares_of_rectangles_and_rings_are_integrals() -> None:
    radius = f64([0.7, 3.0])
    edges = f64(np.linspace(-2, 2, 401))
    middle = (edges[1:] + edges[:-1]) / 2
    x, y = torch.meshgrid(middle, middle, indexing="ij")
    fine = radius[:, None, None] ** 2 / (np.pi * (x**2 + y**2 + radius[:, None, None] ** 2) ** 2) * 1e-4
    coarse = rectangle_shares(f64([-2, -0.5, 1, 2]), f64([-2, 0, 2]), radius)
    cut = [slice(0, 150), slice(150, 300), slice(300, 400)]
    for k, rows in enumerate(cut):
        for m, columns in enumerate((slice(0, 200), slice(200, 400))):
            assert torch.allclose(coarse[:, k, m], fine[:, rows, columns].sum(dim=(1, 2)), atol=2e-4)
    assert float(rectangle_shares(f64([-1e6, 1e6]), f64([-1e6, 1e6]), radius)[0]) == pytest.approx(1.0)
    assert ring_shares(f64([0.0, 0.7, 1e6]), radius)[0].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("name", ["calogan", "par04-ds2"])
def test_tables_of_cells_agree_with_the_integrals(name: str) -> None:
    readout = load_detector(name).readout
    table = CellShares(readout, 30.0)
    radius = f64([[0.11, 0.5], [1.7, 3.3]])
    found = table(torch.tensor([0, 2]), radius, f64([[1.0, 0.0], [0.0, 5.0]]))
    grid = readout.layers[2].grid
    edges = [f64(e) for e in grid.edges]  # type: ignore[union-attr]
    if name == "calogan":
        exact = rectangle_shares(edges[0], edges[1], f64([99.0])).flatten()
    else:
        exact = (ring_shares(edges[1], f64([99.0]))[0] / 16).repeat(16)
    where = readout.layer_slices[2]
    assert torch.allclose(found[1, where], 5 * exact, rtol=5e-3)
    assert float(found[0, where].sum()) == 0
    assert 0.9 < float(found[0].sum()) <= 1


def test_containment_of_whole_showers() -> None:
    """The formulas' own: 0.903, 0.964, 0.986 of a shower of 10 GeV within 1, 2 and 3.5 Moliere radii, sampling."""
    steps = model().steps
    log_y = np.log(1e4 / steps.matter.critical_energy)
    peak, alpha = mean_profile(log_y, steps.matter.z, steps.sampling)
    depth = np.linspace(0, 40, 2001)
    weight = f64(np.diff(gammainc(alpha, (alpha - 1) / peak * depth)))
    share, core, tail = RadialFormula(steps.matter.z, steps.sampling)(f64(np.log(10.0)), f64(depth[1:] / peak))
    for radius, expected in ((1.0, 0.903), (2.0, 0.964), (3.5, 0.986)):
        inside = share * radius**2 / (radius**2 + core**2) + (1 - share) * radius**2 / (radius**2 + tail**2)
        assert float((weight * inside).sum() / weight.sum()) == pytest.approx(expected, abs=3e-3)


# ---- spots and fluctuations ------------------------------------------------------------------------------------------


def test_numbers_of_spots() -> None:
    homogeneous = spot_number(f64([1, 10, 100]), 68.36, None)
    assert homogeneous.tolist() == pytest.approx([393, 2953, 22197], rel=2e-3)
    stack = model().steps.sampling
    stack = type(stack)(stack.whole, stack.frequency, stack.e_over_mip, stack.visible, 0.11)
    assert spot_number(f64([1, 10, 100]), 68.36, stack).tolist() == pytest.approx([94, 852, 7753], rel=5e-3)


def test_steps_are_chosen_by_their_weights() -> None:
    weights = f64([[1, 0, 3], [0, 0, 2], [2, 1, 1]])
    shower = torch.arange(3).repeat_interleave(20_000)
    chance = f64(np.random.default_rng(2).random(60_000))
    step = choose_steps(weights, chance, shower).reshape(3, -1)
    for row, expected in zip(step, weights, strict=True):
        assert np.allclose(torch.bincount(row, minlength=3) / 20_000, expected / expected.sum(), atol=0.015)


def test_spots_lie_across_the_direction_and_in_the_planes() -> None:
    n = f64([0.6, -0.3, np.sqrt(1 - 0.45)]).expand(1000, 3)
    generator = np.random.default_rng(3)
    radius, angle, z = (f64(generator.uniform(0, top, 1000)) for top in (5.0, 2 * np.pi, 50.0))
    x, y = place_spots(radius, angle, z, n)
    place = torch.stack([x, y, z], dim=1)
    distance = torch.linalg.cross(place, n).norm(dim=1)
    assert torch.allclose(distance, radius)
    straight = place_spots(radius, angle, z, f64([0.0, 0.0, 1.0]).expand(1000, 3))
    assert torch.allclose(straight[0], radius * angle.cos())


@pytest.mark.parametrize("shape", [0.02, 0.7, 5.0, 80.0])
def test_gamma_numbers_are_gamma_distributed(shape: float) -> None:
    generator = np.random.default_rng(4)
    normal, uniform = torch.from_numpy(generator.standard_normal(20_000)), torch.from_numpy(generator.random(20_000))
    logs = log_gamma_numbers(f64(shape).expand(20_000), normal, uniform)
    assert kstest(logs, lambda v: gamma.cdf(np.exp(v), shape)).statistic < 0.012
    assert float(logs.exp().mean()) == pytest.approx(shape, rel=4 / np.sqrt(20_000 * shape) + 2e-3)


def test_sampling_fluctuations_do_not_depend_on_the_steps() -> None:
    """The width of a total is c sqrt(E), however many layers divide it. Mutation: one Gamma number for the whole shower."""
    generator = np.random.default_rng(5)
    for layers in (1, 10):
        energy = f64(np.full((20_000, layers), 10.0 / layers))
        shape = energy / 0.11**2
        draws = log_gamma_numbers(
            shape, f64(generator.standard_normal(shape.shape)), f64(generator.random(shape.shape))
        )
        assert float((draws.exp() * 0.11**2).sum(dim=1).std()) == pytest.approx(0.11 * np.sqrt(10), rel=0.03)


# ---- showers ---------------------------------------------------------------------------------------------------------

#: Shares of the layers in 12,000 positrons of Geant4 11.4 in calogan (calzone 1.2.2), at 10, 50 and 95 GeV.
POSITRONS = {10: (0.302, 0.697, 0.0009), 50: (0.1675, 0.831, 0.0017), 95: (0.132, 0.866, 0.0021)}


def layer_shares(showers: Showers) -> np.ndarray:
    layers = showers.layer_energies()
    return layers / layers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("fluctuations", ["cells", "spots"])
def test_layers_of_positrons_are_those_of_geant4_without_any_training(fluctuations: str) -> None:
    by = model(fluctuations=fluctuations, spots=500)
    for energy, expected in POSITRONS.items():
        got = made(by, np.full(1500, energy * 1e3), -11)
        assert layer_shares(got).mean(axis=0) == pytest.approx(expected, abs=0.02)
        assert got.total_energy().mean() / (energy * 1e3) == pytest.approx(0.985, abs=0.02)


def test_layers_and_cells_of_photons_are_those_of_geant4_without_any_training() -> None:
    real = Showers.concatenate([load("calogan-gamma-sample", split=s) for s in ("train", "test", "floor")])  # type: ignore[misc]
    by = model()
    for energy in (10, 50, 95):
        near = real[np.abs(real.incident_energy - energy * 1e3) < 1500]
        got = made(by, near.incident_energy.repeat(6), 22)
        assert layer_shares(got).mean(axis=0) == pytest.approx(layer_shares(near).mean(axis=0), abs=0.02)
        middle = CALOGAN.readout.layer_slices[1]
        brightest, lit = [], []
        for showers in (near, got):
            cells = np.where(showers.deposits[:, middle] < 0.01, 0, showers.deposits[:, middle])
            brightest.append(cells.max(axis=1) / cells.sum(axis=1))
            lit.append((cells > 0).mean())
        assert brightest[1].mean() == pytest.approx(brightest[0].mean(), rel=0.05)
        assert brightest[1].std() == pytest.approx(brightest[0].std(), rel=0.45)
        assert lit[1] == pytest.approx(lit[0], abs=0.08)


def test_spots_and_cells_have_the_same_mean_shower() -> None:
    detector = lead_argon()
    energies = np.full(3000, 2e4)
    cells, spots = (made(model(detector, fluctuations=how, spots=300), energies).deposits for how in ("cells", "spots"))
    bright = cells.mean(axis=0) > 20
    assert bright.sum() >= 8
    assert np.allclose(cells.mean(axis=0)[bright], spots.mean(axis=0)[bright], rtol=0.15)
    assert cells.sum(axis=1).mean() == pytest.approx(spots.sum(axis=1).mean(), rel=0.03)


def test_points_of_a_slanted_shower_follow_its_axis() -> None:
    by = model(load_detector("ild-ecal"), points=True, spots=400)
    direction = np.tile(np.asarray([0.5, 0.0, np.sqrt(0.75)], dtype=np.float32), (200, 1))
    got = made(by, np.full(200, 2e4), 22, direction)
    assert isinstance(got, ShowerPoints)
    z = by.detector.readout.depths.mean(axis=1)[got.points[:, 2].astype(int)]
    weight = got.points[:, 3]
    axis = got.points[:, 0] - z * np.tan(np.pi / 6)
    assert np.average(axis, weights=weight) == pytest.approx(0.0, abs=1.0)
    assert np.median(np.abs(got.points[:, 1])) < 6
    straight = made(by, np.full(200, 2e4), 22)
    mean = [np.average(s.points[:, 2], weights=s.points[:, 3]) for s in (got, straight)]
    assert mean[0] < mean[1] - 1  # more material in every layer


def test_what_it_does_not_know_is_said() -> None:
    with pytest.raises(UsageError, match=r"makes electrons, positrons and photons, not pi\+"):
        ready_model("gflash", CALOGAN, "pi+")
    with pytest.raises(ConfigError, match="needs the material of the calorimeter, and 'ds1-photons' has no"):
        model(load_detector("ds1-photons"))
    with pytest.raises(UsageError, match="makes no showers without training, expected one of gflash"):
        ready_model("caloflow-tiny", CALOGAN, "e-")
    text = CALOGAN.to_toml().replace("G4_lAr", "G4_GYPSUM")
    from caloforge.detectors import detector_from_toml

    with pytest.raises(ConfigError, match="'G4_GYPSUM' are not known without Geant4; describe it"):
        model(detector_from_toml(text, where="mine"))


def test_on_the_command_line_without_any_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detector = tmp_path / "mine.toml"
    detector.write_text(lead_argon().to_toml())
    common = ["--particle", "e-", "--energy", "1:100", "--events", "520", "--detector", str(detector)]
    results = []
    for name, more in (("a", ["--batch-size", "37"]), ("b", ["--workers", "2"])):
        out = tmp_path / f"{name}.h5"
        assert main(["generate", "gflash", *common, *more, "--out", str(out)]) == 0
        with open_showers(out) as source:
            results.append(source.read())
            assert source.provenance["model"]["untrained"] is True
    assert np.allclose(results[0].deposits, results[1].deposits, rtol=1e-4, atol=1e-4)
    assert results[0].particle == 11
    points = tmp_path / "p.h5"
    assert main(["generate", "gflash", *common[:2], "--points", *common[2:], "--out", str(points)]) == 0
    with open_showers(points) as source:
        assert source.kind == "points"
    again = tmp_path / "again.h5"
    common = ["--conditions-from", str(out), "--events", "20", "--detector", str(detector)]
    assert main(["generate", "gflash", *common, "--out", str(again)]) == 0
    with open_showers(again) as source:
        assert source.particle == 11  # of the file; the detector's first is a photon
    capsys.readouterr()
    common = ["--particle", "e-", "--energy", "1:100", "--detector", str(detector)]
    for wrong, said in (
        (["gflash", "--energy", "5"], "needs no training, but a detector"),
        (["gflash", *common[2:], "--particle", "pi+"], "not pi+"),
        (["gflash", "--detector", "calogan", "--energy", "0.01"], "from 1 GeV to 10 TeV"),
        (["caloflow-tiny", *common], "makes no showers without training"),
        ([str(tmp_path), "--points", "--energy", "5"], "beside --detector"),
    ):
        assert main(["generate", *wrong, "--out", str(tmp_path / "x.h5")]) != 0
        assert said in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "x.h5").exists()


def test_a_fit_finds_what_made_the_showers(tmp_path: Path) -> None:
    """Showers of a GFlash with other numbers. Mutation: leave the longitudinal numbers, the radius or the quanta as they are."""
    detector = load_detector("ild-ecal/10x10")
    other = model(detector)
    other.numbers.longitudinal[0, 0] += 0.8
    other.numbers.longitudinal[1] *= 1.2
    other.numbers.radius *= 1.3
    other.numbers.quanta[1] *= 0.2
    other.numbers.response[:] = f64([0.9, 0.0, 0.2, 0.0])
    energies = np.random.default_rng(6).uniform(1e4, 9e4, 800)
    showers = made(other, energies, 22)

    class Source:
        particle = 22

        def __init__(self) -> None:
            self.detector = detector

        def __len__(self) -> int:
            return len(showers)

        def read(self, start: int, stop: int) -> Showers:
            found: Showers = showers[start:stop]
            return found

    train("gflash", Source(), tmp_path / "fit", show=False)
    from caloforge.models import load_model

    fitted = load_model(tmp_path / "fit")
    assert isinstance(fitted, GFlash)
    published = model(detector).numbers.longitudinal
    numbers = fitted.numbers
    # T and alpha of 800 showers are correlated; what follows from them, at the end, is known better than each of them.
    assert float(numbers.longitudinal[0, 0] - published[0, 0]) == pytest.approx(0.8, abs=0.3)
    assert float(numbers.longitudinal[1, 1] / published[1, 1]) == pytest.approx(1.2, abs=0.06)
    assert float(numbers.radius) == pytest.approx(1.3, abs=0.08)
    assert float(numbers.response[0] + numbers.response[1] * np.log(40)) == pytest.approx(0.9, abs=0.03)
    again = made(fitted, energies, 22)
    mean = [s.layer_energies().mean(axis=0) for s in (showers, again)]
    assert np.allclose(mean[0], mean[1], atol=0.02 * mean[0].max())
    lit = [
        (s.deposits >= detector.analysis_threshold).reshape(len(s), 30, -1).mean(axis=(0, 2)) for s in (showers, again)
    ]
    assert np.allclose(lit[0], lit[1], atol=0.1 * lit[0].max())
    assert lit[1].mean() == pytest.approx(lit[0].mean(), rel=0.06)
