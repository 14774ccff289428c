"""Tasks and the workers that do them: who has what in hand, and what happens when one of them is gone, slow or of no use.

Dask carries functions, results and news; which worker does which task is decided here, because that is what faults are about. A
worker has as many tasks in hand as it has slots, and some more so that it need not wait. Results stay with the worker until they
are wanted, so that neither it nor this process ever holds more than a few.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from caloforge.errors import CaloForgeWarning
from caloforge.scaleout import node
from caloforge.scaleout.node import Kind
from caloforge.scaleout.state import ClusterError, Facts, InHand, Rules, TaskState, WorkerState
from caloforge.workers import WorkerDiedError, packed, unpacked

__all__ = ["Coordinator"]

_KEPT = "; what is finished is kept"

#: Results that are fetched at the same time, and that may be here at all.
_FETCHERS, _HELD = 4, 8
#: Bytes that are sent to every worker rather than once to all of them.
_SMALL = 1_000_000
#: Seconds between two looks at who is there.
_LOOK = 0.5
#: How often a task may be lost with the worker that it runs on, and how often its process may die, before it is to blame.
_LOST, _DIED = 8, 1


#: A task with what came of it.
Result = tuple[Any, Any]


class _Event(NamedTuple):
    what: str  # met, finished, fetched
    worker: WorkerState
    in_hand: InHand | None
    content: Any


class Coordinator:
    """One run of an executor.

    Args:
        client: of Dask.
        cluster: its name, for messages.
        prepare: see ``caloforge.executor.Executor.run``.
        settings: likewise.
        tasks: likewise.
        isolated: whether tasks run in child processes of the workers.
        rules: when something is wrong.
        facts: of the executor; added to.
    """

    def __init__(
        self,
        client: Any,
        cluster: str,
        prepare: Callable[..., Any],
        settings: Any,
        tasks: Sequence[Any],
        *,
        isolated: bool,
        rules: Rules,
        facts: Facts,
    ) -> None:
        self._client, self._cluster, self._rules, self._facts = client, cluster, rules, facts
        self._isolated = isolated
        self._name = uuid.uuid4().hex
        self._order = packed((prepare, settings))
        self._order_future: Any = None
        self._fresh = iter(enumerate(tasks))
        self._fresh_left = self._left = len(tasks)
        self._returned: deque[TaskState] = deque()
        self._workers: dict[str, WorkerState] = {}
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._finished: deque[tuple[WorkerState, InHand]] = deque()
        self._held = 0
        self._seconds: deque[float] = deque(maxlen=501)
        self._looked = self._useful = time.monotonic()
        self._looked -= _LOOK
        self._said_waiting = False
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="caloforge-fetch")

    # ---- the loop

    def results(self) -> Generator[tuple[Any, Any], None, None]:
        """Tasks with their results, as they come; see ``caloforge.executor.Executor.run`` for errors."""
        try:
            # As a task of its own, so that it travels once and from worker to worker, and is there again if they are gone.
            if len(self._order) > _SMALL:
                self._order_future = self._client.submit(bytes, self._order, pure=False, key=f"order-{self._name}")
            while self._left:
                self._look_around()
                self._hand_out()
                self._fetch()
                for event in self._news():
                    answer = self._take_in(event)
                    if answer is None:
                        continue
                    self._hand_out()
                    self._fetch()
                    yield answer
        finally:
            self._close()

    def _news(self) -> list[_Event]:
        """What has happened; after a while nothing."""
        found = []
        with suppress(queue.Empty):
            found.append(self._events.get(timeout=_LOOK))
            while len(found) < 64:
                found.append(self._events.get_nowait())
        return found

    def _take_in(self, event: _Event) -> Result | None:
        worker, in_hand = event.worker, event.in_hand
        if in_hand is None:
            self._meet(worker, event.content)
            return None
        if event.what == "finished":
            in_hand.finished = True
            worker.start_next()
            if event.content.status == "finished":
                self._finished.append((worker, in_hand))
            elif event.content.status == "error" and self._drop(worker, in_hand):
                self._lose(in_hand.task, self._why(event.content))
            # Others were cancelled by ourselves.
            return None
        self._held -= 1
        in_hand.future.release()
        here = self._drop(worker, in_hand)
        if isinstance(event.content, BaseException):
            if here:  # else its worker is gone, and the task is somebody else's by now
                self._lose(in_hand.task, str(event.content))
            return None
        return self._answer(worker, in_hand, *event.content)

    def _answer(self, worker: WorkerState, in_hand: InHand, kind: str, seconds: float, content: bytes) -> Result | None:
        task = in_hand.task
        worker.stuck = any(one.abandoned for one in worker.in_hand)  # it is there, and its slots are free again
        if in_hand.abandoned and kind == Kind.DIED:  # we killed it ourselves
            return None
        if task.done:
            return None
        if kind == Kind.DONE:
            task.done = True
            self._left -= 1
            self._seconds.append(seconds)
            for other in self._workers.values() if task.tries > 1 else ():
                for one in [one for one in other.in_hand if one.task is task]:
                    one.future.cancel()
                    other.in_hand.remove(one)
            return task.content, unpacked(content)
        if kind == Kind.FAILED:
            raise unpacked(content)
        if kind == Kind.CRASHED:
            raise RuntimeError(f"a task failed on the worker {worker.name}:\n{content.decode()}")
        if kind == Kind.UNKNOWN:
            self._ask(worker)
        elif kind == Kind.LACKS:
            self._refuse(worker, f"it has no module '{content.decode()}'")
        elif kind == Kind.UNSUITED:
            self._refuse(worker, content.decode())
        elif kind == Kind.DISK:
            self._refuse(worker, f"its disk refuses to be written ({content.decode()})")
        elif kind == Kind.DIED:
            task.died += 1
            error: WorkerDiedError = unpacked(content)
            if task.died > _DIED:
                raise error
            _note(f"on the worker {worker.name} {error}; the task is done once more")
        self._again(task)
        return None

    # ---- workers

    def _look_around(self) -> None:
        """Who has come, who is gone, who hangs."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        present = self._present()
        for address in [address for address in self._workers if address not in present]:
            self._say_goodbye(self._workers.pop(address))
        for address, slots in present.items():
            if address not in self._workers:
                self._workers[address] = worker = WorkerState(address, max(1, slots), name=address)
                self._ask(worker)
        for worker in self._workers.values():
            if not (worker.ready or worker.refused or worker.directly) and now - worker.asked > self._rules.patience:
                self._ask(worker, directly=True)
        self._look_for_hanging(now)
        self._look_for_use(now)

    def _present(self) -> dict[str, int]:
        """Slots of the workers that the scheduler knows, by address."""
        gone = f"the Dask scheduler of {self._cluster} does not answer any more{_KEPT}"
        if self._client.status != "running":
            raise ClusterError(gone)
        try:
            present: dict[str, int] = self._client.nthreads()
        except Exception:  # of several kinds, depending on when it went away
            raise ClusterError(gone) from None
        return present

    def _look_for_use(self, now: float) -> None:
        """Nobody who could work: wait, but not for those who never will."""
        if any(worker.ready and not worker.stuck for worker in self._workers.values()):
            self._useful = now
            return
        if now - self._useful < self._rules.wait:
            return
        if self._facts.refused and all(worker.refused for worker in self._workers.values()):
            address, why = next(reversed(self._facts.refused.items()))
            raise ClusterError(f"no worker of {self._cluster} can take part; the last one, {address}: {why}{_KEPT}")
        if not self._said_waiting:
            self._said_waiting = True
            _note(f"no worker of {self._cluster} is there; waiting for one")

    def _ask(self, worker: WorkerState, *, directly: bool = False) -> None:
        """Give a worker what it needs to know, and hear who it is.

        What is large comes from another worker; ``directly`` from here, should that one stand still.
        """
        worker.ready, worker.asked, worker.directly = False, time.monotonic(), directly
        worker.future = self._client.submit(
            node.begin,
            self._name,
            node.versions(),
            self._order if directly or self._order_future is None else self._order_future,
            self._isolated,
            key=f"begin-{uuid.uuid4().hex}",
            workers=[worker.address],
            pure=False,
        )
        worker.future.add_done_callback(lambda future: self._events.put(_Event("met", worker, None, future)))

    def _meet(self, worker: WorkerState, future: Any) -> None:
        if self._workers.get(worker.address) is not worker or future is not worker.future:
            return
        if future.status == "error":
            self._refuse(worker, f"it has no CaloForge {node.versions()['caloforge']} ({self._why(future)})")
            return
        if future.status != "finished":
            return
        facts = future.result()
        worker.name = f"{worker.address} ({facts['host']})"
        if facts["refused"]:
            self._refuse(worker, f"it is of another version: {facts['refused']}")
            return
        worker.ready, self._said_waiting = True, False
        known = {processor for _, processor in self._facts.workers.values()}
        self._facts.workers[worker.address] = (facts["host"], facts["processor"])
        if known and facts["processor"] not in known:
            _note(
                f"the workers have different processors ({', '.join(sorted({facts['processor'], *known}))}), so showers may "
                "differ from those of one machine by rounding; the file says so"
            )

    def _refuse(self, worker: WorkerState, why: str) -> None:
        """Give a worker nothing more, and what it has to others."""
        self._facts.refused[worker.address] = why
        worker.ready, worker.refused = False, True
        _note(f"the worker {worker.name} gets no work: {why}")
        for one in [one for one in worker.in_hand if not one.finished]:
            self._take_back(worker, one)

    def _say_goodbye(self, worker: WorkerState) -> None:
        """A worker is gone: what it had in hand is to be done by others."""
        if worker.refused:
            return
        running = [one for one in worker.in_hand if one.started is not None and not one.finished]
        self._facts.lost += 1
        tasks = sum(not one.task.done for one in worker.in_hand)
        _note(f"the worker {worker.name} is gone; its {tasks} tasks are done again" if tasks else
              f"the worker {worker.name} is gone")  # fmt: skip
        for one in list(worker.in_hand):
            self._take_back(worker, one)
            if one in running:
                self._count_loss(one.task, f"the worker {worker.name} is gone")

    def _look_for_hanging(self, now: float) -> None:
        for worker in self._workers.values():
            for one in list(worker.in_hand):
                if one.fetched is not None and now - one.fetched > self._rules.patience:
                    _note(f"the worker {worker.name} does not hand out a result; the task is done once more")
                    worker.stuck = True
                    self._take_back(worker, one)
        if not self._seconds:
            return  # nothing to compare with
        limit = max(self._rules.patience, self._rules.factor * statistics.median(self._seconds))
        for worker in self._workers.values():
            late = [
                one for one in worker.in_hand
                if not (one.finished or one.abandoned or one.started is None) and now - one.started > limit
            ]  # fmt: skip
            for one in late:
                task = one.task
                task.hung += 1
                if task.hung > 1:
                    raise ClusterError(
                        f"a task takes longer than {limit:.0f} s for the second time (half of the others took less than "
                        f"{statistics.median(self._seconds):.2g} s), now on the worker {worker.name}{_KEPT}"
                    )
                _note(f"a task takes longer than {limit:.0f} s on the worker {worker.name}; it is done once more")
                one.abandoned, worker.stuck, task.avoid = True, True, worker.address
                self._kill_child(worker, task)
                self._again(task)
            if late:
                for one in [one for one in worker.in_hand if not one.finished and one.started is None]:
                    self._take_back(worker, one)

    # ---- tasks

    def _hand_out(self) -> None:
        """First enough for everybody, then more, as long as there is enough for all."""
        ready = [worker for worker in self._workers.values() if worker.ready and not worker.stuck]
        for spare in (False, True):
            for worker in ready:
                most = worker.slots + (max(1, worker.slots // 4) if spare else 0)
                while len(worker.in_hand) < most and self._waiting > (len(ready) if spare else 0):
                    task = self._next_for(worker, alone=len(ready) == 1)
                    if task is None:
                        break
                    self._submit(worker, task)

    @property
    def _waiting(self) -> int:
        """Tasks that nobody has in hand."""
        return len(self._returned) + self._fresh_left

    def _next_for(self, worker: WorkerState, *, alone: bool) -> TaskState | None:
        for _ in range(len(self._returned)):
            task = self._returned.popleft()
            if task.done:
                continue
            if task.avoid == worker.address and not alone:
                self._returned.append(task)
                continue
            return task
        for number, content in self._fresh:
            self._fresh_left -= 1
            return TaskState(number, content, packed(content))
        return None

    def _submit(self, worker: WorkerState, task: TaskState) -> None:
        task.tries += 1
        future = self._client.submit(
            node.work,
            self._name,
            task.number,
            task.packed,
            key=f"task-{self._name}-{task.number}-{task.tries}",
            workers=[worker.address],
            pure=False,
        )
        in_hand = InHand(task, future, None)
        worker.in_hand.append(in_hand)
        worker.start_next()
        future.add_done_callback(lambda future: self._events.put(_Event("finished", worker, in_hand, future)))

    def _fetch(self) -> None:
        """Bring finished results here, but only a few."""
        while self._finished and self._held < _HELD:
            worker, in_hand = self._finished.popleft()
            if in_hand not in worker.in_hand:
                continue
            self._held += 1
            in_hand.fetched = time.monotonic()
            self._fetchers.submit(self._bring, worker, in_hand)

    def _bring(self, worker: WorkerState, in_hand: InHand) -> None:
        content: Any
        try:
            content = in_hand.future.result()
        except BaseException as error:  # cancelled, since its worker is gone; or nothing that anybody could foresee
            content = error
        self._events.put(_Event("fetched", worker, in_hand, content))

    def _drop(self, worker: WorkerState, in_hand: InHand) -> bool:
        """Take a task off a worker's list; whether it was still there."""
        if in_hand not in worker.in_hand:
            return False
        worker.in_hand.remove(in_hand)
        return True

    def _take_back(self, worker: WorkerState, in_hand: InHand) -> None:
        worker.in_hand.remove(in_hand)
        in_hand.future.cancel()
        self._again(in_hand.task)

    def _again(self, task: TaskState) -> None:
        if not task.done and task not in self._returned:
            self._facts.redone += 1
            self._returned.appendleft(task)

    def _lose(self, task: TaskState, why: str) -> None:
        self._count_loss(task, why)
        self._again(task)

    def _count_loss(self, task: TaskState, why: str) -> None:
        task.lost += 1
        if task.lost > _LOST:
            raise ClusterError(
                f"a task was lost {task.lost} times with the worker that did it, perhaps for want of memory; at last: {why}"
                f"{_KEPT}"
            )

    @staticmethod
    def _why(future: Any) -> str:
        try:
            return str(future.exception(timeout=10)).splitlines()[0]
        except Exception as error:
            return str(error) or type(error).__name__

    # ---- the end

    def _kill_child(self, worker: WorkerState, task: TaskState) -> None:
        """Let a worker kill the process of a task, without waiting: the worker itself may hang."""
        self._aside(node.abandon, [worker.address], self._name, task.number)

    def _aside(self, function: Callable[..., Any], workers: list[str], *arguments: Any) -> threading.Thread:
        def call() -> None:
            with suppress(Exception):
                self._client.run(function, *arguments, workers=workers, on_error="ignore")

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        return thread

    def _close(self) -> None:
        with suppress(Exception):
            futures = [one.future for worker in self._workers.values() for one in worker.in_hand]
            self._client.cancel(futures)
            at_work = [worker.address for worker in self._workers.values() if worker.ready and not worker.stuck]
            if at_work:
                self._aside(node.end, at_work, self._name).join(5)
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._order_future = None


def _note(text: str) -> None:
    warnings.warn(text, CaloForgeWarning, stacklevel=3)
