"""BIB-AE: a bounded-information-bottleneck autoencoder with critics and a post-processor (arXiv:2005.05334).

The refined sampling of the latents is that of arXiv:2102.12491, with a flow.
"""

from __future__ import annotations

from typing import Literal

from caloforge.detectors import Detector
from caloforge.models import Difference
from caloforge.nn.bottleneck import FixedAngleHead, GridHead
from caloforge.parts.bottleneck_model import BottleneckModel
from caloforge.parts.bottleneck_settings import BottleneckConfig
from caloforge.parts.bottleneck_stages import bottleneck_stages
from caloforge.parts.differences import BOTTLENECK_DIFFERENCES, CUT_FIRST
from caloforge.stage import Stage, TrainingConfig

__all__ = ["BibAE", "BibAEConfig"]


class BibAEConfig(BottleneckConfig):
    """Configuration: the keys of :class:`~caloforge.parts.bottleneck_settings.BottleneckConfig`, and these.

    Attributes:
        planes: whether the decoder's last planes are ``lost`` or ``reached``, see ``FixedAngleHead`` of the networks.
        critic: that of the ``publication``, or the one of arXiv:2303.18150, which sees a ``batch``.
    """

    sampling: Literal["normal", "layers"] = "layers"
    planes: Literal["lost", "reached"] = "reached"
    critic: Literal["publication", "batch"] = "batch"


class BibAE(BottleneckModel):
    """The autoencoder for particles that arrive under one angle.

    Args:
        config: sizes and constants.
        detector: see :class:`~caloforge.parts.bottleneck_model.BottleneckModel`.

    Raises:
        ConfigError: as :class:`~caloforge.parts.bottleneck_model.BottleneckModel` does.
    """

    kind = "bib-ae"
    Config = BibAEConfig
    differences = (
        *BOTTLENECK_DIFFERENCES,
        CUT_FIRST,
        Difference(
            "last planes",
            "get no signal from the first transposed convolution, which ends one cell short of them",
            "every cell is reached (of the published network)",
            "kernel and stride 3 without padding are as many cells",
            "planes",
            ("lost", "reached"),
        ),
        Difference(
            "drawn latents",
            "standard normal",
            "from a flow, with the energies of the layers, which are conditions of all networks and kept",
            "latents are not normal after all (arXiv:2102.12491), nor is the response right",
            "sampling",
            ("normal", "layers"),
        ),
        Difference(
            "critic of showers",
            "sees one shower",
            "compares the showers of a batch too, as that of arXiv:2303.18150 does",
            "sums and spreads of cells",
            "critic",
            ("publication", "batch"),
        ),
        Difference(
            "critics of showers",
            "one",
            "two, of which one begins anew in every epoch",
            "as in arXiv:2303.18150",
            "critics",
            (1, 2),
        ),
        Difference(
            "kernels between cells",
            "0.05 MeV wide, a quarter of what a minimum-ionising particle leaves",
            "a quarter of a decade of a logarithm, and 0.8 (goes with the cells compared)",
            "fit any readout",
            "hit_kernels",
            ([200.0], [8.0, 0.8]),
        ),
        Difference(
            "sorted cells",
            "not compared",
            "squared and absolute differences too",
            "as in arXiv:2303.18150",
            "sorted_weight",
            (0.0, 10.0),
        ),
    )
    recipe = "fixed-angle"
    knows_direction = False
    post_norm = True
    post_bias = False
    hidden_layers = 3
    config: BibAEConfig

    def __init__(self, config: BibAEConfig, detector: Detector) -> None:
        super().__init__(config, detector)

    def published_head(self, width: int) -> GridHead:
        """See :meth:`caloforge.parts.bottleneck_model.BottleneckModel.published_head`."""
        return FixedAngleHead(width, self.grid, self.config.channels, planes=self.config.planes)

    @property
    def batch_statistics(self) -> bool:
        """See :attr:`caloforge.parts.bottleneck_model.BottleneckModel.batch_statistics`."""
        return self.config.critic == "batch"

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """See :func:`caloforge.parts.bottleneck_stages.bottleneck_stages`."""
        return bottleneck_stages(self, training)
