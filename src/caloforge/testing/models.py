"""What every model promises, whatever it is inside, as checks that say in a sentence what is not kept."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caloforge.detectors import Detector
from caloforge.models import (
    ConditionRange,
    Conditions,
    ShowerModel,
    load_model,
    model_class,
    save_model,
)
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import GradientStage, TrainingConfig
from caloforge.testing.checks import expect, failing_as
from caloforge.testing.processes import gradients
from caloforge.testing.toys import fit_stages, toy_detector, toy_points, toy_showers, training_batch

__all__ = ["MODEL_CHECKS", "check_model"]

_STREAMS = Streams(3, "contract")
#: A model within this factor of what is expected of it leaves the range if its energies are a thousand times too small or large,
#: wherever in the range it is.
_HALF_A_UNIT = 1000**0.5
#: Relative difference of gradients in float64 that rounding explains.
_ROUNDING = 1e-7
#: A gradient that is smaller than this part of the largest of its player may be nothing but rounding.
_CANCELLED = 1e-6

DensityOf = Callable[[Detector], ShowerModel]


@dataclass(frozen=True)
class _Case:
    """A fitted, untrained model and showers for it."""

    model: ShowerModel
    showers: Showers | ShowerPoints
    density: DensityOf | bool | None
    conditions: Conditions
    folder: Path
    ratio: float


def _numbers(made: Showers | ShowerPoints) -> NDArray[np.float32]:
    return made.deposits if isinstance(made, Showers) else made.points


def _made(model: ShowerModel, conditions: Conditions, streams: Streams = _STREAMS) -> Showers | ShowerPoints:
    return model.decode(conditions, model.latents(conditions, streams))[0]


def _configuration(case: _Case, name: str) -> None:
    model = case.model
    expect(model_class(model.kind) is type(model), name, f"the kind '{model.kind}' is that of another class")
    again = type(model).Config.model_validate(json.loads(model.config.model_dump_json()))
    expect(again == model.config, name, "the configuration does not survive being written as JSON")
    expect(type(model).Config.model_config.get("frozen"), name, "the configuration is not frozen")
    expect(
        type(model).Config.model_config.get("extra") == "forbid",
        name,
        "the configuration takes keys that it does not know",
    )


def _states(case: _Case, name: str) -> None:
    owned: dict[str, str] = {}
    seen: set[str] = set()
    for stage in case.model.training_stages(TrainingConfig()):
        expect(stage.name not in seen, name, f"two stages are called '{stage.name}'")
        missing = sorted(set(stage.needs) - seen)
        expect(
            not missing, name, f"the stage '{stage.name}' needs '{(missing or [''])[0]}', which comes later or never"
        )
        seen.add(stage.name)
        for tensor in stage.state():
            expect(tensor not in owned, name, f"the tensor '{tensor}' belongs to two stages")
            owned[tensor] = stage.name
    lost = sorted(set(case.model.state_dict()) - set(owned))
    expect(not lost, name, f"the tensor '{(lost or [''])[0]}' belongs to no stage, so what was trained would lose it")
    unknown = sorted(set(owned) - set(case.model.state_dict()))
    expect(not unknown, name, f"a stage owns '{(unknown or [''])[0]}', which the model does not have")


def _losses(case: _Case, name: str) -> None:
    model, batch = case.model, training_batch(case.showers)
    for stage in model.training_stages(TrainingConfig()):
        if not isinstance(stage, GradientStage):
            continue
        own = {id(p) for part in stage.parts.values() for p in part.parameters()}
        for player in stage.players:
            model.train()
            model.zero_grad()
            losses = stage.loss(player.name, batch, _STREAMS.child(stage.name))
            where = f"of stage '{stage.name}', player '{player.name}'"
            for key, value in losses.items():
                expect(
                    value.ndim == 0, name, f"the {key} {where} has the shape {tuple(value.shape)}, expected one number"
                )
                expect(torch.isfinite(value), name, f"the {key} {where} is {float(value.detach())}")
            losses["loss"].backward()  # type: ignore[no-untyped-call]
            expect(player.parameters, name, f"the player '{player.name}' of stage '{stage.name}' has no parameters")
            for parameter in player.parameters:
                expect(parameter.grad is not None, name, f"the loss {where} does not reach all of its parameters")
                assert parameter.grad is not None
                expect(torch.isfinite(parameter.grad).all(), name, f"a gradient {where} is not finite")
            strangers = [key for key, p in model.named_parameters() if p.grad is not None and id(p) not in own]
            expect(
                not strangers, name, f"the loss {where} trains '{(strangers or [''])[0]}', which is not of that stage"
            )
        model.eval()
        with torch.no_grad():
            first, again = (stage.metrics_of(batch, _STREAMS.child(stage.name))[stage.metric] for _ in range(2))
        expect(torch.isfinite(first), name, f"the validation of stage '{stage.name}' is {float(first)}")
        expect(torch.equal(first, again), name, f"the validation of stage '{stage.name}' depends on calls before")


def _processes(case: _Case, name: str) -> None:
    rows = min(7, len(case.showers))
    one = gradients(case.model, case.showers[:rows], [rows])
    two = gradients(case.model, case.showers[:rows], [rows // 2, rows - rows // 2])
    largest: dict[str, float] = {}
    for key, value in one.items():
        player = key.rpartition(",")[0]
        largest[player] = max(largest.get(player, 0.0), float(value.norm()))
    for key, value in one.items():
        # A gradient that is zero but for rounding (of a bias in front of a norm) is the rounding of others.
        scale = max(float(value.norm()), 1e-9, _CANCELLED * largest[key.rpartition(",")[0]])
        away = float((value - two[key]).norm()) / scale
        expect(
            away < _ROUNDING, name, f"two processes compute another gradient than one ({key}: {away:.1e} of it away)"
        )


def _showers(case: _Case, name: str) -> None:
    model, conditions = case.model, case.conditions
    made, valid = model.decode(conditions, model.latents(conditions, _STREAMS))
    rows = len(conditions)
    expect(valid.shape == (rows,) and valid.dtype == np.bool_, name, f"'valid' is {valid.dtype} of shape {valid.shape}")
    expect(valid.any(), name, "the model holds none of its showers for valid")
    expect(len(made) == rows, name, f"{rows} showers were asked for and {len(made)} made")
    expect(isinstance(made, Showers) == (model.shower_kind == "voxels"), name, f"it makes no {model.shower_kind}")
    made.check_values()
    share, known = (float(s.total_energy().sum() / s.incident_energy.sum()) for s in (made, case.showers))
    expected = known * case.ratio
    expect(
        expected / _HALF_A_UNIT < share < expected * _HALF_A_UNIT,
        name,
        f"the showers deposit {share:.3g} of the incident energy and about {expected:.3g} is expected of a model that was fitted "
        f"to ones with {known:.3g}, so one of them seems to be in the wrong unit (MeV is expected everywhere)",
    )


def _of_rows(latents: dict[str, Tensor], start: int, stop: int, rows: int, name: str) -> dict[str, Tensor]:
    """The latents of some of the rows; those that a row has a number of its own of lie between its ``starts``."""
    starts = latents.get("starts")
    found = {}
    for key, value in latents.items():
        if key == "starts":
            found[key] = value[start : stop + 1] - value[start]
        elif value.shape[0] == rows:
            found[key] = value[start:stop]
        else:
            expect(starts is not None, name, f"nothing says to which showers the latents '{key}' belong")
            assert starts is not None
            fits = (len(starts), int(starts[-1])) == (rows + 1, value.shape[0])
            expect(fits, name, f"the latents '{key}' do not lie between the 'starts' of the showers")
            found[key] = value[int(starts[start]) : int(starts[stop])]
    return found


def _latents(case: _Case, name: str) -> None:
    conditions = case.conditions
    rows = len(conditions)
    together = case.model.latents(conditions, _STREAMS)
    for start, stop in ((0, 1), (13, 31), (rows - 1, rows)):
        alone = case.model.latents(conditions[start:stop], _STREAMS)
        expected = _of_rows(together, start, stop, rows, name)
        expect(alone.keys() == expected.keys(), name, "which latents there are depends on the batch")
        for key, value in alone.items():
            expect(value.numel(), name, f"the latents '{key}' are empty")
            expect(torch.equal(value, expected[key]), name, f"the latents '{key}' of a shower depend on its batch")
    for word, other in (
        ("the next attempt", case.model.latents(conditions.again(), _STREAMS)),
        ("another seed", case.model.latents(conditions, Streams(4, "contract"))),
    ):
        same = all(torch.equal(together[key], other[key]) for key in together if key in other)
        expect(not same, name, f"{word} draws the same numbers")


def _batches(case: _Case, name: str) -> None:
    model, conditions = case.model, case.conditions
    together, valid = model.decode(conditions, model.latents(conditions, _STREAMS))
    one = _numbers(together)
    for size in (1, 17):
        parts = [conditions[k : k + size] for k in range(0, len(conditions), size)]
        made = [model.decode(part, model.latents(part, _STREAMS)) for part in parts]
        same = np.array_equal(np.concatenate([good for _, good in made]), valid)
        expect(same, name, f"in batches of {size} other showers are valid")
        other = np.concatenate([_numbers(showers) for showers, _ in made])
        expect(one.shape == other.shape, name, f"in batches of {size} showers have another number of points")
        # A voxel that gets what the others leave is rounded like the shower as a whole.
        rounding = 1e-6 * one.sum(axis=1, keepdims=True) if isinstance(together, Showers) else 1e-6
        away = float((np.abs(one - other) > 1e-4 * np.abs(one) + rounding).mean())
        expect(
            away <= 1e-3,
            name,
            f"in batches of {size} showers are others than in one of {len(conditions)} ({away:.1%} away)",
        )


def _saving(case: _Case, name: str) -> None:
    model, conditions = case.model, case.conditions[:5]
    folder = case.folder / "saved"
    save_model(folder, model, ConditionRange.of(case.showers.particle, [1e3, 1e5]))
    loaded = load_model(folder)
    expect(loaded.config == model.config, name, "the configuration is another one after loading")
    expect(loaded.detector == model.detector, name, "the detector is another one after loading")
    for key, value in model.state_dict().items():
        expect(torch.equal(value, loaded.state_dict()[key]), name, f"the tensor '{key}' is another one after loading")
    one, two = (_numbers(_made(m, conditions)) for m in (model, loaded))
    expect(np.array_equal(one, two, equal_nan=True), name, "after saving and loading the model makes other showers")
    files = sorted(path.name for path in folder.iterdir())
    expect(files == ["model.json", "model.safetensors"], name, f"the model directory holds {', '.join(files)}")


def _likelihood(case: _Case, name: str) -> None:
    model, showers = case.model, case.showers[:12]  # of those to which the model was fitted
    if not model.has_likelihood:
        return
    together = model.log_prob(showers, _STREAMS, draws=2)
    expect(together.shape == (len(showers),), name, f"the likelihood has the shape {tuple(together.shape)}")
    expect(together.dtype == torch.float64, name, f"the likelihood is {together.dtype}, expected float64")
    # A model may hold a shower for impossible; most of those that it was fitted to it may not.
    expect(
        not (together.isnan() | (together == torch.inf)).any(),
        name,
        "the likelihood of a shower is no number, or infinite",
    )
    expect(together.isfinite().double().mean() >= 0.5, name, "the model holds most of the showers for impossible")
    behind = model.log_prob(showers[5:], _STREAMS, draws=2, first_row=5)
    same = torch.allclose(behind, together[5:], rtol=1e-5, atol=1e-3)
    expect(same, name, "the likelihood of a shower depends on its block")


def _density(case: _Case, name: str) -> None:
    if not case.model.has_likelihood or case.density is False:
        return
    expect(
        case.density is not None,
        name,
        "the model has a likelihood, so 'density' must build it for a detector without noise and cuts, where its density of "
        "the deposits can be integrated (density=False says that this is proved elsewhere)",
    )
    assert callable(case.density)
    detector = toy_detector((2, 1), threshold=0.0)
    torch.manual_seed(1)
    model = case.density(detector).double().eval()
    # The integral over both deposits, with a grid that is fine near the edges, where an untrained flow is steep:
    # dd1 dd2 = E dE dx for d1 = E x, d2 = E (1 - x), and E = 100 sigmoid(s), x = sigmoid(t).
    incident = 100.0
    points = np.linspace(-13.5, 13.5, 301)
    s, t = (grid.ravel() for grid in np.meshgrid(points, points))
    total, share = incident / (1 + np.exp(-s)), 1 / (1 + np.exp(-t))
    weights = total * (total * (1 - total / incident)) * (share * (1 - share)) * (points[1] - points[0]) ** 2
    deposits = np.stack([total * share, total * (1 - share)], axis=1).astype(np.float32)
    showers = Showers(deposits, np.full(len(deposits), incident), 22, detector.readout)
    integral = float((model.log_prob(showers, _STREAMS).exp().numpy() * weights).sum())
    expect(abs(integral - 1) <= 0.01, name, f"the density of two deposits integrates to {integral:.4f}, expected 1")


#: The checks by name, in their order.
MODEL_CHECKS: dict[str, Callable[[_Case, str], None]] = {
    "configuration": _configuration,
    "states": _states,
    "losses": _losses,
    "processes": _processes,
    "showers": _showers,
    "latents": _latents,
    "batches": _batches,
    "saving": _saving,
    "likelihood": _likelihood,
    "density": _density,
}


def check_model(
    model: ShowerModel,
    *,
    showers: Showers | ShowerPoints | None = None,
    density: DensityOf | bool | None = None,
    energy_ratio: float = 1.0,
    prepare: Callable[[ShowerModel], None] = lambda model: None,
    only: Sequence[str] = (),
) -> list[str]:
    """Check what every model promises, in tiny sizes.

    The model's fit stages are run on some showers first, on a copy; it is not trained. Checks are: its configuration survives
    JSON; every tensor belongs to exactly one stage; losses and gradients are finite and reach their parameters; two processes
    compute the gradients of one; showers have the right shape, no impossible energies and the right unit; random numbers and
    showers depend on seed, number and attempt and not on the batch; after saving and loading it makes the same showers; the
    likelihood is finite and independent of blocks, and a density that integrates to 1.

    Args:
        model: a new model, untrained, of a kind that is registered (or an entry point), small, for example on
            :func:`~caloforge.testing.toy_detector`.
        showers: to fit it to, about 40; None takes toys of its detector.
        density: for a model with a likelihood: builds it, untrained, for the given detector of two voxels, in settings
            without noise and cut; False if its density is proved elsewhere.
        energy_ratio: what the untrained model deposits, as a multiple of what the showers do, where a sound one is far from 1. It
            may be a factor of 30 away from that, so that one that takes GeV for MeV is always rejected.
        prepare: what else an untrained model needs to make showers at all, done after the fit stages.
        only: names of the checks to do (see ``MODEL_CHECKS``); all of them if empty.

    Returns:
        Names of the checks that were done.

    Raises:
        CheckFailedError: naming the check and what is wrong.
    """
    if showers is None:
        voxels = model.shower_kind == "voxels"
        showers = toy_showers(model.detector, 40, faint=False) if voxels else toy_points(model.detector, 40)
    trainable = copy.deepcopy(model)
    with failing_as("fit"):
        fit_stages(trainable, showers)
        prepare(trainable)
    conditions = Conditions.first(np.linspace(2e3, 9e4, 60), showers.particle, start=100)
    chosen = [name for name in MODEL_CHECKS if not only or name in only]
    with tempfile.TemporaryDirectory(prefix="caloforge-") as folder:
        for name in chosen:
            case = _Case(copy.deepcopy(trainable).eval(), showers, density, conditions, Path(folder), energy_ratio)
            with failing_as(name):
                MODEL_CHECKS[name](case, name)
    return chosen
