#pragma once
class G4LogicalVolume;
class G4VPhysicalVolume;
class G4VSensitiveDetector;
class G4VUserDetectorConstruction {
public:
    virtual ~G4VUserDetectorConstruction() = default;
    virtual G4VPhysicalVolume* Construct() = 0;
    virtual void ConstructSDandField() {}

protected:
    void SetSensitiveDetector(G4LogicalVolume* volume, G4VSensitiveDetector* detector);
};
