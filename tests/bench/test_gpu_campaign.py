"""The campaign for minutes on a GPU: commands that exist, limits, and a second call that goes on where the first was stopped."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from caloforge.cli import main as cli

POPEN = subprocess.Popen
TOOL = Path(__file__).resolve().parents[2] / "tools" / "gpu_campaign.py"
#: What stands in for the program: it notes its words, and is slow or fails where the words say so.
DOUBLE = """
import json, sys, time
from pathlib import Path
words = sys.argv[1:]
here = Path(__file__).parent
with (here / "calls.txt").open("a") as calls:
    print(json.dumps(words), file=calls)
if words[0] == "train":
    if (here / "slow").exists():
        time.sleep(60)
    out = Path(words[words.index("--out") + 1])
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.json").write_text("{}")
if words[0] == "generate":
    Path(words[words.index("--out") + 1]).write_text("")
sys.exit(3 if (here / "broken").exists() and words[:2] == ["bench", "training"] else 0)
"""


def loaded(name: str) -> ModuleType:
    """A program of the folder ``tools``."""
    spec = importlib.util.spec_from_file_location(name, TOOL.with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool() -> ModuleType:
    return loaded("gpu_campaign")


def inverse_tool() -> ModuleType:
    return loaded("gpu_inverse")


def parsed(words: tuple[str, ...]) -> str:
    """The command that would run, after its arguments were read; whatever they name need not be there."""
    cli._register()
    command: Any = typer.main.get_command(cli.app)
    name, rest = "caloforge", list(words)
    while True:
        context = command.make_context(name, rest)
        if not hasattr(command, "resolve_command"):
            return name
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])


@pytest.mark.parametrize("rehearse", [False, True])
def test_every_step_is_a_command_that_exists(tool: ModuleType, tmp_path: Path, rehearse: bool) -> None:
    """Mutation: an option that was renamed."""
    steps = tool.steps(tmp_path, ["a.h5", "b.h5"], ["t.h5", "u.h5"], ["f.h5"], rehearse)
    commands = [step for step in steps if not step.tool]
    assert [parsed(step.words) for step in commands][:3] == ["sampling", "training", "train"]
    assert len({step.name for step in steps}) == len(steps) == (11 if rehearse else 14)
    assert all(("cuda" in step.words) != rehearse for step in commands)
    tools = [inverse_tool().arguments(step.words) for step in steps if step.tool]
    assert [options.what for options in tools] == [
        "plain", "triton", *([] if rehearse else ["triton", "triton", "graphs"]), "decide"
    ]  # fmt: skip
    assert [options.launch for options in tools if options.launch] == ([] if rehearse else ["32x8", "16x16"])
    assert all(options.device == ("cpu" if rehearse else "cuda") for options in tools[:-1])
    assert tools[-1].measured == [options.out for options in tools[:-1]]


def campaign(tool: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    """Run it with the double in place of the program."""
    double = folder / "double.py"
    double.write_text(DOUBLE)
    monkeypatch.setattr(
        tool.subprocess,
        "Popen",
        lambda command, **k: POPEN([command[0], str(double), *command[3 if command[1] == "-m" else 2 :]], **k),
    )
    arguments = [str(folder / "out"), "--data", "a.h5", "--reference", "t.h5", "--floor", "f.h5", *more]
    monkeypatch.setattr(sys, "argv", ["gpu_campaign.py", *arguments])
    code: int = tool.main()
    return code


def calls(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls.txt").read_text().splitlines()]


def test_what_failed_is_done_again_and_nothing_else(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").touch()
    assert campaign(tool, tmp_path, monkeypatch) == 1
    first = calls(tmp_path)
    assert len(first) == 14
    (tmp_path / "broken").unlink()
    assert campaign(tool, tmp_path, monkeypatch) == 0
    assert [words[:2] for words in calls(tmp_path)[14:]] == [["bench", "training"]]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {step["result"] for step in summary.values()} == {0}


def test_a_step_that_takes_too_long_is_stopped(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what needs it is left out; mutation: no limit."""
    (tmp_path / "slow").touch()
    steps = tool.steps
    monkeypatch.setattr(tool, "steps", lambda *a: [replace(step, seconds=2) for step in steps(*a)])
    assert campaign(tool, tmp_path, monkeypatch) == 1
    text = capsys.readouterr().out
    assert text.count("stopped after 2 s") == 2
    assert text.count("has not ended well") == 4


def test_a_rehearsal_finishes_nothing(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same folder, as the description has it; mutations: one summary for both, or one that does not look at commands."""
    assert campaign(tool, tmp_path, monkeypatch, "--rehearse") == 0
    assert campaign(tool, tmp_path, monkeypatch) == 0
    assert len(calls(tmp_path)) == 25
    assert campaign(tool, tmp_path, monkeypatch) == 0
    assert len(calls(tmp_path)) == 25
    steps = tool.steps
    monkeypatch.setattr(tool, "steps", lambda *a: [replace(steps(*a)[0], words=("bench", "sampling", "--other"))])
    assert campaign(tool, tmp_path, monkeypatch) == 0
    assert calls(tmp_path)[25:] == [["bench", "sampling", "--other"]]


def test_what_a_stopped_step_left_is_not_evaluated(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the showers, say; mutation: go on where there is a file."""
    steps = tool.steps
    monkeypatch.setattr(
        tool, "steps", lambda *a: [replace(s, seconds=0) if s.name.endswith("generate") else s for s in steps(*a)]
    )
    assert campaign(tool, tmp_path, monkeypatch) == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert not any(name.endswith("evaluate") for name in summary)


def test_nothing_goes_on_behind_an_interrupted_campaign(tmp_path: Path) -> None:
    """Mutation: leave the process of the step alone when the campaign is asked to end."""
    package = tmp_path / "caloforge"
    package.mkdir()
    (package / "__init__.py").touch()
    note = tmp_path / "note"
    (package / "__main__.py").write_text(
        "import os, time\nfrom pathlib import Path\n"
        f"Path({str(note)!r}).write_text(str(os.getpid()))\ntime.sleep(120)\n"
    )
    command = [sys.executable, str(TOOL), str(tmp_path / "out"), "--data", "a", "--reference", "t", "--floor", "f"]
    running = POPEN(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (note.exists() and note.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    running.terminate()
    assert running.wait(60) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_the_quickest_of_the_right_ways_is_taken(tmp_path: Path) -> None:
    """Mutation: the quickest way of all, or one that gives what is not a number."""

    def write(kind: str, ms: tuple[float, float], **changed: Any) -> Path:
        rows = [
            {"batch": batch, "ms_per_shower": time, "outside": 0.0, "finite": True, "first_has_the_same_bits": True, **changed}
            for batch, time in zip((1, 100), ms, strict=True)
        ]  # fmt: skip
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps({"kind": kind, "rows": rows}))
        return path

    decide = inverse_tool().decide
    paths = [write("plain", (9, 3)), write("triton", (1, 2)), write("graphs", (2, 1))]
    assert decide(paths)["quickest"] == {"1": "triton", "100": "graphs"}
    found = decide(
        [paths[0], write("triton", (1, 2), outside=0.1), write("graphs", (2, 1), finite=False), tmp_path / "no.json"]
    )
    assert found["quickest"] == {"1": "plain", "100": "plain"}
    assert len(found["remarks"]) == 3
    assert (
        "not the same in all batches" in decide([write("triton", (1, 2), first_has_the_same_bits=False)])["remarks"][0]
    )


def test_the_rehearsal_runs_the_kernel_of_the_gpu(tool: ModuleType, tmp_path: Path) -> None:
    """In Triton's interpreter, beside plain PyTorch and the kernel of the CPU, to the decision."""
    for step in tool.inverses(tmp_path, True):
        assert tool.run(step, tmp_path, 120.0)["result"] == 0, (tmp_path / f"{step.name}.log").read_text()
    found = json.loads((tmp_path / "inverse.json").read_text())
    assert found["right"] == ["plain", "triton"]
    assert set(found["quickest"]) == {"1", "20"}
    assert found["remarks"] == []
