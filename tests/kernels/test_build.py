"""Building the kernels: cache, lock, and what happens without a working compiler."""

from __future__ import annotations

import platform
import stat
import threading
import warnings

import pytest
import torch

from caloforge.errors import CaloForgeWarning, MissingDependencyError, UsageError
from caloforge.kernels.compiled import Choice, build, compiled_library, loader, use_choice
from caloforge.nn import MaskedAutoregressiveFlow


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a new process, of a package without kernels, whose user has an empty cache."""
    monkeypatch.setattr(loader, "_loaded", loader._Loaded())
    monkeypatch.setattr(loader, "_FOLDER", tmp_path / "packaged")
    monkeypatch.delenv("CALOFORGE_KERNELS", raising=False)
    monkeypatch.setenv("CALOFORGE_CACHE", str(tmp_path / "cache"))
    loader.processor_level.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    loader.processor_level.cache_clear()


def fake_compiler(folder, body):
    script = folder / "fake-c++"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\n{body}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def counting_compiler(folder, seconds=0):
    """Writes files in place of what is asked for, and a line for each library."""
    log = folder / "log"
    log.write_text("")
    count = f'[ "$1" = -shared ] && echo library >> {log}'
    write = 'while [ $# -gt 1 ]; do [ "$1" = -o ] && echo built > "$2"; shift; done'
    return fake_compiler(folder, f"{count}\nsleep {seconds}\n{write}"), log


def test_a_broken_compiler_means_plain_pytorch_and_one_warning(fresh, tmp_path):
    fresh.setenv("CXX", fake_compiler(tmp_path, "echo 'out of magic' >&2; exit 1"))
    flow = MaskedAutoregressiveFlow(features=4, context_features=0, blocks=1, hidden_features=5, hidden_layers=1)
    with pytest.warns(CaloForgeWarning, match=r"out of magic.*plain PyTorch.*times as long") as caught:
        made = [flow.inverse(torch.randn(3, 4))[0] for _ in range(3)]
    assert torch.isfinite(torch.cat(made)).all()
    assert len(caught) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["kernels.lock"]


def test_no_compiler_and_no_such_compiler(fresh, tmp_path):
    fresh.setenv("CXX", str(tmp_path / "nothing"))
    with pytest.raises(MissingDependencyError, match="could not be run"):
        build.build_for_user()
    fresh.delenv("CXX")
    fresh.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="no C\\+\\+ compiler"):
        build.build_for_user()
    assert not (tmp_path / "cache").exists()


def test_a_build_is_kept_for_the_next_process_and_another_kernel_of_the_system(fresh, tmp_path):
    """Fails if the name of the file holds the version of the operating system's kernel."""
    compiler, log = counting_compiler(tmp_path)
    fresh.setenv("CXX", compiler)
    first = build.build_for_user()
    for function in ("platform", "release", "version"):
        fresh.setattr(platform, function, lambda *_: "7.7.7-other")
    assert build.build_for_user() == first
    assert log.read_text().split() == ["library"]
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {first.name, "kernels.lock"}
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_of_several_that_build_one_does_it(fresh, tmp_path):
    """Fails without the lock, or if those that waited do not look again."""
    compiler, log = counting_compiler(tmp_path, 0.2)
    fresh.setenv("CXX", compiler)
    found = []
    threads = [threading.Thread(target=lambda: found.append(build.build_for_user())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert log.read_text().split() == ["library"]


def test_what_others_can_write_is_not_loaded(fresh, tmp_path):
    """Fails if the folder's owner and mode are not looked at."""
    compiler, _ = counting_compiler(tmp_path)
    fresh.setenv("CXX", compiler)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(MissingDependencyError, match=r"other users can write to .*CALOFORGE_CACHE"):
        build.build_for_user()
    with pytest.warns(CaloForgeWarning, match="other users can write"):
        assert compiled_library() is None


def test_a_library_that_cannot_be_loaded_means_plain_pytorch(fresh, tmp_path):
    compiler, _ = counting_compiler(tmp_path)
    fresh.setenv("CXX", compiler)
    with pytest.warns(CaloForgeWarning, match="cannot be loaded"):
        assert compiled_library() is None


def test_what_a_parent_has_settled_is_not_settled_again(fresh, tmp_path):
    """Fails if a worker builds or warns although its parent has."""
    compiler, log = counting_compiler(tmp_path)
    fresh.setenv("CXX", compiler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert use_choice(Choice("plain", "", None, "as in the parent")).why == "as in the parent"
        assert compiled_library() is None
    assert log.read_text() == ""


def test_kernels_can_be_chosen(fresh, tmp_path):
    folder = tmp_path / "packaged"
    folder.mkdir()
    for name in ("x86-64-v2", "x86-64-v3", "x86-64-v4"):
        (folder / f"{name}.so").write_text("not really")
    fresh.setattr(platform, "machine", lambda: "x86_64")
    compiler, log = counting_compiler(tmp_path)
    fresh.setenv("CXX", compiler)
    for level, wanted, expected in (
        (4, "", "x86-64-v4"), (3, "packaged", "x86-64-v3"), (2, "", "x86-64-v2"), (4, "x86-64-v2", "x86-64-v2"),
    ):  # fmt: skip
        fresh.setattr(loader, "processor_level", lambda level=level: level)
        fresh.setenv("CALOFORGE_KERNELS", wanted)
        choice = loader.choose_kernels()
        assert (choice.kind, choice.name) == ("packaged", expected)
    assert log.read_text() == ""
    fresh.setenv("CALOFORGE_KERNELS", "user")
    assert loader.choose_kernels(build=False).kind == "user"
    assert log.read_text() == ""
    assert loader.choose_kernels().kind == "user"
    fresh.setattr(loader, "processor_level", lambda: 2)
    for wanted, message in (
        ("zork", "'zork', expected x86-64-v4,"),
        ("x86-64-v3", "that this processor can run"),
    ):
        fresh.setenv("CALOFORGE_KERNELS", wanted)
        with pytest.raises(UsageError, match=message):
            loader.choose_kernels()
    fresh.setenv("CALOFORGE_KERNELS", "")
    fresh.setattr(loader, "processor_level", lambda: 0)  # an old processor
    assert loader.choose_kernels().kind == "user"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.setenv("CALOFORGE_KERNELS", "plain")
        assert compiled_library() is None
