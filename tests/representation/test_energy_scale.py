"""The most that a shower deposits: fitted, given, checked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from caloforge.errors import ConfigError, ShowerFileError
from caloforge.representation import EnergyScale


def rows(*pairs: tuple[float, float]) -> tuple[Tensor, Tensor]:
    deposited, incident = torch.tensor(pairs, dtype=torch.float64).T
    return deposited, incident


def fitted(scale: EnergyScale, *blocks: tuple[Tensor, Tensor]) -> EnergyScale:
    scale.load_state_dict(scale.fit(blocks))
    return scale


def test_a_fitted_scale_lies_a_margin_above_the_largest_ratio_of_all_blocks() -> None:
    scale = fitted(EnergyScale(None, margin=0.01), rows((5.0, 10.0), (24.0, 10.0)), rows((1.0, 10.0)))
    assert float(scale.value) == pytest.approx(2.4 * 1.01)
    assert float(scale(torch.tensor([100.0]))) == pytest.approx(242.4)


def test_an_unfitted_scale_gives_nan_instead_of_a_guess() -> None:
    assert torch.isnan(EnergyScale(None)(torch.tensor([1.0]))).all()
    assert EnergyScale(None).describe()["scale"] is None


def test_data_above_a_given_scale_are_an_error_that_names_row_and_remedy() -> None:
    with pytest.raises(ShowerFileError, match=r"row 2 deposits 12 MeV of 10 MeV.*energy_scale"):
        EnergyScale(1.0).fit([rows((9.0, 10.0), (8.0, 10.0)), rows((12.0, 10.0))])


def test_a_positron_may_deposit_its_annihilation_energy() -> None:
    scale = fitted(EnergyScale(1.0, extra=1.022), rows((1001.0, 1000.0)))
    assert float(scale(torch.tensor([1000.0], dtype=torch.float64))) == pytest.approx(1001.022)


def test_rounding_of_files_is_forgiven() -> None:
    fitted(EnergyScale(1.0), rows((1000.0003, 1000.0)))


def test_empty_showers_alone_cannot_be_fitted() -> None:
    with pytest.raises(ShowerFileError, match="no training row deposits"):
        EnergyScale(None).fit([rows((0.0, 10.0))])


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"scale": 1.0, "extra": -1.0}])
def test_impossible_constants_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        EnergyScale(**wrong)
