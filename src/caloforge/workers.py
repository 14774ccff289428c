"""Worker processes: fresh interpreters that are sent their work, and that never run the user's script again.

``multiprocessing`` imports the script or notebook that it is called from in every process that it starts, so that the
script needs a guard (``if __name__ == "__main__"``), and nothing works in ``python -c``. A worker here is a program of its
own, ``python -m caloforge.workers``, that gets a function of an importable module and a socket to talk over. It dies with
the process that it works for: when that closes its end of the socket, whatever the reason, the worker ends.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from caloforge.arguments import is_typed, typed
from caloforge.errors import CaloForgeError, UsageError
from caloforge.stopping import deaf, held_back

__all__ = ["Line", "Worker", "WorkerDiedError", "call_elsewhere", "packed", "unpacked"]


class WorkerDiedError(CaloForgeError):
    """A worker is gone; the text says how it ended, with the last thing that it printed.

    Attributes:
        code: its exit code, below zero the signal that ended it; None if it stopped answering.
        printed: the lines that it printed, without empty ones.
    """

    def __init__(self, text: str, code: int | None = None, printed: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.code, self.printed = code, tuple(printed)


def packed(what: Any) -> bytes:
    """Something as it travels to another process.

    Raises:
        UsageError: if it cannot be pickled.
    """
    try:
        return pickle.dumps(what, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(f"this cannot be sent to another process: {error}") from None


def unpacked(content: bytes) -> Any:
    """What :func:`packed` has made bytes of.

    Raises:
        UsageError: if it is something that only the script of the other process knows.
    """
    return _Unpickler(io.BytesIO(content)).load()


class Line:
    """One end of a socket, over which anything goes that ``pickle`` takes.

    The tensors of torch travel by value: ``multiprocessing`` would share their memory through a server of its own.

    Attributes:
        connection: what ``multiprocessing.connection.wait`` waits for.
    """

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self.connection = connection

    def send(self, what: Any) -> None:
        """Send something.

        Raises:
            UsageError: if it cannot be pickled.
            OSError: if nobody listens any more.
        """
        self.connection.send_bytes(packed(what))

    def receive(self) -> Any:
        """What the other end has sent.

        Raises:
            EOFError: if the other end is closed.
            CaloForgeError: whatever the other end failed with.
            RuntimeError: if it failed with something else, which is a bug; with the traceback.
        """
        what = unpacked(self.connection.recv_bytes())
        if isinstance(what, _Failure):
            raise what.error
        return what


class _Unpickler(pickle.Unpickler):
    """Says what is wrong with things that the script itself defines: the script is not run again, so nobody finds them."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__":
            raise UsageError(
                f"a worker process does not know '{name}', which the script or notebook itself defines; put it into a module "
                "that the script imports, or use one process"
            )
        return super().find_class(module, name)


class _Failure:
    """An error on its way to the other end."""

    def __init__(self, error: CaloForgeError | RuntimeError) -> None:
        self.error = error


class Worker:
    """A running worker.

    Args:
        serve: what it does; a function of a module, called with the worker's end of the line.
        environment: variables of its environment, beside ours; None leaves out one of ours.

    Raises:
        UsageError: if the function cannot be sent.
    """

    def __init__(self, serve: Callable[[Line], None], environment: Mapping[str, str | None] | None = None) -> None:
        ours, theirs = Pipe()
        self.line = Line(ours)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
        # A session of its own keeps the terminal's Ctrl-C away; batch systems signal every process all the same.
        with theirs, held_back():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "caloforge.workers", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(theirs.fileno(),),
                env={
                    name: value for name, value in (os.environ | dict(environment or {})).items() if value is not None
                },
                start_new_session=True,
            )
        try:
            # With the path everything else can be found; errors call arguments as they are called here.
            self.line.connection.send_bytes(pickle.dumps((sys.path, is_typed())))
            self.send(serve)
        except BaseException:
            self.stop()
            raise

    def send(self, what: Any) -> None:
        """Send something to the worker.

        Raises:
            UsageError: if it cannot be sent.
            WorkerDiedError: if the worker is gone.
        """
        try:
            self.line.send(what)
        except OSError:
            raise self._obituary() from None

    def receive(self) -> Any:
        """What the worker has to say.

        Raises:
            WorkerDiedError: if the worker is gone.
            CaloForgeError: whatever it failed with.
        """
        try:
            return self.line.receive()
        except (EOFError, OSError):
            raise self._obituary() from None

    def _obituary(self) -> WorkerDiedError:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return WorkerDiedError("a worker process stopped answering")
        how = f"exit code {code}"
        if code == -9:
            how = "killed by hand, or by the system for want of memory"
        self._output.seek(0)
        lines = [line.strip() for line in self._output.read().decode(errors="replace").splitlines() if line.strip()]
        said = f": {lines[-1].rstrip('.')}" if lines else ""
        return WorkerDiedError(f"a worker process died ({how}){said}", code, lines)

    def kill(self) -> None:
        """End the process, while another thread may be waiting for it: that one gets a WorkerDiedError."""
        self._process.kill()

    def stop(self) -> None:
        """End the worker, whatever it is doing. It owns no files, so nothing is lost."""
        self.line.connection.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._output.close()


def call_elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns in a process of its own.

    Raises:
        UsageError: if function or arguments cannot be sent.
        WorkerDiedError: if the process died.
        CaloForgeError: whatever the function raises of that kind.
    """
    worker = Worker(_call)
    try:
        worker.send((function, arguments))
        return worker.receive()
    finally:
        worker.stop()


def _call(line: Line) -> None:
    function, arguments = line.receive()
    line.send(function(*arguments))


def _main(descriptor: int) -> None:
    """A worker's life."""
    deaf()
    connection: Connection[Any, Any] = Connection(descriptor)
    with connection:
        line = Line(connection)
        sys.path[:], by_command = line.receive()
        try:
            with typed(by_command):
                line.receive()(line)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # nobody wants to know any more
        except CaloForgeError as error:
            line.send(_Failure(error))
        except Exception:
            line.send(_Failure(RuntimeError(f"a worker process failed:\n{traceback.format_exc()}")))


if __name__ == "__main__":
    # Under its real name, so that both ends mean the same classes.
    from caloforge.workers import _main as main

    main(int(sys.argv[1]))
