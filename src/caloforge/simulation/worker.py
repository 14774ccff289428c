"""A worker process: ``python -m caloforge.simulation.worker FD``, started by ``produce`` and by nobody else.

Over the inherited socket it gets a plan and then block numbers, and sends back what came of them. It is a fresh
interpreter rather than a fork, so that Geant4's global state and calzone's environment variables are its own, and
unlike ``multiprocessing`` it never imports the user's script again.
"""

from __future__ import annotations

import os
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from caloforge.errors import CaloForgeError
from caloforge.stopping import deaf

__all__ = ["main"]


class _OrphanedError(Exception):
    """The process that asked for the work is gone."""


def _serve(connection: Connection[Any, Any]) -> None:
    from caloforge.simulation.runner import BlockRunner

    parent = os.getppid()

    def still_wanted() -> None:
        if os.getppid() != parent:
            raise _OrphanedError

    runner = BlockRunner(connection.recv(), between=still_wanted)
    connection.send(("ready", runner.geant4.versions(), runner.geant4.tables))
    while (number := connection.recv()) is not None:
        connection.send(("block", runner.run(number)))


def main(descriptor: int) -> None:
    """Serve one production over an inherited socket."""
    deaf()  # stopping is the business of the process that we work for
    connection: Connection[Any, Any] = Connection(descriptor)
    with connection:
        try:
            _serve(connection)
        except (EOFError, BrokenPipeError, ConnectionResetError, _OrphanedError):
            return
        except CaloForgeError as error:
            connection.send(("failed", error))
        except Exception:
            connection.send(("crashed", traceback.format_exc()))


if __name__ == "__main__":
    main(int(sys.argv[1]))
