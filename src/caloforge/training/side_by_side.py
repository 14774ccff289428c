"""Work on named things of which some need others, as much of it at the same time as may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TypeVar

from caloforge.executor import Executor

__all__ = ["in_order_of_need"]

S = TypeVar("S")
R = TypeVar("R")


def in_order_of_need(
    needs: Mapping[str, Sequence[str]],
    executor: Executor,
    prepare: Callable[[S], Callable[[str], R]],
    settings: S,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, R]:
    """Do everything: first what needs nothing of the rest, then what needed only that, and so on.

    Args:
        needs: names, with what each needs; what is not a name here counts as there.
        executor: who does it.
        prepare: see ``Executor.run``; a task is a name.
        settings: likewise.
        done: told of every name that is finished.

    Returns:
        Results by name.

    Raises:
        ValueError: if some need each other in a circle.
    """
    found: dict[str, R] = {}
    while len(found) < len(needs):
        left = [name for name in needs if name not in found]
        ready = [name for name in left if not any(other in left for other in needs[name])]
        if not ready:
            raise ValueError(f"these need each other in a circle: {', '.join(left)}")
        with closing(executor.run(prepare, settings, ready)) as answers:
            for name, result in answers:
                found[name] = result
                done(name)
    return found
