"""An option given twice is an error, unless it is a list; nothing is overruled without a word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from caloforge.cli.common import pairs
from caloforge.cli.main import _register, app, main
from caloforge.errors import UsageError
from caloforge.models import load_preset


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group of the program with the words that lead to it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def every_single_option() -> list[tuple[str, ...]]:
    _register()
    return [
        (*path, *(word for _ in range(2) for word in ([option.opts[0]] if option.is_flag else [option.opts[0], "1"])))
        for path, command in commands(typer.main.get_command(app))
        for option in command.params
        if option.param_type_name == "option" and not option.multiple and not option.is_eager
    ]


def test_every_option_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails for the commands of a room that makes its group with ``typer.Typer`` instead of ``App``."""
    found = every_single_option()
    assert len(found) > 100
    for words in found:
        assert main(words) == 2, words
        err = capsys.readouterr().err
        assert "is given twice, expected once (see 'caloforge" in err, (words, err)


@pytest.mark.parametrize(
    "words",
    [
        ("--energy", "10", "--energy=50"),
        ("--energy", "10", "-o", "b.h5"),
        ("--energy", "10", "--resume", "--resume"),
    ],
)
def test_the_forms_of_an_option(words: tuple[str, ...], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "calogan-gamma", "-o", "a.h5", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_lists_help_and_words_behind_two_dashes_may_come_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--help", "--help"]) == 0
    assert main(["compare", "--name", "a", "--name", "b", "missing", "missing"]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert main(["compare", "--", "--overwrite", "--overwrite"]) == 2
    assert "--overwrite: there is no such file" in capsys.readouterr().err


def test_names_in_a_list_come_once() -> None:
    """Fails with ``dict(text.split("=") ...)``, which keeps the last."""
    assert pairs(["a = 1", "b=c=2"], "--x", "A=B") == [("a", "1"), ("b", "c=2")]
    with pytest.raises(UsageError, match="--x names 'a' twice, expected once"):
        pairs(["a=1", " a=2"], "--x", "A=B")
    for text in ("a", "=1", "a=", " =1"):
        with pytest.raises(UsageError, match="expected A=B"):
            pairs([text], "--x", "A=B")


def test_overrides_do_not_undo_each_other() -> None:
    assert load_preset("caloflow-tiny", ["training.epochs=2", "training.batch_size=7"]).training.batch_size == 7
    for later in ("training.epochs=3", "training={}", "training.epochs =2"):
        with pytest.raises(UsageError, match=r"would undo that of 'training\.epochs'"):
            load_preset("caloflow-tiny", ["training.epochs=2", later])
    # A section first and then a part of it is in order.
    assert load_preset("caloflow-tiny", ["training={batch_size: 5}", "training.epochs=2"]).training.epochs == 2
