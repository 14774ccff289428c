"""Stages, players and batches: what the training loop relies on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from caloforge.errors import ModelFileError
from caloforge.random import Streams
from caloforge.stage import GradientStage, OptimiserConfig, StageTraining, VoxelBatch


class Mean(GradientStage):
    """Fits one number."""

    def loss(self, player: str, batch: VoxelBatch, streams: Streams) -> dict[str, Tensor]:
        weight = self.parts["net"].weight
        assert isinstance(weight, Tensor)
        return {"loss": (batch.deposits - weight[0, 0]).square().mean()}


def stage() -> Mean:
    frozen = nn.Linear(1, 1)
    frozen.requires_grad_(False)
    parts = {"net": nn.Linear(1, 1, bias=False), "other": frozen}
    return Mean("mean", parts, StageTraining(epochs=4, batch_size=7, optimiser=OptimiserConfig(learning_rate=0.5)))


def test_one_player_with_all_trainable_parameters_by_default() -> None:
    made = stage()
    (player,) = made.players
    assert [p.shape for p in player.parameters] == [(1, 1)]
    assert player.optimiser.learning_rate == 0.5
    assert player.steps_per_batch == 1
    assert (made.epochs, made.batch_size) == (4, 7)


def test_validation_is_the_loss_unless_overridden() -> None:
    made = stage()
    batch = VoxelBatch(deposits=torch.ones(3, 2), incident_energy=torch.ones(3), row=torch.arange(3))
    with torch.no_grad():
        assert torch.equal(
            made.validate(batch, Streams(0, "v"))["loss"], made.loss("main", batch, Streams(0, "v"))["loss"]
        )


def test_state_has_the_names_of_the_model_and_comes_back_in_its_precision() -> None:
    made, other = stage(), stage()
    assert sorted(made.state()) == ["net.weight", "other.bias", "other.weight"]
    other.load_state({name: value.double() for name, value in made.state().items()})
    assert torch.equal(other.state()["net.weight"], made.state()["net.weight"])
    assert other.state()["net.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net.weight": None}, "lacks the tensor 'net.weight'"),
        ({"surprise": torch.zeros(1)}, "has the tensor 'surprise', which the model has not"),
        ({"net.weight": torch.zeros(2, 1)}, r"'net.weight' of stage 'mean' has shape \(2, 1\), expected \(1, 1\)"),
    ],
)
def test_states_that_do_not_fit_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    state: dict[str, Tensor | None] = dict(stage().state()) | change
    with pytest.raises(ModelFileError, match=message):
        stage().load_state({name: value for name, value in state.items() if value is not None})


def test_a_batch_moves_without_its_row_numbers() -> None:
    batch = VoxelBatch(
        deposits=torch.ones(3, 2),
        incident_energy=torch.ones(3),
        row=torch.arange(3),
        epoch=5,
        overflow=torch.zeros(3, 1),
        direction=torch.ones(3, 3),
    )
    moved = batch.to("meta")
    assert moved.deposits.device.type == "meta"
    assert moved.overflow is not None
    assert moved.overflow.device.type == "meta"
    assert moved.row.device.type == "cpu"
    assert (moved.epoch, len(moved)) == (5, 3)
