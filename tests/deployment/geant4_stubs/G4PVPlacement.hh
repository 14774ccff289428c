#pragma once
#include "G4LogicalVolume.hh"
#include "G4RotationMatrix.hh"
#include "G4ThreeVector.hh"
#include "G4VPhysicalVolume.hh"
class G4PVPlacement : public G4VPhysicalVolume {
public:
    G4PVPlacement(G4RotationMatrix* turn, const G4ThreeVector& where, G4LogicalVolume* logical, const G4String& name,
                  G4LogicalVolume* mother, G4bool many, G4int number);
};
