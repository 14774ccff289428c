#pragma once
#include "globals.hh"
class G4VPhysicalVolume;
class G4VTouchable {
public:
    virtual ~G4VTouchable() = default;
    virtual G4VPhysicalVolume* GetVolume(G4int depth = 0) const = 0;
    virtual G4int GetCopyNumber(G4int depth = 0) const = 0;
};
