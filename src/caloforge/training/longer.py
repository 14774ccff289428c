"""How long stages are trained, and what may change when a training goes on.

More epochs where the schedule allows it, anything for stages trained anew.

A learning rate that is a function of the step alone (constant, milestones, exponential, cyclic) does not know how long the
training is going to be, so a longer one begins with the very same steps as a shorter one, and a finished stage can go
on. Cosine, linear and one-cycle schedules stretch over all epochs: with another number of them every step would be another.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from caloforge.arguments import argument, given, is_typed, switch
from caloforge.errors import OutputError
from caloforge.models import RunPlan
from caloforge.stage import CosineSchedule, GradientStage, LinearSchedule, OneCycleSchedule, Stage, TrainingConfig
from caloforge.training.data import TrainingSet
from caloforge.training.state import last_state_file, read_counters, reopen

__all__ = ["batches_per_round", "go_on_longer", "in_epochs", "rounds_per_epoch", "settings_of", "stretches"]


def batches_per_round(stage: GradientStage) -> int:
    """Batches that all turns of all players take together."""
    return sum(player.steps_per_batch for player in stage.players) if stage.fresh_batches else 1


def rounds_per_epoch(stage: GradientStage, data: TrainingSet) -> int:
    """How often all players have their turns in an epoch."""
    return data.steps_per_epoch(min(stage.batch_size, len(data.training_rows))) // batches_per_round(stage)


def in_epochs(training: TrainingConfig, stages: Sequence[Stage], rows: TrainingSet) -> TrainingConfig:
    """The settings with numbers of epochs where the preset counts steps, or a stage brings its own; the stages are told."""
    found = {}
    for stage in stages:
        if not isinstance(stage, GradientStage):
            continue
        if stage.training.steps is not None:
            # A stage that has too few rows for a round is refused by the loop.
            found[stage.name] = math.ceil(stage.training.steps / max(rounds_per_epoch(stage, rows), 1))
            stage.training = stage.training.model_copy(update={"epochs": found[stage.name]})
        elif stage.epochs != training.for_stage(stage.name).epochs:
            found[stage.name] = stage.epochs
    return training.with_epochs(found)


def settings_of(plan: RunPlan, *, anew: Collection[str]) -> dict[str, Any]:
    """The training settings of each stage, without those of stages that are trained anew, and without lengths."""
    found = {}
    for name in plan.stages:
        if name not in anew:
            found[name] = plan.training.for_stage(name).model_dump(mode="json", exclude={"epochs", "steps"})
    return found


def stretches(stage: GradientStage) -> str:
    """The schedule of a stage that depends on how long it is trained; empty if none does."""
    kinds = [
        player.schedule.kind
        for player in stage.players
        if isinstance(player.schedule, CosineSchedule | LinearSchedule | OneCycleSchedule)
    ]
    return kinds[0] if kinds else ""


def go_on_longer(
    directory: Path,
    former: RunPlan,
    stages: Sequence[Stage],
    chosen: Sequence[Stage],
    anew: Collection[str],
    *,
    writes: bool,
) -> bool:
    """Let stages that have begun go on for more epochs than were planned.

    Args:
        directory: the run.
        former: the plan with which it was begun; all else but epochs is the same now.
        stages: all stages, with their present number of epochs.
        chosen: those that are to be trained now.
        anew: names of stages that are trained anew; for them everything may have changed.
        writes: whether this process writes files.

    Returns:
        Whether anything differs from the former plan, which then has to be written again.

    Raises:
        OutputError: if a schedule forbids it, there are fewer epochs than before, the stage is not among the chosen ones, or
            another stage has learned from it.
    """
    changed = bool(anew)
    begun = {stage.name for stage in stages if last_state_file(directory, stage.name).is_file()} - set(anew)
    longer: list[GradientStage] = []
    for stage in stages:
        if not isinstance(stage, GradientStage) or stage.name in anew:
            continue
        before = former.training.for_stage(stage.name).epochs
        if stage.epochs == before:
            continue
        changed = True
        if stage.name in begun:
            _check(directory, stage, before, stages, chosen, begun)
            longer.append(stage)
    if writes:
        for stage in longer:
            reopen(directory, stage.name)
    return changed


def _check(
    directory: Path,
    stage: GradientStage,
    before: int,
    stages: Sequence[Stage],
    chosen: Sequence[Stage],
    begun: Collection[str],
) -> None:
    where, name = f"'{directory}'", f"the stage '{stage.name}'"
    done = read_counters(directory, stage.name).epoch
    if stage.epochs < max(done, 1):
        raise OutputError(
            f"{where}: {name} has been trained for {done} epochs already, so it cannot end after {stage.epochs}"
        )
    if kind := stretches(stage):
        raise OutputError(
            f"{where}: {name} was begun for {before} epochs, and its schedule '{kind}' stretches over all of them, so it cannot "
            f"go on to {stage.epochs}; constant, milestones, exponential and cyclic schedules can, and "
            f"{_anew(stage.name)} trains it anew"
        )
    if stage.name not in {one.name for one in chosen}:
        raise OutputError(
            f"{where}: {name} was begun for {before} epochs, now it is {stage.epochs}, but it is not among the stages to train; "
            f"name it with {argument('stages', '--stage')} too, or change the epochs of the others only "
            "(training.stages.NAME.epochs)"
        )
    learned = next((one.name for one in stages if stage.name in one.needs and one.name in begun), None)
    if learned is not None:
        raise OutputError(
            f"{where}: {name} cannot go on, since the stage '{learned}' has learned from its result; train both anew with "
            f"{_anew(stage.name, learned)}"
        )


def _anew(*stages: str) -> str:
    return (
        f"{given('stages', *stages, flag='--stage', several=True)} {'' if is_typed() else 'and '}{switch('overwrite')}"
    )
