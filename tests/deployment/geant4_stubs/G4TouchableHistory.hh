#pragma once
#include "G4VPhysicalVolume.hh"
#include "G4VTouchable.hh"
class G4TouchableHistory : public G4VTouchable {
public:
    G4VPhysicalVolume* GetVolume(G4int = 0) const override { return volume; }
    G4int GetCopyNumber(G4int = 0) const override { return volume ? volume->GetCopyNo() : -1; }
    G4VPhysicalVolume* volume = nullptr;
};
