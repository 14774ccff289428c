"""``check_model`` takes a sound model and says of each broken toy what is wrong with it."""

from __future__ import annotations

import pytest
from broken_models import BROKEN, ToyExponential

from caloforge.detectors import Detector
from caloforge.models import ShowerModel
from caloforge.testing import MODEL_CHECKS, CheckFailedError, check_model, toy_detector


def check(cls: type[ToyExponential], **settings: object) -> list[str]:
    def density(detector: Detector) -> ShowerModel:
        return cls(cls.Config(share=0.05), detector)

    model = cls(cls.Config(), toy_detector())
    return check_model(model, density=density, **settings)  # type: ignore[arg-type]


def test_a_sound_model_passes_all_checks() -> None:
    assert check(ToyExponential) == list(MODEL_CHECKS)
    assert check(ToyExponential, only=["showers", "batches"]) == ["showers", "batches"]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda cls: cls.kind)
def test_a_broken_model_is_rejected_by_the_check_for_it(broken: type[ToyExponential]) -> None:
    """Mutation: take away the check; then this toy passes, since it is sound in all other respects."""
    name = BROKEN[broken]
    with pytest.raises(CheckFailedError, match=f"^{name}: ") as caught:
        check(broken, only=[name])
    assert "\n" not in str(caught.value)
    others = [other for other in MODEL_CHECKS if other != name and not (name == "showers" and other == "batches")]
    assert check(broken, only=others) == others


def test_a_likelihood_without_a_density_is_not_passed_over() -> None:
    model = ToyExponential(ToyExponential.Config(), toy_detector())
    with pytest.raises(CheckFailedError, match="density: the model has a likelihood, so 'density' must build it"):
        check_model(model)
    assert check_model(model, density=False) == list(MODEL_CHECKS)
