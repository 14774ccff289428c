"""An executor whose workers are those of a Dask cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from caloforge.scaleout.coordinator import Coordinator
from caloforge.scaleout.state import Facts, Rules

__all__ = ["DaskExecutor"]

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


class DaskExecutor:
    """Who does the work are the workers of a Dask cluster; see ``caloforge.executor.Executor``.

    Results are equal to those of one process, whatever happens to workers: a task whose worker is gone is done by another,
    one that takes much longer than the others is done once more, and workers of other versions get none.

    Args:
        client: ``distributed.Client``, connected.
        jobs: number of slots that are expected.
        name: of the cluster, for messages.
        here: whether its workers are processes of this machine, which find what this process finds.
        isolated: whether tasks run in child processes of the workers, as whatever uses torch or Geant4 should.
        rules: when something is wrong.
    """

    def __init__(
        self,
        client: Any,
        jobs: int,
        *,
        name: str,
        here: bool = False,
        isolated: bool = True,
        rules: Rules | None = None,
    ) -> None:
        self.client, self.jobs, self.name, self.here = client, jobs, name, here
        self._isolated, self._rules = isolated, rules or Rules()
        self.facts = Facts()

    def run(
        self, prepare: Callable[[S], Callable[[T], R]], settings: S, tasks: Sequence[T]
    ) -> Generator[tuple[T, R], None, None]:
        """See ``caloforge.executor.Executor``."""
        coordinator = Coordinator(
            self.client,
            self.name,
            prepare,
            settings,
            tasks,
            isolated=self._isolated,
            rules=self._rules,
            facts=self.facts,
        )
        yield from coordinator.results()

    def describe(self) -> dict[str, Any]:
        """Who took part so far, JSON values for provenance: what may have to do with rounding, and what went wrong."""
        workers = self.facts.workers.values()
        return {
            "workers": len(workers),
            "hosts": len({host for host, _ in workers}),
            "processors": dict(Counter(processor for _, processor in workers)),
            "workers_lost": self.facts.lost,
            "tasks_redone": self.facts.redone,
        }
