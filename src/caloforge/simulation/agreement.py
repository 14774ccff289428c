"""What workers make with Geant4, as long as all of them work with the same."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, Generic, Protocol, TypeVar

from caloforge.errors import SimulationError
from caloforge.executor import Executor
from caloforge.simulation.worker import Facts, died
from caloforge.workers import WorkerDiedError

__all__ = ["AgreedWork"]


class _Told(Protocol):
    """A result that says with what it was made."""

    @property
    def facts(self) -> Facts: ...


R = TypeVar("R", bound=_Told)


class AgreedWork(Generic[R]):
    """Results of the workers of one production, refused as soon as two were made with something else.

    Args:
        executor: who does the work.
        prepare: makes, from the settings, what makes the block of a number, and of None only the facts.
        settings: of the production.
    """

    def __init__(
        self, executor: Executor, prepare: Callable[[Any], Callable[[int | None], R]], settings: object
    ) -> None:
        self._executor, self._prepare, self._settings = executor, prepare, settings
        self._facts: Facts | None = None

    def run(self, todo: Sequence[int | None]) -> Generator[tuple[int | None, R]]:
        """Numbers of blocks with their results, in the order in which they are finished; closing it ends the workers.

        Raises:
            SimulationError: if Geant4 cannot be started or fails, or workers do not work with the same.
        """
        try:
            with closing(self._executor.run(self._prepare, self._settings, todo)) as answers:
                for number, made in answers:
                    self._heard(made.facts)
                    yield number, made
        except WorkerDiedError as error:
            raise died(error) from None

    def facts(self) -> Facts:
        """With what the workers work; one of them is asked if none has said so yet."""
        if self._facts is None:
            for _ in self.run([None]):
                pass
        assert self._facts is not None  # every result has them
        return self._facts

    def _heard(self, told: Facts) -> None:
        if self._facts is None:
            self._facts = told
        ours, theirs = (facts.versions | {"tables": facts.tables.fingerprint} for facts in (self._facts, told))
        if ours != theirs:
            name = next(name for name in ours | theirs if ours.get(name) != theirs.get(name))
            raise SimulationError(
                f"not all workers simulate with the same: {name} {ours.get(name)} and {theirs.get(name)}; finished blocks are "
                "kept and can be resumed"
            )
