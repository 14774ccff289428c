"""Blocks of flows made of monotonic rational-quadratic splines (``caloforge.kernels.ops.splines``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from caloforge.kernels.ops.linear import Staircase, fits_kernel
from caloforge.kernels.ops.spline_layer import SplineKind, spline_layer
from caloforge.kernels.ops.splines import check_spline_minima, rqs

__all__ = ["SplineBlock", "SplineSettings"]


class LastLayer(Protocol):
    """A linear layer that gives raw spline parameters."""

    @property
    def weight(self) -> Tensor:
        """(D P, H)."""
        ...

    @property
    def bias(self) -> Tensor:
        """(D P,)."""
        ...

    @property
    def __call__(self) -> Callable[..., Tensor]:
        """Raw parameters (N, D P) from hidden units (N, H)."""
        ...


@dataclass(frozen=True)
class SplineSettings:
    """What the splines of a flow are like, whatever finds their parameters.

    Attributes:
        bins: spline bins K.
        bound: the splines act on [-bound, bound] and are the identity outside.
        min_bin_width: smallest bin width as a fraction of the interval.
        min_bin_height: smallest bin height as a fraction of the interval.
        min_derivative: smallest interior derivative of a rational-quadratic spline.

    Raises:
        ConfigError: if a setting is out of range.
    """

    bins: int = 8
    bound: float = 14.0
    min_bin_width: float = 1e-6
    min_bin_height: float = 1e-6
    min_derivative: float = 1e-6

    def __post_init__(self) -> None:
        check_spline_minima(self.bins, self.bound, self.min_bin_width, self.min_bin_height, self.min_derivative)


class SplineBlock(nn.Module):
    """A block of a flow whose rational-quadratic splines get their raw parameters from a network.

    Args:
        splines: bins, interval and least sizes.
    """

    #: What the splines are; see :meth:`spline`.
    kind: SplineKind = "rqs"

    def __init__(self, splines: SplineSettings) -> None:
        super().__init__()
        self.bins = splines.bins
        self.bound = splines.bound
        self.min_bin_width = splines.min_bin_width
        self.min_bin_height = splines.min_bin_height
        self.min_derivative = splines.min_derivative

    @property
    def spline_shape(self) -> tuple[float, ...]:
        """Bound, smallest relative bin width and height, smallest derivative."""
        return self.bound, self.min_bin_width, self.min_bin_height, self.min_derivative

    def spline(self, values: Tensor, raw_parameters: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """Apply this block's splines for given raw parameters (..., P) to ``values`` (...), element by element.

        Returns:
            Outputs and elementwise log-derivatives (nats), both shaped as ``values``.
        """
        return rqs(
            values,
            raw_parameters,
            bound=self.bound,
            min_bin_width=self.min_bin_width,
            min_bin_height=self.min_bin_height,
            min_derivative=self.min_derivative,
            inverse=inverse,
        )

    def spline_layer(
        self, values: Tensor, hidden: Tensor, last: LastLayer, *, inverse: bool = False, keep_raw: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Apply this block's splines to ``values``, for raw parameters that a linear layer makes of hidden units.

        Args:
            values: (N, D).
            hidden: (N, H).
            last: the layer; a masked one has a ``Staircase`` as its ``stairs``.
            inverse: whether the inverse splines are applied.
            keep_raw: whether the raw parameters are wanted.

        Returns:
            Outputs (N, D), log-determinants (N,) in nats, and the raw parameters in tiles of rows, see
            :func:`caloforge.kernels.ops.spline_layer.spline_layer`.
        """
        if fits_kernel(values, hidden, last.weight, last.bias):
            stairs: Staircase | None = getattr(last, "stairs", None)
            return spline_layer(
                values, hidden, last.weight, last.bias, self.spline_shape, kind=self.kind, stairs=stairs,
                inverse=inverse, keep_raw=keep_raw,
            )  # fmt: skip
        raw = last(hidden).view(*values.shape, -1)
        outputs, logabsdet = self.spline(values, raw, inverse=inverse)
        return outputs, logabsdet.sum(dim=-1), raw.permute(1, 2, 0)[None]
