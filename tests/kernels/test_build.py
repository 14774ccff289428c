"""Building the kernels: cache, and what happens without a working compiler."""

from __future__ import annotations

import logging
import stat

import pytest
import torch

from caloforge.errors import MissingDependencyError
from caloforge.kernels import compiled
from caloforge.kernels.compiled import build
from caloforge.nn import MaskedAutoregressiveFlow


@pytest.fixture
def fresh(monkeypatch):
    """As in a new process."""
    compiled.compiled_library.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    compiled.compiled_library.cache_clear()


def fake_compiler(folder, body):
    script = folder / "fake-c++"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_a_broken_compiler_means_plain_pytorch_and_one_message(fresh, tmp_path, caplog):
    fresh.setenv("CXX", fake_compiler(tmp_path, "echo 'out of magic' >&2; exit 1"))
    fresh.setenv("CALOFORGE_CACHE", str(tmp_path / "cache"))
    flow = MaskedAutoregressiveFlow(features=4, context_features=0, blocks=1, hidden_features=5, hidden_layers=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            x, _ = flow.inverse(torch.randn(3, 4))
    assert torch.isfinite(x).all()
    assert len(caplog.records) == 1
    assert "out of magic" in caplog.text
    assert "plain PyTorch" in caplog.text
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_compiler_and_no_such_compiler(fresh, tmp_path):
    fresh.setenv("CALOFORGE_CACHE", str(tmp_path))
    fresh.setenv("CXX", str(tmp_path / "nothing"))
    with pytest.raises(MissingDependencyError, match="could not be run"):
        build.build_library()
    fresh.delenv("CXX")
    fresh.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="no C\\+\\+ compiler"):
        build.build_library()


def test_kernels_can_be_switched_off(fresh, caplog):
    fresh.setenv("CALOFORGE_NATIVE", "0")
    assert compiled.compiled_library() is None
    assert not caplog.records


def test_a_build_is_kept_for_the_next_process(fresh, tmp_path):
    log = tmp_path / "log"
    # writes a file in place of the library and counts its calls
    body = f'echo "$@" >> {log}\nwhile [ $# -gt 1 ]; do [ "$1" = -o ] && echo built > "$2"; shift; done'
    fresh.setenv("CXX", fake_compiler(tmp_path, body))
    fresh.setenv("CALOFORGE_CACHE", str(tmp_path / "cache"))
    first = build.build_library()
    assert build.build_library() == first
    assert [line for line in log.read_text().splitlines() if "-o" in line.split()] != []
    assert sum("-o" in line.split() for line in log.read_text().splitlines()) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_the_cache_folder_follows_the_environment(fresh, tmp_path):
    fresh.delenv("CALOFORGE_CACHE", raising=False)
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_folder() == tmp_path / "caloforge"
    fresh.delenv("XDG_CACHE_HOME")
    fresh.setenv("HOME", str(tmp_path))
    assert build.cache_folder() == tmp_path / ".cache" / "caloforge"
