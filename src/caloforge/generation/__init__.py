"""Generation: from conditions to showers, the same ones for any batch size and number of workers."""

from caloforge.generation.conditions import (
    ConditionSource,
    ListedConditions,
    SpectrumConditions,
    conditions_of_file,
    refuse_other_particle,
)
from caloforge.generation.generate import GenerationResult, generate
from caloforge.generation.likelihood import LikelihoodResult, likelihood
from caloforge.generation.sampling import Sample, Timing, borrowed, generation_streams, sample_showers

__all__ = [
    "ConditionSource",
    "GenerationResult",
    "LikelihoodResult",
    "ListedConditions",
    "Sample",
    "SpectrumConditions",
    "Timing",
    "borrowed",
    "conditions_of_file",
    "generate",
    "generation_streams",
    "likelihood",
    "refuse_other_particle",
    "sample_showers",
]
