"""Errors name arguments as their reader writes them: flags on the command line, names in Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import caloforge as cf
from caloforge.arguments import argument, given, switch, typed
from caloforge.cli.main import main
from caloforge.errors import OutputError, UsageError
from caloforge.workers import call_elsewhere

SOURCES = Path(cf.__file__).parent
#: Where options of other programs, or of whole commands that are to be typed, are written down.
EXCEPT = {"arguments.py", "options.py", "demo.py", "kernels/compiled/build.py", "deployment/targets/cpp.py"}


def test_the_words_of_both_sides() -> None:
    both = [
        (argument, ("sub_cells",), {}, "sub_cells", "--sub-cells"),
        (argument, ("overrides", "--set"), {}, "overrides", "--set"),
        (switch, ("resume",), {}, "resume=True", "--resume"),
        (given, ("target", "onnx"), {}, "target='onnx'", "--target onnx"),
        (given, ("stages", "a", "b"), {"flag": "--stage", "several": True}, "stages=['a', 'b']", "--stage a --stage b"),
    ]
    for function, words, more, python, command_line in both:
        assert function(*words, **more) == python  # type: ignore[operator]
        with typed():
            assert function(*words, **more) == command_line  # type: ignore[operator]
            assert call_elsewhere(function, *words) == function(*words)  # type: ignore[operator]


def strings(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Lines, texts and whether they are part of an f-string; docstrings left out."""
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, described) and node.body and isinstance(node.body[0], ast.Expr)
    }
    formatted = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value, id(node) in formatted


def test_no_sentence_outside_the_command_line_has_a_flag_in_it() -> None:
    """Mutation: write ``--energy is missing`` into an error of a room that Python calls, too."""
    wrong = []
    for path in sorted(SOURCES.rglob("*.py")):
        name = path.relative_to(SOURCES).as_posix()
        if name in EXCEPT or name.startswith("cli/"):
            continue
        for line, text, formatted in strings(ast.parse(path.read_bytes())):
            if re.search(r"[{](argument|switch|given)[(]", text) and not formatted:
                wrong.append(f"{name}:{line} is no f-string")
            # A whole command between quotation marks is for the terminal, whoever reads it.
            rest = re.sub(r"'?caloforge [a-z]+ [^']*'?", "", text)
            if re.search(r"(^|[ (;,])--[a-z]{3,}[a-z-]* [a-z]|(^|[ (;,])--[a-z]{3,}[a-z-]*[),]", rest):
                wrong.append(f"{name}:{line} {text!r}")
    assert wrong == []


def test_the_same_mistake_in_python_and_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.h5").touch()
    with pytest.raises(UsageError, match=r"^sub_cells and cells exclude each other"):
        cf.convert("calogan-gamma-sample:test", tmp_path / "c.h5", sub_cells=2, cells="ideal")
    asked = ["convert", "calogan-gamma-sample:test", str(tmp_path / "c.h5"), "--sub-cells", "2", "--cells", "ideal"]
    assert main(asked) == 2
    assert "--sub-cells and --cells exclude each other" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"^resume=True and overwrite=True exclude each other$"):
        cf.train("caloflow-tiny", "calogan-gamma-sample:train", tmp_path / "m", resume=True, overwrite=True)
    asked = ["train", "caloflow-tiny", "--data", "calogan-gamma-sample:train", "--out", str(tmp_path / "m")]
    assert main([*asked, "--resume", "--overwrite"]) == 2
    assert "--resume and --overwrite exclude each other" in capsys.readouterr().err
    with pytest.raises(OutputError, match="exists already"):
        cf.convert("calogan-gamma-sample:test", tmp_path / "out.h5")
