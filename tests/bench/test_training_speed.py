"""The comparison of training speeds: that it compares the same thing, and counts what it says it counts."""

from __future__ import annotations

import builtins

import pytest
import torch
from toy_model import toy_file

from caloforge.bench.models import in_float32
from caloforge.bench.training import compare_with_nflows, measure_training, nflows_twin
from caloforge.errors import ConfigError, MissingDependencyError, UsageError
from caloforge.models import load_preset
from caloforge.nn import MaskedAutoregressiveFlow

SMALL = (
    "model.shapes.hidden_features=9", "model.shapes.blocks=2", "model.energies.blocks=1", "training.batch_size=20",
)  # fmt: skip


def flow(masks="published", dropout=0.0):
    torch.manual_seed(1)
    return MaskedAutoregressiveFlow(
        features=7, context_features=2, blocks=3, hidden_features=12, hidden_layers=1, dropout=dropout, masks=masks,
        permutations=[[6, 5, 4, 3, 2, 1, 0]] * 2,
    )  # fmt: skip


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_the_twin_has_the_same_losses_and_gradients(dtype, tolerance):
    ours = flow(dropout=0.3).to(dtype)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    x, context = 3 * torch.randn(40, 7, dtype=dtype), torch.randn(40, 2, dtype=dtype)
    agreement = compare_with_nflows(ours, x, context)
    assert agreement.loss < tolerance / 10
    assert agreement.gradient <= agreement.worst_tensor < tolerance
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    assert ours.training
    assert all(p.grad is None for p in ours.parameters())


def test_a_wrong_gradient_shows(monkeypatch):
    ours, original = flow(), MaskedAutoregressiveFlow.log_prob

    def wrong(self, x, context=None):
        value = original(self, x, context)
        return value + 0.01 * (self.blocks[0].conditioner.output_layer.bias ** 2).sum()

    monkeypatch.setattr(MaskedAutoregressiveFlow, "log_prob", wrong)
    agreement = compare_with_nflows(ours, torch.randn(40, 7), torch.randn(40, 2))
    assert agreement.gradient > 1e-4
    assert agreement.loss > 1e-5


def test_the_peer_trains_with_the_dropout_of_the_flow():
    twin = nflows_twin(flow(dropout=0.3)).train()
    assert {m.p for m in twin.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}


def test_measurement_of_a_small_flow():
    speed = measure_training(overrides=SMALL, rounds=1, steps=2, threads=1)
    assert set(speed.times) == {"loop", "flow", "flow bfloat16", "nflows"}
    assert (speed.batch_size, speed.threads) == (20, 1)
    small = load_preset("caloflow-calogan-gamma", SMALL)
    assert speed.parameters < 504 * 23 * 12 * 2
    assert small.training.batch_size == 20
    assert [time.steps for time in speed.times.values()] == [2, 4, 4, 4]
    for time in speed.times.values():
        assert 0 < time.forward < time.step
        assert time.showers_per_second == pytest.approx(20_000 / time.step)
    assert speed.speedup == speed.times["nflows"].step / speed.times["loop"].step
    assert speed.agreement.loss < 1e-6
    assert speed.agreement.gradient < 1e-4
    assert speed.agreement_at_start.loss < 1e-6
    assert speed.agreement_float64.gradient < 1e-11
    # At the start splines are steep: float32 by itself is off by more than the two are from each other.
    assert speed.agreement_at_start.gradient < min(speed.rounding)


def test_without_a_peer(tmp_path):
    speed = measure_training(overrides=SMALL, rounds=1, steps=1, threads=1, against=None, bfloat16=False)
    assert set(speed.times) == {"loop", "flow"}
    assert speed.speedup is None
    assert speed.agreement is None


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="peer 'zuko' is not known"):
        measure_training(against="zuko")
    with pytest.raises(UsageError, match="expected at least 175000"):
        measure_training(steps=1000)
    with pytest.raises(ConfigError, match="meant for the readout"):
        measure_training(data=toy_file(tmp_path / "g.h5", 30))
    with pytest.raises(ConfigError, match="even"):
        nflows_twin(flow(masks="even"))
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("nflows"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="pip install nflows"):
        nflows_twin(flow())


def test_training_is_timed_in_float32_unless_asked_otherwise() -> None:
    """Mutation: leave the preset's precision; published presets train in float64, and all times would be of two kinds."""
    assert load_preset("caloflow-calogan-gamma").training.precision == "float64"
    assert load_preset("caloflow-calogan-gamma", in_float32(())).training.precision == "float32"
    asked = in_float32(["training.precision=float64", "training.epochs=2"])
    assert load_preset("caloflow-calogan-gamma", asked).training.precision == "float64"
