"""The fast-simulation model for Geant4 and the plug-in for DD4hep, against doubles of the hosts and of the runtime.

The cases stand in ``geant4_sources``; they run under sanitisers.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from adapter_build import HERE, RUNTIME, SOURCES, compiled, errors

#: Case: a mutation of ``geant4.hpp`` or ``geant4_hits.hpp`` that it finds.
CASES = {
    "species": "IsApplicable says yes",
    "trained_energies": "compare with the settings alone",
    "only_at_the_face": "ask for the direction only; keep the face of the first solid",
    "angle_and_offset": "compare with the cosine of 50 degrees; the offset in x alone",
    "several_faces": "look at the first face only; z = y cross x",
    "barrels": "local x along z; no end of a face; turned the other way round",
    "energy_closes": "propose the particle's energy as deposit; no kill",
    "places_of_voxels": "no inclination; the envelope's frame instead of the world's",
    "places_of_points": "inclination of points; direction along z",
    "failed_showers_are_tracked": "kill whatever the status is; no memory of the one that failed",
    "nothing_is_thrown_into_the_host": "no catch in ModelTrigger",
    "nobody_asked": "DoIt without looking at ready_",
    "numbers_of_showers": "another number of bits; no first_event",
    "constructors_refuse": "any sentence left out; checks after the base class",
    "exceptions_of_the_sink_are_the_hosts": "noexcept on DoIt",
    "hits_into_sensitive_detectors": "the track's place for the first hit; static_cast; relative search always",
    "reports_add_up": "a count left out of +=",
}

#: Likewise of ``dd4hep/CaloForgeShowerModel.cpp``.
PLUGIN_CASES = {
    "answers_in_a_barrel": "hits in the envelope's frame; no first event",
    "further_faces": "nine numbers in another order",
    "disabled": "no look at Enable",
    "refuses": "another exception than except() throws",
}

_SANITISED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def printed(program: Path) -> list[str]:
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert not done.stderr  # where a sanitiser speaks
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    program = tmp_path_factory.mktemp("adapter") / "cases"
    compiled([SOURCES / "cases.cpp"], program, *_SANITISED)
    return printed(program)


@pytest.mark.parametrize("case", CASES)
def test_case(case: str, output: list[str]) -> None:
    assert f"held {case}" in output, "\n".join(line for line in output if line.startswith("line"))


def test_no_case_is_forgotten(output: list[str]) -> None:
    assert output == [f"held {case}" for case in CASES]


def test_headers_stand_alone(tmp_path: Path) -> None:
    """Each can be the first one to be included."""
    source = tmp_path / "alone.cpp"
    for name in ("geant4.hpp", "geant4_hits.hpp"):
        source.write_text(f'#include "caloforge/{name}"\nint main() {{}}\n')
        compiled([source], None)
    said = errors([source], None, "-DG4VERSION_NUMBER=1060")
    assert "caloforge/geant4.hpp needs Geant4 10.7 or later" in said


def test_dd4hep(tmp_path: Path) -> None:
    program = tmp_path / "plugin"
    folders = (f"-I{HERE / 'dd4hep_stubs'}", f"-I{RUNTIME / 'dd4hep'}")
    compiled([SOURCES / "dd4hep_cases.cpp"], program, *_SANITISED, *folders)
    assert printed(program) == [f"held {case}" for case in PLUGIN_CASES]


def test_the_lines_of_the_page_compile(tmp_path: Path) -> None:
    text = (HERE.parents[1] / "docs" / "hybrid.md").read_text()
    (block,) = re.findall(r"```cpp\n(.*?)```", text, re.DOTALL)
    lines = ["#include <G4FastSimulationPhysics.hh>", *block.splitlines()]
    body = [line for line in lines if not line.startswith("#")]
    source = tmp_path / "page.cpp"
    source.write_text(
        "\n".join([line for line in lines if line.startswith("#")])
        + "\nvoid page(G4VModularPhysicsList* physics, G4Region* region, uint64_t seed) {\n"
        + "\n".join(body)
        + "\n}\n"
    )
    compiled([source], None)
