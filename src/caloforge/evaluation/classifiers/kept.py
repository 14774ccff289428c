"""Finished retrainings on disk, so that an interrupted evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from caloforge.atomic import output_error, replace_file

__all__ = ["KeptResults"]


class KeptResults:
    """Results of the retrainings of one test, one small file each.

    A result is only used again if everything that it depends on is the same; its hash stands beside it.

    Args:
        folder: where they are kept; None keeps nothing.
        name: of the test, also of its files.
        identity: everything that the results depend on, as JSON can hold it.
    """

    def __init__(self, folder: Path | None, name: str, identity: Any) -> None:
        self._folder, self._name, self._identity = folder, name, identity

    def _path(self, number: int) -> Path | None:
        return None if self._folder is None else self._folder / f"{self._name}-{number:02d}.json"

    def _fingerprint(self, number: int) -> str:
        return hashlib.sha256(json.dumps([self._identity, number], sort_keys=True).encode()).hexdigest()

    def get(self, number: int) -> dict[str, Any] | None:
        """The result of a retraining, if an earlier run finished the same one."""
        path = self._path(number)
        try:
            stored = None if path is None else json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(stored, dict) or stored.get("fingerprint") != self._fingerprint(number):
            return None
        result = stored.get("result")
        return result if isinstance(result, dict) else None

    def put(self, number: int, result: dict[str, Any]) -> None:
        """Keep a result.

        Raises:
            OutputError: if it cannot be written.
        """
        path = self._path(number)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(path, error) from None
        replace_file(path, json.dumps({"fingerprint": self._fingerprint(number), "result": result}))
