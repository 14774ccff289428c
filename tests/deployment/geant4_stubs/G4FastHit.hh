#pragma once
#include "G4ThreeVector.hh"
class G4FastHit {
public:
    G4FastHit(const G4ThreeVector& position, G4double energy) : energy_(energy), position_(position) {}
    virtual ~G4FastHit() = default;
    G4double GetEnergy() const { return energy_; }
    G4ThreeVector GetPosition() const { return position_; }

private:
    double energy_;
    G4ThreeVector position_;
};
