#pragma once
#include "G4VSolid.hh"
class G4Box : public G4VSolid {
public:
    G4Box(const G4String&, G4double x, G4double y, G4double z) : half_(x, y, z) {}
    void BoundingLimits(G4ThreeVector& low, G4ThreeVector& high) const override { low = -1 * half_, high = half_; }

private:
    G4ThreeVector half_;
};
