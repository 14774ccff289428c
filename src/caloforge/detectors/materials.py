"""What showers need to know of materials: Z, A, density, radiation length, critical energy; and of a stack of them.

Compositions and densities of Geant4's materials are those of its NIST list. The radiation length follows from the composition by
Tsai's formula (PDG, "Passage of particles through matter", equation 34.25), within 0.3 % of PDG's tables. Averages over a
stack and the critical energy are those of Grindhammer and Peters (hep-ex/0001020), whose critical energy is not PDG's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from caloforge.detectors.stack import PlacedPlate, Stack
from caloforge.errors import DetectorError

__all__ = ["Matter", "Sampling", "known_materials", "matter_of", "mixed", "sampling_of"]

# fmt: off
_SYMBOLS = (
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca", "Sc",
    "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Y", "Zr", "Nb",
    "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm",
    "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl",
    "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U",
)
# fmt: on
_WEIGHTS = (
    1.008,
    4.0026,
    6.94,
    9.0122,
    10.81,
    12.011,
    14.007,
    15.999,
    18.998,
    20.180,
    22.990,
    24.305,
    26.982,
    28.085,
    30.974,
    32.06,
    35.45,
    39.948,
    39.098,
    40.078,
    44.956,
    47.867,
    50.942,
    51.996,
    54.938,
    55.845,
    58.933,
    58.693,
    63.546,
    65.38,
    69.723,
    72.630,
    74.922,
    78.971,
    79.904,
    83.798,
    85.468,
    87.62,
    88.906,
    91.224,
    92.906,
    95.95,
    98.0,
    101.07,
    102.91,
    106.42,
    107.87,
    112.41,
    114.82,
    118.71,
    121.76,
    127.60,
    126.90,
    131.29,
    132.91,
    137.33,
    138.91,
    140.12,
    140.91,
    144.24,
    145.0,
    150.36,
    151.96,
    157.25,
    158.93,
    162.50,
    164.93,
    167.26,
    168.93,
    173.05,
    174.97,
    178.49,
    180.95,
    183.84,
    186.21,
    190.23,
    192.22,
    195.08,
    196.97,
    200.59,
    204.38,
    207.2,
    208.98,
    209.0,
    210.0,
    222.0,
    223.0,
    226.0,
    227.0,
    232.04,
    231.04,
    238.03,
)  # fmt: skip
#: g/cm3 of the elements that calorimeters are made of.
_ELEMENTS = {
    "H": 8.37480e-5, "He": 1.66322e-4, "Li": 0.534, "Be": 1.848, "B": 2.37, "C": 2.0, "N": 1.16520e-3, "O": 1.33151e-3,
    "Ne": 8.38505e-4, "Na": 0.971, "Mg": 1.74, "Al": 2.699, "Si": 2.33, "P": 2.2, "S": 2.0, "Ar": 1.66201e-3, "K": 0.862,
    "Ca": 1.55, "Ti": 4.54, "V": 6.11, "Cr": 7.18, "Mn": 7.44, "Fe": 7.874, "Co": 8.9, "Ni": 8.902, "Cu": 8.96,
    "Zn": 7.133, "Ga": 5.904, "Ge": 5.323, "Kr": 3.47832e-3, "Zr": 6.506, "Nb": 8.57, "Mo": 10.22, "Ag": 10.5, "Cd": 8.65,
    "In": 7.31, "Sn": 7.31, "Sb": 6.691, "Xe": 5.48536e-3, "Gd": 7.9004, "Hf": 13.31, "Ta": 16.654, "W": 19.3,
    "Re": 21.02, "Pt": 21.45, "Au": 19.32, "Hg": 13.546, "Pb": 11.35, "Bi": 9.747, "Th": 11.72, "U": 18.95,
}  # fmt: skip
#: g/cm3 and mass fractions.
_COMPOUNDS: dict[str, tuple[float, dict[str, float]]] = {
    "lAr": (1.396, {"Ar": 1.0}),
    "lKr": (2.418, {"Kr": 1.0}),
    "lXe": (2.953, {"Xe": 1.0}),
    "GRAPHITE": (2.21, {"C": 1.0}),
    "AIR": (1.20479e-3, {"C": 0.000124, "N": 0.755268, "O": 0.231781, "Ar": 0.012827}),
    "Galactic": (1e-25, {"H": 1.0}),
    "WATER": (1.0, {"H": 0.111894, "O": 0.888106}),
    "POLYSTYRENE": (1.06, {"H": 0.077421, "C": 0.922579}),
    "POLYETHYLENE": (0.94, {"H": 0.143711, "C": 0.856289}),
    "POLYCARBONATE": (1.2, {"H": 0.055491, "C": 0.755751, "O": 0.188758}),
    "PLASTIC_SC_VINYLTOLUENE": (1.032, {"H": 0.085, "C": 0.915}),
    "PLEXIGLASS": (1.19, {"H": 0.080538, "C": 0.599848, "O": 0.319614}),
    "MYLAR": (1.4, {"H": 0.041959, "C": 0.625017, "O": 0.333025}),
    "KAPTON": (1.42, {"H": 0.026362, "C": 0.691133, "N": 0.07327, "O": 0.209235}),
    "TEFLON": (2.2, {"C": 0.240183, "F": 0.759817}),
    "NYLON-6-6": (1.14, {"H": 0.097976, "C": 0.636856, "N": 0.123779, "O": 0.141389}),
    "SILICON_DIOXIDE": (2.32, {"O": 0.532565, "Si": 0.467435}),
    "ALUMINUM_OXIDE": (3.97, {"O": 0.470749, "Al": 0.529251}),
    "Pyrex_Glass": (2.23, {"B": 0.0400639, "O": 0.539561, "Na": 0.0281909, "Al": 0.011644, "Si": 0.377219, "K": 0.00332099}),
    "GLASS_PLATE": (2.4, {"O": 0.4598, "Na": 0.0964411, "Si": 0.336553, "Ca": 0.107205}),
    "GLASS_LEAD": (6.22, {"O": 0.156453, "Si": 0.080866, "Ti": 0.008092, "As": 0.002651, "Pb": 0.751938}),
    "LEAD_OXIDE": (9.53, {"O": 0.071682, "Pb": 0.928318}),
    "PbWO4": (8.28, {"O": 0.140637, "W": 0.404011, "Pb": 0.455352}),
    "BGO": (7.13, {"O": 0.154126, "Ge": 0.17482, "Bi": 0.671054}),
    "CESIUM_IODIDE": (4.51, {"I": 0.488451, "Cs": 0.511549}),
    "SODIUM_IODIDE": (3.667, {"Na": 0.153373, "I": 0.846627}),
    "BARIUM_FLUORIDE": (4.89, {"F": 0.21672, "Ba": 0.78328}),
    "CALCIUM_FLUORIDE": (3.18, {"F": 0.486659, "Ca": 0.513341}),
    "LITHIUM_FLUORIDE": (2.635, {"Li": 0.267585, "F": 0.732415}),
    "STAINLESS-STEEL": (8.0, {"Cr": 0.190164, "Fe": 0.744, "Ni": 0.0657}),
    "BRASS": (8.52, {"Cu": 0.575, "Zn": 0.334, "Pb": 0.091}),
    "CONCRETE": (
        2.3, {"H": 0.01, "C": 0.001, "O": 0.529107, "Na": 0.016, "Mg": 0.002, "Al": 0.033872, "Si": 0.337021, "K": 0.013,
              "Ca": 0.044, "Fe": 0.014},
    ),
}  # fmt: skip
#: E_s of multiple scattering, MeV (hep-ex/0001020), electron mass, and 4 pi N_A r_e^2 m c^2, MeV cm2/mol.
_SCATTERING, _MASS, _BETHE = 21.2, 0.510999, 0.307075


@dataclass(frozen=True)
class Matter:
    """A material, or a mixture as showers see it.

    Attributes:
        z, a: atomic number and weight, averages by mass.
        density: g/cm3.
        radiation_length: g/cm2.
        critical_energy: of Grindhammer and Peters, MeV.
        ionisation: energy loss of a minimum-ionising particle, MeV cm2/g.
    """

    z: float
    a: float
    density: float
    radiation_length: float
    critical_energy: float
    ionisation: float

    @property
    def radiation_length_mm(self) -> float:
        """Radiation length, mm."""
        return 10 * self.radiation_length / self.density

    @property
    def moliere_radius(self) -> float:
        """Moliere radius, mm."""
        return self.radiation_length_mm * _SCATTERING / self.critical_energy


@cache
def _element(symbol: str) -> tuple[int, float, float, float]:
    """Z, A, radiation length (g/cm2), minimum ionisation (MeV cm2/g)."""
    if symbol not in _SYMBOLS:
        raise DetectorError(f"'{symbol}' is not the symbol of an element from H to U")
    z = _SYMBOLS.index(symbol) + 1
    a = _WEIGHTS[z - 1]
    light = {1: (5.31, 6.144), 2: (4.79, 5.621), 3: (4.74, 5.805), 4: (4.71, 5.924)}
    radiation, screened = light.get(z, (math.log(184.15 * z ** (-1 / 3)), math.log(1194 * z ** (-2 / 3))))
    s = (z / 137.036) ** 2
    coulomb = s * (1 / (1 + s) + 0.20206 - 0.0369 * s + 0.0083 * s**2 - 0.002 * s**3)
    length = 716.408 * a / (z**2 * (radiation - coulomb) + z * screened)
    # Bethe's formula at beta gamma = 3.5, with a mean excitation energy of 16 Z^0.9 eV and no density effect.
    momentum, beta = 3.5**2, 3.5**2 / (1 + 3.5**2)
    excitation = 16e-6 * z**0.9 if z > 1 else 19.2e-6
    loss = _BETHE * z / a / beta * (math.log(2 * _MASS * momentum / excitation) - beta)
    return z, a, length, loss


def _of(density: float, composition: Mapping[str, float]) -> Matter:
    total = sum(composition.values())
    parts = [(weight / total, *_element(symbol)) for symbol, weight in composition.items()]
    z, a = (sum(p[0] * p[k] for p in parts) for k in (1, 2))
    length = 1 / sum(weight / x for weight, _, _, x, _ in parts)
    loss = sum(p[0] * p[4] for p in parts)
    return Matter(z, a, density, length, 2.66 * (length * z / a) ** 1.1, loss)


def known_materials() -> list[str]:
    """Names of Geant4's materials that are known here, sorted."""
    return sorted(f"G4_{name}" for name in (*_ELEMENTS, *_COMPOUNDS))


def matter_of(name: str, stack: Stack | None = None) -> Matter:
    """What a material is.

    Args:
        name: ``G4_*``, or one of the stack's own.
        stack: whose own materials count first.

    Raises:
        DetectorError: if it is not known here.
    """
    if stack is not None and name in stack.materials:
        own = stack.materials[name]
        return _of(own.density, own.composition)
    short = name.removeprefix("G4_")
    if short in _COMPOUNDS:
        return _of(*_COMPOUNDS[short])
    if short in _ELEMENTS:
        return _of(_ELEMENTS[short], {short: 1.0})
    raise DetectorError(
        f"composition and density of the material '{name}' are not known without Geant4; describe it under a name of its own in "
        "[stack.materials]"
    )


def mixed(parts: Iterable[tuple[Matter, float]]) -> Matter:
    """What a stack of plates is for a shower: hep-ex/0001020, section on sampling calorimeters.

    Args:
        parts: materials and their thicknesses, mm.
    """
    plates = list(parts)
    mass = sum(m.density * d for m, d in plates)
    weights = [m.density * d / mass for m, d in plates]
    materials = [m for m, _ in plates]

    def mean(values: Iterable[float]) -> float:
        return sum(w * v for w, v in zip(weights, values, strict=True))

    length = 1 / mean(1 / m.radiation_length for m in materials)
    critical = length * mean(m.critical_energy / m.radiation_length for m in materials)
    z, a = mean(m.z for m in materials), mean(m.a for m in materials)
    return Matter(z, a, mass / sum(d for _, d in plates), length, critical, mean(m.ionisation for m in materials))


@dataclass(frozen=True)
class Sampling:
    """A stack as the formulas of hep-ex/0001020 want it.

    Attributes:
        whole: all plates together.
        frequency: F_S, radiation lengths of the whole (cm) over the thickness of a passive and an active plate (cm).
        e_over_mip: ``1 / (1 + 0.007 (Z_p - Z_a))``.
        visible: share of the energy that active plates see: that of a minimum-ionising particle times ``e_over_mip``.
        stochastic: c of c / sqrt(E/GeV), from the thickness of the active plates (mm) and the share of a minimum-ionising
            particle (Livan and Wigmans: 2.7 % sqrt(d / f)).
    """

    whole: Matter
    frequency: float
    e_over_mip: float
    visible: float
    stochastic: float


def sampling_of(stack: Stack) -> Sampling:
    """Averages over a stack.

    Raises:
        DetectorError: if one of its materials is not known here.
    """
    plates = [(plate, matter_of(plate.material, stack)) for plate in stack.plates]

    def some(active: bool) -> list[tuple[Matter, float]]:
        return [(m, p.thickness) for p, m in plates if p.active == active]

    whole = mixed((m, p.thickness) for p, m in plates)
    if not some(True) or not some(False):
        return Sampling(whole, math.inf, 1.0, 1.0, 0.0)
    passive, active = mixed(some(False)), mixed(some(True))
    seen = sum(m.ionisation * m.density * d for m, d in some(True))
    share = seen / sum(m.ionisation * m.density * p.thickness for p, m in plates)
    e_over_mip = 1 / (1 + 0.007 * (passive.z - active.z))
    number = sum(p.active for p, _ in plates)
    thin = sum(d for _, d in some(True)) / number
    pitch = stack.thickness / number
    return Sampling(
        whole, whole.radiation_length_mm / pitch, e_over_mip, share * e_over_mip, 0.027 * math.sqrt(thin / share)
    )


def radiation_depths(stack: Stack) -> list[tuple[PlacedPlate, float, float]]:
    """Each plate, with the depth of its front face and its thickness in radiation lengths."""
    found, depth = [], 0.0
    for plate in stack.plates:
        thickness = plate.thickness / matter_of(plate.material, stack).radiation_length_mm
        found.append((plate, depth, thickness))
        depth += thickness
    return found
