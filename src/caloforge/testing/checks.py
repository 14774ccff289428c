"""What a check says that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from caloforge.errors import CaloForgeError

__all__ = ["CheckFailedError", "expect", "failing_as"]


class CheckFailedError(AssertionError):
    """A model, measure or format does not keep what all of them promise; one sentence, with the name of the check."""


def expect(condition: object, check: str, sentence: str) -> None:
    """Fail a check unless a condition holds.

    Raises:
        CheckFailedError: with the sentence.
    """
    if not condition:
        raise CheckFailedError(f"{check}: {sentence}")


@contextmanager
def failing_as(check: str) -> Iterator[None]:
    """Whatever goes wrong within is a failure of this check."""
    try:
        yield
    except CheckFailedError:
        raise
    except CaloForgeError as error:
        raise CheckFailedError(f"{check}: {error}") from error
    except Exception as error:  # whatever the code under test does
        raise CheckFailedError(f"{check}: {type(error).__name__}: {error}") from error
