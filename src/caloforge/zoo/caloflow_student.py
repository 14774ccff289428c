"""CaloFlow II: an inverse autoregressive flow that learns Flow II from a trained CaloFlow (arXiv:2110.11377).

Flow I, the representation and everything after the flows are the teacher's, and are copied into the student's own directory. Only
the shapes come from another network, one that makes a shower in a single pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caloforge.models import Difference, ShowerModel
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.distillation import Guidance, check_guided
from caloforge.parts.differences import TRAINING_DIFFERENCES
from caloforge.parts.distillation import DistillationStage, DistilledModel, StudentConfig, TakeOverStage
from caloforge.parts.flows import FlowSize
from caloforge.random import Streams
from caloforge.stage import Stage, TrainingBatch, TrainingConfig

__all__ = ["CaloFlowStudent", "CaloFlowStudentConfig"]


class CaloFlowStudentConfig(StudentConfig):
    """Configuration of the student of CaloFlow: the keys of :class:`~caloforge.parts.distillation.StudentConfig`, and these.

    Attributes:
        shapes: size of the student's Flow II; with ``guided``, as many blocks as the teacher has. The default is the published
            size.
        guidance: ``guided`` compares end points, interfaces and spline parameters, ``end-points`` the ends alone.
    """

    shapes: FlowSize = FlowSize(blocks=8, hidden_features=504, hidden_layers=1, dropout=0.05)
    guidance: Guidance = "guided"


class CaloFlowStudent(DistilledModel):
    """A CaloFlow whose Flow II samples in one pass.

    Args:
        config: its configuration.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: as for CaloFlow.
    """

    kind = "caloflow-student"
    Config = CaloFlowStudentConfig
    taught_by = "caloflow"
    flows = ("shapes",)
    differences = (
        Difference(
            "gradients",
            "accumulated over 2 to 16 batches",
            "one step per batch",
            "memory was the reason for the accumulation",
        ),
        Difference(
            "selection",
            "best KL divergence of an epoch, with dropout",
            "best KL divergence on the validation rows, without dropout",
            "dropout blurs it",
        ),
        Difference(
            "energies from latent numbers",
            "uniform in the incident energy (data set 1, photons: those of the training rows)",
            "those of the training rows",
            "conditions that the model will be asked for, without a range to be named",
        ),
        Difference(
            "other kinds of guidance",
            "interfaces or parameters alone, a prior of another width",
            "not there",
            "the paper's results are fully guided or by the end points",
        ),
        *TRAINING_DIFFERENCES,
    )
    config: CaloFlowStudentConfig

    def permutations(self, name: str, blocks: int) -> list[Any]:
        """See :meth:`caloforge.parts.distillation.DistilledModel.permutations`.

        Without guidance there is one more, so that the latents may have the order of any teacher.
        """
        permutations: list[Any] = self.model.shape_permutations(blocks)
        if self.config.guidance == "end-points":
            permutations.append(torch.arange(self.model.shares.features))
        return permutations

    def follow(self, teacher: ShowerModel) -> None:
        """See :meth:`caloforge.parts.distillation.DistilledModel.follow`; without guidance only the latents must match."""
        taught = teacher.get_submodule("shapes")
        assert isinstance(taught, AutoregressiveFlow)
        if self.config.guidance == "guided":
            check_guided(taught, self.model.shapes)
        else:
            _align_latents(taught, self.model.shapes)

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """What is copied from the teacher, and the distillation of Flow II."""
        return [
            TakeOverStage("teacher", self, ("energies",)),
            DistillationStage(
                "shapes",
                self,
                training.for_stage("shapes"),
                variables=self.model.shape_variables,
                conditions=self.drawn_conditions,
                guidance=self.config.guidance,
                needs=("teacher",),
            ),
        ]

    @torch.no_grad()
    def drawn_conditions(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """Conditions of Flow II as generation meets them: incident energies of the batch, layers from Flow I.

        Returns:
            Conditions (B, 1 + L) and the row of each, int64 (B,).
        """
        model = self.model
        numbers = streams.normal(batch.row.numpy(), model.energies.features, counters=batch.epoch)
        incident = batch.incident_energy
        energies = model.energies.sample(torch.from_numpy(numbers).to(incident.device), incident)
        return model.energy_conditions(incident, energies).to(self.dtype), batch.row


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
