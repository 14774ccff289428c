"""Blocks of flows made of monotonic rational-quadratic splines (``caloforge.kernels.ops.splines``)."""

from __future__ import annotations

from torch import Tensor, nn

from caloforge.kernels.ops.splines import check_spline_minima, rqs

__all__ = ["SplineBlock"]


class SplineBlock(nn.Module):
    """A block of a flow whose rational-quadratic splines get their raw parameters from a network.

    Args:
        bins: Spline bins K.
        bound: The splines act on [-bound, bound].
        min_bin_width: Smallest bin width as a fraction of the interval.
        min_bin_height: Smallest bin height as a fraction of the interval.
        min_derivative: Smallest interior derivative.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(
        self, bins: int, bound: float, min_bin_width: float, min_bin_height: float, min_derivative: float
    ) -> None:
        super().__init__()
        check_spline_minima(bins, bound, min_bin_width, min_bin_height, min_derivative)
        self.bins = bins
        self.bound = bound
        self.min_bin_width = min_bin_width
        self.min_bin_height = min_bin_height
        self.min_derivative = min_derivative

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
