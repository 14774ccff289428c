"""Train a tiny model of every kind, alone or as one of two processes; run as a script by ``test_processes.py``.

python trained_kinds.py RANK STORE FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from model_samples import fit, lead_argon, point_showers, sparse_showers, toy_detector
from safetensors.torch import load_file, save_file

from caloforge.detectors import Detector, load_detector
from caloforge.models import ShowerModel, build_model, load_preset
from caloforge.parts.point_diffusion import DiffusionStage
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import GradientStage, TrainingBatch, TrainingConfig
from caloforge.training import loop
from caloforge.training.data import RowOrder, TrainingSet
from caloforge.training.interruption import Interruption
from caloforge.training.metrics import read_metrics
from caloforge.training.processes import Processes
from caloforge.training.state import result_file

#: 26 rows, of which 21 are trained on in three batches of seven: shares of three and four rows, 21 steps.
ROWS, EPOCHS = 26, 7
TRAINING = TrainingConfig.model_validate(
    {
        "epochs": EPOCHS,
        "batch_size": 7,
        "precision": "float64",
        "gradient_clip": 1.0,
        "ema": 0.9,
        "ema_warmup": 0.75,
        # Adam divides by the gradient; a larger eps keeps it from blowing up those that are zero but for rounding.
        "optimiser": {"name": "adam", "learning_rate": 3e-3, "eps": 1e-6},
        "schedule": {"kind": "one-cycle"},
        "selection": "last",
    }
)


def _flow(dropout: float) -> dict[str, Any]:
    return {"blocks": 2, "hidden_features": 8, "hidden_layers": 1, "dropout": dropout}


def _cloud(**settings: Any) -> dict[str, Any]:
    return {
        "flow": {"blocks": 1, "affine_hidden": 8, "spline_hidden": 8},
        "widths": [8, 8],
        "time_features": 8,
        "noise_levels": 2,
        "distillation_levels": 4,
        "teacher_steps": 2,
        "distillation_reuse": 2,
    } | settings


def _bottleneck(**settings: Any) -> dict[str, Any]:
    small = {"hidden": [8, 6], "latents": 3, "noise_latents": 4, "channels": 2, "critic_channels": 2, "critic_width": 8}
    return small | {"post_width": 4, "warm_up": 1, "flow": _flow(0.0)} | settings


def cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Kind and settings by name, every kind with and without what looks at a batch as a whole or at random."""
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "caloclouds2": ("caloclouds2", _cloud(training_points=None)),
        "caloclouds3": ("caloclouds3", _cloud(training_points=150, position_fuzz=1.0)),
        "calo-gan": ("calo-gan", {"latent": 6, "channels": 2, "critic_channels": [4, 3, 3, 2]}),
        "bib-ae": ("bib-ae", _bottleneck(critic="batch", critics=2)),
        "bib-ae-two-angles": ("bib-ae-two-angles", _bottleneck(network="convolutions")),
        "gflash": ("gflash", {}),
        "pca-parametrisation": ("pca-parametrisation", {}),
        "shower-library": ("shower-library", {}),
    }
    for name, p in (("", 0.0), (" with dropout", 0.3)):
        small = _flow(p)
        norm = {"batch_norm": bool(p)}
        image = {"steps": 2, "hidden_channels": 4} | norm
        found |= {
            f"caloflow{name}": ("caloflow", {"energies": small, "shapes": small}),
            f"caloflow-student{name}": ("caloflow-student", {"shapes": small}),
            f"caloinn{name}": (
                "caloinn", {"flow": {"blocks": 2, "hidden_features": 8, "dropout": p, **norm}},
            ),
            f"caloinn without some rows{name}": (
                "caloinn",
                {"flow": {"blocks": 2, "hidden_features": 8, "dropout": p, **norm}, "largest_ratio": 0.4},
            ),
            f"caloinn-factorised{name}": (
                "caloinn-factorised",
                {"flow": {"blocks": 2, "hidden_features": 8, "dropout": p, **norm}, "energies": small},
            ),
            f"icaloflow{name}": ("icaloflow", {"energies": small, "first": small, "following": small}),
            f"icaloflow-student{name}": ("icaloflow-student", {"first": small, "following": small}),
            f"l2lflows{name}": (
                "l2lflows", {"energies": small, "layer": small, "embedding": {"hidden_features": 8, "features": 4}},
            ),
            f"l2lflows-conv{name}": ("l2lflows-conv", {"energies": small, **image}),
        }  # fmt: skip
    return found


def _detector(kind: str) -> Detector:
    if kind.startswith("caloclouds"):
        return load_detector("ild-ecal")
    if kind == "gflash":
        return lead_argon()
    if kind.startswith("icaloflow"):
        return toy_detector((2, 3), (3, 2), (1, 6))
    if kind.startswith("bib-ae"):
        return toy_detector(*[(2, 3)] * 3)
    return toy_detector((2, 2), (2, 2), (3, 1)) if kind.startswith("l2lflows") else toy_detector()


class _Source:
    """Showers in memory."""

    particle = 22

    def __init__(self, detector: Detector, showers: Showers | ShowerPoints) -> None:
        self.detector, self.showers = detector, showers

    def __len__(self) -> int:
        return len(self.showers)

    def read(self, start: int, stop: int) -> Showers | ShowerPoints:
        return self.showers[start:stop]


def _model(kind: str, settings: dict[str, Any], showers: Showers | ShowerPoints) -> ShowerModel:
    torch.manual_seed(5)
    preset, teacher = load_preset(f"{kind}-tiny"), kind.removesuffix("-student")
    inputs = {} if teacher == kind else {"teacher": _model(teacher, cases()[teacher][1], showers)}
    model = build_model(kind, preset.settings() | settings, _detector(kind), aids=preset.aids, inputs=inputs)
    fit(model, showers)
    return model


def train(name: str, folder: Path, processes: Processes) -> dict[str, torch.Tensor]:
    """Train all gradient stages of a case; the last weights, the averaged ones and the validation of every epoch."""
    kind, settings = cases()[name]
    detector = _detector(kind)
    showers = (point_showers if kind.startswith("caloclouds") else sparse_showers)(detector, ROWS)
    model = _model(kind, settings, showers)
    rows = TrainingSet(_Source(detector, showers), seed=3, val_fraction=0.2, order=RowOrder(None))
    found: dict[str, torch.Tensor] = {}
    with Interruption() as interruption:
        run = loop.Run(
            directory=folder / name, model=model, data=rows, processes=processes, interruption=interruption, seed=3,
            checkpoint_seconds=1e9, show=False,
        )  # fmt: skip
        for stage in model.training_stages(TRAINING):
            if isinstance(stage, GradientStage):
                loop.train_stage(stage, run)
                found |= {f"{name}: last {key}": value.clone() for key, value in stage.state().items()}
                if processes.first:
                    stored = load_file(result_file(folder / name, stage.name))
                    found |= {f"{name}: result {key}": value for key, value in stored.items()}
                    metrics = read_metrics(folder / name / "stages" / stage.name / "metrics.jsonl")
                    losses = [[*row["training"].values(), row["validation"][stage.metric]] for row in metrics]
                    found[f"{name}: losses of {stage.name}"] = torch.tensor(losses, dtype=torch.float64)
    return found


@contextmanager
def _masks_by_place(*_: Any) -> Iterator[None]:
    """Mutation: dropout addressed by the place in the share of a process."""
    original = loop.training_step
    with patch.object(loop, "training_step", lambda rows, *rest: original(torch.arange(len(rows)), *rest)):
        yield


@contextmanager
def _no_sums() -> Iterator[None]:
    """Mutation: batch norm over the share of a process."""
    with patch.object(Processes, "add_up", None):
        yield


@contextmanager
def _weights_of_rows() -> Iterator[None]:
    """Mutation: processes weighted by their showers although the loss is a mean over points."""
    original = DiffusionStage.loss

    def loss(self: DiffusionStage, player: str, batch: TrainingBatch, streams: Any) -> dict[str, torch.Tensor]:
        return {"loss": original(self, player, batch, streams)["loss"]}

    with patch.object(DiffusionStage, "loss", loss):
        yield


MUTATIONS = {
    "masks by place": (_masks_by_place, "caloflow with dropout"),
    "no sums": (_no_sums, "l2lflows-conv with dropout"),
    "weights of rows": (_weights_of_rows, "caloclouds2"),
}


def train_all(folder: Path, processes: Processes) -> dict[str, torch.Tensor]:
    """All cases."""
    torch.set_num_threads(1)
    found: dict[str, torch.Tensor] = {}
    with patch.object(loop, "draw_curves", lambda *_, **__: None):
        for name in cases():
            found |= train(name, folder, processes)
        if processes.size > 1:
            for mutation, (mutated, name) in MUTATIONS.items():
                with mutated():
                    made = train(name, folder / mutation, processes)
                found |= {f"{mutation}; {key}": value for key, value in made.items()}
    return found


if __name__ == "__main__":
    rank, store, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results = train_all(out / "runs", Processes(rank, 2))
    save_file({key: value.contiguous() for key, value in results.items()}, out / f"rank{rank}.safetensors")
    torch.distributed.destroy_process_group()
