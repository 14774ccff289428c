"""What both DDML targets write beside their module: the properties for ddsim."""

from __future__ import annotations

from pathlib import Path

from caloforge.atomic import replace_file
from caloforge.models import ModelRecord

__all__ = ["write_steering"]

#: Names of particles in Geant4.
_NAMES = {22: "gamma", 11: "e-", -11: "e+"}

_STEERING = """\
# Properties of the model in a steering file of ddsim: put them where DDML's example has those of its {model} model.
model_properties = {{
    "CorrectForAngles": {correct},
    "ModelPath": "model.pt",
    "RegionName": "EcalBarrelRegion",  # the region that the detector's XML names
    "Detector": "EcalBarrel",
    "Symmetry": 8,
    "Enable": True,
}}
trigger_properties = {{"ApplicableParticles": {{"{particle}"}}, "Etrigger": {{"{particle}": {low:g}}}}}  # Etrigger in MeV
"""


def write_steering(folder: Path, record: ModelRecord, model: str, *, correct_for_angles: bool) -> None:
    """Write ``steering.py``.

    Args:
        folder: where to; it is there.
        record: of the model.
        model: the host's name of the model class.
        correct_for_angles: whether the host moves the layers along the direction, because the model does not.

    Raises:
        OutputError: if it cannot be written.
    """
    particle = _NAMES.get(record.valid.particle, str(record.valid.particle))
    text = _STEERING.format(
        model=model, correct=correct_for_angles, particle=particle, low=record.valid.incident_energy[0]
    )
    replace_file(folder / "steering.py", text)
