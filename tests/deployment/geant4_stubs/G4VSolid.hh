#pragma once
#include "G4ThreeVector.hh"
// Of virtual functions only; not laid out as Geant4's.
class G4VSolid {
public:
    virtual ~G4VSolid() = default;
    virtual void BoundingLimits(G4ThreeVector& low, G4ThreeVector& high) const = 0;
};
