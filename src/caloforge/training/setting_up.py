"""What is looked at and set before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from caloforge.arguments import argument
from caloforge.detectors import Detector, particle_names
from caloforge.errors import UsageError
from caloforge.models import ShowerModel
from caloforge.nn.batch_layers import BatchNorm1d, BatchNorm2d, Dropout
from caloforge.stage import GradientStage, Stage
from caloforge.training.data import MixedSource, ShowerSource, TrainingSet
from caloforge.training.processes import Processes

__all__ = ["check_layers", "check_particles", "check_sizes", "described", "torch_settings"]


@contextmanager
def torch_settings(device: torch.device, threads: int | None, tf32: bool) -> Iterator[None]:
    """Number of threads, rounding and random state of torch within; outside they stay what they were."""
    former_threads, former_precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    former_cudnn = torch.backends.cudnn.allow_tf32
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = tf32
            yield
        finally:
            torch.set_num_threads(former_threads)
            torch.set_float32_matmul_precision(former_precision)
            torch.backends.cudnn.allow_tf32 = former_cudnn


def described(source: ShowerSource) -> Detector:
    """The detector of data that say what they are of; others are refused."""
    if source.detector is None:
        raise UsageError(
            "the data do not say which detector they belong to, so one must be named "
            f"({argument('detector')}; 'caloforge convert' writes it into the file)"
        )
    if source.particle == 0:
        raise UsageError(
            "the data do not say which particle made the showers, so one must be named "
            f"({argument('particle')}; 'caloforge convert' writes it into the file)"
        )
    return source.detector


def check_particles(model: ShowerModel, source: ShowerSource) -> None:
    """Refuse data of other particles than a model of several is to make, and several particles for a model of one."""
    found = source.particles if isinstance(source, MixedSource) else (source.particle,)
    names = particle_names(found)
    if not model.particles:
        if len(found) > 1:
            raise UsageError(
                f"the data hold showers of several particles ({names}), and the model makes one; "
                f"model.particles=[{names}] makes it one of all of them"
            )
        return
    wanted = particle_names(model.particles)
    strange = [pdg for pdg in found if pdg not in model.particles]
    if strange:
        raise UsageError(
            f"the data hold showers of {particle_names(strange)}, and the model is to make {wanted} (model.particles)"
        )
    missing = [pdg for pdg in model.particles if pdg not in found]
    if missing:
        raise UsageError(
            f"the model is to make {wanted} (model.particles), and the data hold no showers of {particle_names(missing)}"
        )


def check_sizes(rows: TrainingSet, stages: Sequence[Stage], processes: Processes) -> None:
    """Refuse more processes than there are rows in a batch, or to validate on."""
    for stage in stages:
        if isinstance(stage, GradientStage) and min(stage.batch_size, len(rows.training_rows)) < processes.size:
            raise UsageError(f"the stage '{stage.name}' has fewer rows in a batch than there are processes")
    if 0 < len(rows.validation_rows) < processes.size:
        raise UsageError("there are fewer validation rows than processes")


def check_layers(stages: Sequence[Stage], processes: Processes) -> None:
    """Refuse layers of torch that would make the training depend on the number of processes."""
    own = (BatchNorm1d, BatchNorm2d, Dropout)
    theirs = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    for stage in stages:
        layers = (layer for part in stage.parts.values() for layer in part.modules())
        found = next((layer for layer in layers if isinstance(layer, theirs) and not isinstance(layer, own)), None)
        if processes.size > 1 and found is not None and isinstance(stage, GradientStage):
            raise UsageError(
                f"the stage '{stage.name}' has a layer torch.nn.{type(found).__name__}, which works on the share of one "
                "process; several processes need the layer of that kind in caloforge.nn.batch_layers"
            )
