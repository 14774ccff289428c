"""``python -m caloforge`` is the same as ``caloforge``."""

from caloforge.cli.main import run

run()
