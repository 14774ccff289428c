"""``caloforge kernels``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from caloforge.cli.main import main


def test_it_says_what_is_in_use_and_builds_on_demand(
    capsys: pytest.CaptureFixture[str], kernels: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["kernels", "--build", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["use"] in ("packaged", "user")
    assert found["user"]["state"] == "built"
    monkeypatch.setenv("CALOFORGE_KERNELS", "plain")
    assert main(["kernels"]) == 0
    assert "in use: plain (CALOFORGE_KERNELS is plain)" in capsys.readouterr().out
    monkeypatch.setenv("CALOFORGE_KERNELS", "zork")
    assert main(["kernels"]) == 2
    assert "CALOFORGE_KERNELS is 'zork', expected" in capsys.readouterr().err
    monkeypatch.delenv("CALOFORGE_KERNELS")
    monkeypatch.setenv("CXX", "/bin/false")
    assert main(["kernels", "--build"]) == 1
    assert "the C++ compiler '/bin/false' failed" in capsys.readouterr().err


def test_it_says_what_serves_on_a_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALOFORGE_GPU_KERNELS", raising=False)
    assert main(["kernels", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu"]["use"] == "triton"
    monkeypatch.setenv("CALOFORGE_GPU_KERNELS", "graphs")
    assert main(["kernels"]) == 0
    assert "flows: graphs (CALOFORGE_GPU_KERNELS is graphs)" in capsys.readouterr().out
    monkeypatch.setenv("CALOFORGE_GPU_KERNELS", "zork")
    assert main(["kernels"]) == 2
    assert "CALOFORGE_GPU_KERNELS is 'zork', expected" in capsys.readouterr().err


def test_listing_imports_no_torch() -> None:
    code = "import sys; from caloforge.cli.main import main; code = main(['kernels']); sys.exit(code or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
