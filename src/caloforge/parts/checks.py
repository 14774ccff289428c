"""Checks that several models make when they are built."""

from __future__ import annotations

from caloforge.detectors import Detector
from caloforge.errors import ConfigError
from caloforge.representation import Logit, LogMargin

__all__ = ["check_margin", "check_voxels"]


def check_margin(margin: Logit | LogMargin, bound: float, flow: str) -> None:
    """Refuse a margin whose logits or logarithms of empty voxels and layers lie beyond the splines that learn them.

    Splines are the identity outside their interval, so a flow would learn nothing there, without a word.

    Args:
        margin: the last step of the representation.
        bound: the splines act on [-bound, bound].
        flow: name of the flow.

    Raises:
        ConfigError: naming the margin, how far it reaches, and the bound.
    """
    if margin.reach > bound:
        name = "logit" if isinstance(margin, Logit) else "logarithm"
        raise ConfigError(
            f"a {name} with the margin {margin.alpha:g} reaches {margin.reach:.1f}, where the splines of the flow '{flow}', "
            f"which end at {bound:g}, learn nothing: the margin or the bound must be larger"
        )


def check_voxels(kind: str, detector: Detector) -> None:
    """Refuse a detector without voxels.

    Raises:
        ConfigError: naming the kind of the model and the detector.
    """
    if not detector.readout.has_voxels:
        raise ConfigError(f"the model '{kind}' needs voxels, the detector '{detector.name}' is read out as points")
