"""``caloforge info`` and ``caloforge convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caloforge.cli.common import OverwriteOption, console, print_json, print_table, save_figure

__all__ = ["register"]
