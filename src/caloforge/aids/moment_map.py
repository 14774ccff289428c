"""A map of the outputs of the flow of the profiles, behind which they have the moments of the training showers.

With b the functions of the condition in ``condition_functions``, outputs y become
``b real_mean + spread ((y - b made_mean) sqrt(b real_variance / b made_variance))``, where of the variances' b only the first two
functions are taken, 1 and the incident energy. The flow is sampled under the conditions of the training showers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from caloforge.aids.trend import same_variance, variance_of
from caloforge.errors import TrainingError
from caloforge.models import Aid, ShowerModel, only_module
from caloforge.parts.point_model import PointCloudModel
from caloforge.parts.profile_flow import features_and_conditions
from caloforge.random import Streams
from caloforge.representation import CONDITION_FUNCTIONS, CloudProfiles
from caloforge.stage import FitStage, Stage, TrainingData
from caloforge.validation import Settings

__all__ = ["DRAWS", "MomentMap", "MomentMapSettings", "Moments", "covariance_map"]

#: The flow is asked so many times about every training shower.
DRAWS = 4


@dataclass(frozen=True)
class Moments:
    """Mean and variance of numbers under their conditions, and what is left when the mean is taken off.

    Attributes:
        mean: coefficients of ``condition_functions``, (7, F).
        variance: coefficients of its first two functions, or of others, (2, F).
        rest: outputs without their mean, (N, F).
        functions: ``condition_functions`` of the conditions, (N, 7).
    """

    mean: Tensor
    variance: Tensor
    rest: Tensor
    functions: Tensor

    @classmethod
    def of(cls, functions: Tensor, outputs: Tensor, terms: Tensor | None = None) -> Moments:
        """By least squares; the variance is made up of ``terms`` (N, 2), or of the first two functions."""
        # Columns may be equal (all showers along +z), so the shortest of all solutions is taken.
        mean = torch.linalg.pinv(functions, rtol=1e-6) @ outputs
        rest = outputs - functions @ mean
        terms = functions[:, :2] if terms is None else terms
        return cls(mean, torch.linalg.pinv(terms, rtol=1e-6) @ rest.square(), rest, functions)


class MomentMapSettings(Settings):
    """Settings of the map.

    Attributes:
        moments: what outputs get from the training showers: means and ``variances`` at each energy, or correlations besides
            (``covariance``).
    """

    moments: Literal["variances", "covariance"] = "covariance"


class MomentMap(Aid):
    """Maps the outputs of the flow of the profiles.

    Attributes:
        made_mean: mean of the flow's outputs, coefficients of ``condition_functions``, (7, F).
        real_mean: what it is to be, (7, F).
        made_variance: variance of the flow's outputs, (2, F).
        real_variance: what it is to be, (2, F).
        spread: what makes the correlations agree, (F, F).
    """

    kind = "moment-map"
    title: ClassVar[str] = "the flow of the profiles gets means, variances and correlations of the training showers"
    Config = MomentMapSettings
    config: MomentMapSettings
    made_mean: Tensor
    real_mean: Tensor
    made_variance: Tensor
    real_variance: Tensor
    spread: Tensor

    def __init__(self, config: MomentMapSettings, model: ShowerModel) -> None:
        super().__init__(config, model)
        profiles = only_module(model, CloudProfiles, self.kind)
        features = profiles.features
        for name in ("made_mean", "real_mean"):
            self.register_buffer(name, torch.zeros(CONDITION_FUNCTIONS, features, dtype=torch.float64))
        for name in ("made_variance", "real_variance"):
            self.register_buffer(name, same_variance(features))
        self.register_buffer("spread", torch.eye(features, dtype=torch.float64))
        self._functions = profiles.functions
        profiles.put("outputs", self.mapped)

    def mapped(self, raw: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Outputs of the flow behind the map, (N, F)."""
        functions = self._functions(conditions)
        stretched = (raw.double() - functions @ self.made_mean.double()) * self.gain(functions)
        return torch.addmm(functions @ self.real_mean.double(), stretched, self.spread.double().T).to(raw.dtype)

    def gain(self, functions: Tensor) -> Tensor:
        """Ratio of the standard deviations, (N, F); variances of scaled outputs are around one."""
        return torch.sqrt(variance_of(functions, self.real_variance) / variance_of(functions, self.made_variance))

    def stages(self, model: ShowerModel) -> list[Stage]:
        """The fit, behind the flow."""
        assert isinstance(model, PointCloudModel)  # it has profiles
        return [_MapStage(self, model)]

    def constants(self) -> dict[str, Tensor]:
        """See :meth:`caloforge.models.Aid.constants`."""
        return {name: value for name, value in self.named_buffers() if name != "spread" or self._correlated}

    @property
    def _correlated(self) -> bool:
        return self.config.moments == "covariance"


class _MapStage(FitStage):
    def __init__(self, aid: MomentMap, model: PointCloudModel) -> None:
        super().__init__("moment-map", {"aids.moment-map": aid}, needs=("scales", "flow"))
        self.aid, self.model = aid, model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        model, size = self.model, self.model.flow.features
        real, sample = [], []
        # Of few showers each is asked about more often, so that the flow's own covariance is always known well.
        draws = max(DRAWS, -(-4 * size // max(len(data), 1)))
        for batch in data:
            features, conditions = features_and_conditions(model, batch, streams)
            functions, scale = model.profiles.functions(conditions), model.profiles.scale_of(conditions)
            real.append((functions, (features - scale.mean) / scale.std))
            for draw in range(draws):
                drawn = streams.child("spread").normal(batch.row.numpy(), size, draw)
                raw = model.flow_outputs(conditions, torch.from_numpy(drawn).to(features.device))
                good = model.profiles_of(scale.mean + raw.double() * scale.std).valid
                good &= torch.isfinite(raw).all(dim=1)
                sample.append((functions[good], raw[good].double()))
        if not sum(len(functions) for functions, _ in sample):
            raise TrainingError("all showers of the flow are unphysical, so its moments cannot be corrected")
        wanted, has = (
            Moments.of(*(torch.cat(parts) for parts in zip(*pairs, strict=True))) for pairs in (real, sample)
        )
        state = {
            "real_mean": wanted.mean, "real_variance": wanted.variance,
            "made_mean": has.mean, "made_variance": has.variance, "spread": torch.eye(size, dtype=torch.float64),
        }  # fmt: skip
        if self.aid.config.moments == "covariance":
            gain = torch.sqrt(variance_of(has.functions, wanted.variance) / variance_of(has.functions, has.variance))
            covariance = (_covariance(has.rest * gain), _covariance(wanted.rest))
            state["spread"] = covariance_map(*covariance, len(wanted.rest))
        return {f"aids.moment-map.{name}": value for name, value in state.items()}


def covariance_map(sample: Tensor, real: Tensor, number: int) -> Tensor:
    """Symmetric matrix A with A sample A = real, (F, F): of all that do so, the one that moves normal variables least.

    The covariance of few showers is uncertain, so ``real`` counts as much as its showers and ``made`` as one for each feature.

    Args:
        sample: covariance to start from, float64 (F, F).
        real: covariance to arrive at, float64 (F, F).
        number: showers behind ``real``.

    Source: optimal transport between normal distributions (M. Knott and C. S. Smith, 1984).
    """
    features = len(sample)
    wanted = (number * real + features * sample) / (number + features)
    root, inverse = _power(sample, 0.5), _power(sample, -0.5)
    found = inverse @ _power(root @ wanted @ root, 0.5) @ inverse
    return (found + found.T) / 2


def _covariance(rows: Tensor) -> Tensor:
    """Of rows (N, F) whose mean is zero, (F, F)."""
    return rows.T @ rows / len(rows)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Power of a symmetric matrix without negative eigenvalues; those that rounding alone tells from zero are raised."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(1e-9 * float(values[-1].clamp_min(1e-300)))
    result: Tensor = (vectors * values**exponent) @ vectors.T
    return result
