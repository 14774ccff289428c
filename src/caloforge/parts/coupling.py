"""A coupling flow of a model: its size and how it is built."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from caloforge.nn.coupling import CouplingFlow
from caloforge.nn.permutations import random_all, reverse_all
from caloforge.nn.splines import SplineSettings
from caloforge.validation import Count, Settings, Size

__all__ = ["CouplingSize"]


class CouplingSize(Settings):
    """Size and kind of a coupling flow.

    Attributes:
        blocks: coupling blocks.
        hidden_features: units of each hidden layer of a block's network.
        layers: linear layers of a block's network.
        spline: ``rqs`` or ``cubic``.
        bins: spline bins.
        bound: the splines act on [-bound, bound].
        least: smallest relative bin width and height and smallest interior derivative.
        act_norm: trainable scale and shift of every variable in front of every block but the first.
        batch_norm: normalise the hidden layers over the batch.
        dropout: dropout probability while training.
        permutations: between blocks, ``random`` fixed ones or the plain ``reverse``.
        permutation_seed: seed of the fixed random permutations.
    """

    blocks: Count = 12
    hidden_features: Size = 256
    layers: Count = 4
    spline: Literal["rqs", "cubic"] = "rqs"
    bins: Annotated[int, Field(ge=2)] = 10
    bound: Annotated[float, Field(gt=0)] = 21.0
    least: Annotated[float, Field(gt=0, lt=0.1)] = 1e-3
    act_norm: bool = True
    batch_norm: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    permutations: Literal["random", "reverse"] = "random"
    permutation_seed: Annotated[int, Field(ge=0, lt=2**64)] = 0

    @model_validator(mode="after")
    def _bins_fit(self) -> Self:
        if self.least * self.bins >= 1:
            raise ValueError(f"{self.bins} bins of at least {self.least:g} of the interval do not fit into it")
        return self

    def flow(self, features: int, context_features: int, *, whole_rows: bool = False) -> CouplingFlow:
        """A flow of this size, with random weights.

        Args:
            features: number of variables.
            context_features: number of conditions.
            whole_rows: see :class:`~caloforge.nn.coupling.SplineCoupling`.
        """
        return CouplingFlow(
            features=features,
            context_features=context_features,
            blocks=self.blocks,
            hidden_features=self.hidden_features,
            layers=self.layers,
            permutations=[
                reverse_all(features)
                if self.permutations == "reverse"
                else random_all(features, seed=self.permutation_seed, stream=k)
                for k in range(self.blocks - 1)
            ],
            spline=self.spline,
            splines=SplineSettings(self.bins, self.bound, self.least, self.least, self.least),
            act_norm=self.act_norm,
            batch_norm=self.batch_norm,
            dropout=self.dropout,
            whole_rows=whole_rows,
        )
