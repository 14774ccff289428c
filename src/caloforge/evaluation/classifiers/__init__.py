"""Classifiers as two-sample tests: networks as published by CaloFlow and CaloChallenge, and boosted trees."""

from caloforge.evaluation.classifiers.boosted import boosted_test, expected_boosted_seconds
from caloforge.evaluation.classifiers.cross_particle import ParticlePair, cross_particle_test
from caloforge.evaluation.classifiers.multiclass import log_posterior_test
from caloforge.evaluation.classifiers.recipes import RECIPES, ClassifierRecipe, recipe
from caloforge.evaluation.classifiers.retraining import ClassifierSettings, Work
from caloforge.evaluation.classifiers.two_sample import expected_seconds, two_sample_test

__all__ = [
    "RECIPES",
    "ClassifierRecipe",
    "ClassifierSettings",
    "ParticlePair",
    "Work",
    "boosted_test",
    "cross_particle_test",
    "expected_boosted_seconds",
    "expected_seconds",
    "log_posterior_test",
    "recipe",
    "two_sample_test",
]
