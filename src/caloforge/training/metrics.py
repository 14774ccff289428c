"""What a stage logs: one JSON object a line and epoch, and the same for TensorBoard if it is wanted."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caloforge.atomic import replace_file
from caloforge.errors import MissingDependencyError, OutputError

__all__ = ["MetricsLog", "collect_metrics", "read_metrics"]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file up to the first one that is damaged, such as a last line that a kill cut off.

    No file has no rows.
    """
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
            break
        rows.append(row)
    return rows


class MetricsLog:
    """The metrics of one stage.

    Args:
        path: JSON lines file; kept up to ``epochs``, what follows is dropped (it will come again).
        epochs: number of finished epochs.
        tensorboard: folder for TensorBoard, or None.

    Attributes:
        rows: all rows so far.

    Raises:
        OutputError: if the file cannot be written.
        MissingDependencyError: if TensorBoard is wanted and not installed.
    """

    def __init__(self, path: Path, *, epochs: int, tensorboard: Path | None = None) -> None:
        self._path = path
        self.rows = [row for row in read_metrics(path) if row["epoch"] <= epochs]
        replace_file(path, "".join(_line(row) for row in self.rows))
        self._board = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise MissingDependencyError(
                    "TensorBoard is not installed; get it with: pip install tensorboard"
                ) from None
            self._board = SummaryWriter(str(tensorboard), purge_step=epochs + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row and bring it to the disk.

        Raises:
            OutputError: if it cannot be written.
        """
        plain = _finite(dict(row))
        self.rows.append(plain)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(plain))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"'{self._path}' cannot be written ({error.strerror})") from None
        if self._board is not None:
            for part in ("training", "validation", "learning_rate"):
                for name, value in plain.get(part, {}).items():
                    if value is not None:
                        self._board.add_scalar(f"{part}/{name}", value, plain["epoch"])

    def close(self) -> None:
        """Finish what TensorBoard has in its buffers."""
        if self._board is not None:
            self._board.close()


def collect_metrics(directory: Path, stages: list[str]) -> None:
    """Write the metrics of all stages into one file of the run, in their order.

    Raises:
        OutputError: if it cannot be written.
    """
    rows = [row for stage in stages for row in read_metrics(directory / "stages" / stage / "metrics.jsonl")]
    replace_file(directory / "metrics.jsonl", "".join(_line(row) for row in rows))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity; they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
