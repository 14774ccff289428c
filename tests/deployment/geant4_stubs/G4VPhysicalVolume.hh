#pragma once
#include "G4ThreeVector.hh"
class G4LogicalVolume;
class G4VPhysicalVolume {
public:
    explicit G4VPhysicalVolume(G4LogicalVolume* logical, const G4ThreeVector& where = {}, G4int number = 0)
        : logical_(logical), where_(where), number_(number) {}
    virtual ~G4VPhysicalVolume() = default;
    G4LogicalVolume* GetLogicalVolume() const { return logical_; }
    G4ThreeVector GetTranslation() const { return where_; }
    G4int GetCopyNo() const { return number_; }

private:
    G4LogicalVolume* logical_;
    G4ThreeVector where_;
    int number_;
};
