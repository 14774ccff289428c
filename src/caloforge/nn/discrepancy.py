"""Maximum mean discrepancy: between samples of vectors, and between the cells of two showers in the order of their energies.

Both are the biased estimate with Gaussian kernels exp(-alpha |x - y|^2) (Gretton et al., JMLR 13, 2012, equation 5). Beside
them the energy distance, without bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caloforge.errors import UsageError

__all__ = ["discrepancy", "energy_distance", "sorted_kernel_discrepancy", "windows"]

#: Added to squared distances of rows: their root has no derivative at 0.
_TOUCHING = 1e-8


def discrepancy(x: Tensor, y: Tensor, alphas: Sequence[float]) -> Tensor:
    """Squared discrepancy of two samples, summed over kernels.

    Args:
        x: one sample, (..., N, D).
        y: the other one, (..., M, D).
        alphas: inverse squared widths of the kernels.

    Returns:
        (...,), not negative but for rounding.
    """
    own, other, both = _squares(x, x), _squares(y, y), _squares(x, y)
    total = torch.zeros_like(own[..., 0, 0])
    for alpha in alphas:
        kernels = [torch.exp(-alpha * distance).mean(dim=(-2, -1)) for distance in (own, other, both)]
        total = total + kernels[0] + kernels[1] - 2 * kernels[2]
    return total


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Energy distance 2 E|x - y| - E|x - x'| - E|y - y'| of two samples (G. Szekely, M. Rizzo, J. Stat. Plan. Inf. 143, 2013).

    0 for two samples of one distribution, on the average over samples however few the rows are; so its gradient leads there
    from single batches, which that of a distance between moments or of Wasserstein's does not (arXiv:1705.10743).

    Args:
        x: one sample, (..., N, D), N at least 2.
        y: the other one, of the same shape. Row i of both may be drawn under one condition: the two are not compared.

    Returns:
        (...,).

    Raises:
        UsageError: if there is one row, which has no other one to be compared with.
    """
    if x.shape[-2] < 2:
        raise UsageError(
            "energy distances compare the rows of a batch, so a batch of 1 is too small, expected at least 2"
        )
    pairs = x.shape[-2] * (x.shape[-2] - 1)
    total = torch.zeros_like(x[..., 0, 0])
    for weight, one, other in ((2.0, x, y), (-1.0, x, x), (-1.0, y, y)):
        apart = (one[..., :, None, :] - other[..., None, :, :]).square().sum(dim=-1)
        distance = (apart + _TOUCHING).sqrt()
        own = distance.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        total = total + weight * (distance.sum(dim=(-2, -1)) - own) / pairs
    return total


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (..., N, M) of the rows of (..., N, D) and (..., M, D)."""
    if x.shape[-1] == 1:
        return (x - y.transpose(-2, -1)).square()
    # Written out, since the square root in torch.cdist has no gradient where two rows are the same.
    lengths = x.square().sum(dim=-1, keepdim=True) + y.square().sum(dim=-1)[..., None, :]
    return (lengths - 2 * x @ y.transpose(-2, -1)).clamp_min(0)


def windows(cells: int, *, size: int, stride: int, ranks: int) -> list[slice]:
    """Where the windows of ranks lie: one begins at every ``stride`` of the first ``ranks``; the last may be cut short."""
    return [slice(start, min(start + size, cells)) for start in range(0, min(ranks, cells), stride)]


def sorted_kernel_discrepancy(
    x: Tensor, y: Tensor, alphas: Sequence[float], *, size: int, stride: int, ranks: int
) -> Tensor:
    """Squared discrepancy of the cells of pairs of showers, in windows of neighbouring ranks (arXiv:2005.05334, appendix A.3).

    The cells of each shower are sorted; those of a window of ranks in one shower are one sample, those in the other the other. So
    bright cells are compared with bright ones and faint with faint.

    Args:
        x: cells of showers, (B, V).
        y: cells of as many others, (B, V).
        alphas: inverse squared widths of the kernels, in inverse squared units of the cells.
        size: ranks of a window.
        stride: ranks between the beginnings of windows.
        ranks: windows begin within so many first ranks.

    Returns:
        Mean over the windows, (B,).
    """
    x, y = (cells.sort(dim=1, descending=True).values for cells in (x, y))
    places = windows(x.shape[1], size=size, stride=stride, ranks=ranks)
    found = [discrepancy(x[:, where, None], y[:, where, None], alphas) for where in places]
    return torch.stack(found).mean(dim=0)
