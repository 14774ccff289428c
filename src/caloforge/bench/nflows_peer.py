"""nflows 0.14 as a peer: the same flow with the same weights, its training step and its D-pass inverse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caloforge.bench.training import nflows_twin
from caloforge.errors import MissingDependencyError
from caloforge.nn import MaskedAutoregressiveFlow

__all__ = ["build_peer", "invert_peer", "need_nflows", "one_pass"]


def need_nflows() -> None:
    """Make sure that nflows is installed.

    Raises:
        MissingDependencyError: saying how to get it.
    """
    try:
        import nflows  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "nflows is not installed; get it with: pip install nflows==0.14 (it is part of 'make venv')"
        ) from None


def build_peer(flow: MaskedAutoregressiveFlow) -> Any:
    """The nflows flow with the shape, permutations and weights of ours, in evaluation mode.

    Args:
        flow: with published masks, on the CPU, in float32.

    Raises:
        MissingDependencyError: if nflows is not installed.
        ConfigError: if the flow has even masks, which nflows cannot represent.
    """
    need_nflows()
    return nflows_twin(flow).eval()


@torch.no_grad()
def one_pass(peer: Any, z: Tensor, context: Tensor | None) -> None:
    """One of the D identical passes in which nflows inverts a block: all parameters, then all splines."""
    block = peer._transform._transforms[0]
    parameters = block.autoregressive_net(z, context)
    block._elementwise_inverse(z, parameters)


@torch.no_grad()
def invert_peer(peer: Any, z: Tensor, context: Tensor | None) -> Tensor:
    """Inverse by nflows itself, all passes of all blocks."""
    x: Tensor = peer._transform.inverse(z, context)[0]
    return x
