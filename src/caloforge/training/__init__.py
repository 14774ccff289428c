"""Training: one visible loop over the stages that a model declares, which can be stopped and resumed at any moment."""

from caloforge.training.loop import StageResult
from caloforge.training.run import TrainingResult, train

__all__ = ["StageResult", "TrainingResult", "train"]
