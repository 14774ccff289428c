"""Energies of layers as fractions, and energies as conditions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError, ShowerFileError
from caloforge.units import format_energy

__all__ = ["EnergyFractions", "EnergyScale", "FixedEnergy", "LogEnergy", "SingleFractions"]

#: Keeps 0/0 at zero where layers are exactly empty, MeV; the published constant is as far below any noise.
_TINY = 1e-16


def _running_product(values: Tensor) -> Tensor:
    """Running product along the columns (N, L); in single steps in a graph, since ONNX has no such operator."""
    if not torch.compiler.is_compiling():
        return torch.cumprod(values, dim=1)
    products = [values[:, 0]]
    for column in values.unbind(1)[1:]:
        products.append(products[-1] * column)
    return torch.stack(products, dim=1)


class EnergyFractions(nn.Module):
    """Energies of L layers to L recursive fractions in [0, 1] (arXiv:2106.05285, equation 4.1).

    ``u_0 = E_tot / available``, and ``u_i = E_(i-1) / R_i`` for i = 1 .. L - 1, where ``R_i`` is what layers i - 1 and
    deeper hold together. Any u in the unit cube gives energies that sum to at most ``available``.
    """

    def forward(self, layer_energies: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """Energies to fractions.

        Args:
            layer_energies: (N, L), MeV.
            available: the most that a shower can deposit, (N,), MeV.

        Returns:
            Fractions (N, L) and log |det du/dE| (N,), nats. A fraction above 1 says that more than ``available`` is
            there.
        """
        remaining = self._remaining(layer_energies)
        u = torch.cat([remaining[:, :1] / available[:, None], layer_energies[:, :-1] / remaining[:, :-1]], dim=1)
        return u, -self._log_volume(remaining, available)

    def inverse(self, u: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """Fractions (N, L) to energies (N, L) and log |det dE/du| (N,), nats; exact also where 1 - u is tiny."""
        shares = 1 - u[:, 1:]
        ones = torch.ones_like(u[:, :1])
        remaining = u[:, :1] * available[:, None] * _running_product(torch.cat([ones, shares], dim=1))
        energies = torch.cat([remaining[:, :-1] * u[:, 1:], remaining[:, -1:]], dim=1)
        return energies, self._log_volume(remaining + _TINY, available)

    @staticmethod
    def possible(u: Tensor) -> Tensor:
        """Whether fractions (N, L) are of no more energy than is available, bool (N,)."""
        return (u <= 1).all(dim=1)

    def restore(self, u: Tensor, available: Tensor) -> Tensor:
        """Energies (N, L), MeV, of drawn fractions; never more than is available."""
        return self.inverse(u, available)[0]

    @staticmethod
    def _remaining(layer_energies: Tensor) -> Tensor:
        return torch.cumsum(layer_energies.flip(1), dim=1).flip(1) + _TINY

    @staticmethod
    def _log_volume(remaining: Tensor, available: Tensor) -> Tensor:
        return torch.log(available) + torch.log(remaining[:, :-1]).sum(dim=1)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {"transform": "recursive energy fractions"}


class SingleFractions(nn.Module):
    """Energies of L layers to L fractions of what a shower can deposit, each layer by itself (arXiv:2305.11934).

    The mean of a layer's energy depends on nothing but the distribution of its own fraction, whereas a deep layer's
    recursive fractions have to be right together. In return their sum is not bounded: see :meth:`bounded`.
    """

    def forward(self, layer_energies: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (N, L) to fractions (N, L) and log |det du/dE| (N,), nats; see :class:`EnergyFractions`."""
        return layer_energies / available[:, None], -layer_energies.shape[1] * torch.log(available)

    def inverse(self, u: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """Fractions (N, L) to energies (N, L) and log |det dE/du| (N,), nats."""
        return u * available[:, None], u.shape[1] * torch.log(available)

    @staticmethod
    def possible(u: Tensor) -> Tensor:
        """Whether fractions (N, L) are of no more energy than is available, bool (N,)."""
        return u.sum(dim=1) <= 1

    @staticmethod
    def bounded(energies: Tensor, available: Tensor) -> Tensor:
        """Energies (N, L), MeV, those of showers that hold more than is available (N,) scaled down to it.

        A trained flow hardly makes such showers; an untrained one would make a shower of L times the incident energy.
        """
        return energies * (available / energies.sum(dim=1).clamp_min(_TINY)).clamp_max(1)[:, None]

    def restore(self, u: Tensor, available: Tensor) -> Tensor:
        """Energies (N, L), MeV, of drawn fractions, :meth:`bounded` by what is available."""
        return self.bounded(self.inverse(u, available)[0], available)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {"transform": "single energy fractions"}


class EnergyScale(nn.Module):
    """The most that a shower can deposit: ``scale * E_inc + extra``.

    Args:
        scale: the factor, or None if it is to be fitted.
        extra: energy that the particle brings beside its kinetic one, MeV: two electron masses for a positron, the
            rest mass of a meson that decays or is absorbed.
        margin: how much larger than the largest ratio in the training data a fitted scale is, relative.
        clamps: whether a given scale lets rows above it pass, whose fractions are then cut off at 1.

    Raises:
        ConfigError: if a number is out of range.
    """

    value: Tensor

    def __init__(self, scale: float | None, extra: float = 0.0, *, margin: float = 0.01, clamps: bool = False) -> None:
        super().__init__()
        if scale is not None and not scale > 0:
            raise ConfigError(f"the energy scale must be positive, not {scale}")
        if not extra >= 0 or not margin >= 0:
            raise ConfigError(f"extra energy and margin must not be negative, not {extra} and {margin}")
        self.fixed = scale
        self.extra = extra
        self.margin = margin
        self.clamps = clamps
        self.register_buffer("value", torch.tensor(math.nan if scale is None else scale, dtype=torch.float64))

    def forward(self, incident_energy: Tensor) -> Tensor:
        """Most that showers of these kinetic energies (N,), MeV, can deposit, float64 (N,), MeV."""
        return incident_energy.double() * self.value + self.extra

    def fit(self, rows: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Find the scale in the data, or check the given one against them.

        Args:
            rows: deposited and incident energies, (N,) each, MeV, block by block.

        Returns:
            The state of this transform.

        Raises:
            ShowerFileError: if a row deposits more than the given scale allows, or no row deposits anything.
        """
        largest, first = 0.0, 0
        for deposited, incident in rows:
            ratio = (deposited.double() - self.extra) / incident.double()
            worst = int(ratio.argmax())
            value = float(ratio[worst])
            # Files hold float32, so a sum may exceed the limit by rounding alone.
            if self.fixed is not None and not self.clamps and value > self.fixed * (1 + 1e-6):
                raise ShowerFileError(
                    f"training row {first + worst} deposits {format_energy(float(deposited[worst]))} of "
                    f"{format_energy(float(incident[worst]))}, more than the model's energy scale {self.fixed:g} allows; "
                    "set model.energy_scale to null to fit it"
                )
            largest = max(largest, value)
            first += len(ratio)
        if self.fixed is not None:
            return {"value": torch.tensor(self.fixed, dtype=torch.float64)}
        if not largest > 0:
            raise ShowerFileError("no training row deposits any energy, so the energy scale cannot be fitted")
        return {"value": torch.tensor(largest * (1 + self.margin), dtype=torch.float64)}

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        value = float(self.value)
        return {
            "transform": "available energy",
            "scale": None if math.isnan(value) else value,
            "fitted": self.fixed is None,
            "extra_MeV": self.extra,
        }


class FixedEnergy(nn.Module):
    """What layer energies are fractions of, whatever the incident energy (arXiv:2305.11934: 65 GeV).

    Args:
        reference: that energy, MeV.
    """

    def __init__(self, reference: float) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, incident_energy: Tensor) -> Tensor:
        """The energy for each shower, float64 (N,), MeV, from incident energies (N,)."""
        return torch.full_like(incident_energy, self.reference, dtype=torch.float64)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        return {"transform": "fraction of an energy", "reference_MeV": self.reference}


class LogEnergy(nn.Module):
    """``y = factor log10((E + offset) / reference)``, elementwise: energies as conditions of a network.

    Args:
        reference: the energy that maps to 0, MeV.
        offset: what keeps an empty layer finite, MeV.
        factor: on the logarithm, above 0.

    Raises:
        ConfigError: if a number is out of range.
    """

    def __init__(self, reference: float, offset: float = 0.0, *, factor: float = 1.0) -> None:
        super().__init__()
        if not reference > 0 or not offset >= 0 or not factor > 0:
            raise ConfigError(
                f"a log energy needs a positive reference and no negative offset, not {reference} and {offset}"
            )
        self.reference, self.offset, self.factor = reference, offset, factor

    def transform(self, energies: Tensor) -> Tensor:
        """The outputs alone."""
        logarithm = torch.log10((energies + self.offset) / self.reference)
        return logarithm if self.factor == 1 else self.factor * logarithm

    def forward(self, energies: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (N, D), MeV, to conditions (N, D) and log |det| (N,), nats."""
        logdet = -torch.log(energies + self.offset) - math.log(math.log(10) / self.factor)
        return self.transform(energies), logdet.sum(dim=-1)

    def inverse(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Conditions (N, D) to energies (N, D), MeV, and log |det| (N,), nats."""
        shifted = self.reference * torch.pow(10.0, conditions / self.factor)
        return shifted - self.offset, (torch.log(shifted) + math.log(math.log(10) / self.factor)).sum(dim=-1)

    def describe(self) -> dict[str, Any]:
        """What ``model.json`` says about it."""
        factor = {} if self.factor == 1 else {"factor": self.factor}
        return {"transform": "log10 energy", "reference_MeV": self.reference, "offset_MeV": self.offset} | factor
