"""Run the parity program of the runtime on an export, and keep what it found."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from caloforge.errors import MissingDependencyError

__all__ = ["Check", "ParityResult", "run_parity"]

_LINE = re.compile(r"(.+?) +(\S+)  limit +(\S+)  (ok|WRONG)")
_TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: what was compared.
        value: what was found.
        limit: the most that is allowed.
        passed: whether it is.
    """

    name: str
    value: float
    limit: float
    passed: bool

    @classmethod
    def of(cls, name: str, value: float, limit: float) -> Check:
        """A comparison; what is no number has not passed."""
        return cls(name, float(value), float(limit), bool(value <= limit))


@dataclass(frozen=True)
class ParityResult:
    """What the program found.

    Attributes:
        passed: whether the export makes the showers of the model.
        checks: all comparisons.
        text: what it printed.
    """

    passed: bool
    checks: tuple[Check, ...]
    text: str

    def reason(self) -> str:
        """Why it failed, in a few words."""
        wrong = [f"{check.name}: {check.value:g}, at most {check.limit:g}" for check in self.checks if not check.passed]
        lines = [line for line in self.text.splitlines() if line != "FAIL"]
        return "; ".join(wrong) if wrong else (lines[-1] if lines else "the program ended without a word")


def run_parity(program: Path, folder: Path) -> ParityResult:
    """Compare an export with its test vectors.

    Args:
        program: the runtime's ``parity``.
        folder: with ``model/`` and ``parity.safetensors``.

    Raises:
        MissingDependencyError: if the program cannot be run.
    """
    try:
        done = subprocess.run([program, folder], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependencyError(f"'{program}' could not be run: {error}") from None
    found = [_LINE.fullmatch(line) for line in done.stdout.splitlines()]
    checks = tuple(Check(m[1], float(m[2]), float(m[3]), m[4] == "ok") for m in found if m)
    # The word, the exit code and every single comparison have to agree.
    passed = done.returncode == 0 and done.stdout.splitlines()[-1:] == ["PASS"] and bool(checks)
    return ParityResult(passed and all(check.passed for check in checks), checks, done.stdout)
