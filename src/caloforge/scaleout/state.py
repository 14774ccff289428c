"""What a coordinator knows of tasks and workers, and when something is wrong with them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from caloforge.errors import CaloForgeError

__all__ = ["ClusterError", "Facts", "InHand", "Rules", "TaskState", "WorkerState"]


class ClusterError(CaloForgeError):
    """A cluster cannot be started or reached, or does not do the work."""


@dataclass(frozen=True)
class Rules:
    """When something is wrong.

    Attributes:
        patience: a task that takes longer than this (s), and than ``factor`` times the median, is redone once.
        factor: see there.
        wait: seconds without a worker of use after which the others are held for all there are.
    """

    patience: float = 60.0
    factor: float = 20.0
    wait: float = 20.0


@dataclass
class Facts:
    """Who took part, over all runs of an executor.

    Attributes:
        workers: address and host, processor of each that did something.
        lost: workers that went away.
        redone: tasks that were done again, for whatever reason.
        refused: what was wrong with those that could not take part, by address.
    """

    workers: dict[str, tuple[str, str]] = field(default_factory=dict)
    lost: int = 0
    redone: int = 0
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class TaskState:
    """A task and what has befallen it so far."""

    number: int
    content: Any
    packed: bytes
    lost: int = 0
    died: int = 0
    hung: int = 0
    tries: int = 0
    done: bool = False
    avoid: str = ""


@dataclass(eq=False)
class InHand:
    """A task that a worker has."""

    task: TaskState
    future: Any
    started: float | None
    finished: bool = False
    fetched: float | None = None
    abandoned: bool = False


@dataclass(eq=False)
class WorkerState:
    """A worker and what it has in hand."""

    address: str
    slots: int
    future: Any = None
    ready: bool = False
    asked: float = 0.0
    directly: bool = False
    stuck: bool = False
    refused: bool = False
    in_hand: list[InHand] = field(default_factory=list)
    name: str = ""

    @property
    def running(self) -> int:
        """Tasks that it is believed to work on."""
        return sum(one.started is not None and not one.finished for one in self.in_hand)

    def start_next(self) -> None:
        """Note that it goes on to its next tasks, in the order in which it got them."""
        free = self.slots - self.running
        for one in self.in_hand:
            if free <= 0:
                return
            if one.started is None and not one.finished:
                one.started = time.monotonic()
                free -= 1
