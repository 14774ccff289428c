"""The directory of a training: what was planned, whether it is the same again, who is at work in it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from caloforge.atomic import make_folder, replace_file
from caloforge.errors import OutputError
from caloforge.models import CONTENT, Preset, RunPlan, ShowerModel, write_plan
from caloforge.stage import Stage
from caloforge.training.longer import settings_of
from caloforge.training.state import last_state_file, result_file
from caloforge.validation import first_difference

__all__ = ["Added", "begin", "check_free", "check_same", "clear", "locked"]


def begin(directory: Path, preset: Preset, plan: RunPlan, model: ShowerModel) -> None:
    """Write down what is going to be trained.

    Raises:
        OutputError: if it cannot be written.
    """
    make_folder(directory)
    text = yaml.safe_dump(preset.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    replace_file(directory / "config.yaml", f"# The preset of this training, with all overrides.\n{text}")
    write_plan(
        directory, model, plan.particle, plan.training, others=plan.others, inputs=plan.inputs, details=plan.details
    )


@dataclass(frozen=True)
class Added:
    """Aids that follow the model's own stages, and may be other ones than before.

    Attributes:
        aids: their kinds.
        stages: the names of their stages.
    """

    aids: frozenset[str] = frozenset()
    stages: frozenset[str] = frozenset()

    @classmethod
    def to(cls, former: RunPlan, model: ShowerModel, anew: Collection[str]) -> Added:
        """Those of a model all of whose stages are new, or trained anew."""
        aids, stages = set(), set()
        for helper in model.helpers():
            own = {stage.name for stage in helper.stages(model)}
            if helper.follows and all(name in anew or name not in former.stages for name in own):
                aids.add(helper.kind)
                stages |= own
        return cls(frozenset(aids), frozenset(stages))


_NOTHING = Added()


def check_same(
    directory: Path, former: RunPlan, now: RunPlan, *, anew: Collection[str] = (), added: Added = _NOTHING
) -> None:
    """Refuse to mix two trainings; numbers of epochs may differ, see ``go_on_longer``.

    Args:
        directory: the run.
        former: what was planned.
        now: what is planned now.
        anew: names of stages that are trained anew, whose settings may differ.
        added: aids that may differ.

    Raises:
        OutputError: naming the first difference.
    """
    try:
        difference = first_difference(_identity(former, anew, added), _identity(now, anew, added))
    except (KeyError, TypeError) as error:
        raise OutputError(f"'{directory}' holds a damaged plan.json, which does not say its {error}") from None
    if difference:
        raise OutputError(
            f"'{directory}' holds another training: it was begun with {difference}; choose another directory, or overwrite it"
        )


def _identity(plan: RunPlan, anew: Collection[str], free: Added) -> dict[str, Any]:
    """What has to stay the same, from what a user changes most often to what follows from it."""
    details = plan.details
    return {
        "model": plan.kind,
        "aids": {str(aid.get("kind")): aid for aid in plan.aids if aid.get("kind") not in free.aids},
        "training": settings_of(plan, anew={*anew, *free.stages}),
        "config": plan.config,
        "seed": details["seed"],
        "validation_fraction": details["validation_fraction"],
        "data": {"showers": details["data"]["showers"], "fingerprint": details["data"]["fingerprint"]},
        "particle": plan.particle,
        "detector": plan.detector,
        "inputs": details["inputs"],
        "stages": [name for name in plan.stages if name not in free.stages],
    }


def check_free(directory: Path, stages: Sequence[Stage]) -> None:
    """Refuse to train stages that somebody has begun.

    Raises:
        OutputError: naming the stage.
    """
    for stage in stages:
        if last_state_file(directory, stage.name).exists() or result_file(directory, stage.name).exists():
            raise OutputError(
                f"'{directory}' holds a training already, its stage '{stage.name}' has begun; resume it, overwrite it, or "
                "choose another directory"
            )
    if (directory / "model.json").exists() and not (directory / "plan.json").exists():
        raise OutputError(f"'{directory}' holds a model already; overwrite it, or choose another directory")


def clear(directory: Path, stages: Sequence[str]) -> None:
    """Throw away a training, or some of its stages and the model that was made of them.

    Raises:
        OutputError: if somebody is at work there, or it cannot be removed.
    """
    folder = directory / "stages"
    chosen = list(stages) or ([entry.name for entry in folder.iterdir()] if folder.is_dir() else [])
    doomed = [folder / name for name in chosen]
    doomed += [directory / name for name in (("model.json", "model.safetensors") if stages else CONTENT)]
    with ExitStack() as locks:
        for name in chosen:
            if (folder / name).is_dir():
                locks.enter_context(locked(directory, name))
        for path in doomed:
            try:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"'{path}' cannot be removed ({error.strerror})") from None


@contextmanager
def locked(directory: Path, stage: str) -> Iterator[None]:
    """Keep other processes out of a stage; the system releases the lock of a process that is killed.

    Raises:
        OutputError: if another process trains the stage, or its folder cannot be made.
    """
    folder = directory / "stages" / stage
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"the directory '{folder}' cannot be used ({error.strerror})") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"the stage '{stage}' of '{directory}' is being trained by another process") from None
        yield
    finally:
        os.close(lock)
