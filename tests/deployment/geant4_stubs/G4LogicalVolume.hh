#pragma once
#include "globals.hh"
class G4Material;
class G4VSensitiveDetector;
class G4VSolid;
class G4LogicalVolume {
public:
    G4LogicalVolume(G4VSolid*, G4Material*, const G4String& name) : name_(name) {}
    G4VSensitiveDetector* GetSensitiveDetector() const { return detector_; }
    void SetSensitiveDetector(G4VSensitiveDetector* detector) { detector_ = detector; }
    const G4String& GetName() const { return name_; }

private:
    G4String name_;
    G4VSensitiveDetector* detector_ = nullptr;
};
