#pragma once
namespace CLHEP {
class HepRotation;
}
using G4RotationMatrix = CLHEP::HepRotation;
