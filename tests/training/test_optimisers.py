from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from caloforge.stage import (
    ConstantSchedule,
    CosineSchedule,
    CyclicSchedule,
    ExponentialSchedule,
    LinearSchedule,
    MilestoneSchedule,
    OneCycleSchedule,
    OptimiserConfig,
)
from caloforge.training.optimisers import apply_schedule, make_optimiser, scheduled

STEPS, PER_EPOCH = 120, 10


def torch_rates(make, *, per_epoch=False, lr=1e-3):
    """Learning rates and momenta that torch's own scheduler gives, step by step."""
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.Adam([parameter], lr=lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the schedulers complain about an optimiser that never steps
        scheduler = make(optimiser)
        rates = []
        for step in range(STEPS):
            rates.append((optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["betas"][0]))
            if step < STEPS - 1 and (not per_epoch or (step + 1) % PER_EPOCH == 0):
                scheduler.step()
    return rates


def our_rates(schedule, lr=1e-3):
    return [scheduled(schedule, lr, k, steps=STEPS, steps_per_epoch=PER_EPOCH) for k in range(STEPS)]


@pytest.mark.parametrize("three_phases", [False, True])
@pytest.mark.parametrize("rise", [0.3, 0.4, 0.45])
def test_one_cycle_is_torchs(rise, three_phases):
    schedule = OneCycleSchedule(rise_fraction=rise, three_phases=three_phases)
    expected = torch_rates(
        lambda o: lr_scheduler.OneCycleLR(o, 1e-3, total_steps=STEPS, pct_start=rise, three_phase=three_phases)
    )
    for (rate, momentum), (wanted, wanted_momentum) in zip(our_rates(schedule), expected, strict=True):
        assert rate == pytest.approx(wanted, rel=1e-9, abs=1e-18)
        assert momentum == pytest.approx(wanted_momentum, rel=1e-12)


def test_one_cycle_without_momentum_leaves_it_alone():
    assert {m for _, m in our_rates(OneCycleSchedule(momentum=None))} == {None}


def test_cyclic_is_torchs_triangular2():
    expected = torch_rates(
        lambda o: lr_scheduler.CyclicLR(o, 5e-5, 2e-3, step_size_up=17, mode="triangular2", cycle_momentum=False)
    )
    rates = our_rates(CyclicSchedule(minimum=5e-5, steps_up=17), lr=2e-3)
    assert [r for r, _ in rates] == pytest.approx([r for r, _ in expected], rel=1e-9)


def test_milestones_are_torchs():
    expected = torch_rates(lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 7], gamma=0.5), per_epoch=True)
    assert [r for r, _ in our_rates(MilestoneSchedule(epochs=(2, 5, 7)))] == [r for r, _ in expected]


def test_exponential_is_torchs():
    expected = torch_rates(lambda o: lr_scheduler.ExponentialLR(o, 0.9), per_epoch=True)
    rates = our_rates(ExponentialSchedule(factor=0.9))
    assert [r for r, _ in rates] == pytest.approx([r for r, _ in expected], rel=1e-12)


def test_cosine_without_warmup_is_torchs():
    expected = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS - 1, eta_min=1e-5))
    rates = our_rates(CosineSchedule(final_fraction=0.01))
    assert [r for r, _ in rates] == pytest.approx([r for r, _ in expected], rel=1e-6)


def test_linear_is_torchs():
    expected = torch_rates(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=STEPS - 1))
    rates = our_rates(LinearSchedule(final_fraction=0.1))
    assert [r for r, _ in rates] == pytest.approx([r for r, _ in expected], rel=1e-9)
    assert our_rates(LinearSchedule())[-1][0] == 0


def test_cosine_warms_up_from_above_zero():
    rates = [r for r, _ in our_rates(CosineSchedule(warmup_fraction=0.25))]
    assert rates[0] > 0
    assert rates[:30] == sorted(rates[:30])
    assert rates[30] == max(rates) == 1e-3
    assert rates[-1] == pytest.approx(0, abs=1e-15)


def test_constant():
    assert set(our_rates(ConstantSchedule())) == {(1e-3, None)}


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "radam"])
def test_optimisers_agree_with_plain_torch(name):
    def parameter():
        return nn.Parameter(torch.linspace(-1, 1, 50))

    config = OptimiserConfig(name=name, learning_rate=0.01, betas=(0.8, 0.99), weight_decay=0.1)
    plain = {
        "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99), weight_decay=0.1, foreach=False),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.99), weight_decay=0.1, foreach=False),
        "radam": lambda p: torch.optim.RAdam(p, lr=0.01, betas=(0.8, 0.99), weight_decay=0.1, foreach=False),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.8, weight_decay=0.1, foreach=False),
    }[name]
    ours, theirs = parameter(), parameter()
    for weights, optimiser in ((ours, make_optimiser(config, [ours])), (theirs, plain([theirs]))):
        for k in range(20):
            optimiser.zero_grad()
            (weights**3 * (k % 3)).sum().backward()
            optimiser.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "key"), [("adam", "betas"), ("sgd", "momentum")])
def test_apply_schedule_sets_rate_and_momentum(name, key):
    optimiser = make_optimiser(OptimiserConfig(name=name), [nn.Parameter(torch.zeros(2))])
    apply_schedule(optimiser, 0.5, 0.7)
    group = optimiser.param_groups[0]
    assert group["lr"] == 0.5
    assert group[key] == (0.7 if name == "sgd" else (0.7, 0.999))
    apply_schedule(optimiser, 0.25, None)
    assert group["lr"] == 0.25
    assert group[key] == (0.7 if name == "sgd" else (0.7, 0.999))
