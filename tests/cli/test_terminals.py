"""What is printed never decides about the work: no characters, no reader, no disk for it, no stream at all."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caloforge.cli.streams import spell
from caloforge.detectors import load_detector
from caloforge.showers import Showers
from caloforge.showers.files import create_showers, open_showers

DETECTOR = load_detector("calogan")
PROGRAM = f"{shlex.quote(sys.executable)} -m caloforge"
INFO = f"{PROGRAM} info ild-ecal --no-drawing"
CONVERT = f"{PROGRAM} convert source.h5 a.h5"


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    plain = {key: value for key, value in os.environ.items() if key not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder, env=plain | environment, capture_output=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=str,
)
def test_a_terminal_without_dashes(tmp_path: Path, environment: dict[str, str]) -> None:
    """Fails (UnicodeEncodeError) without ``streams.install``: the table has an ellipsis, a micro sign in its text."""
    done = shell(INFO, tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert b"| ..." in done.stdout
    assert all(byte < 128 for byte in done.stdout)


def test_characters_become_similar_ones_and_bytes_of_names_stay() -> None:
    text = "a – b ± 1 µm…\udcff\udcfe漢ü"
    assert text.encode("ascii", "caloforge-spell") == b"a - b +- 1 um...\xff\xfe?ue"
    assert text[:10].encode("utf-8", "caloforge-spell") == text[:10].encode()
    assert "\udcff–".encode("utf-8", "caloforge-spell") == b"\xff" + "–".encode()
    with pytest.raises(UnicodeDecodeError):
        spell(UnicodeDecodeError("ascii", b"x", 0, 1, "that is for encoders"))


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">&-", 0, b""),  # closed: nobody wants to see it
        ("2>&-", 0, None),
        ("<&- >&- 2>&-", 0, b""),
        (">/dev/full", 1, b"caloforge: standard output cannot be written (no space left on device); everything else is done\n"),
        ("2>/dev/full", 0, b""),
        ("2>&1 | head -c 3", 0, b""),
        ("2>&1 >/dev/null | head -c 0", 0, b""),
    ],
)  # fmt: skip
def test_results_are_kept(tmp_path: Path, redirection: str, code: int, message: bytes | None) -> None:
    """Fails without ``streams.install``: in each of these cases Python or rich ended the program, or crashed at the end.

    Also fails without ``_fill_gaps``: with descriptor 2 closed, the file that is written gets its number.
    """
    showers = Showers(np.ones((3, 504), np.float32), np.full(3, 1e4), 22, DETECTOR.readout)
    with create_showers(tmp_path / "source.h5", detector=DETECTOR, particle=22) as writer:
        writer.write(showers)
    done = shell(f"{CONVERT} {redirection}", tmp_path)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    if message:
        assert done.stderr.endswith(message)
    with open_showers(tmp_path / "a.h5") as reader:
        assert (len(reader), reader.complete) == (3, True)
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "source.h5"]


@pytest.mark.parametrize("command", ["info ild-ecal --no-drawing", "detectors --json", "--help"])
def test_the_reader_of_a_pipe_may_leave(tmp_path: Path, command: str) -> None:
    done = shell(f"{PROGRAM} {command} | head -c 1", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) == 1


def test_an_error_is_one_wherever_its_message_goes(tmp_path: Path) -> None:
    for redirection in ("2>&-", "2>/dev/full", ">&-"):
        assert shell(f"{PROGRAM} info missing.h5 {redirection}", tmp_path).returncode == 1


def test_a_terminal_that_does_not_wait(tmp_path: Path) -> None:
    """Fails if EAGAIN counts as an error: the pipe holds 64 kB, more is written than that."""
    script = (
        "import os, sys; from caloforge.cli import streams; os.set_blocking(1, False); streams.install(); "
        "print('x' * 300000); sys.exit(bool(streams.lost_output()))"
    )
    done = shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} | (sleep 1; wc -c)", tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, b"300001")
