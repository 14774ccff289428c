#pragma once
#include "G4ThreeVector.hh"
#include "G4VPhysicalVolume.hh"
#include "G4VTouchable.hh"
class G4Navigator {
public:
    virtual ~G4Navigator() = default;
    G4VPhysicalVolume* GetWorldVolume() const { return world_; }
    void SetWorldVolume(G4VPhysicalVolume* world) { world_ = world; }
    void LocateGlobalPointAndUpdateTouchable(const G4ThreeVector& point, G4VTouchable* touchable, const G4bool relative = true);

private:
    G4VPhysicalVolume* world_ = nullptr;
};
