"""Studies: one question, answered by training several models and comparing what they make."""

from caloforge.studies.clouds import CloudStudy, FlowLosses, study_clouds
from caloforge.studies.learning import LearningResult, study_learning
from caloforge.studies.models import study_models
from caloforge.studies.particles import ParticleStudy, study_particles
from caloforge.studies.variants import STUDIES, Study, StudyResult, Variant, VariantScores, run_study

__all__ = [
    "STUDIES",
    "CloudStudy",
    "FlowLosses",
    "LearningResult",
    "ParticleStudy",
    "Study",
    "StudyResult",
    "Variant",
    "VariantScores",
    "run_study",
    "study_clouds",
    "study_learning",
    "study_models",
    "study_particles",
]
