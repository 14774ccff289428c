#pragma once
#include <vector>
#include "globals.hh"
class G4Material;
class G4VPhysicalVolume;
class G4VSensitiveDetector;
class G4VSolid;
class G4LogicalVolume {
public:
    G4LogicalVolume(G4VSolid* solid, G4Material*, const G4String& name) : name_(name), solid_(solid) {}
    G4VSensitiveDetector* GetSensitiveDetector() const { return detector_; }
    void SetSensitiveDetector(G4VSensitiveDetector* detector) { detector_ = detector; }
    G4VSolid* GetSolid() const { return solid_; }
    const G4String& GetName() const { return name_; }
    std::vector<G4VPhysicalVolume*> daughters;

private:
    G4String name_;
    G4VSolid* solid_;
    G4VSensitiveDetector* detector_ = nullptr;
};
