"""CaloFlow II: an inverse autoregressive flow that learns Flow II from a trained CaloFlow (arXiv:2110.11377).

Flow I, the preprocessing and everything after the flows are the teacher's, and are copied into the student's own
directory. Only the shapes come from another network, one that makes a shower in a single pass. What differs from the
publication is said in docs/models/caloflow-student.md.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from caloforge.models.caloflow import CaloFlow, CaloFlowConfig
from caloforge.models.common import FlowSize, autoregressive_flow
from caloforge.models.distilling import DistillationStage, Student, TakeOverStage
from caloforge.models.registry import register
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.distillation import Guidance, check_guided
from caloforge.nn.permutations import alternating_within_layers
from caloforge.random import Streams
from caloforge.stage import Stage, TrainingBatch, TrainingConfig

__all__ = ["CaloFlowStudent", "CaloFlowStudentConfig"]


class CaloFlowStudentConfig(CaloFlowConfig):
    """Configuration of a student: its own four settings, and those of CaloFlow, which its teacher fills in.

    Attributes:
        shapes: size of the student's Flow II; with ``guided``, as many blocks as the teacher has.
        guidance: ``guided`` compares end points, interfaces and spline parameters, ``end-points`` the ends alone.
        data_weight: share of the loss that starts from data; the rest starts from latent numbers.
        start: initial weights: ``marginals`` from the mean of the teacher's splines, or ``random`` as published.
    """

    shapes: FlowSize = FlowSize(blocks=8, hidden_features=504, hidden_layers=1, dropout=0.05)
    guidance: Guidance = "guided"
    data_weight: Annotated[float, Field(ge=0, le=1)] = 0.5


@register("caloflow-student")
class CaloFlowStudent(Student[CaloFlow], CaloFlow):
    """A CaloFlow whose Flow II samples in one pass.

    Args:
        config: sizes and constants.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: as for :class:`caloforge.models.caloflow.CaloFlow`.
    """

    Config = CaloFlowStudentConfig
    taught_by = CaloFlow
    own = frozenset({"shapes", "start", "guidance", "data_weight"})
    config: CaloFlowStudentConfig

    def _shape_flow(self, features: int, context_features: int, learnt: list[int]) -> AutoregressiveFlow:
        config = self.config
        permutations: list[Any] = alternating_within_layers(learnt, config.shapes.blocks, seed=config.permutation_seed)
        if config.guidance == "end-points":  # one more, so that the latents may have the order of any teacher
            permutations.append(torch.arange(features))
        return autoregressive_flow(
            config.shapes, features, context_features, config.masks, permutations, inverse=True
        )  # fmt: skip

    def follow(self, teacher: CaloFlow) -> None:
        """See :meth:`caloforge.models.distilling.Student.follow`; without guidance only the latents must match."""
        if self.config.guidance == "guided":
            check_guided(teacher.shapes, self.shapes)
        else:
            _align_latents(teacher.shapes, self.shapes)

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """What is copied from the teacher, and the distillation of Flow II."""
        config = self.config
        return [
            TakeOverStage("teacher", self, ("scale", "energies"), lambda: self.teacher),
            DistillationStage(
                "shapes",
                "shapes",
                self.shapes,
                lambda: self.teacher.shapes,
                training.for_stage("shapes"),
                inputs=self.shape_inputs,
                conditions=self.drawn_conditions,
                guidance=config.guidance,
                data_weight=config.data_weight,
                start=config.start,
                needs=("teacher",),
            ),
        ]

    @torch.no_grad()
    def drawn_conditions(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """Conditions of Flow II as generation meets them: incident energies of the batch, layers from Flow I.

        Returns:
            Conditions (B, 1 + L) and the row of each, int64 (B,).
        """
        numbers = streams.normal(batch.row.numpy(), self.energies.features, attempts=batch.epoch)
        incident = batch.incident_energy
        energies = self.draw_energies(incident, torch.from_numpy(numbers).to(incident.device))
        return self.shape_context(incident, energies).to(self.dtype), batch.row


def _align_latents(teacher: AutoregressiveFlow, student: AutoregressiveFlow) -> None:
    """Set the student's last permutation such that both flows have their latents in the same order."""
    order = [torch.arange(flow.features) for flow in (teacher, student)]
    chains = [list(flow.chain()) for flow in (teacher, student)]
    last = chains[1][-1][1]
    assert last is not None  # made above
    last.set_index(torch.arange(student.features))
    for k, chain in enumerate(chains):
        for _, permutation in chain:
            if permutation is not None:
                order[k] = order[k].index_select(0, permutation.index.cpu())
    last.set_index(torch.argsort(order[1]).index_select(0, order[0]))
