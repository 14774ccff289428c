"""Which compiled kernels serve this process: those of the wheel, else those built for this user, else none.

``CALOFORGE_KERNELS`` chooses otherwise: ``packaged``, ``user``, ``plain``, or the name of one of the packaged kernels.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from caloforge.errors import CaloForgeWarning, MissingDependencyError, UsageError
from caloforge.kernels.compiled.build import LEVELS, build_for_user, find_compiler, user_library
from caloforge.kernels.compiled.interface import open_library

__all__ = [
    "Choice",
    "Packaged",
    "choose_kernels",
    "compiled_library",
    "packaged_kernels",
    "processor_level",
    "use_choice",
    "user_state",
]

_FOLDER = Path(__file__).parent / "packaged"
#: The cost of having no kernels, measured with the packaged model (docs/kernels.md).
_COST = "showers then take some 13 times as long in batches of 1000, and 200 times one by one"


@dataclass(frozen=True)
class Choice:
    """What serves.

    Attributes:
        kind: where the kernels come from; ``plain`` for none.
        name: of the packaged kernels; empty for others.
        path: of the shared library; None for none.
        why: in words.
    """

    kind: Literal["packaged", "user", "plain"]
    name: str
    path: Path | None
    why: str


@dataclass(frozen=True)
class Packaged:
    """One of the packaged kernels.

    Attributes:
        name: for which processors.
        path: of the shared library.
        runs: whether this processor can run it.
    """

    name: str
    path: Path
    runs: bool


@cache
def processor_level() -> int | None:
    """What the processor can do by its own words, as ``build.LEVELS`` counts; None without packaged kernels to ask it."""
    try:
        ask = ctypes.CDLL(str(_FOLDER / "processor.so")).caloforge_processor_level
    except OSError:
        return None
    ask.restype, ask.argtypes = ctypes.c_int, []
    return int(ask())


def packaged_kernels() -> list[Packaged]:
    """What came with the package, best first."""
    found, level = [], processor_level()
    for name, least, _ in LEVELS.get(platform.machine(), ()):
        path = _FOLDER / f"{name}.so"
        if path.exists():
            found.append(Packaged(name, path, level is not None and level >= least))
    return found


def user_state() -> tuple[Path | None, str]:
    """Where the kernels built for this user are or will be, and how that stands, in words; nothing is built."""
    try:
        path = user_library(find_compiler())
    except MissingDependencyError as error:
        return None, str(error)
    return path, "built" if path.exists() else "compiled on first use"


def choose_kernels(*, build: bool = True) -> Choice:
    """What serves, or would serve.

    Args:
        build: compile for this user if nothing else serves; else only say that this would be done.

    Raises:
        UsageError: if ``CALOFORGE_KERNELS`` asks for what is not there.
    """
    wanted = os.environ.get("CALOFORGE_KERNELS") or "auto"
    packaged = packaged_kernels()
    names = [kernels.name for kernels in packaged]
    if wanted not in ("auto", "packaged", "user", "plain", *names):
        raise UsageError(
            f"CALOFORGE_KERNELS is '{wanted}', expected {', '.join([*names, 'packaged', 'user'])} or plain"
        )
    asked = f"CALOFORGE_KERNELS is {wanted}"
    if wanted == "plain":
        return Choice("plain", "", None, asked)
    reasons = []
    if wanted != "user":
        fit = [kernels for kernels in packaged if kernels.runs and wanted in ("auto", "packaged", kernels.name)]
        if fit:
            why = "the best of the package for this processor"
            return Choice("packaged", fit[0].name, fit[0].path, asked if wanted in names else why)
        reasons.append("no kernels in this package" + (" that this processor can run" if packaged else ""))
        if wanted != "auto":
            raise UsageError(f"{asked}, but there are {reasons[0]}")
    try:
        if build:
            return Choice(
                "user", "", build_for_user(), asked if wanted == "user" else f"{reasons[0]}; built for this machine"
            )
        path, state = user_state()
        if path is None:
            raise MissingDependencyError(state)
        return Choice("user", "", path, f"{asked if wanted == 'user' else reasons[0]}; {state}")
    except (MissingDependencyError, OSError) as error:
        reasons.append(str(error))
    return Choice("plain", "", None, ", and ".join(reasons))


class _Loaded:
    """What this process has chosen, and has loaded."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.choice: Choice | None = None
        self.library: ctypes.CDLL | None = None


_loaded = _Loaded()


def use_choice(choice: Choice | None = None) -> Choice:
    """Settle which kernels serve this process, once, and load them.

    Args:
        choice: what another process has settled; it has warned already. None settles it here.

    Raises:
        UsageError: if ``CALOFORGE_KERNELS`` asks for what is not there.
    """
    with _loaded.lock:
        if _loaded.choice is None:
            found, library = choice or choose_kernels(), None
            if found.path is not None:
                try:
                    library = open_library(found.path)
                except (OSError, AttributeError) as error:
                    found = Choice("plain", "", None, f"'{found.path}' cannot be loaded: {error}")
            if library is None and choice is None:
                _warn(found)
            _loaded.library = library  # before the choice, which other threads look at
            _loaded.choice = found
        return _loaded.choice


def _warn(choice: Choice) -> None:
    # Of processes that train together one is enough; and nobody needs to be told what they have asked for.
    if os.environ.get("CALOFORGE_KERNELS") != "plain" and os.environ.get("LOCAL_RANK", "0") == "0":
        warnings.warn(
            f"no compiled kernels ({choice.why}), so all is done in plain PyTorch; {_COST}; a C++ compiler mends it, or a "
            "wheel that carries kernels ('caloforge kernels' says more)",
            CaloForgeWarning,
            stacklevel=3,
        )


def compiled_library() -> ctypes.CDLL | None:
    """The loaded kernels; None in plain PyTorch."""
    if _loaded.choice is None:
        use_choice()
    return _loaded.library
