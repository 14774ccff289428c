"""Modules of the tests find each other by name, so partial runs need names that are unique."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent


def test_no_module_is_imported_by_a_name_that_another_one_has() -> None:
    """Mutation: ``from conftest import Built``, which finds the conftest of whatever room pytest has seen first."""
    modules = Counter(path.stem for path in TESTS.rglob("*.py"))
    wrong = [
        f"{path.relative_to(TESTS)}: from {node.module} import ..."
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and not node.level and modules[node.module or ""] > 1
    ]
    assert not wrong
