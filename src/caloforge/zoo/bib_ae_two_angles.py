"""BIB-AE for particles of any energy and direction (arXiv:2303.18150): the two-angle BIB-AE.

Critics compare the showers of a batch, a second one begins anew in every epoch, and a flow draws the energy of the shower and the
latents.
"""

from __future__ import annotations

from typing import Literal

from caloforge.detectors import Detector
from caloforge.models import Difference
from caloforge.nn.bottleneck import GridHead, TwoAngleHead
from caloforge.parts.bottleneck_model import BottleneckModel
from caloforge.parts.bottleneck_settings import BottleneckConfig
from caloforge.parts.bottleneck_stages import bottleneck_stages
from caloforge.parts.differences import BOTTLENECK_DIFFERENCES
from caloforge.stage import Stage, TrainingConfig

__all__ = ["BibAETwoAngles", "BibAETwoAnglesConfig"]


class BibAETwoAnglesConfig(BottleneckConfig):
    """Configuration: the keys of :class:`~caloforge.parts.bottleneck_settings.BottleneckConfig`."""

    sampling: Literal["total", "layers"] = "layers"


class BibAETwoAngles(BottleneckModel):
    """The autoencoder with the direction among its conditions.

    Args:
        config: sizes and constants.
        detector: see :class:`~caloforge.parts.bottleneck_model.BottleneckModel`.

    Raises:
        ConfigError: as :class:`~caloforge.parts.bottleneck_model.BottleneckModel` does.
    """

    kind = "bib-ae-two-angles"
    Config = BibAETwoAnglesConfig
    differences = (
        *BOTTLENECK_DIFFERENCES,
        Difference(
            "drawn energies",
            "of the whole shower, kept by a factor on all cells",
            "of every layer, conditions of all networks, and kept",
            "few numbers carry the energy of the shower",
            "sampling",
            ("total", "layers"),
        ),
        Difference(
            "embeddings of logarithms in the critic",
            "those of the energies, and two more that nothing uses",
            "of their own (in both profiles)",
            "the numbers of weights are equal",
        ),
        Difference(
            "image of all showers of a batch",
            "compared by the post-processor, with the weight 1e-4",
            "not compared (in both profiles)",
            "it depends on the size of the batch",
        ),
        Difference(
            "cells of thick absorbers",
            "layers from number 20 on times 2.03 before training",
            "as the file has them (in both profiles)",
            "a matter of the data",
        ),
        Difference(
            "kernels between cells",
            "0.11 and 0.35 MeV wide",
            "a quarter of a decade of a logarithm, and 0.8 (goes with the cells compared)",
            "fit any readout",
            "hit_kernels",
            ([40.0, 4.0], [8.0, 0.8]),
        ),
    )
    recipe = "two-angles"
    knows_direction = True
    post_norm = False
    post_bias = True
    hidden_layers = 2
    config: BibAETwoAnglesConfig

    def __init__(self, config: BibAETwoAnglesConfig, detector: Detector) -> None:
        super().__init__(config, detector)

    def published_head(self, width: int) -> GridHead:
        """See :meth:`caloforge.parts.bottleneck_model.BottleneckModel.published_head`."""
        return TwoAngleHead(width, self.grid, self.config.channels)

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """See :func:`caloforge.parts.bottleneck_stages.bottleneck_stages`."""
        return bottleneck_stages(self, training)
