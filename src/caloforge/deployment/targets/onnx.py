"""One ONNX graph from conditions and random numbers to deposits, for models that sample in one pass."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caloforge.arguments import given
from caloforge.atomic import replace_file
from caloforge.deployment.parity import Check, ParityResult
from caloforge.deployment.vectors import reference_showers, test_conditions
from caloforge.detectors import Detector
from caloforge.errors import MissingDependencyError, UsageError
from caloforge.generation import generation_streams
from caloforge.models import Conditions, Latents, ShowerModel
from caloforge.nn.autoregressive import MaskedAutoregressiveFlow
from caloforge.units import format_energy

__all__ = ["Graph", "check_carried", "deposit_checks", "export_graph", "need_packages", "one_shower", "write"]

#: The oldest that the exporter writes; with this version of the file format ONNX Runtime 1.14 and later read it.
OPSET, FILE_VERSION = 18, 8
#: Kinds for which a test has proven the graph.
_PROVEN = ("caloinn",)

_README = """\
# {name} as ONNX

`model.onnx`: a CaloForge model ({kind}, detector {detector}, {low} to {high}, PDG {particle}) as one graph, opset {opset},
file version {version}, for one shower at a time.

| | name | type | shape | meaning |
|---|---|---|---|---|
| input | `incident_energy` | float64 | (1,) | kinetic energy, MeV |
{inputs}
| output | `deposits` | float32 | (1, {voxels}) | MeV, layer behind layer ({layers}) |
| output | `valid` | bool | (1,) | draw the random numbers anew if it is false; the deposits are 0 then |

Pre- and post-processing are in the graph, thresholds too. It does not know its own range: ask it for nothing outside the
energies above. The metadata of the graph repeat what stands here. `parity.json` has the comparison with the model.
"""


class Graph(nn.Module):
    """What becomes a graph: a model of voxels whose showers fly along z.

    Args:
        model: the model.
        names: of its latents.
    """

    def __init__(self, model: ShowerModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, incident_energy: Tensor, *latents: Tensor) -> tuple[Tensor, Tensor]:
        """Deposits (N, V), MeV, and whether they are valid (N,), of incident energies (N,), MeV, and latents."""
        direction = incident_energy.new_tensor([[0.0, 0.0, 1.0]]).float()
        conditions = {"incident_energy": incident_energy, "direction": direction}
        output, valid = self.model.decode_tensors(conditions, dict(zip(self.names, latents, strict=True)))
        return output["deposits"], valid


def check_carried(model: ShowerModel, *, kinds: Sequence[str] = _PROVEN, most_features: int = 0) -> None:
    """See whether a graph can be made of a model.

    Args:
        model: the model.
        kinds: that have been proven.
        most_features: of a masked autoregressive flow, which has a pass through its network for each of them.

    Raises:
        UsageError: if not; saying what can be used instead.
    """
    if model.shower_kind == "points":
        raise UsageError(
            f"a graph has a fixed number of points, showers of '{model.kind}' have not; {given('target', 'cpp')} carries them"
        )
    largest = max((m.features for m in model.modules() if isinstance(m, MaskedAutoregressiveFlow)), default=0)
    if largest > most_features:
        raise UsageError(
            f"a masked autoregressive flow of {largest} features would be {largest} passes in a graph; "
            f"{given('target', 'cpp')} carries 'caloflow', and 'caloinn' samples in one pass"
        )
    if model.kind not in kinds:
        raise UsageError(f"graphs of '{model.kind}' have not been proven, only those of {', '.join(kinds)}")
    if model.judges():
        raise UsageError(
            f"a graph cannot draw showers again that the aid '{model.judges()[0]}' does not let stay; "
            f"{given('target', 'cpp')} can, and the option {model.judges()[0]}=false takes the aid away"
        )
    valid = None if model.record is None else model.record.valid
    if valid is not None and valid.direction is not None:
        raise UsageError("graphs of models that were trained in several directions have not been proven")


def write(
    folder: Path, where: str | Path, model: ShowerModel, showers: int, seed: int, verify: bool
) -> ParityResult | None:
    """Fill the folder of an export.

    Args:
        folder: an empty folder.
        where: the model.
        model: the same, loaded.
        showers: how many are compared.
        seed: of them.
        verify: compare.

    Raises:
        UsageError: if no graph can be made of such a model.
        MissingDependencyError: if the packages of the extra ``onnx`` are missing.
        OutputError: if something cannot be written.
    """
    check_carried(model)
    record = model.record
    assert record is not None  # loaded from a directory
    need_packages()
    path = folder / "model.onnx"
    names = _export(path, model)
    inputs = [
        f"| input | `{name}` | float32 | (1, {size}) | standard normal random numbers |" for name, size in names.items()
    ]
    low, high = map(format_energy, record.valid.incident_energy)
    text = _README.format(
        name=Path(where).name, kind=model.kind, detector=model.detector.name, low=low, high=high,
        particle=record.valid.particle, opset=OPSET, version=FILE_VERSION, inputs="\n".join(inputs),
        voxels=model.detector.readout.n_voxels, layers=" + ".join(map(str, model.detector.readout.layer_sizes)),
    )  # fmt: skip
    replace_file(folder / "README.md", text)
    return _compared(path, where, model, showers, seed) if verify else None


def need_packages() -> None:
    """See whether ONNX and its runtime are there.

    Raises:
        MissingDependencyError: if not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"the package '{error.name}' is missing; pip install 'caloforge[onnx]' brings what ONNX needs"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of packages that nobody asked for, and of its own changes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@torch.no_grad()
def export_graph(
    path: Path, model: ShowerModel, graph: nn.Module, arguments: Mapping[str, Tensor], outputs: Sequence[str]
) -> None:
    """Write a graph, with the facts of its model in its metadata.

    Args:
        path: of the file.
        model: the model.
        graph: what becomes the graph.
        arguments: one shower, by names of inputs.
        outputs: names of outputs.

    Raises:
        OutputError: if it cannot be written.
    """
    record = model.record
    assert record is not None  # loaded from a directory
    with _quiet():
        program: Any = torch.onnx.export(
            graph.eval(), tuple(arguments.values()), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=list(arguments), output_names=list(outputs),
        )  # fmt: skip
        program.model.ir_version = FILE_VERSION
        program.model.metadata_props.update(
            {
                "caloforge.kind": model.kind,
                "caloforge.model_sha256": record.weights_sha256,
                "caloforge.detector": model.detector.name,
                "caloforge.particle": str(record.valid.particle),
                "caloforge.incident_energy_MeV": " ".join(map(repr, record.valid.incident_energy)),
                "caloforge.layer_sizes": " ".join(map(str, model.detector.readout.layer_sizes)),
                "caloforge.deposits": "MeV",
            }
        )
        program.save(str(path), external_data=False)


def _export(path: Path, model: ShowerModel) -> dict[str, int]:
    """Write the graph; returns sizes of the latents by name."""
    conditions, latents = one_shower(model)
    names = tuple(latents)
    arguments = {"incident_energy": conditions.tensors()["incident_energy"], **latents}
    export_graph(path, model, Graph(model, names), arguments, ["deposits", "valid"])
    return {name: value.shape[1] for name, value in latents.items()}


def one_shower(model: ShowerModel) -> tuple[Conditions, Latents]:
    """A shower from the middle of the trained range."""
    record = model.record
    assert record is not None  # loaded from a directory
    middle = float(np.sqrt(np.prod(record.valid.incident_energy)))
    conditions = Conditions.first(np.array([middle]), record.valid.particle)
    return conditions, model.latents(conditions, generation_streams(0))


def _compared(path: Path, where: str | Path, model: ShowerModel, showers: int, seed: int) -> ParityResult:
    """Showers of the graph against those of the model in plain PyTorch and float64."""
    import onnxruntime

    record = model.record
    assert record is not None  # loaded from a directory
    streams = generation_streams(seed)
    conditions = test_conditions(record.valid, showers, seed)
    reference, latents, good = reference_showers(where, conditions, streams)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    made, valid = _run(session, conditions.incident_energy, latents)
    checks = [
        *deposit_checks(made, reference["deposits"].numpy(), conditions.incident_energy, model.detector),
        Check.of("first attempts rejected otherwise", float((valid != good.numpy()).sum()), 0.0),
    ]
    return ParityResult(all(check.passed for check in checks), tuple(checks), "")


def deposit_checks(
    made: NDArray[np.float32], expected: NDArray[np.float32], energies: NDArray[np.float64], detector: Detector
) -> list[Check]:
    """Deposits (N, V) against those of the reference, as the parity program of the C++ runtime compares them."""
    flipped = (made > 0) != (expected > 0)
    bright = np.maximum(made, expected) > 2 * max(detector.analysis_threshold, 0.0)
    share = np.abs(made - expected) / energies[:, None]
    return [
        Check.of(
            "against the reference: difference / energy", float(np.where(flipped & ~bright, 0, share).max()), 1e-5
        ),
        Check.of("against the reference: voxels lit in one only", float((flipped & bright).sum()), 0.0),
        Check.of(
            "against the reference: likewise at the threshold",
            float((flipped & ~bright).sum()),
            max(2.0, 1e-3 * float((made > 0).sum())),
        ),
    ]


def _run(
    session: Any, energies: NDArray[np.float64], latents: Mapping[str, Tensor]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Shower by shower."""
    made, valid = [], []
    for row in range(len(energies)):
        feed = {name: value[row : row + 1].numpy() for name, value in latents.items()}
        deposits, fine = session.run(["deposits", "valid"], {"incident_energy": energies[row : row + 1], **feed})
        made.append(deposits)
        valid.append(fine)
    return np.concatenate(made), np.concatenate(valid)
