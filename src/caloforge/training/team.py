"""Processes of this machine that train together: this one is the first, the others are started for it and end with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined] # not in its list of names

from caloforge.arguments import argument
from caloforge.errors import CaloForgeError, TrainingError, UsageError
from caloforge.workers import Line, Worker, WorkerDiedError

__all__ = ["Seat", "team"]

_HERE = "127.0.0.1"
#: Seconds within which a process that has failed has said so.
_PATIENCE = 20.0


@dataclass(frozen=True)
class Seat:
    """The place of a process in a team.

    Attributes:
        rank: number of the process.
        size: of the team.
        port: where the first process is found.
        store: where it keeps what they agree upon; None in the others.
    """

    rank: int
    size: int
    port: int
    store: TCPStore | None = None

    def meeting_place(self) -> TCPStore:
        """What ``init_process_group`` wants of each process."""
        return self.store or TCPStore(_HERE, self.port, self.size, is_master=False)


@contextmanager
def team(size: int, device: str, work: Callable[[Any, Seat], Any], what: Any) -> Iterator[Seat]:
    """Start the other processes; within, this one does the same work with the seat that it is given.

    Args:
        size: number of processes, this one included.
        device: where they train.
        work: a function of a module, called in the others with what is to be done and their seat.
        what: what is to be done; it can be pickled.

    Raises:
        UsageError: if there are fewer GPUs than processes, or something cannot be sent to them.
        TrainingError: if one of the others dies; what was kept on the disk stays.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"torchrun has started several processes already; {argument('jobs')} is for one machine without it"
        )
    if device.startswith("cuda"):
        if ":" in device:
            raise UsageError(f"{size} processes cannot train on the one device '{device}', expected cuda")
        if torch.cuda.device_count() < size:
            raise UsageError(f"{size} processes need as many GPUs, and there are {torch.cuda.device_count()}")
    store = TCPStore(_HERE, 0, size, is_master=True, wait_for_workers=False)
    seat = Seat(0, size, store.port, store)
    others: list[Worker] = []
    try:
        for rank in range(1, size):
            others.append(Worker(_serve))
            others[-1].send((work, what, replace(seat, rank=rank, store=None)))
        for worker in others:
            worker.receive()  # it is there and has understood
        yield seat
        for worker in others:
            worker.receive()
    except WorkerDiedError as error:
        raise _lost(error) from None
    except CaloForgeError:
        raise
    except Exception as error:  # the connection to a process that is gone, most likely
        raise _reason(others) or error from None
    finally:
        for worker in others:
            worker.stop()


def _reason(others: list[Worker]) -> CaloForgeError | None:
    """Why one of the others is gone, if it is."""
    for worker in others:
        try:
            if worker.line.connection.poll(_PATIENCE / len(others)):
                worker.receive()
        except WorkerDiedError as error:
            return _lost(error)
        except CaloForgeError as error:
            return error
        except RuntimeError:
            continue  # it has lost a connection, too
    return None


def _lost(error: WorkerDiedError) -> TrainingError:
    return TrainingError(f"{error}; finished epochs are kept and can be resumed")


def _serve(line: Line) -> None:
    """The life of one of the others."""
    work, what, seat = line.receive()
    os.environ["LOCAL_RANK"] = str(seat.rank)
    line.send("here")
    work(what, seat)
    line.send("done")
