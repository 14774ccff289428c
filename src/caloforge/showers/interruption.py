"""What is told when work on a file that can be gone on with is interrupted."""

from __future__ import annotations

from caloforge.arguments import switch
from caloforge.errors import Interrupted
from caloforge.showers.files import Writer

__all__ = ["interrupted"]


def interrupted(writer: Writer, expected: int, what: str = "showers") -> Interrupted:
    """To be raised instead of ``KeyboardInterrupt``.

    Args:
        writer: of the file.
        expected: how many there will be.
        what: the file holds.
    """
    return Interrupted(
        f"interrupted; {writer.path} holds {len(writer)} of {expected} {what}, {switch('resume')} goes on from there"
    )
