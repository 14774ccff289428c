"""What an argument is called where somebody reads of it: ``--sub-cells`` on the command line, ``sub_cells`` in Python.

Functions of the package are called from both, and their errors and notes name arguments by these functions only, so that everyone
reads the word that he can write.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["argument", "given", "is_typed", "switch", "typed"]

_typed: ContextVar[bool] = ContextVar("typed", default=False)


def is_typed() -> bool:
    """Whether somebody typed a command, rather than called a function."""
    return _typed.get()


@contextmanager
def typed(yes: bool = True) -> Iterator[None]:
    """Around what a command does."""
    token = _typed.set(yes)
    try:
        yield
    finally:
        _typed.reset(token)


def argument(name: str, flag: str = "") -> str:
    """An argument as its reader writes it.

    Args:
        name: in Python.
        flag: on the command line, where it is not the name with dashes.
    """
    return (flag or f"--{name.replace('_', '-')}") if is_typed() else name


def switch(name: str) -> str:
    """An argument that is on or off, switched on: ``--resume`` or ``resume=True``."""
    return argument(name) if is_typed() else f"{name}=True"


def given(name: str, *values: str, flag: str = "", several: bool = False) -> str:
    """An argument with what it is set to: ``--target onnx`` or ``target='onnx'``.

    Args:
        name: in Python.
        values: one, or more of a list.
        flag: on the command line, where it is not the name with dashes.
        several: whether it is a list in Python; on the command line the option is repeated.
    """
    if is_typed():
        return " ".join(f"{argument(name, flag)} {value}" for value in values)
    return f"{name}={list(values)!r}" if several else f"{name}={values[0]!r}"
