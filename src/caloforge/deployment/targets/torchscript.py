"""One TorchScript module from conditions and random numbers to deposits, for models that sample in one pass."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caloforge.atomic import replace_file, written_beside
from caloforge.deployment.parity import Check, ParityResult
from caloforge.deployment.targets.onnx import Graph, check_carried, deposit_checks, one_shower
from caloforge.deployment.vectors import reference_showers, test_conditions
from caloforge.generation import generation_streams
from caloforge.models import ShowerModel
from caloforge.units import format_energy

__all__ = ["save_traced", "write"]

_README = """\
# {name} as TorchScript

`model.pt`: a CaloForge model ({kind}, detector {detector}, {low} to {high}, PDG {particle}), traced for one shower at a time and
written by torch {torch}; whether an older libtorch reads it has to be tried.

    deposits, valid = forward(incident_energy, {latents})

`incident_energy` is float64 (1,), kinetic, MeV; {sizes} standard normal numbers, float32.
`deposits` is float32 (1, {voxels}), MeV, layer behind layer ({layers}); if `valid`, bool (1,), is false, it is 0, and the
random numbers are to be drawn anew. It does not know its own range: ask it for nothing outside the energies above.
"""


@torch.no_grad()
def save_traced(path: Path, graph: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    """Write a module as TorchScript: traced with some arguments, its weights as constants.

    Raises:
        OutputError: if it cannot be written.
    """
    with warnings.catch_warnings():
        # The way of PyTorch 2.13 is another one; hosts have this one.
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(graph.eval(), arguments, check_trace=False)  # type: ignore[no-untyped-call]
        with written_beside(path) as beside:
            torch.jit.save(torch.jit.freeze(traced), str(beside))


@torch.no_grad()
def write(
    folder: Path, where: str | Path, model: ShowerModel, showers: int, seed: int, verify: bool
) -> ParityResult | None:
    """Fill the folder of an export; see :func:`caloforge.deployment.targets.onnx.write`."""
    check_carried(model)
    record, readout = model.record, model.detector.readout
    assert record is not None  # loaded from a directory
    conditions, latents = one_shower(model)
    arguments = (conditions.tensors()["incident_energy"], *latents.values())
    path = folder / "model.pt"
    save_traced(path, Graph(model, tuple(latents)), arguments)
    low, high = map(format_energy, record.valid.incident_energy)
    text = _README.format(
        name=Path(where).name, kind=model.kind, detector=model.detector.name, low=low, high=high,
        particle=record.valid.particle, torch=torch.__version__, latents=", ".join(latents),
        sizes=", ".join(f"`{name}` is (1, {value.shape[1]})" for name, value in latents.items()),
        voxels=readout.n_voxels, layers=" + ".join(map(str, readout.layer_sizes)),
    )  # fmt: skip
    replace_file(folder / "README.md", text)
    return _compared(path, where, model, showers, seed) if verify else None


def _compared(path: Path, where: str | Path, model: ShowerModel, showers: int, seed: int) -> ParityResult:
    """Showers of the file against those of the model in plain PyTorch and float64."""
    record = model.record
    assert record is not None  # loaded from a directory
    conditions = test_conditions(record.valid, showers, seed)
    reference, latents, good = reference_showers(where, conditions, generation_streams(seed))
    energies = conditions.tensors()["incident_energy"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: Any = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
        made, valid = [], []
        for row in range(showers):
            one = slice(row, row + 1)
            deposits, fine = loaded(energies[one], *(value[one] for value in latents.values()))
            made.append(deposits.numpy())
            valid.append(fine.numpy())
    checks = [
        *deposit_checks(
            np.concatenate(made), reference["deposits"].numpy(), conditions.incident_energy, model.detector
        ),
        Check.of("first attempts rejected otherwise", float((np.concatenate(valid) != good.numpy()).sum()), 0.0),
    ]
    return ParityResult(all(check.passed for check in checks), tuple(checks), "")
